//! Labelled items of tasks: a prompt, the right answer where there is one, task and skill.

use crate::error::RouterError;
use crate::random::permutation;
use glue_eval::{
    EvalOptions, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest, ModelError, Task,
    evaluate,
};
use glue_lm::Tokenizer;
use glue_tensor::files;
use serde_json::Value;
use std::collections::BTreeMap;

/// One item of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The name of its task.
    pub task: String,
    /// What it takes to solve it: `skill` of `task.json`, or the name of the task.
    pub skill: String,
    /// The text up to where an answer begins.
    pub prompt: String,
    /// A right answer with the delimiter before it; one space where the model writes the answer itself.
    pub answer: Option<String>,
}

/// An item in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Not empty.
    pub prompt: Vec<u32>,
    /// Empty without an answer.
    pub answer: Vec<u32>,
}

/// Answers nothing: items are read by asking it.
struct Silent;

impl LanguageModel for Silent {
    fn name(&self) -> String {
        "none".into()
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        Ok(requests.iter().map(|_| LogLikelihood { logprob: 0.0, greedy: false, n_tokens: 1, truncated: 0 }).collect())
    }

    fn rolling(&self, texts: &[&str], _: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        Ok(texts.iter().map(|_| LogLikelihood { logprob: 0.0, greedy: false, n_tokens: 1, truncated: 0 }).collect())
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        _: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let none = || Generation { text: String::new(), n_tokens: 0, truncated: 0 };
        Ok(requests.iter().map(|request| (0..request.n).map(|_| none()).collect()).collect())
    }
}

/// Reads the items of a split of all tasks, task after task; `None` for the split that each task names. `splits` has
/// other splits for single tasks, by name.
///
/// # Errors
/// [`RouterError::Eval`] for tasks or items that are not sound, and for tasks that run programs, whose answers cannot
/// be known beforehand.
pub fn read_items(
    tasks: &[Task],
    split: Option<&str>,
    splits: &BTreeMap<String, String>,
    limit: Option<usize>,
) -> Result<Vec<Item>, RouterError> {
    let (split, splits) = (split.map(Into::into), splits.clone());
    let options = EvalOptions { split, splits, limit, samples: true, ..EvalOptions::default() };
    let report = evaluate(&Silent, tasks, &options, &glue_progress::NoProgress)?;
    let skills: BTreeMap<&str, String> = tasks.iter().map(|task| (task.name(), skill(task))).collect();
    let item = |sample: &glue_eval::Sample| {
        let record: Value = serde_json::from_str(&sample.json).unwrap_or_default();
        let (prompt, answer) = question(&record);
        let skill = skills.get(sample.task.as_str()).cloned().unwrap_or_else(|| sample.task.clone());
        Item { task: sample.task.clone(), skill, prompt, answer }
    };
    Ok(report.samples.iter().map(item).collect())
}

/// Prompt and right answer of the record of an item.
fn question(record: &Value) -> (String, Option<String>) {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let target = record.get("target");
    let choices = record.get("continuations").and_then(Value::as_array);
    if let Some(continuations) = choices {
        let gold = target.and_then(|gold| gold.get(0)).and_then(Value::as_u64).unwrap_or(0) as usize;
        // Contexts or continuations are one for all choices, or one for each.
        let of = |list: &[Value]| list.get(gold).or(list.first()).and_then(text);
        let prompts = record.get("prompts").and_then(Value::as_array).and_then(|list| of(list));
        return (prompts.or_else(|| record.get("prompt").and_then(text)).unwrap_or_default(), of(continuations));
    }
    let prompt = record.get("prompt").or(record.get("text")).and_then(text).unwrap_or_default();
    let answer = match target {
        // What the model writes is compared without a delimiter.
        Some(Value::Array(targets)) => targets.first().and_then(text).map(|target| format!(" {target}")),
        Some(target) => text(target),
        None => None,
    };
    (prompt, answer)
}

/// The skill that the file of a task names; the name of the task where it names none.
pub fn skill(task: &Task) -> String {
    let named = || {
        let map: Value = serde_json::from_slice(&files::read(task.path(), files::CONFIG_BYTES).ok()?).ok()?;
        map.get("skill")?.as_str().map(str::to_owned)
    };
    named().unwrap_or_else(|| task.name().to_owned())
}

impl Item {
    /// The item in tokens, cut between prompt and answer where an evaluation cuts it: white space at the end of the
    /// prompt belongs to the answer, whose tokens are those of both together after as many as the prompt alone has.
    ///
    /// # Errors
    /// [`RouterError::EmptyPrompt`], [`RouterError::Tokenizer`].
    pub fn encode(&self, tokenizer: &Tokenizer) -> Result<Encoded, RouterError> {
        let kept = self.prompt.trim_end();
        let prompt = tokenizer.encode(kept, true)?;
        if prompt.is_empty() {
            return Err(RouterError::EmptyPrompt { prompt: self.prompt.clone() });
        }
        let answer = match &self.answer {
            None => Vec::new(),
            Some(answer) => {
                let mut whole = tokenizer.encode(&format!("{}{answer}", self.prompt), true)?;
                whole.split_off(prompt.len().min(whole.len()))
            }
        };
        Ok(Encoded { prompt, answer })
    }
}

/// Items parted at random, task by task: those to train with, and `share` of each task, rounded down, to validate with.
/// A function of the seed and the order of the items.
///
/// # Errors
/// [`RouterError::Setting`] for a share outside of 0 to 1; [`RouterError::TooFewItems`] when one part is empty.
pub fn train_validation_split(items: Vec<Item>, share: f64, seed: u64) -> Result<(Vec<Item>, Vec<Item>), RouterError> {
    if !(share > 0.0 && share < 1.0) {
        let expected = "a number between 0 and 1";
        return Err(RouterError::Setting { name: "validation", found: share.to_string(), expected });
    }
    let mut of_task: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    items.iter().enumerate().for_each(|(index, item)| of_task.entry(item.task.clone()).or_default().push(index));
    let mut held = vec![false; items.len()];
    for (stream, indices) in of_task.values().enumerate() {
        let order = permutation(seed, stream as u64, indices.len());
        let n = (share * indices.len() as f64) as usize;
        order[..n].iter().for_each(|&place| held[indices[place]] = true);
    }
    let (mut train, mut validation) = (Vec::new(), Vec::new());
    for (item, held) in items.into_iter().zip(held) {
        if held { &mut validation } else { &mut train }.push(item);
    }
    for (list, purpose) in [(&train, "to train with"), (&validation, "to validate with")] {
        if list.is_empty() {
            return Err(RouterError::TooFewItems { purpose, expected: 1, found: 0 });
        }
    }
    Ok((train, validation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn prompts_and_answers_of_every_kind_of_item() {
        let check = |record: Value, prompt: &str, answer: Option<&str>| {
            assert_eq!(question(&record), (prompt.to_owned(), answer.map(Into::into)), "{record}");
        };
        check(json!({"prompt": "Q", "continuations": [" a", " b"], "target": [1]}), "Q", Some(" b"));
        check(json!({"prompts": ["x", "y"], "continuations": [" c"], "target": [1]}), "y", Some(" c"));
        check(json!({"prompt": "Q", "target": ["7", "seven"]}), "Q", Some(" 7"));
        check(json!({"prompt": "Q", "target": "\n7"}), "Q", Some("\n7"));
        check(json!({"text": "all of it"}), "all of it", None);
    }

    #[test]
    fn parts_have_the_share_of_each_task_and_depend_on_the_seed() {
        let item = |task: &str, i: usize| Item {
            task: task.into(),
            skill: "s".into(),
            prompt: format!("{task}{i}"),
            answer: None,
        };
        let items: Vec<Item> = (0..10).map(|i| item("a", i)).chain((0..25).map(|i| item("b", i))).collect();
        let (train, validation) = train_validation_split(items.clone(), 0.2, 1).unwrap();
        let count = |list: &[Item], task: &str| list.iter().filter(|item| item.task == task).count();
        assert_eq!((count(&train, "a"), count(&validation, "a")), (8, 2));
        assert_eq!((count(&train, "b"), count(&validation, "b")), (20, 5));
        assert_eq!(train_validation_split(items.clone(), 0.2, 1).unwrap(), (train, validation.clone()));
        assert_ne!(train_validation_split(items.clone(), 0.2, 2).unwrap().1, validation);
        assert!(matches!(train_validation_split(items.clone(), 0.01, 1), Err(RouterError::TooFewItems { .. })));
        assert!(matches!(train_validation_split(items, 1.5, 1), Err(RouterError::Setting { .. })));
    }
}
