//! Task files of lm-evaluation-harness 0.4, read as they are.
//!
//! What a prompt looks like follows that program in every detail: which examples are drawn for which item, how a
//! rendered template becomes a number or a list, where delimiters stand. Functions in Python files
//! are evaluated by [`functions`].

mod dataset;
mod functions;
mod lenient;
mod load;
mod parts;
mod reader;
mod rules;

pub(super) use functions::Programs;
pub(crate) use functions::{Function, Python};

pub(super) use lenient::closes;
pub(super) use load::{Document, load};
pub(super) use parts::{pipelines, regenerating};

use super::examples::{Choice, Examples};
use super::fields::{ANSWERS, EXAMPLES, Fields, texts};
use super::prompt::{self, Delimiters, TextBudget};
use super::{Ask, Check, Generating, Item, ItemOptions, Items, Kind, Source, Task};
use crate::data::{DataSources, Row, describe};
use crate::error::{EvalError, FilePosition, TaskError};
use crate::filters::{Filter, Pipeline};
use crate::split::SplitExpression;
use crate::template::Templates;
use dataset::Splits;
use glue_lm::jinja;
use reader::{Doc, Reader};
use rules::{Rule, Rules, rule, rules};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const KEYS: &[&str] = &[
    "task",
    "tag",
    "group",
    "dataset_path",
    "dataset_name",
    "dataset_kwargs",
    "training_split",
    "validation_split",
    "test_split",
    "fewshot_split",
    "doc_to_text",
    "doc_to_target",
    "doc_to_choice",
    "description",
    "target_delimiter",
    "fewshot_delimiter",
    "fewshot_config",
    "num_fewshot",
    "metric_list",
    "output_type",
    "generation_kwargs",
    "repeats",
    "filter_list",
    "gen_prefix",
    "unsafe_code",
    "process_docs",
    "process_results",
];

/// Keys without a meaning for scores of a local file.
const REMARKS: &[&str] = &["task_alias", "should_decontaminate", "doc_to_decontamination_query", "metadata"];

/// Keys that ask for Python code or another sense.
const REFUSED: &[(&str, &str)] = &[
    ("class", "the task is written in Python"),
    ("custom_dataset", "it is a Python function"),
    ("use_prompt", "prompts of promptsource are not read; write them as templates"),
    ("doc_to_image", "images are not supported"),
    ("doc_to_audio", "sounds are not supported"),
];

const FEWSHOT_KEYS: &[&str] = &[
    "sampler",
    "split",
    "samples",
    "doc_to_text",
    "doc_to_choice",
    "doc_to_target",
    "gen_prefix",
    "fewshot_delimiter",
    "target_delimiter",
    "process_docs",
];

#[derive(Debug)]
pub(super) struct Harness {
    data: Splits,
    training_split: Option<String>,
    validation_split: Option<String>,
    test_split: Option<String>,
    fewshot_split: Option<String>,
    samples: Option<Samples>,
    /// Whether a function scores items, so that what is right is its business.
    scored_by_function: bool,
    process_docs: Option<Arc<Function>>,
    /// The same for examples.
    process_examples: Option<Arc<Function>>,
    /// All functions, with the keys that name them.
    functions: Vec<(FilePosition, String, Arc<Function>)>,
    fewshot_choice: Choice,
    templates: Templates,
    rules: Rules,
    fewshot: Rules,
    description: Option<Rule>,
    num_fewshot: Option<usize>,
    generating: Arc<Generating>,
}

/// Examples that stand in the task file, or are made by a function.
#[derive(Debug)]
enum Samples {
    Rows(Vec<Row>),
    Function(Arc<Function>),
}

/// Checks a document into a task.
pub(super) fn open(document: &Document, sources: &DataSources) -> Result<Task, TaskError> {
    let fields = Fields { place: FilePosition::file(&document.path), map: &document.map, sources: &document.sources };
    for (key, reason) in REFUSED {
        if fields.get(key).is_some() {
            let reason = (*reason).to_string();
            return Err(TaskError::Unsupported { place: fields.place_of(key), key: (*key).into(), reason });
        }
    }
    fields.only(&[KEYS, REMARKS, &REFUSED.iter().map(|(key, _)| *key).collect::<Vec<_>>()])?;
    let kind = match fields.optional_text("output_type")?.unwrap_or("generate_until") {
        "multiple_choice" => Kind::MultipleChoice,
        "generate_until" => Kind::GenerateUntil,
        "loglikelihood" => Kind::LogLikelihood,
        "loglikelihood_rolling" => Kind::LogLikelihoodRolling,
        other => {
            let known = "multiple_choice, generate_until, loglikelihood or loglikelihood_rolling";
            return Err(fields.wrong("output_type", known, &Value::from(other)));
        }
    };
    let mut programs = Programs::default();
    let process_docs = function(&fields, "process_docs", &mut programs)?;
    let process_results = function(&fields, "process_results", &mut programs)?;
    let (kind, metrics) = parts::metrics(&fields, kind, process_results.is_some(), &mut programs)?;
    if fields.get("test_split").is_none() && fields.get("validation_split").is_none() {
        return Err(TaskError::MissingField { place: fields.place, field: "test_split".into() });
    }
    let mut templates = Templates::new();
    let rules = rules(&fields, &mut templates, &mut programs, kind, process_results.is_some())?;
    let description = rule(&fields, "description", &mut templates, &mut programs)?;
    let nothing = Map::new();
    let own = match fields.get("fewshot_config") {
        None => Fields { place: fields.place.clone(), map: &nothing, sources: &[] },
        Some(Value::Object(map)) => Fields { place: fields.place_of("fewshot_config"), map, sources: fields.sources },
        Some(other) => return Err(fields.wrong("fewshot_config", "a map", other)),
    };
    own.only(&[FEWSHOT_KEYS])?;
    let fewshot = Rules {
        text: rule(&own, "doc_to_text", &mut templates, &mut programs)?.unwrap_or_else(|| rules.text.clone()),
        target: rule(&own, "doc_to_target", &mut templates, &mut programs)?.unwrap_or_else(|| rules.target.clone()),
        choice: rule(&own, "doc_to_choice", &mut templates, &mut programs)?.or_else(|| rules.choice.clone()),
        prefix: rule(&own, "gen_prefix", &mut templates, &mut programs)?.or_else(|| rules.prefix.clone()),
        delimiters: Delimiters {
            target: own
                .optional_text("target_delimiter")?
                .map_or_else(|| rules.delimiters.target.clone(), String::from),
            example: own
                .optional_text("fewshot_delimiter")?
                .map_or_else(|| rules.delimiters.example.clone(), String::from),
        },
    };
    let fewshot_choice = match own.optional_text("sampler")? {
        None => Choice::Random,
        Some(name) => match Choice::ALL.iter().find(|(known, _)| *known == name) {
            Some(&(_, choice)) => choice,
            None => return Err(own.wrong("sampler", "`default` or `first_n`", &Value::from(name))),
        },
    };
    let repeats = fields.number("repeats", ANSWERS)?.unwrap_or(1);
    let generates = matches!(kind, Kind::GenerateUntil | Kind::Code);
    let pipelines = match fields.get("filter_list") {
        Some(list) => parts::pipelines(&fields, list, &mut programs)?,
        // Programs are judged together.
        None if kind == Kind::Code => vec![Pipeline { name: "none".into(), filters: Vec::new() }],
        None => vec![Pipeline::take_first()],
    };
    if !generates
        && process_results.is_none()
        && !pipelines.iter().all(|pipeline| matches!(pipeline.filters.as_slice(), [Filter::TakeFirst]))
    {
        return Err(TaskError::Unsupported {
            place: fields.place_of("filter_list"),
            key: "filter_list".into(),
            reason: "filters work on text, but this task generates none".into(),
        });
    }
    let mut groups = fields.texts("group")?.unwrap_or_default();
    groups.extend(fields.texts("tag")?.unwrap_or_default());
    let samples = samples(&own, &mut programs)?;
    let process_examples = function(&own, "process_docs", &mut programs)?.or_else(|| process_docs.clone());
    // What is missing on this machine is said last: everything else about the task is sound then.
    let mut data = dataset::splits(&fields, sources).map_err(|error| match error {
        TaskError::MissingData { place, repository, config, reason, .. } => {
            let needs_python = unsupported(&programs.functions).is_some();
            TaskError::MissingData { place, repository, config, reason, needs_python }
        }
        other => other,
    })?;
    let (training_split, validation_split, test_split) = (
        data.named(&fields, "training_split")?,
        data.named(&fields, "validation_split")?,
        data.named(&fields, "test_split")?,
    );
    let fewshot_split = match data.named(&own, "split")? {
        Some(split) => Some(split),
        None => data.named(&fields, "fewshot_split")?,
    };
    let harness = Harness {
        training_split,
        validation_split,
        test_split,
        fewshot_split,
        samples,
        scored_by_function: process_results.is_some(),
        process_examples,
        process_docs,
        fewshot_choice,
        templates,
        description,
        num_fewshot: fields.number("num_fewshot", EXAMPLES)?,
        generating: Arc::new(parts::generating(&fields, &rules.delimiters.example, repeats)?),
        fewshot,
        rules,
        data,
        functions: programs.functions,
    };
    Ok(Task {
        name: fields.text("task")?.into(),
        path: document.path.clone(),
        kind,
        groups,
        main: crate::report::metric_name(&metrics, &pipelines),
        metrics,
        pipelines,
        config: document.map.clone(),
        process_results,
        source: Source::Harness(Box::new(harness)),
    })
}

/// What is not evaluated here, of functions with the keys that name them.
fn unsupported(functions: &[(FilePosition, String, Arc<Function>)]) -> Option<TaskError> {
    functions.iter().find_map(|(place, key, function)| function.unsupported(place.clone(), key))
}

/// The function that a key names.
fn function(fields: &Fields<'_>, key: &str, programs: &mut Programs) -> Result<Option<Arc<Function>>, TaskError> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    let found = Function::of(fields, key, value, programs)?;
    found.map(Some).ok_or_else(|| fields.wrong(key, "a function, as `!function utils.process_docs`", value))
}

fn samples(own: &Fields<'_>, programs: &mut Programs) -> Result<Option<Samples>, TaskError> {
    let Some(value) = own.get("samples") else { return Ok(None) };
    if let Some(function) = Function::of(own, "samples", value, programs)? {
        return Ok(Some(Samples::Function(function)));
    }
    let row = |(line, item): (usize, &Value)| Some(Row { line, fields: item.as_object()?.clone() });
    let rows = value.as_array().and_then(|items| (1..).zip(items).map(row).collect());
    rows.map(|rows| Some(Samples::Rows(rows))).ok_or_else(|| own.wrong("samples", "a list of maps", value))
}

impl Harness {
    /// The first function that cannot be evaluated here, and why.
    pub(super) fn unsupported(&self) -> Option<TaskError> {
        unsupported(&self.functions)
    }

    pub(super) fn splits(&self) -> Vec<String> {
        let mut splits: Vec<String> = self.data.list.iter().map(|split| split.name.clone()).collect();
        splits.sort();
        splits
    }

    /// `test_split`.
    pub(super) fn test_split(&self) -> Option<&str> {
        self.test_split.as_deref()
    }

    /// The split of the data that is meant by a name or by its role; the one to score without one.
    pub(super) fn split_named(&self, name: Option<&str>) -> Option<&str> {
        let default = self.test_split.as_deref().or(self.validation_split.as_deref());
        let Some(name) = name else { return default };
        let known = self.data.get(name).map(|split| split.name.as_str());
        known.or(match name {
            "test" => default,
            "validation" => self.validation_split.as_deref(),
            "train" => self.training_split.as_deref(),
            _ => None,
        })
    }

    fn read(
        &self,
        task: &Task,
        split: &str,
        process: Option<&Arc<Function>>,
        python: Option<&Python>,
    ) -> Result<Vec<(PathBuf, Vec<Row>)>, TaskError> {
        let found = self.data.get(split).ok_or_else(|| task.unknown_split(split))?;
        let read = found.read()?;
        if read.iter().all(|(_, rows)| rows.is_empty()) {
            let path = found.first_file().cloned().unwrap_or_else(|| task.path.clone());
            return Err(TaskError::EmptySplit { path, task: task.name.clone(), split: split.into() });
        }
        match process {
            Some(function) => self.processed(task, split, function, python, read),
            None => Ok(read),
        }
    }

    /// What a function makes of the rows of a split.
    fn processed(
        &self,
        task: &Task,
        split: &str,
        function: &Arc<Function>,
        python: Option<&Python>,
        read: Vec<(PathBuf, Vec<Row>)>,
    ) -> Result<Vec<(PathBuf, Vec<Row>)>, TaskError> {
        let failed = |message: String| TaskError::Malformed {
            place: FilePosition::file(&task.path),
            message: format!("`process_docs` of the split `{split}`: {message}"),
        };
        let places: Vec<(PathBuf, usize)> =
            read.iter().flat_map(|(file, rows)| rows.iter().map(|row| (file.clone(), row.line))).collect();
        let rows = read.into_iter().flat_map(|(_, rows)| rows).map(|row| row.fields).collect();
        let mut made: Vec<(PathBuf, Vec<Row>)> = Vec::new();
        for (number, (origin, row)) in function.rows(python, rows).map_err(failed)?.into_iter().enumerate() {
            let Value::Object(fields) = row else {
                return Err(failed(format!("item {} is {} and no row", number + 1, describe(&row))));
            };
            let (file, line) = match origin.and_then(|origin| places.get(origin)) {
                Some((file, line)) => (file.clone(), *line),
                None => (task.path.clone(), number + 1),
            };
            match made.last_mut() {
                Some((last, rows)) if *last == file => rows.push(Row { line, fields }),
                _ => made.push((file, vec![Row { line, fields }])),
            }
        }
        if made.is_empty() {
            let (path, task) = (task.path.clone(), task.name.clone());
            return Err(TaskError::EmptySplit { path, task, split: split.into() });
        }
        Ok(made)
    }

    /// The rows that examples are drawn from, the split they are of, and the file of each.
    fn pool(
        &self,
        task: &Task,
        scored: &str,
        python: Option<&Python>,
    ) -> Result<(String, Vec<Row>, Vec<PathBuf>), TaskError> {
        if let (None, Some(samples)) = (&self.fewshot_split, &self.samples) {
            let rows = match samples {
                Samples::Rows(rows) => rows.clone(),
                Samples::Function(function) => samples_of(function, task, python)?,
            };
            let files = vec![task.path.clone(); rows.len()];
            return Ok(("samples".into(), rows, files));
        }
        let process = if self.fewshot_split.is_some() { &self.process_examples } else { &self.process_docs };
        let split = [&self.fewshot_split, &self.training_split, &self.validation_split].into_iter().flatten().next();
        let split = split.map_or(scored, String::as_str).to_string();
        let mut rows = Vec::new();
        let mut files = Vec::new();
        for (file, read) in self.read(task, &split, process.as_ref(), python)? {
            files.extend(std::iter::repeat_n(file, read.len()));
            rows.extend(read);
        }
        Ok((split, rows, files))
    }

    pub(super) fn items(
        &self,
        task: &Task,
        scored: &SplitExpression,
        options: &ItemOptions<'_>,
    ) -> Result<Items, EvalError> {
        if let Some(error) = self.unsupported().filter(|_| options.python.is_none()) {
            return Err(error.into());
        }
        let split = scored.name();
        let mut notes = Vec::new();
        let num_fewshot = match (options.num_fewshot, self.num_fewshot) {
            (Some(wanted), Some(0)) if wanted > 0 => {
                notes.push(format!("the task insists on prompts without examples; {wanted} were asked for"));
                0
            }
            (wanted, own) => wanted.or(own).unwrap_or(0),
        };
        let read = self.read(task, split, self.process_docs.as_ref(), options.python)?;
        let (pool_split, pool, pool_files) = if num_fewshot > 0 {
            self.pool(task, split, options.python)?
        } else {
            (String::new(), Vec::new(), Vec::new())
        };
        // The harness compares the names in the task file, both of which may be absent; where another split is scored
        // than the file says, what matters is whether the item is among the examples.
        let usual = self.split_named(None) == Some(split);
        let excluded = if usual { self.fewshot_split == self.test_split } else { pool_split == split };
        if num_fewshot > 0 && pool_split == split && !excluded {
            notes.push(format!("examples are drawn from the split `{split}` that is scored, the item itself included"));
        }
        let columns = read.iter().flat_map(|(_, rows)| rows).flat_map(|row| row.fields.keys().map(String::as_str));
        let reader = Reader::new(self, columns.collect(), TextBudget::new(task), options.python);
        let mut examples = Examples::new(&pool, self.fewshot_choice, options.seed);
        let rows: Vec<(&PathBuf, &Row)> =
            read.iter().flat_map(|(file, rows)| rows.iter().map(move |row| (file, row))).collect();
        let chosen = scored.choose(rows.iter().map(|(_, row)| *row), None);
        if chosen.is_empty() {
            return Err(task.empty_share(scored, rows.len()).into());
        }
        let limit = options.count(chosen.len());
        let mut items: Vec<Item> = Vec::new();
        let mut layout: Option<ItemLayout> = None;
        let manner = Manner { kind: task.kind, generating: task.generating(&self.generating, options)?, options };
        let chosen: Vec<(&PathBuf, &Row)> = chosen.into_iter().take(limit).map(|number| rows[number]).collect();
        reader.compute(&chosen)?;
        for (file, row) in chosen {
            let doc = Doc { row, place: FilePosition::at(file, row.line) };
            let drawn =
                examples.draw(num_fewshot, excluded.then_some(row)).ok_or_else(|| TaskError::TooFewExamples {
                    path: task.path.clone(),
                    task: task.name.clone(),
                    split: pool_split.clone(),
                    wanted: num_fewshot.saturating_add(excluded.into()),
                    found: pool.len(),
                })?;
            let text = self.words_of(&reader, &doc)?;
            let mut turns = prompt::system(options.system_instruction, &text, &self.rules.delimiters.example);
            for example in drawn {
                let at = pool.iter().position(|row| std::ptr::eq(row, example)).unwrap_or_default();
                let path: &Path = pool_files.get(at).map_or(task.path.as_path(), PathBuf::as_path);
                turns.extend(reader.example(&Doc { row: example, place: FilePosition::at(path, example.line) })?);
            }
            let ask = self.ask(&reader, &doc, turns, &mut layout, &manner)?;
            items.push(Item { place: doc.place, fields: row.fields.clone(), ask });
        }
        Ok(Items { split: scored.to_string(), num_fewshot, items, notes })
    }

    fn words_of(&self, reader: &Reader<'_>, doc: &Doc<'_>) -> Result<String, TaskError> {
        Ok(reader.words(self.description.as_ref(), "description", doc)?.unwrap_or_default())
    }

    fn ask(
        &self,
        reader: &Reader<'_>,
        doc: &Doc<'_>,
        turns: Vec<prompt::Turn>,
        layout: &mut Option<ItemLayout>,
        manner: &Manner<'_, '_>,
    ) -> Result<Ask, EvalError> {
        let (kind, options) = (manner.kind, manner.options);
        let rules = &self.rules;
        let target = reader.target(rules, doc)?;
        if kind == Kind::LogLikelihoodRolling {
            let text = jinja::str(&target);
            if text.is_empty() {
                return Err(reader.wrong(doc, "doc_to_target", "a text that is not empty", &target).into());
            }
            return Ok(Ask::Roll { text });
        }
        let prefix = reader.words(rules.prefix.as_ref(), "gen_prefix", doc)?;
        let text = reader.text(rules, doc)?;
        let choices = rules.choice.as_ref().map(|rule| reader.choices(rule, doc)).transpose()?;
        // The first item decides what all of them are.
        let layout =
            *layout.get_or_insert(ItemLayout { several_contexts: text.is_u64(), several_targets: target.is_array() });
        let context = |question: &str| -> Result<String, EvalError> {
            reader.budget.spend(prompt::length(&turns))?;
            let mut turns = turns.clone();
            turns.extend(prompt::question(question.to_string(), prefix.as_deref(), &rules.delimiters.target));
            Ok(prompt::render(&turns, options.chat)?)
        };
        let delimiter = prompt::continuation_delimiter(&rules.delimiters.target, prefix.as_deref(), options.chat);
        if let (Kind::MultipleChoice, true, Some(choices)) = (kind, layout.several_contexts, &choices) {
            let gold = self.gold(reader.gold(&text, choices, doc))?;
            let contexts = choices.iter().map(|choice| context(choice)).collect::<Result<_, _>>()?;
            let continuations = vec![format!("{delimiter}{}", jinja::str(&target))];
            return Ok(Ask::Choose { contexts, continuations, choices: choices.clone(), gold });
        }
        let Value::String(question) = &text else {
            return Err(reader.wrong(doc, "doc_to_text", "text", &text).into());
        };
        let context = context(question)?;
        match (kind, choices) {
            (Kind::MultipleChoice, Some(choices)) => {
                let gold = self.gold(reader.gold(&target, &choices, doc))?;
                let continuations = choices.iter().map(|choice| format!("{delimiter}{choice}")).collect();
                Ok(Ask::Choose { contexts: vec![context], continuations, choices, gold })
            }
            (Kind::GenerateUntil | Kind::Code, choices) => {
                let targets = match choices {
                    Some(choices) => {
                        let gold = self.gold(reader.gold(&target, &choices, doc))?;
                        gold.into_iter().map(|index| choices[index].clone()).collect()
                    }
                    None => self.targets(reader, doc, target, layout)?,
                };
                let check = match kind {
                    Kind::Code => Check::Run { before: String::new(), after: format!("\n{}\n", targets.join("\n")) },
                    _ => Check::Match(targets),
                };
                Ok(Ask::Generate { context, settings: Arc::clone(&manner.generating), check })
            }
            _ => {
                let continuation = jinja::str(&target);
                if continuation.is_empty() {
                    return Err(reader.wrong(doc, "doc_to_target", "a text that is not empty", &target).into());
                }
                Ok(Ask::Continue { context, continuation })
            }
        }
    }

    /// The choices that are right. Where a function scores items there need not be any.
    fn gold(&self, gold: Result<Vec<usize>, TaskError>) -> Result<Vec<usize>, TaskError> {
        if self.scored_by_function { Ok(gold.unwrap_or_default()) } else { gold }
    }

    /// The texts that an answer may be equal to.
    fn targets(
        &self,
        reader: &Reader<'_>,
        doc: &Doc<'_>,
        target: Value,
        layout: ItemLayout,
    ) -> Result<Vec<String>, TaskError> {
        if self.scored_by_function {
            return Ok(match target {
                Value::Array(items) => items.iter().map(jinja::str).collect(),
                one => vec![jinja::str(&one)],
            });
        }
        let looks_like_one = match &self.rules.target {
            Rule::Text(_, source) if !reader.columns.contains(source.as_str()) => {
                "; the harness reads a template's result in brackets as a list, and not the name of a field"
            }
            _ => "",
        };
        let expected = match (&target, layout.several_targets) {
            (Value::Array(_), true) => match texts(&target).filter(|targets| !targets.is_empty()) {
                Some(targets) => return Ok(targets),
                None => "a list of texts",
            },
            (Value::Array(_), false) => "one text, as for the first item",
            (_, true) => "a list of texts, as for the first item",
            (_, false) => return Ok(vec![jinja::str(&target)]),
        };
        Err(reader.wrong(doc, "doc_to_target", &format!("{expected}{looks_like_one}"), &target))
    }
}

/// The rows that a function gives as examples.
fn samples_of(function: &Function, task: &Task, python: Option<&Python>) -> Result<Vec<Row>, TaskError> {
    let failed = |message: String| TaskError::Malformed {
        place: FilePosition::file(&task.path),
        message: format!("`samples`: {message}"),
    };
    let made = function.each(python, vec![Vec::new()]).map_err(|(_, message)| failed(message))?;
    let rows = made.into_iter().next().and_then(|made| if let Value::Array(rows) = made { Some(rows) } else { None });
    let rows = rows.ok_or_else(|| failed(format!("`{}` gives no list", function.name)))?;
    let row = |(line, row): (usize, Value)| match row {
        Value::Object(fields) => Ok(Row { line, fields }),
        other => Err(failed(format!("example {line} is {} and no row", describe(&other)))),
    };
    (1..).zip(rows).map(row).collect()
}

/// How the items of a task are asked.
struct Manner<'a, 'o> {
    kind: Kind,
    generating: Arc<Generating>,
    options: &'a ItemOptions<'o>,
}

/// What the items of a task are like.
#[derive(Debug, Clone, Copy)]
struct ItemLayout {
    /// The choices are contexts and not continuations.
    several_contexts: bool,
    /// More than one answer is right.
    several_targets: bool,
}
