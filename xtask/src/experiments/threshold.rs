//! At which similarity do models belong together?

use std::fmt::Write;

use anyhow::{Context, Result};

use super::{Lab, figure};

const MODELS: [&str; 8] = ["a-chat", "a-math", "a-code", "a-reason", "a-noise", "b-math", "b-code", "c-chat"];

/// Clusters at three thresholds, and what the best heuristic makes of each cluster.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut text = String::from(
        "## Threshold\n\nLeader clustering of all fine-tunes of the zoo by the mean per-column cosine of attention and MLP \
         weights, and in each cluster of two or more the merge that `coefficient` finds.\n\n| threshold | cluster | merge | proxy | test \
         |\n|--:|---|---|--:|--:|\n",
    );
    for threshold in ["0.90", "0.95", "0.98"] {
        let args = [&["cluster"], &MODELS[..], &["--threshold", threshold]].concat();
        let clusters = lab.glue(&args)?;
        for (number, cluster) in clusters["clusters"].as_array().context("clusters")?.iter().enumerate() {
            let names: Vec<&str> = cluster.as_array().context("a cluster")?.iter().filter_map(|m| m.as_str()).collect();
            if names.len() < 2 {
                let model = names.first().context("an empty cluster")?;
                let _ =
                    writeln!(text, "| {threshold} | {model} | itself | – | {:.4} |", lab.test(&lab.zoo.join(model))?);
                continue;
            }
            let name = format!("threshold-{threshold}-{number}");
            let config = format!("models: [{}]\ntasks: [tasks]\nstrategies: [coefficient]\n", names.join(", "));
            let found = lab.search(&name, &config)?;
            let row = &found.document["strategies"][0];
            let _ = writeln!(
                text,
                "| {threshold} | {} | {} | {} | {:.4} |",
                names.join(", "),
                row["what"].as_str().unwrap_or_default(),
                figure(&row["proxy"]),
                lab.test(&found.out.join("best"))?,
            );
        }
    }
    Ok(text)
}
