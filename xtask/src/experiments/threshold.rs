//! At which similarity do models belong together?

use std::fmt::Write;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::plot::{Line, Plot};
use super::{Lab, figure, text};
use crate::results::described;

const MODELS: [&str; 8] = ["a-chat", "a-math", "a-code", "a-reason", "a-noise", "b-math", "b-code", "c-chat"];
const BASES: [&str; 2] = ["base-a", "base-b"];
const THRESHOLDS: [&str; 3] = ["0.90", "0.95", "0.98"];

/// Clusters at three thresholds, what the best heuristic makes of each cluster, and what the whole
/// pipeline makes of all.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let mut section = String::from(
        "## Threshold\n\nLeader clustering of all fine-tunes of the zoo by the mean per-column cosine of attention and MLP \
         weights, and in each cluster of two or more the merge that `coefficient` finds.\n\n| threshold | cluster | merge | proxy | test \
         |\n|--:|---|---|--:|--:|\n",
    );
    for threshold in THRESHOLDS {
        let args = [&["cluster"], &MODELS[..], &["--threshold", threshold]].concat();
        let clusters = lab.glue(&args)?;
        for (number, cluster) in clusters["clusters"].as_array().context("clusters")?.iter().enumerate() {
            let names: Vec<&str> = cluster.as_array().context("a cluster")?.iter().filter_map(|m| m.as_str()).collect();
            if names.len() < 2 {
                let model = names.first().context("an empty cluster")?;
                let test = lab.test(&lab.zoo.join(model))?;
                let _ = writeln!(section, "| {threshold} | {model} | itself | – | {test:.4} |");
                continue;
            }
            let name = format!("threshold-{threshold}-{number}");
            let config = format!("models: [{}]\ntasks: [tasks]\nstrategies: [coefficient]\n", names.join(", "));
            let found = lab.search(&name, &config)?;
            let row = &found.document["strategies"][0];
            let _ = writeln!(
                section,
                "| {threshold} | {} | {} | {} | {:.4} |",
                names.join(", "),
                row["what"].as_str().unwrap_or_default(),
                figure(&row["proxy"]),
                lab.test(&found.out.join("best"))?,
            );
        }
    }
    section.push_str(&pipeline(lab)?);
    Ok(section)
}

/// The whole pipeline at each threshold, with the bases among the models and everything else as it is by default.
fn pipeline(lab: &Lab) -> Result<String> {
    let mut table = String::from(
        "\n`glue run` at each threshold, everything else as it is by default; clusters with the bases in them, the merge that of \
         the largest cluster, test averages.\n\n| threshold | clusters | merge | final | of the oracle | final is | s \
         |\n|--:|---|--:|--:|--:|---|--:|\n",
    );
    let inside = |names: &[&str]| -> Result<String> {
        let paths = names.iter().map(|name| Ok(serde_json::to_string(text(&lab.zoo.join(name))?)?));
        Ok(paths.collect::<Result<Vec<_>>>()?.join(", "))
    };
    let (models, bases, tasks) = (inside(&MODELS)?, inside(&BASES)?, inside(&["tasks"])?);
    let mut lines = ["final", "merge"].map(|name| Line { name: name.into(), points: Vec::new() });
    let mut oracle = None;
    for threshold in THRESHOLDS {
        let out = lab.scratch.path().join(format!("run-{threshold}"));
        let path = lab.scratch.path().join(format!("run-{threshold}.yml"));
        fs::write(
            &path,
            format!("models: [{models}]\nbase: [{bases}]\ntasks: [{tasks}]\ncluster: {{threshold: {threshold}}}\n"),
        )?;
        let start = Instant::now();
        let report = lab.glue(&["run", text(&path)?, "--out", text(&out)?])?;
        let seconds = start.elapsed().as_secs_f64();
        let names = |cluster: &Value| -> String {
            let members = cluster["members"].as_array().into_iter().flatten();
            members.filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        };
        let clusters = report["data"]["clustering"]["clusters"].as_array().context("no clusters in the report")?;
        let clusters: Vec<String> = clusters.iter().map(names).collect();
        let _ = writeln!(
            table,
            "| {threshold} | {} | {} | {} | {:.1} % | {} | {seconds:.0} |",
            clusters.join("; "),
            figure(&report["merged"]["average"]),
            figure(&report["final"]["average"]),
            100.0 * report["final"]["of_oracle"].as_f64().unwrap_or(f64::NAN),
            described(&report)
        );
        let at: f64 = threshold.parse()?;
        for (line, key) in lines.iter_mut().zip(["final", "merged"]) {
            line.points.extend(report[key]["average"].as_f64().map(|score| (at, score)));
        }
        oracle = report["oracle"]["average"].as_f64();
        fs::remove_dir_all(&out)?;
    }
    let plot = Plot {
        x: "threshold of the clusters",
        y: "average score, test",
        lines: lines.into(),
        levels: oracle.map(|score| ("each task's best model".into(), score)).into_iter().collect(),
    };
    let _ = writeln!(table, "\n{}", lab.picture("threshold", &plot.svg())?);
    Ok(table)
}
