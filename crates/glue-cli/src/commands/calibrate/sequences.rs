//! The input of a calibration: task items as an evaluation would ask them, or texts.

use super::{Args, wrong};
use crate::failure::Failure;
use glue_calibrate::Sequence;
use glue_eval::{load_tasks, select};
use glue_lm::TextModel;
use glue_progress::ErrorChain;
use glue_router::RouterError;
use glue_router::items::{Encoded, Item, read_items};
use glue_tensor::ContentHash;
use rayon::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Maximum number of tokens of a sequence; longer texts become several.
const LONGEST: usize = 512;

/// What a model reads.
#[derive(Debug, Clone)]
pub(super) struct Selection<'a> {
    /// The model.
    model: &'a Path,
    /// Tasks; without any, texts are read.
    tasks: &'a [PathBuf],
    /// Tasks, groups or tags among them; without any, all.
    task: Vec<String>,
    split: &'a str,
    text: Vec<PathBuf>,
    limit: Option<u32>,
    max_tokens: Option<u64>,
}

impl<'a> Selection<'a> {
    /// What `args` select for all models.
    pub(super) fn of(args: &'a Args, model: &'a Path) -> Selection<'a> {
        let (task, text) = (args.task.clone(), args.text.clone());
        let Args { tasks, split, limit, max_tokens, .. } = args;
        Selection { model, tasks, task, split, text, limit: *limit, max_tokens: *max_tokens }
    }

    /// The same with data of the model's own, if there are any.
    pub(super) fn only(mut self, own: &[&str]) -> Selection<'a> {
        if !own.is_empty() && self.tasks.is_empty() {
            self.text = own.iter().map(PathBuf::from).collect();
        } else if !own.is_empty() {
            self.task = own.iter().map(|name| String::from(*name)).collect();
        }
        self
    }

    /// Whether there is anything to read.
    pub(super) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.text.is_empty()
    }
}

/// The sequences that are selected, and a record of their source.
pub(super) fn read(args: &Selection<'_>, text: &TextModel) -> Result<(Vec<Sequence>, Value), Failure> {
    if args.tasks.is_empty() { of_files(args, text) } else { of_tasks(args, text) }
}

fn of_tasks(args: &Selection<'_>, text: &TextModel) -> Result<(Vec<Sequence>, Value), Failure> {
    let mut tasks = load_tasks(args.tasks).map_err(Failure::refused)?;
    if !args.task.is_empty() {
        tasks = select(tasks, &args.task).map_err(Failure::refused)?;
    }
    let limit = args.limit.map(|limit| limit as usize);
    let items = read_items(&tasks, Some(args.split), &BTreeMap::new(), limit).map_err(refusal)?;
    let one = |item: &Item| {
        let encoded = item.encode(&text.tokenizer).map_err(refusal)?;
        of_item(item, encoded, text.model.max_positions()).map_err(|what| {
            Failure::refused(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("task {}, item with the prompt {:?}: {what}", item.task, item.prompt),
            ))
        })
    };
    let sequences: Vec<Vec<Sequence>> = items.par_iter().map(one).collect::<Result<_, _>>()?;
    let mut counts = Map::new();
    for task in &tasks {
        counts.insert(task.name().to_owned(), json!(items.iter().filter(|item| item.task == task.name()).count()));
    }
    let source = json!({ "tasks": counts, "split": args.split, "limit": args.limit, "items": items.len() });
    Ok((sequences.concat(), source))
}

/// The sequence of an item, or several for an item that is a text. Too long an item is cut on the left, as in an
/// evaluation.
fn of_item(item: &Item, encoded: Encoded, max_positions: usize) -> Result<Vec<Sequence>, String> {
    let Encoded { prompt, answer } = encoded;
    if item.answer.is_none() {
        return Ok(windows(&prompt, max_positions));
    }
    if answer.is_empty() {
        return Err("its answer adds no token to the prompt".to_owned());
    }
    if answer.len() > max_positions {
        return Err(format!("its answer has {} tokens, and the model takes {max_positions}", answer.len()));
    }
    // The last token is only predicted.
    let cut = (prompt.len() + answer.len()).saturating_sub(max_positions + 1);
    Ok(vec![Sequence::item(&prompt[cut..], &answer)])
}

fn refusal(error: RouterError) -> Failure {
    match error {
        error @ (RouterError::Eval(_) | RouterError::Task(_) | RouterError::EmptyPrompt { .. }) => {
            Failure::refused(error)
        }
        error => Failure::failed(error),
    }
}

fn of_files(args: &Selection<'_>, text: &TextModel) -> Result<(Vec<Sequence>, Value), Failure> {
    let tokenizer = &text.tokenizer;
    let Some(prefix) = tokenizer.bos().or(tokenizer.eos()) else {
        return Err(wrong(args.model, &"the tokenizer has neither a BOS nor an EOS token to start a text with"));
    };
    let longest = LONGEST.min(text.model.max_positions());
    let limit = args.limit.map_or(usize::MAX, |limit| limit as usize);
    let max_tokens = args.max_tokens.unwrap_or(u64::MAX);
    let mut files = Vec::new();
    let (mut sequences, mut tokens) = (Vec::new(), 0);
    for path in &args.text {
        let content = glue_tensor::files::read_named(path, glue_tensor::files::DATA_BYTES)
            .map_err(|error| wrong(path, &error))?;
        let mut texts = 0;
        for line in content.lines().filter(|line| !line.trim().is_empty()).take(limit) {
            if tokens >= max_tokens {
                break;
            }
            let mut ids = tokenizer.encode(line, true).map_err(|error| wrong(path, &error.chain()))?;
            if ids.first() != Some(&prefix) {
                ids.insert(0, prefix);
            }
            texts += 1;
            tokens += ids.len().saturating_sub(1) as u64;
            sequences.extend(windows(&ids, longest));
        }
        let hash = ContentHash::of(content.as_bytes()).to_string();
        files.push(json!({ "path": path.display().to_string(), "xxh3_128": hash, "texts": texts }));
    }
    let source = json!({ "text": files, "limit": args.limit, "max_tokens": args.max_tokens });
    Ok((sequences, source))
}

/// Splits a text into sequences of which a model reads up to `longest` tokens each. Each starts with the last token of
/// the previous one, so every token but the first is predicted once.
fn windows(tokens: &[u32], longest: usize) -> Vec<Sequence> {
    let mut windows = Vec::new();
    let mut start = 0;
    while start + 1 < tokens.len() {
        let end = (start + longest.max(1) + 1).min(tokens.len());
        windows.push(Sequence::text(tokens[start..end].to_vec()));
        start = end - 1;
    }
    windows
}

#[cfg(test)]
mod tests {
    //! Tokens to sequences.
    use super::*;

    fn item(answer: Option<&str>) -> Item {
        Item { task: "t".into(), skill: "s".into(), prompt: "p".into(), answer: answer.map(Into::into) }
    }

    #[test]
    fn every_token_of_a_text_but_the_first_is_scored_once() {
        let check = |count: u32, longest: usize, expected: &[&[u32]]| {
            let tokens: Vec<u32> = (0..count).collect();
            let found = windows(&tokens, longest);
            assert_eq!(found.iter().map(|window| &window.tokens[..]).collect::<Vec<_>>(), expected);
            assert!(found.iter().all(|window| window.scored == (1..window.tokens.len())));
        };
        check(5, 9, &[&[0, 1, 2, 3, 4]]);
        check(5, 4, &[&[0, 1, 2, 3, 4]]);
        check(6, 3, &[&[0, 1, 2, 3], &[3, 4, 5]]);
        check(1, 3, &[]);
    }

    #[test]
    fn items_are_cut_from_their_left() {
        let check = |prompt: &[u32], answer: &[u32], max_positions, expected: Result<(&[u32], usize), &str>| {
            let encoded = Encoded { prompt: prompt.to_vec(), answer: answer.to_vec() };
            match (of_item(&item(Some("a")), encoded, max_positions), expected) {
                (Ok(found), Ok((tokens, first))) => {
                    assert_eq!((&found[0].tokens[..], found[0].scored.start), (tokens, first));
                }
                (Err(found), Err(words)) => assert!(found.contains(words), "{found}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        };
        check(&[1, 2, 3], &[4, 5], 4, Ok((&[1, 2, 3, 4, 5], 3)));
        check(&[1, 2, 3], &[4, 5], 3, Ok((&[2, 3, 4, 5], 2)));
        check(&[1, 2, 3], &[4, 5], 2, Ok((&[3, 4, 5], 1)));
        check(&[1, 2, 3], &[4, 5], 1, Err("2 tokens, and the model takes 1"));
        check(&[1, 2, 3], &[], 9, Err("adds no token"));
        let whole = of_item(&item(None), Encoded { prompt: vec![1, 2, 3, 4], answer: vec![] }, 2).unwrap();
        assert_eq!(whole.len(), 2);
    }
}
