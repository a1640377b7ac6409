//! The items of a role, and the rounds in which they are scored.

use super::LocalOptions;
use crate::contract::ItemRole;
use crate::race::{RaceConfig, Rule, shuffled};
use glue_eval::{EvalError, EvalOptions, LanguageModel, ModelError, Prepared, Task};
use std::sync::Arc;

/// The items that each candidate is scored on.
#[derive(Debug)]
pub(super) struct PreparedItems {
    pub(super) prepared: Arc<Prepared>,
    /// For each task, the numbers of its items in this role.
    pub(super) items: Vec<Vec<usize>>,
    pub(super) rounds: Vec<Vec<Vec<usize>>>,
    pub(super) hash: String,
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
        let eval = EvalOptions { split, cache: None, samples: false, ..options.eval.clone() };
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
        let named: Vec<(&str, Vec<usize>)> =
            tasks.iter().zip(&items).map(|(task, items)| (task.name(), items.clone())).collect();
        // Only the search drops candidates.
        let race = match role {
            ItemRole::Search => options.race.clone(),
            ItemRole::Validation => RaceConfig { rule: Rule::Off, ..options.race.clone() },
        };
        let rounds = race.rounds(&named);
        let hash = format!("{:?} {rounds:?}", prepared.content_hashes());
        Ok(PreparedItems { prepared, items, rounds, hash })
    }
}
