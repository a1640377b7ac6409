//! The items of a role, and the rounds in which they are scored.

use super::LocalOptions;
use crate::contract::{ItemRole, Strata};
use crate::race::{rounds, shuffled};
use glue_eval::{EvalError, EvalOptions, LanguageModel, ModelError, Prepared, Task, TaskError};
use parking_lot::Mutex;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// The items that each candidate is scored on.
#[derive(Debug)]
pub(super) struct PreparedItems {
    pub(super) prepared: Arc<Prepared>,
    /// For each task, the numbers of its items in this role, ascending.
    pub(super) items: Vec<Vec<usize>>,
    seed: u64,
    /// The fraction of the items that is scored in a race.
    fraction: f64,
    hashes: Vec<String>,
    /// All items in one round.
    whole: Arc<Rounds>,
    /// The rounds of the last race; all races of a search have the same strata.
    raced: Mutex<Option<(Strata, Arc<Rounds>)>>,
}

/// In which order items are scored.
#[derive(Debug)]
pub(super) struct Rounds {
    /// By round and task, the numbers of its items, ascending.
    pub(super) items: Vec<Vec<Vec<usize>>>,
    /// A hash of what is asked, and in which order.
    pub(super) hash: String,
}

impl Rounds {
    fn new(items: Vec<Vec<Vec<usize>>>, contents: &[String]) -> Arc<Rounds> {
        let hash = format!("{:032x}", xxh3_128(format!("{contents:?} {items:?}").as_bytes()));
        Arc::new(Rounds { items, hash })
    }
}

impl PreparedItems {
    /// Reads and renders the items of a role, with the chat template of `model` if prompts depend on it.
    pub(super) fn new(
        role: ItemRole,
        tasks: &Arc<[Task]>,
        options: &LocalOptions,
        model: Option<&dyn LanguageModel>,
    ) -> Result<PreparedItems, EvalError> {
        let config = &options.items;
        let other_split = config.validation_split.as_ref().filter(|_| role == ItemRole::Validation);
        let split = other_split.or(config.split.as_ref()).cloned();
        let splits = match role {
            ItemRole::Search => config.search_splits.clone(),
            ItemRole::Validation => config.validation_splits.clone(),
        };
        let eval = EvalOptions { split, splits, cache: None, samples: false, ..options.eval.clone() };
        for task in tasks.iter().filter(|_| !config.allow_test_split) {
            let split = eval.split_of(task).map(str::parse).transpose().map_err(TaskError::Split)?;
            if task.is_test_split(split.as_ref()) {
                let split = task.resolve_split(split.as_ref())?.to_string();
                return Err(EvalError::TestSplit { task: task.name().into(), split });
            }
        }
        let prepared = Arc::new(Prepared::new(Arc::clone(tasks), &eval, model)?);
        let of_task = |(task, count): (&Task, usize)| {
            let all: Vec<usize> = (0..count).collect();
            if config.validation_split.is_some() || config.validation_fraction == 0.0 {
                return all;
            }
            // Not the order of the rounds.
            let ordered = shuffled(&format!("validation of {}", task.name()), &all, config.seed);
            let held_out = (config.validation_fraction * count as f64).round() as usize;
            let (validation, search) = ordered.split_at(held_out.min(count));
            let mut items = if role == ItemRole::Search { search.to_vec() } else { validation.to_vec() };
            items.sort_unstable();
            items
        };
        let items: Vec<Vec<usize>> = tasks.iter().zip(prepared.counts()).map(of_task).collect();
        if let Some((task, _)) = tasks.iter().zip(&items).find(|(_, items)| items.is_empty()) {
            let message =
                format!("the task `{}` has too few items: none remain for {role:?}", task.name()).to_lowercase();
            return Err(ModelError::new(message).into());
        }
        let hashes = prepared.content_hashes();
        let whole = Rounds::new(vec![items.clone()], &hashes);
        let (seed, fraction) = (config.seed, options.item_fraction);
        Ok(PreparedItems { prepared, items, seed, fraction, hashes, whole, raced: Mutex::default() })
    }

    /// The rounds of a race with these strata, or all items in one round.
    pub(super) fn rounds(&self, strata: Option<&Strata>) -> Arc<Rounds> {
        let Some(strata) = strata else {
            return Arc::clone(&self.whole);
        };
        let mut raced = self.raced.lock();
        if let Some((_, rounds)) = raced.as_ref().filter(|(known, _)| known == strata) {
            return Arc::clone(rounds);
        }
        let named: Vec<(&str, usize)> =
            self.prepared.tasks().iter().zip(&self.items).map(|(task, items)| (task.name(), items.len())).collect();
        let mut found = rounds(&named, strata, self.seed, self.fraction);
        // From positions to numbers.
        for round in &mut found {
            for (positions, items) in round.iter_mut().zip(&self.items) {
                positions.iter_mut().for_each(|position| *position = items[*position]);
            }
        }
        let found = Rounds::new(found, &self.hashes);
        *raced = Some((strata.clone(), Arc::clone(&found)));
        found
    }
}
