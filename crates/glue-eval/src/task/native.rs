//! Native tasks: a directory with `task.json` and a file of items for each split.
//!
//! `task.json` has `kind` and, each with a default, the keys listed in [`KEYS`]. An item of a
//! - multiple-choice task has `context`, `choices` and `gold`, the index of the right one, or several;
//! - generating task has `context` and `target`, or several, and may have its own `until`;
//! - perplexity task has `text`;
//! - code task has `context` (or `prompt`, or `text`) and either `test` and `entry_point`, as in HumanEval, where the
//!   answer completes the prompt, or `tests` (or `test_list`) and perhaps `test_setup_code`, as in MBPP, where it
//!   stands alone.
//!
//! What else an item has is carried along and ignored.

use super::examples::{Choice, Examples};
use super::fields::{ANSWERS, EXAMPLES, Fields, NEW_TOKENS, TOP_K, texts};
use super::prompt::{self, Delimiters, TextBudget};
use super::{Ask, Check, Generating, Item, ItemOptions, Items, Kind, Source, Task, harness};
use crate::data::{self, Format, Row, describe};
use crate::error::{EvalError, FilePosition, TaskError};
use crate::filters::Pipeline;
use crate::metrics::{Aggregation, Comparison, Metric, MetricSpec};
use crate::model::Sampling;
use crate::split::SplitExpression;
use glue_tensor::files;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Keys of `task.json` that mean something here.
const KEYS: &[&str] = &[
    "name",
    "kind",
    "metric",
    "target_delimiter",
    "max_gen_toks",
    "until",
    "num_fewshot",
    "fewshot_split",
    "fewshot_delimiter",
    "fewshot_sampler",
    "temperature",
    "top_k",
    "top_p",
    "repeats",
    "k",
    "filter_list",
    "complete_prompt",
    "group",
    "tag",
];

/// Keys that are for people.
const REMARKS: &[&str] = &["description", "skill", "source", "license", "metadata", "version"];

/// Fields of an item that mean something here.
const ITEM_FIELDS: &[&str] = &[
    "context",
    "choices",
    "gold",
    "target",
    "until",
    "text",
    "prompt",
    "test",
    "entry_point",
    "tests",
    "test_list",
    "test_setup_code",
];

const KINDS: &[(&str, Kind)] = &[
    ("multiple_choice", Kind::MultipleChoice),
    ("generate", Kind::GenerateUntil),
    ("generate_until", Kind::GenerateUntil),
    ("perplexity", Kind::LogLikelihoodRolling),
    ("rolling", Kind::LogLikelihoodRolling),
    ("loglikelihood_rolling", Kind::LogLikelihoodRolling),
    ("code", Kind::Code),
];

#[derive(Debug)]
pub(super) struct Native {
    splits: BTreeMap<String, (PathBuf, Format)>,
    delimiters: Delimiters,
    generating: Arc<Generating>,
    complete_prompt: Option<bool>,
    num_fewshot: usize,
    fewshot_split: String,
    fewshot_choice: Choice,
    description: Option<String>,
}

/// Reads `task.json` of a directory.
pub(super) fn open(directory: &Path) -> Result<Task, TaskError> {
    let path = directory.join("task.json");
    let text = files::read_to_string(&path, files::CONFIG_BYTES).map_err(TaskError::io(&path))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| TaskError::Malformed {
        place: FilePosition::at(&path, error.line()),
        message: error.to_string(),
    })?;
    let Value::Object(map) = &value else {
        let message = format!("a task should be an object, but is {}", describe(&value));
        return Err(TaskError::Malformed { place: FilePosition::file(&path), message });
    };
    let sources = [(path.clone(), text)];
    let fields = Fields { place: FilePosition::file(&path), map, sources: &sources };
    fields.only(&[KEYS, REMARKS])?;
    let name = match fields.optional_text("name")? {
        Some(name) => name.to_string(),
        None => directory.file_name().map_or_else(|| "task".into(), |name| name.to_string_lossy().into_owned()),
    };
    let kind_name = fields.text("kind")?;
    let Some(&(_, kind)) = KINDS.iter().find(|(known, _)| *known == kind_name) else {
        let known: Vec<&str> = KINDS.iter().map(|(name, _)| *name).collect();
        return Err(fields.wrong("kind", &format!("one of {}", known.join(", ")), fields.required("kind")?));
    };
    let ks = fields.numbers("k", ANSWERS)?.unwrap_or_else(|| vec![1]);
    let metrics = metrics(kind, &ks);
    let main = match fields.optional_text("metric")? {
        None => metrics.first().map(|spec| spec.name.clone()).unwrap_or_default(),
        Some(name) if metrics.iter().any(|spec| spec.name == name) => name.to_string(),
        Some(_) => {
            let known: Vec<&str> = metrics.iter().map(|spec| spec.name.as_str()).collect();
            let expected = format!("a metric of a {kind_name} task, {}", known.join(" or "));
            return Err(fields.wrong("metric", &expected, fields.required("metric")?));
        }
    };
    let pipelines = match fields.get("filter_list") {
        Some(list) if matches!(kind, Kind::GenerateUntil | Kind::Code) => {
            harness::pipelines(&fields, list, &mut harness::Programs::default())?
        }
        Some(list) => return Err(fields.wrong("filter_list", "absent for tasks that generate nothing", list)),
        None if kind == Kind::GenerateUntil => vec![Pipeline::strip()],
        None if kind == Kind::Code => vec![Pipeline { name: "none".into(), filters: Vec::new() }],
        None => vec![Pipeline::take_first()],
    };
    let mut groups = fields.texts("group")?.unwrap_or_default();
    groups.extend(fields.texts("tag")?.unwrap_or_default());
    let delimiters = Delimiters {
        target: fields.optional_text("target_delimiter")?.unwrap_or(" ").into(),
        example: fields.optional_text("fewshot_delimiter")?.unwrap_or("\n\n").into(),
    };
    let temperature = fields.real("temperature")?.unwrap_or(0.0);
    let generating = Generating {
        until: fields.texts("until")?.unwrap_or_else(|| vec![delimiters.example.clone()]),
        max_new_tokens: fields.number("max_gen_toks", NEW_TOKENS)?.unwrap_or(256),
        sampling: Sampling {
            temperature,
            top_k: fields.number("top_k", 1..=*TOP_K.end())?,
            top_p: fields.real("top_p")?,
            ..Sampling::GREEDY
        },
        repeats: fields.number("repeats", ANSWERS)?.unwrap_or_else(|| ks.iter().copied().max().unwrap_or(1)),
        think_end: None,
    };
    if let Some(&k) = ks.iter().find(|&&k| k > generating.repeats) {
        return Err(fields.wrong("k", &format!("at most repeats = {}", generating.repeats), &Value::from(k)));
    }
    let fewshot_choice = match fields.optional_text("fewshot_sampler")? {
        None => Choice::Random,
        Some(name) => match Choice::ALL.iter().find(|(known, _)| *known == name) {
            Some(&(_, choice)) => choice,
            None => return Err(fields.wrong("fewshot_sampler", "`default` or `first_n`", &Value::from(name))),
        },
    };
    let native = Native {
        splits: splits(directory)?,
        delimiters,
        generating: Arc::new(generating),
        complete_prompt: fields.flag("complete_prompt")?,
        num_fewshot: fields.number("num_fewshot", EXAMPLES)?.unwrap_or(0),
        fewshot_split: fields.optional_text("fewshot_split")?.unwrap_or("train").into(),
        fewshot_choice,
        description: map.get("description").and_then(Value::as_str).map(String::from),
    };
    Ok(Task {
        name,
        path,
        kind,
        groups,
        metrics,
        main,
        pipelines,
        config: serde_json::Map::new(),
        process_results: None,
        source: Source::Native(native),
    })
}

fn metrics(kind: Kind, ks: &[usize]) -> Vec<MetricSpec> {
    let spec = MetricSpec::new;
    match kind {
        Kind::MultipleChoice => {
            vec![spec("acc", Metric::Acc, Aggregation::Mean), spec("acc_norm", Metric::AccNorm, Aggregation::Mean)]
        }
        Kind::GenerateUntil => {
            vec![spec("exact_match", Metric::ExactMatch(Comparison::default()), Aggregation::Mean)]
        }
        Kind::LogLikelihood => vec![
            spec("acc", Metric::Acc, Aggregation::Mean),
            spec("perplexity", Metric::LogLikelihood, Aggregation::Perplexity),
        ],
        Kind::LogLikelihoodRolling => vec![
            spec("perplexity", Metric::PerToken, Aggregation::WeightedPerplexity),
            spec("word_perplexity", Metric::PerWord, Aggregation::WeightedPerplexity),
            spec("byte_perplexity", Metric::PerByte, Aggregation::WeightedPerplexity),
            spec("bits_per_byte", Metric::PerByte, Aggregation::BitsPerByte),
        ],
        Kind::Code => ks.iter().map(|&k| spec(&format!("pass@{k}"), Metric::PassAt(k), Aggregation::Mean)).collect(),
    }
}

fn splits(directory: &Path) -> Result<BTreeMap<String, (PathBuf, Format)>, TaskError> {
    let mut splits: BTreeMap<String, (PathBuf, Format)> = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(TaskError::io(directory))? {
        let path = entry.map_err(TaskError::io(directory))?.path();
        let (Some(stem), Some(extension)) = (
            path.file_stem().and_then(|stem| stem.to_str()),
            path.extension().and_then(|extension| extension.to_str()),
        ) else {
            continue;
        };
        let format = match extension {
            "jsonl" => Format::Json,
            "parquet" => Format::Parquet,
            "csv" => Format::Csv,
            _ => continue,
        };
        let stem = stem.to_string();
        if let Some((other, _)) = splits.insert(stem.clone(), (path.clone(), format)) {
            let (first, second) = if other < path { (other, path) } else { (path, other) };
            return Err(TaskError::Duplicate { name: stem, first, second });
        }
    }
    Ok(splits)
}

/// An item before there is a prompt.
struct Question {
    context: String,
    /// What stands after the context in an example.
    answer: String,
    body: Body,
}

enum Body {
    Choose { choices: Vec<String>, gold: Vec<usize> },
    Roll,
    Generate { until: Option<Vec<String>>, check: Check },
}

fn ask(body: Body, context: String, delimiter: &str, generating: &Arc<Generating>) -> Ask {
    match body {
        Body::Choose { choices, gold } => Ask::Choose {
            contexts: vec![context],
            continuations: choices.iter().map(|choice| format!("{delimiter}{choice}")).collect(),
            choices,
            gold,
        },
        Body::Roll => Ask::Roll { text: context },
        Body::Generate { until, check } => {
            let settings = match until {
                Some(until) if until != generating.until => Arc::new(Generating { until, ..(**generating).clone() }),
                _ => Arc::clone(generating),
            };
            Ask::Generate { context, settings, check }
        }
    }
}

impl Native {
    pub(super) fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    pub(super) fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    /// The split of this name; `test` without one.
    pub(super) fn split_named(&self, name: Option<&str>) -> Option<&str> {
        self.splits.get_key_value(name.unwrap_or("test")).map(|(name, _)| name.as_str())
    }

    fn read(&self, task: &Task, split: &str) -> Result<(&Path, Vec<Row>), TaskError> {
        let (path, format) = self.splits.get(split).ok_or_else(|| task.unknown_split(split))?;
        let rows = data::read(path, *format, None)?;
        if rows.is_empty() {
            return Err(TaskError::EmptySplit { path: path.clone(), task: task.name.clone(), split: split.into() });
        }
        Ok((path, rows))
    }

    pub(super) fn items(
        &self,
        task: &Task,
        split: &SplitExpression,
        options: &ItemOptions<'_>,
    ) -> Result<Items, EvalError> {
        let (path, rows) = self.read(task, split.name())?;
        let chosen = split.choose(&rows, Some(ITEM_FIELDS));
        if chosen.is_empty() {
            return Err(task.empty_share(split, rows.len()).into());
        }
        let num_fewshot = options.num_fewshot.unwrap_or(self.num_fewshot);
        let pool = if num_fewshot > 0 { self.read(task, &self.fewshot_split)?.1 } else { Vec::new() };
        let pool_path = self.splits.get(&self.fewshot_split).map_or(path, |(path, _)| path);
        let mut examples = Examples::new(&pool, self.fewshot_choice, options.seed);
        let limit = options.count(chosen.len());
        let continuation = prompt::continuation_delimiter(&self.delimiters.target, None, options.chat);
        let budget = TextBudget::new(task);
        let generating = task.generating(&self.generating, options)?;
        let mut items = Vec::new();
        for row in chosen.into_iter().take(limit).map(|number| &rows[number]) {
            let place = FilePosition::at(path, row.line);
            let question = self.question(task.kind, &place, row)?;
            let own = (self.fewshot_split == split.name()).then_some(row);
            let drawn = examples.draw(num_fewshot, own).ok_or_else(|| TaskError::TooFewExamples {
                path: task.path.clone(),
                task: task.name.clone(),
                split: self.fewshot_split.clone(),
                wanted: num_fewshot.saturating_add(own.is_some().into()),
                found: pool.len(),
            })?;
            let mut turns = prompt::system(options.system_instruction, "", "");
            for example in drawn {
                let shown = self.question(task.kind, &FilePosition::at(pool_path, example.line), example)?;
                turns.extend(prompt::example(shown.context, &shown.answer, None, &self.delimiters));
            }
            budget.spend(prompt::length(&turns))?;
            let ask = match question.body {
                Body::Roll => Ask::Roll { text: question.context },
                body => {
                    turns.extend(prompt::question(question.context, None, &self.delimiters.target));
                    let context = prompt::render(&turns, options.chat)?;
                    ask(body, context, continuation, &generating)
                }
            };
            items.push(Item { place, fields: row.fields.clone(), ask });
        }
        Ok(Items { split: split.to_string(), num_fewshot, items, notes: Vec::new() })
    }

    fn question(&self, kind: Kind, place: &FilePosition, row: &Row) -> Result<Question, TaskError> {
        let fields = Fields::of_item(place.clone(), &row.fields);
        match kind {
            Kind::MultipleChoice => {
                let choices = choices(&fields)?;
                let gold = gold(&fields, choices.len())?;
                let answer = gold.first().map(|&index| choices[index].clone()).unwrap_or_default();
                Ok(Question { context: fields.text("context")?.into(), answer, body: Body::Choose { choices, gold } })
            }
            Kind::GenerateUntil => {
                let targets = fields.texts("target")?.filter(|targets| !targets.is_empty());
                let targets =
                    targets.ok_or_else(|| TaskError::MissingField { place: place.clone(), field: "target".into() })?;
                let answer = targets.first().cloned().unwrap_or_default();
                let body = Body::Generate { until: fields.texts("until")?, check: Check::Match(targets) };
                Ok(Question { context: fields.text("context")?.into(), answer, body })
            }
            Kind::LogLikelihoodRolling | Kind::LogLikelihood => {
                let text = fields.text("text")?;
                if text.is_empty() {
                    return Err(fields.wrong("text", "a text that is not empty", &Value::from(text)));
                }
                Ok(Question { context: text.into(), answer: String::new(), body: Body::Roll })
            }
            Kind::Code => self.program(&fields),
        }
    }

    fn program(&self, fields: &Fields<'_>) -> Result<Question, TaskError> {
        let key = ["context", "prompt", "text"].into_iter().find(|key| fields.get(key).is_some()).unwrap_or("context");
        let context = fields.text(key)?.to_string();
        let entry_point = fields.optional_text("entry_point")?;
        let (after, human_eval) = match (fields.optional_text("test")?, entry_point) {
            (Some(test), Some(function)) => (format!("\n{test}\ncheck({function})\n"), true),
            _ => {
                let key = if fields.get("tests").is_some() || fields.get("test_list").is_none() {
                    "tests"
                } else {
                    "test_list"
                };
                let tests = fields.texts(key)?;
                let tests =
                    tests.ok_or_else(|| TaskError::MissingField { place: fields.place.clone(), field: key.into() })?;
                let setup = fields.optional_text("test_setup_code")?.unwrap_or_default();
                (format!("\n{setup}\n{}\n", tests.join("\n")), false)
            }
        };
        let before = if self.complete_prompt.unwrap_or(human_eval) { context.clone() } else { String::new() };
        let solution = ["canonical_solution", "solution", "code"].into_iter().find(|key| fields.get(key).is_some());
        let answer = solution.map(|key| fields.text(key)).transpose()?.unwrap_or_default().to_string();
        let body = Body::Generate { until: fields.texts("until")?, check: Check::Run { before, after } };
        Ok(Question { context, answer, body })
    }
}

fn choices(fields: &Fields<'_>) -> Result<Vec<String>, TaskError> {
    let value = fields.required("choices")?;
    let choices = value.is_array().then(|| texts(value)).flatten();
    let choices = choices.ok_or_else(|| fields.wrong("choices", "a list of texts", value))?;
    if choices.len() < 2 {
        return Err(TaskError::TooFewChoices { place: fields.place.clone(), found: choices.len() });
    }
    if choices.iter().any(String::is_empty) {
        return Err(fields.wrong("choices", "a list of texts that are not empty", value));
    }
    Ok(choices)
}

fn gold(fields: &Fields<'_>, choices: usize) -> Result<Vec<usize>, TaskError> {
    let value = fields.required("gold")?;
    let one = |value: &Value| -> Result<usize, TaskError> {
        let index = value.as_i64().ok_or_else(|| fields.wrong("gold", "the index of a choice", value))?;
        usize::try_from(index).ok().filter(|&index| index < choices).ok_or_else(|| TaskError::AnswerOutOfRange {
            place: fields.place.clone(),
            answer: index.to_string(),
            choices,
        })
    };
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(one).collect(),
        other => Ok(vec![one(other)?]),
    }
}
