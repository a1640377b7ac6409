//! Writes the report of an invented run and some of its pictures as files, and those of a run that gained nothing, of
//! one that was interrupted, and of the comparison of two: `cargo run -p glue-report --example sample -- DIR`. DIR is
//! `target/report` by default.

mod figures;
mod frontier;
mod variants;
mod zoo;

use glue_report::{Side, compare, pictures};
use std::error::Error;
use std::fs;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).map_or(PathBuf::from("target/report"), PathBuf::from);
    let (report, cost) = zoo::sample();
    fs::create_dir_all(&dir)?;
    fs::write(dir.join("report.html"), glue_report::html(&report, Some(&cost))?)?;
    fs::write(dir.join("report.md"), glue_report::markdown(&report, Some(&cost))?)?;
    fs::write(dir.join("report.json"), glue_report::json(&report)?)?;
    fs::write(dir.join("cost.json"), glue_report::cost_json(&cost)?)?;
    fs::write(dir.join("tries.csv"), glue_report::tries_csv(&report))?;
    fs::write(dir.join("null.html"), glue_report::html(&variants::nothing_gained(), None)?)?;
    fs::write(dir.join("interrupted.html"), glue_report::html(&variants::interrupted(), Some(&cost))?)?;
    let other = variants::other();
    let [first, second] = [("runs/seed-42", &report), ("runs/seed-7", &other)].map(|(name, report)| Side {
        name,
        report,
        cost: Some(&cost),
    });
    fs::write(dir.join("compare.html"), compare(first, second)?.html()?)?;
    fs::write(dir.join("sizes.svg"), pictures::sizes(&report.sizes)?)?;
    if let Some(frontier) = &report.frontier {
        fs::write(dir.join("frontier.svg"), pictures::frontier(frontier)?)?;
    }
    if let (Some(similarity), Some(tree), Some(clustering)) =
        (&report.similarity, &report.dendrogram, &report.clustering)
    {
        let (order, groups) = pictures::order(similarity, Some(tree), &clustering.clusters);
        fs::write(dir.join("heatmap.svg"), pictures::heatmap(similarity, &order, &groups)?)?;
        let threshold = Some(clustering.threshold);
        fs::write(dir.join("dendrogram.svg"), pictures::dendrogram(tree, &clustering.clusters, threshold)?)?;
    }
    if let Some(confusion) = report.router.as_ref().and_then(|router| router.confusion.as_ref()) {
        fs::write(dir.join("routing.svg"), pictures::routing(&confusion.into())?)?;
    }
    for line in glue_report::lines(&report) {
        println!("{line}");
    }
    println!("{}", dir.join("report.html").display());
    Ok(())
}
