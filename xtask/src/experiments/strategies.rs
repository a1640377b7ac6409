//! Which strategy finds the best merge?

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{Lab, figure};

const MODELS: &str = "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\n";

/// Every strategy by itself on family A, with what it takes.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut text = String::from(
        "## Strategies\n\nFive fine-tunes of one base, one of them harmful. Each strategy in a search of its own, with a fifth \
         of the proxy held out for validation; seconds are those of the whole command.\n\n| strategy | filter | result | search | \
         validation | proxy | test | evaluations | s | items saved |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut pictures = Vec::new();
    for (name, strategy) in [
        ("average", "average"),
        ("coefficient", "coefficient"),
        ("similarity", "similarity"),
        ("dissimilarity", "dissimilarity"),
        ("evolutionary", "{evolutionary: {evaluations: 200}}"),
    ] {
        for filter in [true, false] {
            let config = format!("{MODELS}strategies: [{strategy}]\nfilter: {filter}\n");
            let found = lab.search(&format!("{name}-{filter}"), &config)?;
            let row = &found.document["strategies"][0];
            let items = found.document["items"].as_f64().unwrap_or(1.0).max(1.0);
            let saved = 100.0 * found.document["items_saved"].as_f64().context("items_saved")? / items;
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {:.4} | {} | {:.1} | {saved:.0} % |",
                if filter { "yes" } else { "no" },
                row["what"].as_str().unwrap_or_default(),
                figure(&row["search"]["average"]),
                figure(&row["validation"]["average"]),
                figure(&row["proxy"]),
                lab.test(&found.out.join("best"))?,
                found.document["evaluations"],
                found.seconds,
            );
            if filter && ["coefficient", "evolutionary"].contains(&name) {
                pictures.push(lab.keep_picture(&found, &format!("strategy-{name}"))?);
            }
        }
    }
    let _ = writeln!(text, "\nTo compare with, on the test split:\n\n| model | test |\n|---|--:|");
    for model in ["a-chat", "a-math", "a-code", "a-reason", "a-noise"] {
        let _ = writeln!(text, "| {model} | {:.4} |", lab.test(&lab.zoo.join(model))?);
    }
    for (name, models) in [
        ("average of the useful four", &["a-chat", "a-math", "a-code", "a-reason"][..]),
        ("average of all five", &["a-chat", "a-math", "a-code", "a-reason", "a-noise"]),
    ] {
        let entries: String =
            models.iter().map(|model| format!("  - {{model: {model}, parameters: {{weight: 1}}}}\n")).collect();
        let recipe = format!("merge_method: linear\nmodels:\n{entries}");
        let _ = writeln!(text, "| {name} | {:.4} |", lab.test_recipe(&name.replace(' ', "-"), &recipe)?);
    }
    let _ = writeln!(text, "\n{}", pictures.join("\n\n"));
    Ok(text)
}
