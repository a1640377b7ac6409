//! Which level, from which layer on, routed how?

use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use super::plot::{Line, Plot};
use super::{Lab, text};

/// Experts, and the tasks that each is best at on the proxy split.
const EXPERTS: [(&str, &[&str]); 4] =
    [("a-chat", &["facts"]), ("a-math", &["arith"]), ("a-code", &["program"]), ("a-reason", &["order", "wino"])];

/// Test averages of mixtures of the four specialists, for every level, routing, form of gates and number of dense layers.
/// The table goes to a document of its own; a picture of scores over depth stands in the section.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let dense = lab.scratch.path().join("dense");
    let recipe = "merge_method: task_arithmetic\nbase_model: base-a\nparameters: {weight: 0.5}\nmodels: [{model: a-chat}, {model: a-math}, {model: a-code}, {model: a-reason}]\n";
    let path = lab.scratch.path().join("dense.yml");
    fs::write(&path, recipe)?;
    lab.glue(&["merge", text(&path)?, text(&dense)?])?;
    let layers = 4;
    let mut table =
        String::from("| level | routing | gates | k = 0 | 1 | 2 | 3 | 4 |\n|---|---|---|--:|--:|--:|--:|--:|\n");
    let all_dense = lab.test(&dense)?;
    let mut lines = Vec::new();
    for level in ["ffn", "block", "model"] {
        for routing in ["sample", "token"] {
            for router in ["linear", "{kind: mlp, hidden_size: 64}"] {
                let gates = if router == "linear" { "linear" } else { "mlp" };
                let _ = write!(table, "| {level} | {routing} | {gates} |");
                let mut points = Vec::new();
                for k in 0..layers {
                    let name = format!("{level}-{routing}-{gates}-{k}");
                    let average = trained(lab, &dense, &name, level, routing, router, k)?;
                    let _ = write!(table, " {average:.4} |");
                    points.push((k as f64, average));
                }
                let _ = writeln!(table, " {all_dense:.4} |");
                if gates == "linear" {
                    points.push((layers as f64, all_dense));
                    lines.push(Line { name: format!("level {level}, by {routing}"), points });
                }
            }
        }
    }
    let whole = whole(lab, &dense)?;
    let document = format!(
        "# Mixtures of the shipped zoo\n\nWritten by `cargo xtask experiments mixture`. The four useful fine-tunes of `base-a` as experts; the \
         dense model, which gives embeddings, head and the first k layers, is their task arithmetic with weight 0.5 each. Gates are \
         trained by labels on the train split (an item belongs to the expert that is best at its task on the proxy split), 320 items \
         a task; by sample one expert is used, by token two. Test averages over five tasks, standard error about 0.01; k = 4 is the dense \
         model alone.\n\n{table}\nThe four as whole models, routed by sample: {whole:.4}. The oracle that knows each task's best model has \
         0.9136.\n"
    );
    fs::write(lab.images.parent().context("docs")?.join("mixture.md"), &document)?;
    let plot = Plot {
        x: "dense layers, of 4",
        y: "average score, test",
        lines,
        levels: vec![("the four as whole models".into(), whole)],
    };
    let picture = lab.picture("mixture-depth", &plot.svg())?;
    Ok(format!(
        "## Mixtures\n\nEvery level, routing, form of gates and depth: [a table of its own](mixture.md). With linear gates:\n\n{picture}\n"
    ))
}

fn description(dense: &str, rest: &str) -> String {
    let experts: Vec<String> = EXPERTS.iter().map(|(name, _)| format!("{{source_model: {name}}}")).collect();
    format!("base_model: {dense}\nformat: native\ngate_mode: random\n{rest}experts: [{}]\n", experts.join(", "))
}

fn trained(
    lab: &Lab,
    dense: &std::path::Path,
    name: &str,
    level: &str,
    routing: &str,
    router: &str,
    k: usize,
) -> Result<f64> {
    let experts = if routing == "sample" { 1 } else { 2 };
    let rest = format!(
        "level: {level}\nrouting: {routing}\nrouter: {router}\nexperts_per_token: {experts}\ndense_layers: {k}\n"
    );
    score(lab, name, &description(text(dense)?, &rest))
}

fn whole(lab: &Lab, dense: &std::path::Path) -> Result<f64> {
    score(lab, "whole", &description(text(dense)?, "level: model\nwhole: true\n"))
}

fn score(lab: &Lab, name: &str, description: &str) -> Result<f64> {
    let experts: Vec<(&str, &str)> =
        EXPERTS.iter().flat_map(|(expert, tasks)| tasks.iter().map(move |task| (*task, *expert))).collect();
    mixed(lab, name, description, &experts)
}

/// The test average of a mixture by this description, its gates trained on which expert is for which task. It is thrown away
/// afterwards.
pub(super) fn mixed(lab: &Lab, name: &str, description: &str, experts: &[(&str, &str)]) -> Result<f64> {
    let (path, out) = (lab.scratch.path().join(format!("{name}.yml")), lab.scratch.path().join(name));
    fs::write(&path, description)?;
    lab.glue(&["mix", text(&path)?, text(&out)?])?;
    let given: Vec<String> = experts.iter().map(|(task, expert)| format!("{task}={expert}")).collect();
    let mut args = vec!["train-router", text(&out)?, "--tasks", "tasks", "--limit", "320"];
    given.iter().for_each(|pair| args.extend(["--expert", pair]));
    lab.glue(&args)?;
    let average = lab.test(&out)?;
    fs::remove_dir_all(&out)?;
    Ok(average)
}
