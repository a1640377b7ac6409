//! The scores of several models, beside each other and tested against the first.

use super::Scored;
use super::tables::{Line, groups_json, lines, notes, shown};
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_eval::decision::{ALPHA, Gain, TaskOutcome, largest_gains};
use glue_eval::groups::group_scores;
use glue_eval::{Report, TaskReport, TaskSet};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The difference of a model from the first one in one task, or on average.
struct Difference {
    value: f64,
    stderr: Option<f64>,
    /// Two-sided, corrected for the number of models; `None` where there is no test.
    p: Option<f64>,
}

/// The outcome of a task for the test, with more as better; `None` where the score is no mean over items.
fn outcomes(report: &TaskReport) -> Option<(f64, Vec<f64>)> {
    let main = report.main_metric()?;
    let sign = if main.higher_is_better { 1.0 } else { -1.0 };
    let items: Vec<f64> = report.items.iter().map(|item| sign * item.sum).collect();
    let mean = items.iter().sum::<f64>() / items.len() as f64;
    // A perplexity is no mean of what its items have.
    let is_mean = report.items.iter().all(|item| item.weight == 1.0) && (mean - sign * main.value).abs() < 1e-9;
    is_mean.then_some((sign * main.value, items))
}

/// The differences of all models but the first from the first, over tasks with equal weights; `None` where they cannot
/// be tested.
fn differences(reports: &[Vec<&TaskReport>], seed: u64) -> Option<Vec<Difference>> {
    let all: Vec<Vec<(f64, Vec<f64>)>> = reports
        .iter()
        .map(|tasks| tasks.iter().map(|task| outcomes(task)).collect::<Option<_>>())
        .collect::<Option<_>>()?;
    let of = |model: &Vec<(f64, Vec<f64>)>, sign: f64| -> Vec<(f64, Vec<f64>)> {
        model.iter().map(|(value, items)| (sign * value, items.iter().map(|x| sign * x).collect())).collect()
    };
    // A loss is a gain with all signs turned.
    let test = |sign: f64| -> Vec<Gain> {
        let signed: Vec<Vec<(f64, Vec<f64>)>> = all.iter().map(|model| of(model, sign)).collect();
        let outcomes: Vec<Vec<TaskOutcome<'_>>> = signed
            .iter()
            .map(|model| {
                model.iter().map(|(value, items)| TaskOutcome { value: *value, items, n: items.len() }).collect()
            })
            .collect();
        largest_gains(&outcomes[0], &outcomes[1..], &[], seed)
    };
    let (gains, losses) = (test(1.0), test(-1.0));
    let one = |(gain, loss): (Gain, Gain)| {
        let p = gain.stderr.map(|_| (2.0 * gain.p.min(loss.p)).min(1.0));
        Difference { value: gain.value, stderr: gain.stderr, p }
    };
    Some(gains.into_iter().zip(losses).map(one).collect())
}

fn marked(difference: &Difference) -> String {
    let stderr = difference.stderr.map_or_else(String::new, |stderr| format!(" ±{stderr:.4}"));
    let star = if difference.p.is_some_and(|p| p <= ALPHA) { " *" } else { "  " };
    format!("{:+.4}{stderr}{star}", difference.value)
}

/// Prints the scores of several models.
pub(super) fn print(scored: &[Scored], set: &TaskSet, seed: u64, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let reports: Vec<&Report> = scored.iter().map(|scored| &scored.report).collect();
    let groups: Vec<_> = reports.iter().map(|report| group_scores(&set.groups, &set.tasks, report)).collect();
    let of_task =
        |number: usize| -> Vec<Vec<&TaskReport>> { reports.iter().map(|report| vec![&report.tasks[number]]).collect() };
    let tests: Vec<Option<Vec<Difference>>> =
        (0..reports[0].tasks.len()).map(|number| differences(&of_task(number), seed)).collect();
    let whole: Vec<Vec<&TaskReport>> = reports.iter().map(|report| report.tasks.iter().collect()).collect();
    let on_average = differences(&whole, seed).filter(|_| reports.iter().all(|report| report.average().is_ok()));
    if shell.json() {
        return shell.print_json(&document(scored, set, &tests, on_average.as_deref()));
    }
    let mut columns = vec![("TASK".to_owned(), Align::Left), ("METRIC".to_owned(), Align::Left)];
    columns.extend(reports.iter().map(|report| (report.model.clone(), Align::Right)));
    columns.extend(reports[1..].iter().map(|report| (format!("{} - first", report.model), Align::Right)));
    let columns: Vec<(&str, Align)> = columns.iter().map(|(name, align)| (name.as_str(), *align)).collect();
    let mut table = Table::with_header(&columns);
    for (depth, line) in lines(set, reports[0]) {
        match line {
            Line::Task(task, number) => {
                for (index, ((metric, filter), found)) in
                    task.metric_keys().into_iter().zip(&reports[0].tasks[number].metrics).enumerate()
                {
                    let name = if index == 0 { shown(depth, task.alias()) } else { String::new() };
                    let metric = if found.name == metric { metric.to_owned() } else { format!("{metric} ({filter})") };
                    let mut cells = vec![name, metric];
                    cells.extend(
                        reports.iter().map(|report| format!("{:.4}", report.tasks[number].metrics[index].value)),
                    );
                    // The test is of the metric that stands for the task.
                    if found.name == reports[0].tasks[number].main {
                        match &tests[number] {
                            Some(all) => cells.extend(all.iter().map(marked)),
                            None => cells.extend(reports[1..].iter().map(|report| {
                                let other = report.tasks[number].metrics[index].value;
                                format!("{:+.4}  ", other - found.value)
                            })),
                        }
                    }
                    table.row(cells);
                }
            }
            Line::Group(group) => {
                let scores: Vec<_> =
                    groups.iter().map(|groups| groups.iter().find(|scores| scores.name == group.name())).collect();
                let first = scores[0].map(|scores| scores.metrics.as_slice()).unwrap_or_default();
                if first.is_empty() {
                    table.row([shown(depth, group.alias())]);
                }
                for (index, metric) in first.iter().enumerate() {
                    let name = if index == 0 { shown(depth, group.alias()) } else { String::new() };
                    let mut cells = vec![name, metric.metric.clone()];
                    let value = |scores: &Option<&glue_eval::groups::GroupReport>| {
                        scores.and_then(|scores| scores.metrics.get(index)).map_or(f64::NAN, |metric| metric.value)
                    };
                    cells.extend(scores.iter().map(|scores| format!("{:.4}", value(scores))));
                    cells.extend(scores[1..].iter().map(|scores| format!("{:+.4}  ", value(scores) - metric.value)));
                    table.row(cells);
                }
            }
        }
    }
    let averages: Vec<_> = reports.iter().map(|report| report.average()).collect();
    if reports[0].tasks.len() > 1 && averages.iter().all(Result::is_ok) {
        let mut cells = vec!["average".to_owned(), String::new()];
        cells.extend(averages.iter().flatten().map(|average| format!("{:.4}", average.value)));
        cells.extend(on_average.iter().flatten().map(marked));
        table.row(cells);
    }
    let mut text = table.render(|line| shell.heading(line));
    let _ = writeln!(
        text,
        "* differs from {} at the level {ALPHA}: a two-sided test on the same items, corrected for the number of models",
        one_line(&reports[0].model)
    );
    if let Some(Err(error)) = averages.first() {
        let _ = writeln!(text, "no average: {}", one_line(&error.to_string()));
    }
    for (report, scored) in reports.iter().zip(scored) {
        for note in notes(report).lines() {
            let _ = writeln!(text, "{}: {note}", one_line(&report.model));
        }
        let time = units::duration(scored.time.as_secs_f64());
        let _ = writeln!(text, "{}: scored in {time}", one_line(&report.model));
    }
    shell.print(&text)
}

/// `{"models": [the document of each], "differences": {TASK: [{"model": …, "difference": …, "stderr": …, "p": …}]}}`
fn document(
    scored: &[Scored],
    set: &TaskSet,
    tests: &[Option<Vec<Difference>>],
    on_average: Option<&[Difference]>,
) -> Value {
    let models: Vec<Value> = scored
        .iter()
        .map(|scored| {
            let mut document = scored.report.to_json();
            if let Some(groups) = groups_json(&group_scores(&set.groups, &set.tasks, &scored.report)) {
                document["groups"] = groups;
            }
            if let Some(routing) = &scored.routing {
                document["routing"] = routing.to_json();
            }
            document["seconds"] = json!(scored.time.as_secs_f64());
            document
        })
        .collect();
    let listed = |all: &[Difference]| -> Value {
        let one = |(difference, scored): (&Difference, &Scored)| {
            json!({
                "model": scored.report.model,
                "difference": difference.value,
                "stderr": difference.stderr,
                "p": difference.p,
            })
        };
        all.iter().zip(&scored[1..]).map(one).collect()
    };
    let of_tasks = scored[0].report.tasks.iter().zip(tests);
    let differences: serde_json::Map<String, Value> =
        of_tasks.filter_map(|(task, test)| Some((task.name.clone(), listed(test.as_deref()?)))).collect();
    json!({ "models": models, "differences": differences, "average_differences": on_average.map(listed) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_eval::scale::Scale;
    use glue_eval::{ItemScore, MetricReport};

    fn report(items: &[f64], higher_is_better: bool) -> TaskReport {
        let mean = items.iter().sum::<f64>() / items.len() as f64;
        let item = |(index, sum): (usize, &f64)| ItemScore { index, sum: *sum, weight: 1.0, loss: None };
        TaskReport {
            name: "t".into(),
            metrics: vec![MetricReport { name: "m".into(), value: mean, stderr: None, higher_is_better }],
            main: "m".into(),
            scale: Scale::Fraction,
            n: items.len(),
            split: "test".into(),
            num_fewshot: 0,
            notes: Vec::new(),
            cached: false,
            items: items.iter().enumerate().map(item).collect(),
        }
    }

    fn check(first: &[f64], second: &[f64], higher: bool) -> Difference {
        let (first, second) = (report(first, higher), report(second, higher));
        differences(&[vec![&first], vec![&second]], 1).unwrap().remove(0)
    }

    #[test]
    fn gains_and_losses_are_tested_alike() {
        let (low, high) = ([0.0; 40], [1.0; 40]);
        let gain = check(&low, &high, true);
        assert!(gain.value == 1.0 && gain.p.unwrap() < 0.01, "{:?}", gain.p);
        let loss = check(&high, &low, true);
        assert!(loss.value == -1.0 && loss.p.unwrap() < 0.01, "{:?}", loss.p);
        // Where less is better, a smaller score is a gain.
        assert_eq!(check(&high, &low, false).value, 1.0);
        let none = check(&low, &low, true);
        assert!(none.value == 0.0 && none.p.is_none_or(|p| p == 1.0));
    }

    #[test]
    fn a_score_that_is_no_mean_is_not_tested() {
        let mut first = report(&[1.0, 3.0], false);
        first.metrics[0].value = 7.4;
        assert!(differences(&[vec![&first], vec![&first]], 1).is_none());
    }
}
