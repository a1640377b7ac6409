//! The items of a part, and the rounds in which they are asked.

use super::LocalOptions;
use crate::contract::Part;
use crate::race::{RaceConfig, Rule, shuffled};
use glue_eval::{EvalError, EvalOptions, LanguageModel, ModelError, Prepared, Task};
use std::sync::Arc;

/// What is asked of each candidate.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) prepared: Arc<Prepared>,
    /// For each task, the numbers of its items in this part.
    pub(super) items: Vec<Vec<usize>>,
    pub(super) rounds: Vec<Vec<Vec<usize>>>,
    pub(super) hash: String,
}

impl Asked {
    /// Reads and renders the items of a part, for the chat template of `model` where that matters.
    pub(super) fn new(
        part: Part,
        tasks: &Arc<[Task]>,
        options: &LocalOptions,
        model: Option<&dyn LanguageModel>,
    ) -> Result<Asked, EvalError> {
        let config = &options.items;
        let other_split = config.validation_split.as_ref().filter(|_| part == Part::Validation);
        let split = other_split.or(config.split.as_ref()).cloned();
        let eval = EvalOptions { split, cache: None, samples: false, ..options.eval.clone() };
        let prepared = Arc::new(Prepared::new(Arc::clone(tasks), &eval, model)?);
        let of_task = |(task, count): (&Task, usize)| {
            let all: Vec<usize> = (0..count).collect();
            if config.validation_split.is_some() || config.validation_fraction == 0.0 {
                return all;
            }
            // Another order than that of the rounds.
            let ordered = shuffled(&format!("validation of {}", task.name()), &all, config.seed);
            let held_out = (config.validation_fraction * count as f64).round() as usize;
            let (validation, search) = ordered.split_at(held_out.min(count));
            let mut items = if part == Part::Search { search.to_vec() } else { validation.to_vec() };
            items.sort_unstable();
            items
        };
        let items: Vec<Vec<usize>> = tasks.iter().zip(prepared.counts()).map(of_task).collect();
        if let Some((task, _)) = tasks.iter().zip(&items).find(|(_, items)| items.is_empty()) {
            let message = format!("no items of the task `{}` are left for {part:?}", task.name()).to_lowercase();
            return Err(ModelError::new(message).into());
        }
        let named: Vec<(&str, Vec<usize>)> =
            tasks.iter().zip(&items).map(|(task, items)| (task.name(), items.clone())).collect();
        // Only the search drops anybody.
        let race = match part {
            Part::Search => options.race.clone(),
            Part::Validation => RaceConfig { rule: Rule::Off, ..options.race.clone() },
        };
        let rounds = race.rounds(&named);
        let hash = format!("{:?} {rounds:?}", prepared.content_hashes());
        Ok(Asked { prepared, items, rounds, hash })
    }
}
