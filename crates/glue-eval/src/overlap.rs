//! Items that two sets of tasks share.
//!
//! A benchmark may hold items of another, and its splits may hold the same items twice. Two items are taken for the
//! same if the texts that are asked, without examples, are equal but for case and white space.

use crate::evaluate::Prepared;
use crate::task::{Ask, Item};
use std::collections::HashSet;
use xxhash_rust::xxh3::xxh3_128;

/// How many items of a task are also in other tasks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlap {
    /// The task.
    pub task: String,
    /// How many of its items are also in the others.
    pub shared: usize,
    /// How many items it has.
    pub items: usize,
}

/// For each task of `tasks`, how many of its items are in any task of `others`; only tasks that share some. Prompts
/// with few-shot examples hide what is asked: prepare both with `num_fewshot` of 0.
pub fn overlap(tasks: &Prepared, others: &Prepared) -> Vec<Overlap> {
    let known: HashSet<u128> = others.items().iter().flat_map(|items| &items.items).map(content).collect();
    let of = |(task, items): (&crate::Task, &crate::task::Items)| {
        let shared = items.items.iter().filter(|item| known.contains(&content(item))).count();
        (shared > 0).then(|| Overlap { task: task.name().into(), shared, items: items.items.len() })
    };
    tasks.tasks().iter().zip(tasks.items()).filter_map(of).collect()
}

/// A hash of what is asked.
fn content(item: &Item) -> u128 {
    let mut text = String::new();
    let mut add = |part: &str| {
        for word in part.split_whitespace() {
            text.extend(word.chars().flat_map(char::to_lowercase));
            text.push(' ');
        }
        text.push('\n');
    };
    match &item.ask {
        Ask::Choose { contexts, continuations, .. } => contexts.iter().chain(continuations).for_each(|part| add(part)),
        Ask::Continue { context, continuation } => [context, continuation].into_iter().for_each(|part| add(part)),
        Ask::Roll { text } => add(text),
        Ask::Generate { context, .. } => add(context),
    }
    xxh3_128(text.as_bytes())
}
