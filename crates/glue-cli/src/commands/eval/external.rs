//! Scores by a command of the user.

use super::{Args, Limit, refusal};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_eval::external::{ExternalError, ExternalEvaluator, Request, Scores};
use serde_json::{Map, Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

pub(super) fn run(args: &Args, command: &str, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let evaluator = ExternalEvaluator::new(command).map_err(external_failure)?;
    let mut evaluator = evaluator.with_cancel(shell.cancel_token());
    if let Some(seconds) = args.evaluator_timeout {
        evaluator = evaluator.with_timeout(Duration::from_secs(seconds));
    }
    // Anything that is not a path is a name that the evaluator may know.
    let task = |name: &String| match std::path::absolute(name) {
        Ok(absolute) if Path::new(name).exists() => absolute.display().to_string(),
        _ => name.clone(),
    };
    let limit = match args.limit {
        None => None,
        Some(Limit::Items(items)) => Some(items as usize),
        Some(Limit::Fraction(_)) => {
            return Err(refusal("--limit should be a whole number with --evaluator, which is given one".into()));
        }
    };
    let tasks: Vec<String> = args.tasks.iter().map(task).collect();
    let request =
        Request { model: &args.models[0], tasks: &tasks, split: args.split.as_deref(), limit, seed: global.seed };
    let start = Instant::now();
    let scores = { evaluator.evaluate(&request, &|line| shell.pass_on(line)) };
    let scores = scores.map_err(external_failure)?;
    print_external(&args.models[0], &scores, start.elapsed(), shell)
}

fn print_external(model: &Path, scores: &Scores, time: Duration, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let tasks: Map<String, Value> = scores
            .tasks
            .iter()
            .map(|task| {
                let mut map: Map<String, Value> =
                    task.metrics.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
                map.insert("n".to_owned(), json!(task.n));
                (task.task.clone(), Value::Object(map))
            })
            .collect();
        return shell.print_json(&json!({
            "model": model.display().to_string(),
            "tasks": tasks,
            "average": scores.average,
            "seconds": time.as_secs_f64(),
        }));
    }
    let mut table = Table::with_header(&[
        ("TASK", Align::Left),
        ("METRIC", Align::Left),
        ("VALUE", Align::Right),
        ("ITEMS", Align::Right),
    ]);
    for task in &scores.tasks {
        for (name, value) in &task.metrics {
            table.row([task.task.clone(), name.clone(), format!("{value:.4}"), units::count(task.n as u64)]);
        }
    }
    table.row(["average".to_owned(), String::new(), format!("{:.4}", scores.average)]);
    shell.print(&table.render(|line| shell.heading(line)))
}

fn external_failure(error: ExternalError) -> Failure {
    match error {
        ExternalError::Command { .. } => Failure::refused(error),
        ExternalError::Stopped { .. } => Failure::Interrupted,
        _ => Failure::failed(error),
    }
}
