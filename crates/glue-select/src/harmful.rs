//! Harmful models, which are left out before anything is merged.
//!
//! A model is harmful if it costs something and brings nothing. Compared with a reference, item by item on the search
//! items,
//!
//! - its average is significantly lower, corrected for the number of models, and
//! - it is significantly better in no task, corrected for the number of tasks.
//!
//! A specialist whose average is low because it forgot everything else passes the second test, and stays. Both are the
//! test of [`glue_eval::decision`] at its default level. The reference is the base, if there is one with scores; else
//! the model with the median average, of an even number the lower of the two in the middle.
//!
//! No model is harmful by a task whose error is not known, such as a perplexity that another program computed.

use crate::context::{compare, short};
use crate::contract::Scores;
use crate::finalists::{TaskWeights, outcomes};
use crate::summary::RulingRow;
use glue_eval::decision::{ALPHA, Gain, TaskOutcome, largest_gains};
use serde::Serialize;

/// The verdict on a model.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelVerdict {
    /// Its name.
    pub model: String,
    /// Whether it is left out.
    pub harmful: bool,
    /// The reason.
    pub reason: String,
    /// Its comparison with the reference; `None` for the reference itself and for a model without scores. In
    /// `search.json` it stands with all other decisions.
    #[serde(skip)]
    pub comparison: Option<RulingRow>,
}

/// The verdicts on models, each given by its name with its scores or why it has none. `base` is the base of the search.
pub fn judge(
    models: &[(&str, Result<&Scores, &str>)],
    base: Option<(&str, &Scores)>,
    weights: &TaskWeights,
    seed: u64,
) -> Vec<ModelVerdict> {
    let base = base.map(|(name, scores)| (None, name, scores));
    let Some((excluded, reference, of_reference)) = base.or_else(|| median(models)) else {
        return models.iter().filter_map(|(model, scores)| Some(unscored(model, scores.err()?))).collect();
    };
    let own = outcomes(of_reference, of_reference).unwrap_or_default();
    let compared: Vec<(usize, Vec<TaskOutcome<'_>>)> = models
        .iter()
        .enumerate()
        .filter(|(i, _)| Some(*i) != excluded)
        .filter_map(|(i, (_, scores))| Some((i, outcomes(of_reference, scores.ok()?)?)))
        .collect();
    let own_errors = Errors::of(&own);
    let errors: Vec<Errors> = compared.iter().map(|(_, outcomes)| Errors::of(outcomes)).collect();
    let challengers: Vec<Vec<TaskOutcome<'_>>> = errors.iter().map(Errors::outcomes).collect();
    // A gain in errors is a loss.
    let losses = largest_gains(&own_errors.outcomes(), &challengers, &weights.of(Some(of_reference)), seed);
    models
        .iter()
        .enumerate()
        .map(|(i, (model, scores))| {
            if let Err(why) = scores {
                return unscored(model, why);
            }
            let Some(at) = compared.iter().position(|(j, _)| *j == i) else {
                let reason = "the others are compared with it: kept".into();
                return ModelVerdict { model: (*model).into(), harmful: false, reason, comparison: None };
            };
            let (loss, outcomes) = (losses[at], &compared[at].1);
            let costs_something = loss.p <= ALPHA;
            let better = if costs_something { best_task(of_reference, &own, outcomes, seed) } else { None };
            let words = loss_words(&loss, reference);
            let reason = match (costs_something, &better) {
                (false, _) => format!("{words}, which is no significant loss: kept"),
                (true, Some(task)) => format!("{words}, but it is significantly better in {task}: kept"),
                (true, None) => format!("{words}, and it is significantly better in no task: left out"),
            };
            let harmful = costs_something && better.is_none();
            let comparison = RulingRow {
                question: format!("Keep {model}?"),
                incumbent: reference.into(),
                challenger: (*model).into(),
                gain: -loss.value,
                stderr: loss.stderr,
                p: loss.p,
                challengers: compared.len(),
                accepted: !harmful,
            };
            ModelVerdict { model: (*model).into(), harmful, reason, comparison: Some(comparison) }
        })
        .collect()
}

/// Scores and their items, each subtracted from 1: errors, where scores are fractions.
struct Errors(Vec<(f64, Vec<f64>, usize)>);

impl Errors {
    fn of(outcomes: &[TaskOutcome<'_>]) -> Errors {
        let of = |task: &TaskOutcome<'_>| (1.0 - task.value, task.items.iter().map(|x| 1.0 - x).collect(), task.n);
        Errors(outcomes.iter().map(of).collect())
    }

    fn outcomes(&self) -> Vec<TaskOutcome<'_>> {
        self.0.iter().map(|(value, items, n)| TaskOutcome { value: *value, items, n: *n }).collect()
    }
}

/// The verdict on a model without scores.
pub(crate) fn unscored(model: &str, why: &str) -> ModelVerdict {
    let reason = format!("it could not be scored: left out; {why}");
    ModelVerdict { model: model.into(), harmful: true, reason, comparison: None }
}

/// The model with the median average, the lower of two; of equals the first.
fn median<'a>(models: &[(&'a str, Result<&'a Scores, &'a str>)]) -> Option<(Option<usize>, &'a str, &'a Scores)> {
    let scored = models.iter().enumerate().filter_map(|(i, (model, of))| Some((Some(i), *model, of.ok()?)));
    let mut scored: Vec<_> = scored.collect();
    scored.sort_by(|(_, _, a), (_, _, b)| compare(a.average, b.average));
    scored.get(scored.len().saturating_sub(1) / 2).copied()
}

/// The task with the most significant gain over the reference, if one is significant.
fn best_task<'a>(
    reference: &'a Scores,
    own: &[TaskOutcome<'_>],
    outcomes: &[TaskOutcome<'_>],
    seed: u64,
) -> Option<&'a str> {
    // One challenger for each task, which differs from the reference in that task alone.
    let only = |t: usize| -> Vec<TaskOutcome<'_>> {
        own.iter().zip(outcomes).enumerate().map(|(i, (own, new))| if i == t { *new } else { *own }).collect()
    };
    let challengers: Vec<Vec<TaskOutcome<'_>>> = (0..own.len()).map(only).collect();
    let gains = largest_gains(own, &challengers, &[], seed);
    let significant = gains.iter().zip(&reference.tasks).filter(|(gain, _)| gain.p <= ALPHA);
    significant.min_by(|(a, _), (b, _)| a.p.total_cmp(&b.p)).map(|(_, task)| task.task.as_str())
}

fn loss_words(loss: &Gain, reference: &str) -> String {
    let stderr = loss.stderr.map_or(String::new(), |stderr| format!(" ± {}", short(stderr)));
    let order = if loss.value > 0.0 { "below" } else { "above" };
    format!("its average is {}{stderr} {order} that of {reference} (p = {})", short(loss.value.abs()), short(loss.p))
}

#[cfg(test)]
mod tests {
    //! Zoos by hand and at random.
    use super::*;
    use crate::contract::TaskScore;
    use glue_search::Random;

    type Items = Vec<Vec<f64>>;

    fn scores(tasks: &Items) -> Scores {
        let task = |(t, items): (usize, &Vec<f64>)| {
            let value = items.iter().sum::<f64>() / items.len() as f64;
            let (task, metric) = (format!("task {t}"), "acc".into());
            TaskScore { task, metric, value, n: items.len(), items: items.clone() }
        };
        let tasks: Vec<TaskScore> = tasks.iter().enumerate().map(task).collect();
        Scores {
            average: tasks.iter().map(|task| task.value).sum::<f64>() / tasks.len() as f64,
            tasks,
            stderr: None,
            dropped: false,
        }
    }

    fn harmful(models: &[(&str, Items)], base: Option<&Items>) -> Vec<String> {
        let scored: Vec<Scores> = models.iter().map(|(_, items)| scores(items)).collect();
        let named: Vec<(&str, Result<&Scores, &str>)> =
            models.iter().zip(&scored).map(|((name, _), scores)| (*name, Ok(scores))).collect();
        let base = base.map(scores);
        let verdicts = judge(&named, base.as_ref().map(|scores| ("base", scores)), &TaskWeights::default(), 0);
        assert_eq!(verdicts.len(), models.len());
        verdicts.into_iter().filter(|verdict| verdict.harmful).map(|verdict| verdict.model).collect()
    }

    /// Items of related models, `right[t]` of `n[t]` right in task t. How easy an item is, is the same for all models;
    /// what each model makes of it differs a little.
    fn related(n: &[usize], right: &[usize], model: u64) -> Items {
        let task = |(t, (&n, &right)): (usize, (&usize, &usize))| {
            let (mut common, mut own) = (Random::new(7, t as u64), Random::new(100 + model, t as u64));
            let mut easiness: Vec<(f64, usize)> = (0..n).map(|i| (common.normal() + 0.5 * own.normal(), i)).collect();
            easiness.sort_by(|a, b| b.0.total_cmp(&a.0));
            let mut items = vec![0.0; n];
            easiness[..right].iter().for_each(|&(_, i)| items[i] = 1.0);
            items
        };
        n.iter().zip(right).enumerate().map(task).collect()
    }

    #[test]
    fn the_real_zoo_loses_its_wild_model_only() {
        // blimp, mood, news and scan of 100 items: the scores of shared/realzoo.
        let of = |right: [usize; 4], model| related(&[100; 4], &right, model);
        let base = of([96, 79, 72, 0], 0);
        let zoo = [
            ("news", of([94, 53, 86, 0], 1)),
            ("mood", of([95, 89, 77, 0], 2)),
            ("scan", of([86, 58, 69, 78], 3)),
            ("wild", of([97, 66, 17, 0], 4)),
        ];
        assert_eq!(harmful(&zoo, Some(&base)), ["wild"]);
        // And by half of the items, which a search has.
        let of = |right: [usize; 4], model| related(&[50; 4], &right, model);
        let base = of([48, 40, 36, 0], 0);
        let zoo = [
            ("news", of([47, 26, 43, 0], 1)),
            ("mood", of([48, 45, 38, 0], 2)),
            ("scan", of([43, 29, 35, 39], 3)),
            ("wild", of([48, 33, 9, 0], 4)),
        ];
        let found = harmful(&zoo, Some(&base));
        assert!(found.contains(&"wild".to_string()) && !found.contains(&"scan".to_string()), "{found:?}");
    }

    #[test]
    fn specialists_are_kept_without_a_base() {
        let zoo = [
            ("math", related(&[100; 3], &[90, 30, 30], 1)),
            ("code", related(&[100; 3], &[25, 85, 30], 2)),
            ("chat", related(&[100; 3], &[20, 30, 80], 3)),
        ];
        assert_eq!(harmful(&zoo, None), [""; 0]);
        let noise = [&zoo[..], &[("noise", related(&[100; 3], &[15, 10, 12], 4))]].concat();
        assert_eq!(harmful(&noise, None), ["noise"]);
    }

    #[test]
    fn of_equal_models_hardly_any_is_harmful() {
        const DRAWS: u64 = 200;
        let names: Vec<String> = (0..16).map(|i| format!("m{i}")).collect();
        let mut flagged = 0;
        for draw in 0..DRAWS {
            let mut random = Random::new(draw, 0);
            let chance: Items = (0..5).map(|_| (0..100).map(|_| random.uniform()).collect()).collect();
            let zoo: Vec<(&str, Items)> = names
                .iter()
                .map(|name| {
                    let mut item = |p: &f64| f64::from(u8::from(random.uniform() < *p));
                    let items: Items = chance.iter().map(|task| task.iter().map(&mut item).collect()).collect();
                    (name.as_str(), items)
                })
                .collect();
            flagged += u64::from(!harmful(&zoo, None).is_empty());
        }
        println!("a model is flagged in {flagged} of {DRAWS} draws");
        assert!(flagged * 20 <= DRAWS, "{flagged} of {DRAWS}");
    }

    #[test]
    fn a_small_task_decides_as_far_as_its_error_allows() {
        // Ten items less of 164 are chance, though the 10 000 items of the other task hide that in a pooled error.
        let of = |right: [usize; 2], model| related(&[164, 10_000], &right, model);
        let base = of([82, 5000], 0);
        let zoo = |small, large| [("other", of([84, 5010], 1)), ("last", of([small, large], 2))];
        assert_eq!(harmful(&zoo(74, 5000), Some(&base)), [""; 0]);
        assert_eq!(harmful(&zoo(30, 5000), Some(&base)), ["last"]);
        // Two points of the large task are significant by themselves: a gain there keeps what loses the small one.
        assert_eq!(harmful(&zoo(30, 5300), Some(&base)), [""; 0]);
    }

    #[test]
    fn without_scores_or_errors() {
        let ok = scores(&vec![vec![1.0, 0.0, 1.0]]);
        let verdicts =
            judge(&[("a", Ok(&ok)), ("b", Err("a log-likelihood is NaN"))], None, &TaskWeights::default(), 0);
        assert_eq!(verdicts.iter().map(|verdict| verdict.harmful).collect::<Vec<_>>(), [false, true]);
        assert_eq!(verdicts[1].reason, "it could not be scored: left out; a log-likelihood is NaN");
        // Perplexities without items.
        let bare = |value: f64| {
            let task = TaskScore { task: "p".into(), metric: "ppl".into(), value, n: 10, items: vec![] };
            Scores { tasks: vec![task], average: value, stderr: None, dropped: false }
        };
        let (base, bad) = (bare(-8.0), bare(-900.0));
        let verdicts =
            judge(&[("bad", Ok(&bad)), ("good", Ok(&base))], Some(("base", &base)), &TaskWeights::default(), 0);
        assert!(verdicts.iter().all(|verdict| !verdict.harmful), "{verdicts:?}");
    }
}
