//! Scores on different scales, and what makes them comparable.

use crate::support::Table;
use glue_eval::decision::largest_gains;
use glue_eval::scale::{PerplexityUnit, Scale, task_weights};
use glue_eval::{EvalOptions, ItemScore, Prepared, Task, load_tasks};
use glue_progress::NoProgress;
use std::collections::BTreeMap;
use std::fs;
use tempfile::TempDir;

const TEXTS: [&str; 3] = ["a long text of äther and other things", "short", "of a middle length"];

/// A directory with a task of choices, and one of texts.
fn tasks() -> (TempDir, Vec<Task>) {
    let directory = tempfile::tempdir().unwrap();
    let choices = "{\"context\": \"1?\", \"choices\": [\"x\", \"y\"], \"gold\": 1}\n\
                   {\"context\": \"2?\", \"choices\": [\"x\", \"y\", \"z\", \"w\"], \"gold\": 0}\n\
                   {\"context\": \"3?\", \"choices\": [\"x\", \"y\", \"z\", \"w\"], \"gold\": [0, 3]}\n";
    let texts: String = TEXTS.iter().map(|text| format!("{{\"text\": \"{text}\"}}\n")).collect();
    for (name, kind, items) in [("choices", "multiple_choice", choices), ("texts", "perplexity", &texts)] {
        let place = directory.path().join(name);
        fs::create_dir(&place).unwrap();
        fs::write(place.join("task.json"), format!("{{\"kind\": \"{kind}\"}}")).unwrap();
        fs::write(place.join("test.jsonl"), items).unwrap();
    }
    let tasks = load_tasks(&[directory.path()]).unwrap();
    (directory, tasks)
}

fn close(found: f64, expected: f64) {
    // Sums of a few numbers, by their rounding.
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1.0), "{found}, expected {expected}");
}

#[test]
fn perplexities_are_compared_in_their_own_unit_or_in_bits_per_byte() {
    let (_directory, tasks) = tasks();
    assert_eq!(tasks.iter().map(Task::scale).collect::<Vec<_>>(), [Scale::Fraction, Scale::Perplexity]);
    let prepared = Prepared::new(tasks, &EvalOptions::default(), None).unwrap();
    let report = prepared.evaluate(&Table::default(), None, &NoProgress).unwrap();
    let old = &report.tasks[1].items;
    // A model to which the first text is more likely, by 4 nats.
    let better = |item: &ItemScore| match item.index {
        0 => ItemScore { sum: item.sum + 4.0, loss: item.loss.map(|loss| loss - 4.0), ..*item },
        _ => *item,
    };
    let new: Vec<ItemScore> = old.iter().map(better).collect();
    let score = |items: &[ItemScore], unit| prepared.comparable(1, items, unit).unwrap();

    let bytes: usize = TEXTS.iter().map(|text| text.len()).sum();
    let nats: f64 = old.iter().map(|item| item.loss.unwrap()).sum();
    let bits = score(old, PerplexityUnit::BitsPerByte);
    close(bits.value, -nats / (bytes as f64 * 2f64.ln()));
    let found = report.tasks[1].metric("bits_per_byte").unwrap();
    close(-bits.value, found.value);
    close(bits.stderr.unwrap(), found.stderr.unwrap());
    let gain = score(&new, PerplexityUnit::BitsPerByte).value - bits.value;
    close(gain, 4.0 / (bytes as f64 * 2f64.ln()));

    let reported = score(old, PerplexityUnit::Reported);
    close(reported.value, -report.tasks[1].main_metric().unwrap().value);
    for unit in [PerplexityUnit::Reported, PerplexityUnit::BitsPerByte] {
        let (old, new) = (score(old, unit), score(&new, unit));
        for score in [&old, &new] {
            close(score.items.iter().sum::<f64>() / 3.0, score.value);
        }
        let gain = largest_gains(&[old.outcome()], &[vec![new.outcome()]], &[], 1)[0];
        close(gain.value, new.value - old.value);
        assert!(gain.value > 0.0 && gain.p < 1.0 && gain.stderr.is_some_and(|stderr| stderr > 0.0), "{gain:?}");
    }
    assert_eq!(prepared.comparable(1, &[], PerplexityUnit::Reported), None);
    // A fraction is what it is.
    let choices = prepared.comparable(0, &report.tasks[0].items, PerplexityUnit::BitsPerByte).unwrap();
    assert_eq!(choices.value, report.tasks[0].main_metric().unwrap().value);
    assert_eq!(choices.items, report.tasks[0].items.iter().map(|item| item.sum).collect::<Vec<_>>());
}

#[test]
fn scores_relative_to_chance() {
    let (_directory, tasks) = tasks();
    let prepared = Prepared::new(tasks, &EvalOptions::default(), None).unwrap();
    // (1/2 + 1/4 + 2/4) / 3
    let chances = prepared.chances();
    close(chances[0].unwrap(), 1.25 / 3.0);
    assert_eq!(chances[1], None);
    let report = prepared.evaluate(&Table::default(), None, &NoProgress).unwrap();
    let score = prepared.comparable(0, &report.tasks[0].items, PerplexityUnit::Reported).unwrap();
    let normalised = score.clone().chance_normalised(0.25);
    close(normalised.value, (score.value - 0.25) / 0.75);
    close(normalised.stderr.unwrap(), score.stderr.unwrap() / 0.75);
    close(normalised.items.iter().sum::<f64>() / 3.0, normalised.value);
}

#[test]
fn different_scales_need_weights() {
    let (_directory, tasks) = tasks();
    let weights = |given: &[(&str, f64)], unit| {
        let given: BTreeMap<String, f64> = given.iter().map(|&(task, weight)| (task.into(), weight)).collect();
        task_weights(&tasks, &given, unit).map_err(|error| error.to_string())
    };
    let mixed = |unit: &str| {
        Err(format!(
            "tasks on different scales have no common average: fractions (choices); {unit} (texts); give every task a \
             weight, as in `weights: {{choices: 1, texts: 1}}`, or score them apart"
        ))
    };
    assert_eq!(weights(&[], PerplexityUnit::Reported), mixed("perplexity"));
    assert_eq!(weights(&[("texts", 2.0)], PerplexityUnit::BitsPerByte), mixed("bits per byte"));
    assert_eq!(weights(&[("texts", 2.0), ("choices", 1.0)], PerplexityUnit::BitsPerByte), Ok(vec![1.0, 2.0]));
    let refused = |given: &[(&str, f64)]| weights(given, PerplexityUnit::Reported).unwrap_err();
    assert_eq!(refused(&[("text", 2.0)]), "a weight is given for the task `text`; tasks are choices, texts");
    assert_eq!(refused(&[("texts", -1.0)]), "the weight of the task `texts` should be a number from 0 up, but is -1");
    assert_eq!(refused(&[("texts", 0.0), ("choices", 0.0)]), "the weights of all tasks are 0");
    assert_eq!(task_weights(&tasks[..1], &BTreeMap::new(), PerplexityUnit::Reported), Ok(vec![1.0]));
}
