//! Prompts for the experts of a planned mixture that have none, taken from the items of tasks.
//!
//! Each task belongs to one expert, as labels by skill have it (see [`crate::labels::assign`]): the one that is given
//! it by name, or that is called like it, or the one whose model has the lowest loss on its answers. Prompts of an
//! expert are items of its tasks; its negative prompts are as many items of all other tasks, so that what all prompts
//! have in common cancels.

use crate::error::RouterError;
use crate::items::read_items;
use crate::labels::{assign, automatic_prompts};
use crate::losses::losses_of_models;
use glue_eval::Task;
use glue_mixture::{MixPlan, Prompts};
use glue_progress::Progress;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The usual number of prompts of an expert.
pub const PROMPTS: usize = 32;

/// Where prompts come from.
#[derive(Debug)]
pub struct PromptSource<'a> {
    /// Tasks whose items are prompts.
    pub tasks: &'a [Task],
    /// Their split: not the one that the mixture will be judged by.
    pub split: &'a str,
    /// Maximum number of items of each task; all when absent.
    pub limit: Option<usize>,
    /// Experts of tasks or skills, by name, beside those that the description names.
    pub given: BTreeMap<String, String>,
    /// Maximum number of prompts of an expert, and of negative ones; at least 1. [`PROMPTS`] is usual.
    pub count: usize,
}

/// Gives prompts to the experts of `plan` that gates are made for and that have none, and notes in the plan whence they
/// are. The shared expert of Qwen2-MoE's format, if it has none, is given items of all tasks. Which items are drawn is
/// a function of the plan's seed. Where every expert has prompts nothing is read.
///
/// # Errors
/// [`RouterError::NoItems`] for an expert without a task, [`RouterError::Setting`] for a count of 0, and those of
/// reading items and of [`crate::labels::assign`].
pub fn fill_prompts(plan: &mut MixPlan, source: &PromptSource<'_>, progress: &dyn Progress) -> Result<(), RouterError> {
    let (lacking, shared) = (plan.config.without_prompts(), plan.config.shared_without_prompts());
    if lacking.is_empty() && !shared {
        return Ok(());
    }
    if source.count == 0 {
        return Err(RouterError::Setting { name: "prompts", found: "0".into(), expected: "at least 1" });
    }
    let items = read_items(source.tasks, Some(source.split), &BTreeMap::new(), source.limit)?;
    let mut given = plan.config.experts_of_skills();
    given.extend(source.given.clone());
    let models: Vec<(String, PathBuf)> = plan
        .config
        .experts
        .iter()
        .map(|expert| (expert.name.clone(), plan.config.locate(&expert.model).into()))
        .collect();
    let experts: Vec<String> = models.iter().map(|(name, _)| name.clone()).collect();
    let seed = plan.config.seed;
    if !lacking.is_empty() {
        let assigned = assign(&items, &given, &experts, &mut || losses_of_models(&items, &models, progress))?;
        let mut drawn = automatic_prompts(&items, &assigned, &experts, source.count, true, seed);
        for number in lacking {
            let prompts = &mut drawn[number];
            if prompts.positive.is_empty() {
                let of = |(task, &expert): (&String, &usize)| (task.clone(), experts[expert].clone());
                let (expert, assigned) = (experts[number].clone(), assigned.iter().map(of).collect());
                return Err(RouterError::NoItems { expert, assigned });
            }
            let tasks: Vec<&str> =
                assigned.iter().filter(|(_, expert)| **expert == number).map(|(task, _)| task.as_str()).collect();
            plan.notes.push(format!(
                "the prompts of expert `{}` come from items of {} (split {}): {}",
                experts[number],
                tasks.join(", "),
                source.split,
                prompts.positive.len()
            ));
            let (positive, negative) = (std::mem::take(&mut prompts.positive), std::mem::take(&mut prompts.negative));
            plan.set_prompts(number, Prompts { positive, negative });
        }
    }
    if shared {
        // One expert of everything.
        let everything = items.iter().map(|item| (item.task.clone(), 0)).collect();
        let drawn = automatic_prompts(&items, &everything, &[String::new()], source.count, false, seed);
        let positive = drawn.into_iter().next().map(|prompts| prompts.positive).unwrap_or_default();
        plan.notes.push(format!(
            "the prompts of the shared expert come from items of all tasks (split {}): {}",
            source.split,
            positive.len()
        ));
        plan.set_shared_prompts(Prompts { positive, negative: Vec::new() });
    }
    Ok(())
}
