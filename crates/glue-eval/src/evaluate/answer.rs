//! What a model said to an item: its scores, its loss, and the record of it for people.

use super::results::Scored;
use crate::corpus::brier;
use crate::metrics::{Metric, Score, argmax, count_words};
use crate::model::{Generation, LogLikelihood};
use crate::pass_at_k::pass_at_k;
use crate::sandbox::{Execution, Outcome};
use crate::task::{Ask, Check, Item, Python, Task};
use glue_lm::jinja;
use serde_json::{Map, Value, json};

/// What the model said to one item.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// For each choice; or for the one text.
    pub(super) scored: Vec<LogLikelihood>,
    /// For each choice, without the context.
    pub(super) unconditional: Vec<LogLikelihood>,
    pub(super) generated: Vec<Generation>,
    pub(super) executions: Vec<Execution>,
}

impl Answer {
    /// The most tokens that one of its prompts lost.
    pub(super) fn truncated(&self) -> usize {
        let scored = self.scored.iter().map(|scored| scored.truncated);
        scored.chain(self.generated.iter().map(|generation| generation.truncated)).max().unwrap_or(0)
    }
}
/// How unlikely the model thinks what is right.
pub(super) fn loss(item: &Item, answer: &Answer) -> Option<f64> {
    let logprob = |i: usize| answer.scored.get(i).map(|scored| scored.logprob);
    match &item.ask {
        Ask::Choose { gold, .. } => gold.iter().filter_map(|&i| logprob(i)).reduce(f64::max),
        Ask::Continue { .. } | Ask::Roll { .. } => logprob(0),
        Ask::Generate { .. } => None,
    }
    .map(|logprob| -logprob)
}

/// Says how many prompts were cut, if any were.
pub(super) fn truncations(answers: &[Answer]) -> Option<String> {
    let cut = answers.iter().filter(|answer| answer.truncated() > 0).count();
    let most = answers.iter().map(Answer::truncated).max().unwrap_or(0);
    (cut > 0).then(|| {
        format!(
            "{cut} of {} prompts are longer than the model takes and were truncated from the left, by up to {most} tokens",
            answers.len()
        )
    })
}

/// Says how many programs could not be run, and why the first could not, if there are any.
pub(super) fn not_run(answers: &[Answer]) -> Option<String> {
    let all = || answers.iter().flat_map(|answer| &answer.executions);
    let failed = || all().filter(|execution| execution.outcome == Outcome::NotRun);
    failed().next().map(|first| {
        let (count, of) = (failed().count(), all().count());
        format!("{count} of {of} programs could not be run and count as failed: {}", first.stderr)
    })
}

/// What an item has in a metric, given what a pipeline left of its answers.
///
/// # Errors
/// What is missing, or a pattern that runs for ever.
pub(super) fn one(metric: &Metric, item: &Item, answer: &Answer, filtered: &[Value]) -> Result<Scored, String> {
    let logprobs = || answer.scored.iter().map(|scored| scored.logprob);
    let total: f64 = logprobs().sum();
    Ok(Scored::Number(match (&item.ask, metric) {
        (Ask::Choose { gold, .. }, Metric::Pair) => {
            let said = argmax(logprobs()).ok_or("the log-likelihoods are not numbers")?;
            return match gold.as_slice() {
                [gold] => Ok(Scored::Value(json!([gold, said]))),
                _ => Err("several choices are right, and this metric compares one".into()),
            };
        }
        (Ask::Choose { gold, .. }, Metric::Likelihoods) => {
            let gold = match gold.as_slice() {
                [gold] => json!(gold),
                several => json!(several),
            };
            return Ok(Scored::Value(json!([gold, logprobs().collect::<Vec<_>>()])));
        }
        (Ask::Choose { gold, .. }, Metric::Brier) => match gold.as_slice() {
            [gold] => brier(&logprobs().collect::<Vec<_>>(), *gold).into(),
            _ => return Err("several choices are right, and this metric compares one".into()),
        },
        (Ask::Generate { check: Check::Match(targets), .. }, Metric::Pair) => {
            let [target] = targets.as_slice() else {
                return Err("several answers are right, and this metric compares one".into());
            };
            let said = filtered.first().cloned().unwrap_or_default();
            return Ok(Scored::Value(json!([target, said])));
        }
        (Ask::Choose { choices, gold, .. }, metric) => {
            let right = |best: Option<usize>| Score::from(best.is_some_and(|best| gold.contains(&best)));
            let per = |length: fn(&str) -> usize| {
                argmax(logprobs().zip(choices).map(|(logprob, choice)| logprob / length(choice) as f64))
            };
            match metric {
                Metric::AccNorm => right(per(|choice| choice.chars().count())),
                Metric::AccBytes => right(per(str::len)),
                Metric::AccMutualInfo => {
                    // Where choices are contexts there is one continuation for all of them.
                    let without = |i: usize| answer.unconditional.get(i).or(answer.unconditional.first());
                    let gain = |(i, logprob)| logprob - without(i).map_or(0.0, |without| without.logprob);
                    right(argmax(logprobs().enumerate().map(gain)))
                }
                Metric::ExactMatch(_) => {
                    gold.iter().any(|&index| answer.scored.get(index).is_some_and(|scored| scored.greedy)).into()
                }
                _ => right(argmax(logprobs())),
            }
        }
        (Ask::Continue { .. }, Metric::Acc) => answer.scored.iter().all(|scored| scored.greedy).into(),
        (Ask::Continue { .. }, _) => total.into(),
        (Ask::Roll { text }, metric) => {
            let weight = match metric {
                Metric::PerWord => count_words(text),
                Metric::PerByte => text.len(),
                _ => answer.scored.iter().map(|scored| scored.n_tokens).sum(),
            };
            Score { sum: total, weight: weight as f64 }
        }
        (Ask::Generate { check: Check::Run { .. }, .. }, metric) => {
            let passed = answer.executions.iter().filter(|execution| execution.passed()).count();
            let k = if let Metric::PassAt(k) = metric { *k } else { 1 };
            let n = answer.executions.len();
            pass_at_k(n, passed, k).ok_or_else(|| format!("{n} answers are too few for pass@{k}"))?.into()
        }
        (Ask::Generate { check: Check::Match(targets), .. }, metric) => {
            let Metric::ExactMatch(comparison) = metric else {
                return Err("no metric for generated text".into());
            };
            let mut right = 0;
            for answer in filtered {
                let answer = jinja::str(answer);
                for target in targets {
                    if comparison.equal(&answer, target)? {
                        right += 1;
                        break;
                    }
                }
            }
            // Where a pipeline leaves several answers, their share counts.
            (f64::from(right) / filtered.len().max(1) as f64).into()
        }
    }))
}

/// What was asked and answered, for people.
pub(super) fn record(
    task: &Task,
    split: &str,
    (index, item): (usize, &Item),
    answer: &Answer,
    names: &[String],
    scores: &[Score],
    python: Option<&Python>,
) -> Value {
    let mut map = Map::new();
    map.insert("task".into(), json!(task.name));
    map.insert("split".into(), json!(split));
    map.insert("index".into(), json!(index));
    map.insert("line".into(), json!(item.place.line));
    let logprobs: Vec<f64> = answer.scored.iter().map(|scored| scored.logprob).collect();
    match &item.ask {
        Ask::Choose { contexts, continuations, choices, gold } => {
            match contexts.as_slice() {
                [context] => map.insert("prompt".into(), json!(context)),
                several => map.insert("prompts".into(), json!(several)),
            };
            map.insert("continuations".into(), json!(continuations));
            map.insert("choices".into(), json!(choices));
            map.insert("target".into(), json!(gold));
            map.insert("loglikelihoods".into(), json!(logprobs));
            map.insert("greedy".into(), json!(answer.scored.iter().map(|scored| scored.greedy).collect::<Vec<_>>()));
            map.insert("prediction".into(), json!(argmax(logprobs)));
        }
        Ask::Continue { context, continuation } => {
            map.insert("prompt".into(), json!(context));
            map.insert("target".into(), json!(continuation));
            map.insert("loglikelihoods".into(), json!(logprobs));
        }
        Ask::Roll { text } => {
            map.insert("text".into(), json!(text));
            map.insert("loglikelihoods".into(), json!(logprobs));
            map.insert("tokens".into(), json!(answer.scored.iter().map(|scored| scored.n_tokens).sum::<usize>()));
        }
        Ask::Generate { context, check, .. } => {
            map.insert("prompt".into(), json!(context));
            let texts: Vec<String> = answer.generated.iter().map(|generation| generation.text.clone()).collect();
            let filtered = task.pipelines.iter().map(|pipeline| {
                let left = pipeline.apply(&texts, &item.fields, python).unwrap_or_default();
                (pipeline.name.clone(), json!(left))
            });
            map.insert("filtered".into(), Value::Object(filtered.collect()));
            map.insert("answers".into(), json!(texts));
            match check {
                Check::Match(targets) => map.insert("target".into(), json!(targets)),
                Check::Run { after, .. } => map.insert("tests".into(), json!(after)),
            };
            if !answer.executions.is_empty() {
                let outcome = |execution: &Execution| json!({"passed": execution.passed(), "outcome": execution.outcome.to_string(), "stderr": execution.stderr});
                map.insert("executions".into(), answer.executions.iter().map(outcome).collect());
            }
        }
    }
    map.insert("truncated".into(), json!(answer.truncated()));
    let value = |score: &Score| {
        if score.weight == 1.0 { json!(score.sum) } else { json!({"sum": score.sum, "weight": score.weight}) }
    };
    let scores = names.iter().cloned().zip(scores.iter().map(value)).collect();
    map.insert("scores".into(), Value::Object(scores));
    Value::Object(map)
}
