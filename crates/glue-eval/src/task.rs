//! Tasks in their checked form, and the items that a model is asked.

mod catalog;
mod discover;
mod examples;
mod fields;
mod group;
mod harness;
mod native;
mod prompt;
mod sources;

pub use catalog::{Counts, Entry, EntryKind, Status, TaskCatalog, TaskSet};
pub use discover::{load_task_set, load_tasks, select};
pub(crate) use fields::texts;
pub use group::{Member, TaskGroup};
pub(crate) use harness::{Function, Python};
pub use sources::TaskSources;

use crate::error::{EvalError, FilePosition, ModelError, TaskError};
use crate::filters::Pipeline;
use crate::metrics::MetricSpec;
use crate::model::{ChatMessage, Generation, Sampling, cut};
use crate::python::is_space;
use crate::split::SplitExpression;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a model is asked to do in a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// Say which of several continuations is the most likely one.
    MultipleChoice,
    /// Write an answer, which is compared with the right one.
    GenerateUntil,
    /// Say how likely one continuation is.
    LogLikelihood,
    /// Say how likely whole texts are.
    LogLikelihoodRolling,
    /// Write a program, which is run against tests.
    Code,
}

impl Kind {
    /// The name, as in a task file of the harness.
    pub fn name(self) -> &'static str {
        match self {
            Kind::MultipleChoice => "multiple_choice",
            Kind::GenerateUntil => "generate_until",
            Kind::LogLikelihood => "loglikelihood",
            Kind::LogLikelihoodRolling => "loglikelihood_rolling",
            Kind::Code => "code",
        }
    }
}

/// A task whose description has been checked. Its items are read when they are asked for.
#[derive(Debug)]
pub struct Task {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) kind: Kind,
    pub(crate) groups: Vec<String>,
    pub(crate) metrics: Vec<MetricSpec>,
    pub(crate) main: String,
    pub(crate) pipelines: Vec<Pipeline>,
    /// The keys of its file and of those that it includes; empty for a native task.
    pub(crate) config: Map<String, Value>,
    /// What scores an item instead of its metrics.
    pub(crate) process_results: Option<Arc<harness::Function>>,
    source: Source,
}

#[derive(Debug)]
enum Source {
    Native(native::Native),
    Harness(Box<harness::Harness>),
}

impl Task {
    /// The name under which it is reported.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that describes it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it asks for, in the words of its `task.json`; `None` where that has no `description`, and for tasks of
    /// lm-evaluation-harness, whose `description` is a part of the prompt.
    pub fn description(&self) -> Option<&str> {
        match &self.source {
            Source::Native(native) => native.description(),
            Source::Harness(_) => None,
        }
    }

    /// The name in tables: `task_alias`, else its name.
    pub fn alias(&self) -> &str {
        self.config.get("task_alias").and_then(Value::as_str).unwrap_or(&self.name)
    }

    /// `metadata.version` of a task of lm-evaluation-harness.
    pub fn version(&self) -> Option<&Value> {
        self.config.get("metadata")?.get("version")
    }

    /// The keys of the YAML files of a task of lm-evaluation-harness; empty for a native task.
    pub fn config(&self) -> &Map<String, Value> {
        &self.config
    }

    /// The names of its metrics, each with the name of the filter before it, in the order of a report.
    pub fn metric_keys(&self) -> Vec<(&str, &str)> {
        let keys = self
            .pipelines
            .iter()
            .flat_map(|pipeline| self.metrics.iter().map(|metric| (metric.name.as_str(), pipeline.name.as_str())));
        keys.collect()
    }

    /// What a model is asked to do.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The groups and tags it belongs to.
    pub fn groups(&self) -> &[String] {
        &self.groups
    }

    /// The metric that stands for the task in an average.
    pub fn main_metric(&self) -> &str {
        &self.main
    }

    /// The splits it has items for, in the order of their names.
    pub fn splits(&self) -> Vec<String> {
        match &self.source {
            Source::Native(native) => native.splits(),
            Source::Harness(harness) => harness.splits(),
        }
    }

    /// Why it takes a Python to score the task, which [`EvalOptions::allow_python`](crate::EvalOptions::allow_python)
    /// allows: a function of its files that is beyond what is evaluated here. `None` if there is none.
    pub fn needs_python(&self) -> Option<TaskError> {
        match &self.source {
            Source::Native(_) => None,
            Source::Harness(harness) => harness.unsupported(),
        }
    }

    /// Whether it runs what the model writes.
    pub fn runs_code(&self) -> bool {
        self.kind == Kind::Code
    }

    /// What is meant by a split of this task, under the name that it has in the data: a task of lm-evaluation-harness
    /// may also name its splits by their roles. `None` stands for the split that the task names, which is `test` for
    /// native tasks.
    ///
    /// # Errors
    /// [`TaskError::UnknownSplit`], with the splits there are.
    pub fn resolve_split(&self, split: Option<&SplitExpression>) -> Result<SplitExpression, TaskError> {
        let name = split.map(SplitExpression::name);
        let found = match &self.source {
            Source::Native(native) => native.split_named(name),
            Source::Harness(harness) => harness.split_named(name),
        };
        let found = found.ok_or_else(|| self.unknown_split(name.unwrap_or("test")))?;
        Ok(split.map_or_else(|| SplitExpression::whole(found), |split| split.of(found)))
    }

    /// Whether a split, or a share of one, has items that this task of lm-evaluation-harness is reported on: those of
    /// its `test_split`, which is meant without a split. False for a native task, for one that has no `test_split`, and
    /// for a split that it does not have.
    pub fn is_test_split(&self, split: Option<&SplitExpression>) -> bool {
        let Source::Harness(harness) = &self.source else { return false };
        let whole = |name: &str| name.split('[').next().unwrap_or(name).to_string();
        let Some(test) = harness.test_split().map(whole) else { return false };
        self.resolve_split(split).is_ok_and(|split| whole(split.name()) == test)
    }

    /// Reads and renders the items of a split.
    pub(crate) fn items(&self, options: &ItemOptions<'_>) -> Result<Items, EvalError> {
        let split = options.split.map(str::parse).transpose().map_err(TaskError::Split)?;
        let split = self.resolve_split(split.as_ref())?;
        match &self.source {
            Source::Native(native) => native.items(self, &split, options),
            Source::Harness(harness) => harness.items(self, &split, options),
        }
    }

    /// The settings of answers, with what an evaluation changes of them.
    fn generating(&self, own: &Arc<Generating>, options: &ItemOptions<'_>) -> Result<Arc<Generating>, TaskError> {
        if options.gen_kwargs.is_empty() && options.think_end.is_none() {
            return Ok(Arc::clone(own));
        }
        let kwargs = match &self.source {
            Source::Harness(_) => self.config.get("generation_kwargs").and_then(Value::as_object).cloned(),
            Source::Native(_) => Some(own.kwargs()),
        };
        let mut changed = harness::regenerating(own, kwargs.unwrap_or_default(), options.gen_kwargs)?;
        changed.think_end = options.think_end.map(str::to_string);
        Ok(Arc::new(changed))
    }

    /// The error of a share without an item.
    fn empty_share(&self, split: &SplitExpression, items: usize) -> TaskError {
        let (path, task) = (self.path.clone(), self.name.clone());
        TaskError::EmptyShare { path, task, split: split.to_string(), items }
    }

    pub(crate) fn unknown_split(&self, split: &str) -> TaskError {
        TaskError::UnknownSplit {
            path: self.path.clone(),
            task: self.name.clone(),
            split: split.to_string(),
            known: self.splits(),
        }
    }
}

/// Which items are wanted, and how their prompts are made.
pub(crate) struct ItemOptions<'a> {
    /// The split, or a share of one; `None` for the split that the task names.
    pub(crate) split: Option<&'a str>,
    /// Maximum number of items, from the beginning.
    pub(crate) limit: Option<usize>,
    /// Fraction of the items, from the beginning, rounded up.
    pub(crate) fraction: Option<f64>,
    /// Examples in each prompt; `None` for as many as the task wants.
    pub(crate) num_fewshot: Option<usize>,
    /// What the choice of examples depends on.
    pub(crate) seed: u64,
    pub(crate) chat: Option<Chat<'a>>,
    /// An instruction at the beginning of every prompt.
    pub(crate) system_instruction: Option<&'a str>,
    /// `generation_kwargs` in the place of those of the task.
    pub(crate) gen_kwargs: &'a Map<String, Value>,
    /// What ends the reasoning of an answer.
    pub(crate) think_end: Option<&'a str>,
    /// What runs functions of the task that are not evaluated here, where that is allowed.
    pub(crate) python: Option<&'a Python>,
}

impl ItemOptions<'_> {
    /// How many of `n` items are wanted.
    fn count(&self, n: usize) -> usize {
        let part = self.fraction.map_or(n, |fraction| (n as f64 * fraction).ceil() as usize);
        part.min(self.limit.unwrap_or(usize::MAX))
    }
}

/// Prompts are conversations.
#[derive(Clone, Copy)]
pub(crate) struct Chat<'a> {
    pub(crate) render: &'a dyn Fn(&[ChatMessage]) -> Result<String, ModelError>,
    /// Whether each example is a turn of its own, or all stand in one question.
    pub(crate) multiturn: bool,
}

/// The items of a split, rendered.
#[derive(Debug)]
pub(crate) struct Items {
    pub(crate) split: String,
    pub(crate) num_fewshot: usize,
    pub(crate) items: Vec<Item>,
    /// What people should know about them.
    pub(crate) notes: Vec<String>,
}

/// One thing a model is asked, and what is right.
#[derive(Debug)]
pub(crate) struct Item {
    /// Where it stands.
    pub(crate) place: FilePosition,
    /// Its fields as they are in the file.
    pub(crate) fields: Map<String, Value>,
    pub(crate) ask: Ask,
}

/// What is asked.
#[derive(Debug)]
pub(crate) enum Ask {
    /// Contexts or continuations are one for all choices, or one for each.
    Choose {
        contexts: Vec<String>,
        continuations: Vec<String>,
        /// The choices without delimiters.
        choices: Vec<String>,
        /// Those that are right.
        gold: Vec<usize>,
    },
    Continue {
        context: String,
        continuation: String,
    },
    Roll {
        text: String,
    },
    Generate {
        context: String,
        settings: Arc<Generating>,
        check: Check,
    },
}

/// How answers are generated.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Generating {
    pub(crate) until: Vec<String>,
    pub(crate) max_new_tokens: usize,
    /// Without a seed of its own.
    pub(crate) sampling: Sampling,
    /// How many answers an item gets.
    pub(crate) repeats: usize,
    /// What ends the reasoning of an answer, which is not part of it.
    pub(crate) think_end: Option<String>,
}

impl Generating {
    /// As `generation_kwargs` of the harness.
    fn kwargs(&self) -> Map<String, Value> {
        let Sampling { temperature, top_k, top_p, .. } = self.sampling;
        let mut kwargs = Map::new();
        kwargs.insert("until".into(), self.until.clone().into());
        kwargs.insert("max_gen_toks".into(), self.max_new_tokens.into());
        kwargs.insert("temperature".into(), temperature.into());
        kwargs.insert("top_k".into(), top_k.unwrap_or(0).into());
        kwargs.extend(top_p.map(|p| ("top_p".into(), p.into())));
        kwargs
    }

    /// An answer without its reasoning: what follows the last end of it.
    pub(crate) fn without_reasoning(&self, answer: Generation) -> Generation {
        let Some(end) = &self.think_end else { return answer };
        let text = match answer.text.rsplit_once(end.as_str()) {
            Some((_, text)) => text.trim_start_matches(is_space),
            None => &answer.text,
        };
        Generation { text: cut(text, &self.until).to_string(), ..answer }
    }
}

impl Default for Generating {
    fn default() -> Generating {
        let (until, sampling) = (Vec::new(), Sampling::GREEDY);
        Generating { until, max_new_tokens: 256, sampling, repeats: 1, think_end: None }
    }
}

/// What is done with an answer.
#[derive(Debug)]
pub(crate) enum Check {
    /// It is equal to one of these.
    Match(Vec<String>),
    /// The program of these two with the answer between them ends without an error.
    Run { before: String, after: String },
}
