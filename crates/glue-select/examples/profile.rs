//! Where the time of a candidate goes, on family A of the test zoo, or on models of the same names in another
//! directory: `cargo run --release --example profile [CANDIDATES [DIRECTORY [METHOD]]]`.

use glue_eval::load_tasks;
use glue_recipe::PlanOptions;
use glue_select::contract::{ItemRole, Rival, Scorer, Strata};
use glue_select::local::{ItemsConfig, LocalOptions, LocalScorer};
use glue_select::race::Racing;
use glue_select::recipe_text::{RecipeTemplate, weighted};
use std::path::Path;
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(20), |count| count.parse())?;
    let zoo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo");
    let directory = std::env::args().nth(2).map_or(zoo.clone(), Into::into);
    let template = RecipeTemplate { base_model: Some("base-a".into()), ..RecipeTemplate::default() };
    let models = ["a-chat", "a-math", "a-code", "a-reason", "a-noise"];
    let candidate = |method: &str, i: usize| {
        let weight = |m: usize| 0.2 + 0.2 * ((i * 7 + m * 3) % 11) as f64 / 11.0;
        let weights: Vec<(String, f64)> =
            models.iter().enumerate().map(|(m, model)| (model.to_string(), weight(m))).collect();
        weighted(&template, method, &weights, &[])
    };
    println!("method\tparallel\tracing\tseconds\tper candidate\tmerging\tasking\tdropped\titems saved");
    let only = std::env::args().nth(3);
    for method in
        ["task_arithmetic", "ties"].into_iter().filter(|method| only.as_deref().is_none_or(|only| only == *method))
    {
        for (parallel, racing) in
            [(1, Racing::Off), (2, Racing::Off), (1, Racing::Exact), (2, Racing::Exact), (2, Racing::default())]
        {
            let mut plan = PlanOptions::default();
            plan.directory = directory.clone();
            let options = LocalOptions {
                plan,
                items: ItemsConfig { split: Some("proxy".into()), ..ItemsConfig::default() },
                racing,
                parallel: Some(parallel),
                ..LocalOptions::default()
            };
            let scorer = LocalScorer::new(load_tasks(&[zoo.join("tasks")])?, options)?;
            let candidates: Vec<_> = (0..count).map(|i| candidate(method, i)).collect();
            let first = scorer.score(&candidates[..1], ItemRole::Search, None, &|_, _| {}).map_err(|_| "stopped")?;
            let incumbent = first[0].as_ref().map_err(Clone::clone)?;
            let rival = Rival { cutoff: incumbent.average, incumbent, strata: &Strata::default() };
            let begun = Instant::now();
            let scored = scorer.score(&candidates, ItemRole::Search, Some(rival), &|_, _| {}).map_err(|_| "stopped")?;
            let seconds = begun.elapsed().as_secs_f64();
            let s = scorer.statistics();
            let n = count as f64;
            if let Some(Err(error)) = scored.iter().find(|result| result.is_err()) {
                return Err(error.clone().into());
            }
            println!(
                "{method}\t{parallel}\t{racing:?}\t{seconds:.2}\t{:.3}\t{:.4}\t{:.4}\t{}\t{}",
                seconds / n,
                s.merge_seconds / n,
                s.eval_seconds / n,
                s.dropped,
                s.items_saved
            );
        }
    }
    Ok(())
}
