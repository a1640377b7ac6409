//! How many items of a candidate have to be scored?

use std::fmt::Write;

use anyhow::{Context, Result};

use super::Lab;

/// Sources of randomness of the searches.
const SEEDS: u64 = 5;

/// What decides which items are scored, as keys of a config.
const SETTINGS: [(&str, &str); 4] = [
    ("all", "racing: off\nitem_fraction: 1"),
    ("racing", "racing: {confidence: 0.99}\nitem_fraction: 1"),
    ("a fifth", "racing: {confidence: 0.99}\nitem_fraction: 0.2"),
    ("an eighth", "racing: {confidence: 0.99}\nitem_fraction: 0.125"),
];

/// The same search of 500 candidates with ever fewer items for each of them.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut text = format!(
        "## Items\n\nThe default strategies over the four useful fine-tunes and the harmful one, {SEEDS} seeds each: means, and of \
         test averages the standard deviation over seeds. *Items* is the fraction of those that a search on all items scores. \
         The result is chosen on validation items, which are scored in full; if it is the mean of an optimiser's distribution \
         in every run, there is no search score.\n\n\
         | candidates are scored on | items | search, as estimated | validation | test | against all items | s |\n\
         |---|--:|--:|--:|--:|--:|--:|\n",
    );
    let mut all: Vec<f64> = Vec::new();
    for (name, keys) in SETTINGS {
        let (mut items, mut estimates, mut validations, mut tests, mut seconds) = (0.0, vec![], vec![], vec![], 0.0);
        for seed in 0..SEEDS {
            let config = format!(
                "models: [a-chat, a-math, a-code, a-reason, a-noise]\nbase: base-a\ntasks: [tasks]\nseed: {seed}\n{keys}\n"
            );
            let found = lab.search(&format!("{}-{seed}", name.replace(' ', "-")), &config)?;
            let number = |key: &str| found.document[key].as_f64().with_context(|| format!("`{key}`"));
            items += (1.0 - number("items_saved")? / number("items")?) / SEEDS as f64;
            let best = &found.document["best"];
            let strategies = found.document["strategies"].as_array().context("strategies")?;
            let row = strategies.iter().find(|row| row["name"] == *best).context("the best strategy")?;
            // The mean of a distribution is no candidate of the search.
            estimates.extend(row["search"]["average"].as_f64());
            validations.push(row["validation"]["average"].as_f64().context("validation")?);
            tests.push(lab.test(&found.out.join("best"))?);
            seconds += found.seconds / SEEDS as f64;
        }
        if all.is_empty() {
            all.clone_from(&tests);
        }
        let differences: Vec<f64> = tests.iter().zip(&all).map(|(test, all)| test - all).collect();
        let (mean_test, deviation) = moments(&tests);
        let (mean_difference, spread) = moments(&differences);
        let _ = writeln!(
            text,
            "| {name} | {:.1} % | {} | {:.4} | {mean_test:.4} ± {deviation:.4} | {mean_difference:+.4} ± {:.4} | {seconds:.1} |",
            100.0 * items,
            if estimates.is_empty() { "–".into() } else { format!("{:.4}", moments(&estimates).0) },
            moments(&validations).0,
            spread / (SEEDS as f64).sqrt(),
        );
    }
    Ok(text)
}

/// Mean and standard deviation.
fn moments(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}
