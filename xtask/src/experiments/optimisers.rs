//! Which optimiser, and which space?

use std::fmt::Write;

use anyhow::Result;

use super::{Lab, figure};

const MODELS: &str = "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\n";

/// Optimisers in the default space, and the default optimiser in others; three seeds each.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut text = String::from(
        "## Optimisers and spaces\n\n`evolutionary` with 100 evaluations from what `average` accepts; medians of seeds 0, 1 and \
         2, seconds of the whole command.\n\n| optimiser | space | search | validation | proxy | test | s |\n|---|---|--:|--:|--:|--:|--:|\n",
    );
    let cases = [
        ("cma_es", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("sep_cma_es", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("differential_evolution", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("nsga2", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("sobol", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("random", "a weight for each model", "space: {methods: [task_arithmetic]}\n"),
        ("cma_es", "weights in 2 groups of layers", "space: {methods: [task_arithmetic], layer_groups: 2}\n"),
        ("cma_es", "weights of attention and MLP", "space: {methods: [task_arithmetic], filters: [self_attn, mlp]}\n"),
        ("cma_es", "ties", "space: {methods: [ties]}\n"),
        ("cma_es", "linear, normalised", "space: {methods: [linear], normalise: true}\n"),
    ];
    for (case, (optimiser, words, space)) in cases.into_iter().enumerate() {
        let mut rows: Vec<[f64; 5]> = Vec::new();
        for seed in 0..3 {
            let config = format!(
                "{MODELS}seed: {seed}\n{space}strategies: [{{evolutionary: {{optimiser: {optimiser}, evaluations: 100}}}}]\n"
            );
            let found = lab.search(&format!("optimiser-{case}-{seed}"), &config)?;
            let row = &found.document["strategies"][0];
            let number = |value: &serde_json::Value| value.as_f64().unwrap_or(f64::NAN);
            let test = lab.test(&found.out.join("best"))?;
            let (search, validation) = (&row["search"]["average"], &row["validation"]["average"]);
            rows.push([number(search), number(validation), number(&row["proxy"]), test, found.seconds]);
        }
        let median = |column: usize| {
            let mut values: Vec<f64> = rows.iter().map(|row| row[column]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let four: Vec<String> = (0..4).map(|column| figure(&median(column).into())).collect();
        let _ = writeln!(text, "| {optimiser} | {words} | {} | {:.1} |", four.join(" | "), median(4));
    }
    Ok(text)
}
