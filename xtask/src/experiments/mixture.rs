//! Which level, from which layer on, routed how?

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::plot::{Line, Plot};
use super::{Lab, text};
use crate::bench::machine;

/// Experts, and the tasks that each is best at on the proxy split.
const EXPERTS: [(&str, &[&str]); 4] =
    [("a-chat", &["facts"]), ("a-math", &["arith"]), ("a-code", &["program"]), ("a-reason", &["order", "wino"])];

/// Layers of the models.
const LAYERS: usize = 4;

/// What is between these lines of the document is written here; the rest is people's.
const BEGIN: &str = "<!-- begin: written by cargo xtask experiments mixture -->";
const END: &str = "<!-- end -->";

/// What came of a mixture.
struct Outcome {
    /// Test average.
    average: f64,
    /// Share of test items of each skill that went to their expert, over all gates; the last is that of all items.
    /// Empty where more than one expert is used.
    right: Vec<(String, f64)>,
    /// Wall time of `glue train-router`.
    seconds: f64,
}

/// A row of the table.
struct Row {
    level: &'static str,
    routing: &'static str,
    gates: &'static str,
    /// For each number of dense layers below all.
    outcomes: Vec<Outcome>,
}

/// Test averages of mixtures of the four specialists, for every level, routing, form of gates and number of dense
/// layers, with the accuracy of routing and the time of training. The figures go into a document of their own.
pub(super) fn run(lab: &Lab) -> Result<String> {
    let dense = lab.scratch.path().join("dense");
    let recipe = "merge_method: task_arithmetic\nbase_model: base-a\nparameters: {weight: 0.5}\nmodels: [{model: a-chat}, {model: a-math}, {model: a-code}, {model: a-reason}]\n";
    let path = lab.scratch.path().join("dense.yml");
    fs::write(&path, recipe)?;
    lab.glue(&["merge", text(&path)?, text(&dense)?])?;
    let all_dense = lab.test(&dense)?;
    let mut rows = Vec::new();
    for level in ["ffn", "block", "model"] {
        for routing in ["sample", "token"] {
            for (gates, router) in [("linear", "linear"), ("mlp", "{kind: mlp, hidden_size: 64}")] {
                let mut outcomes = Vec::new();
                for k in 0..LAYERS {
                    let used = if routing == "sample" { 1 } else { 2 };
                    let lines = format!(
                        "level: {level}\nrouting: {routing}\nrouter: {router}\nexperts_per_token: {used}\ndense_layers: {k}\n"
                    );
                    outcomes.push(outcome(lab, &format!("{level}-{routing}-{gates}-{k}"), &dense, &lines)?);
                }
                rows.push(Row { level, routing, gates, outcomes });
            }
        }
    }
    let whole = outcome(lab, "whole", &dense, "level: model\nwhole: true\n")?;
    let summary: Value = serde_json::from_str(&fs::read_to_string(lab.zoo.join("summary.json"))?)?;
    let oracle = summary["oracle_routing"]["test"].as_f64().context("summary.json has no oracle")?;
    let figures = figures(&rows, &whole, all_dense, oracle, &lab.threads);
    let document = lab.images.parent().context("docs")?.join("mixture.md");
    let old = fs::read_to_string(&document).unwrap_or_default();
    fs::write(&document, renewed(&old, &figures))?;
    let points = |row: &Row| {
        let scores = row.outcomes.iter().map(|outcome| outcome.average).chain([all_dense]);
        scores.enumerate().map(|(k, score)| (k as f64, score)).collect()
    };
    let linear = rows.iter().filter(|row| row.gates == "linear");
    let plot = Plot {
        x: "dense layers, of 4",
        y: "average score, test",
        lines: linear
            .map(|row| Line { name: format!("level {}, by {}", row.level, row.routing), points: points(row) })
            .collect(),
        levels: vec![("the four as whole models".into(), whole.average)],
    };
    let picture = lab.picture("mixture-depth", &plot.svg())?;
    Ok(format!(
        "## Mixtures\n\nEvery level, routing, form of gates and depth: [a document of its own](mixture.md). With linear gates:\n\n{picture}\n"
    ))
}

/// A mixture of the four specialists, by these lines of its description, its gates trained by labels. All have the
/// project's own form: in Mixtral's, gates have no bias.
fn outcome(lab: &Lab, name: &str, dense: &Path, lines: &str) -> Result<Outcome> {
    let experts: Vec<String> = EXPERTS.iter().map(|(name, _)| format!("{{source_model: {name}}}")).collect();
    let description = format!(
        "base_model: {}\ngate_mode: random\nformat: native\n{lines}experts: [{}]\n",
        text(dense)?,
        experts.join(", ")
    );
    let experts: Vec<(&str, &str)> =
        EXPERTS.iter().flat_map(|(expert, tasks)| tasks.iter().map(move |task| (*task, *expert))).collect();
    let (trained, report) = mixed(lab, name, &description, &experts)?;
    Ok(Outcome {
        average: report["average"].as_f64().context("no average")?,
        right: right(&report, &|task| skill(&lab.zoo, task)),
        seconds: trained["seconds"].as_f64().context("no time of training")?,
    })
}

/// Makes a mixture by this description, trains its gates on which expert is for which task, scores it on the test
/// split, and throws it away: what `glue train-router` and `glue eval` reported.
pub(super) fn mixed(lab: &Lab, name: &str, description: &str, experts: &[(&str, &str)]) -> Result<(Value, Value)> {
    let (path, out) = (lab.scratch.path().join(format!("{name}.yml")), lab.scratch.path().join(name));
    fs::write(&path, description)?;
    lab.glue(&["mix", text(&path)?, text(&out)?])?;
    let given: Vec<String> = experts.iter().map(|(task, expert)| format!("{task}={expert}")).collect();
    let mut args = vec!["train-router", text(&out)?, "--tasks", "tasks", "--limit", "320"];
    given.iter().for_each(|pair| args.extend(["--expert", pair]));
    let trained = lab.glue(&args)?;
    let report = lab.glue(&["eval", text(&out)?, "--tasks", "tasks", "--split", "test"])?;
    fs::remove_dir_all(&out)?;
    Ok((trained, report))
}

/// The skill that the file of a task names.
fn skill(zoo: &Path, task: &str) -> String {
    let read = fs::read_to_string(zoo.join("tasks").join(task).join("task.json")).unwrap_or_default();
    let named: Value = serde_json::from_str(&read).unwrap_or_default();
    named["skill"].as_str().unwrap_or(task).to_string()
}

/// Which share of test items went to the expert of their skill, from what an evaluation says of the gates' decisions.
fn right(report: &Value, skill_of: &dyn Fn(&str) -> String) -> Vec<(String, f64)> {
    let mut skills: BTreeMap<String, [f64; 2]> = BTreeMap::new();
    for (expert, (_, tasks)) in EXPERTS.iter().enumerate() {
        for task in *tasks {
            let gates = report["routing"]["tasks"][task]["gates"].as_array().into_iter().flatten();
            let counts = skills.entry(skill_of(task)).or_default();
            for gate in gates {
                let chosen: f64 = gate["chosen"].as_array().into_iter().flatten().filter_map(Value::as_f64).sum();
                if Some(chosen) != gate["decisions"].as_f64() {
                    return Vec::new();
                }
                counts[0] += gate["chosen"][expert].as_f64().unwrap_or_default();
                counts[1] += chosen;
            }
        }
    }
    let sum = skills.values().fold([0.0; 2], |sum, counts| [sum[0] + counts[0], sum[1] + counts[1]]);
    let share = |counts: [f64; 2]| counts[0] / counts[1].max(1.0);
    let each = skills.into_iter().map(|(skill, counts)| (skill, share(counts)));
    each.chain([("all".to_string(), share(sum))]).collect()
}

fn figures(rows: &[Row], whole: &Outcome, all_dense: f64, oracle: f64, threads: &str) -> String {
    let numbers = |from: usize| (from..LAYERS).map(|k| format!(" {k} |")).collect::<String>();
    let mut text = format!(
        "Machine: {}, {threads} threads. k is the number of dense layers; at k = {LAYERS} nothing is mixed.\n\n\
         ### Test averages\n\n| level | routing | gates | k = 0 |{} {LAYERS} |\n|---|---|---|{}\n",
        machine(),
        numbers(1),
        "--:|".repeat(LAYERS + 1)
    );
    for row in rows {
        let cells: String = row.outcomes.iter().map(|outcome| format!(" {:.4} |", outcome.average)).collect();
        let _ = writeln!(text, "| {} | {} | {} |{cells} {all_dense:.4} |", row.level, row.routing, row.gates);
    }
    let share = whole.average / oracle;
    let _ = write!(
        text,
        "\nThe four as whole models, routed by sample: {:.4}, which is {:.1} % of the oracle that knows each task's best model \
         ({oracle:.4}).\n\n### Routing\n\nShare of test items that gates routing by sample send to the expert of their skill, over all gates \
         of the mixture:\n\n| level | gates | k = 0 |{}\n|---|---|{}\n",
        whole.average,
        100.0 * share,
        numbers(1),
        "--:|".repeat(LAYERS)
    );
    let of_all =
        |outcome: &Outcome| outcome.right.last().map_or("–".into(), |(_, share)| format!("{:.2} %", 100.0 * share));
    for row in rows.iter().filter(|row| row.routing == "sample") {
        let cells: String = row.outcomes.iter().map(|outcome| format!(" {} |", of_all(outcome))).collect();
        let _ = writeln!(text, "| {} | {} |{cells}", row.level, row.gates);
    }
    let skills: Vec<String> =
        whole.right.iter().map(|(skill, share)| format!("{skill} {:.2} %", 100.0 * share)).collect();
    let _ = write!(
        text,
        "\nWhole models, linear gate: {}.\n\n### Time\n\nSeconds of `glue train-router` on 320 items a task, which reads the model again for \
         each gate:\n\n| level | routing | gates | k = 0 |{}\n|---|---|---|{}\n",
        skills.join(", "),
        numbers(1),
        "--:|".repeat(LAYERS)
    );
    for row in rows {
        let cells: String = row.outcomes.iter().map(|outcome| format!(" {:.1} |", outcome.seconds)).collect();
        let _ = writeln!(text, "| {} | {} | {} |{cells}", row.level, row.routing, row.gates);
    }
    let _ = writeln!(text, "\nWhole models: {:.1} s.", whole.seconds);
    text
}

/// The document with these figures in the place of the old ones; a new one where there was none.
fn renewed(old: &str, figures: &str) -> String {
    let new = format!("{BEGIN}\n\n{figures}\n{END}");
    match (old.find(BEGIN), old.find(END)) {
        (Some(from), Some(to)) if from < to => format!("{}{new}{}", &old[..from], &old[to + END.len()..]),
        _ => format!("# Mixtures of the shipped zoo\n\n{new}\n"),
    }
}

#[cfg(test)]
mod tests {
    //! What is written where, and what counts as right.
    use super::*;
    use serde_json::json;

    #[test]
    fn people_keep_what_they_wrote() {
        let first = renewed("", "1");
        assert_eq!(first, format!("# Mixtures of the shipped zoo\n\n{BEGIN}\n\n1\n{END}\n"));
        let edited = format!("intro\n{}", first.replace(END, &format!("{END}\n\noutro")));
        assert_eq!(renewed(&edited, "2"), edited.replace("\n1\n", "\n2\n"));
    }

    #[test]
    fn items_count_as_right_by_skill() {
        let gate = |chosen: [u64; 4]| json!({ "decisions": 10, "chosen": chosen });
        let report = json!({ "routing": { "tasks": {
            "facts": { "gates": [gate([10, 0, 0, 0])] }, "arith": { "gates": [gate([1, 9, 0, 0])] },
            "program": { "gates": [gate([0, 0, 10, 0])] }, "order": { "gates": [gate([0, 0, 0, 10])] },
            "wino": { "gates": [gate([2, 0, 0, 8])] },
        } } });
        let skill_of = |task: &str| match task {
            "order" | "wino" => "reason".to_string(),
            other => other.to_string(),
        };
        let found = right(&report, &skill_of);
        let expected = [("arith", 0.9), ("facts", 1.0), ("program", 1.0), ("reason", 0.9), ("all", 0.94)];
        assert_eq!(found, expected.map(|(skill, share)| (skill.to_string(), share)));
        // Two experts for each decision: which of them counts nobody can say.
        let report = json!({ "routing": { "tasks": { "facts": { "gates": [gate([10, 10, 0, 0])] } } } });
        assert!(right(&report, &skill_of).is_empty());
    }
}
