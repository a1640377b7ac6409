//! What can be wrong with a task, and with an evaluation.

use glue_progress::ErrorChain;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A file and, where one is known, a line in it, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePosition {
    /// The file.
    pub path: PathBuf,
    /// The line.
    pub line: Option<usize>,
}

impl FilePosition {
    /// A line of a file.
    pub fn at(path: impl AsRef<Path>, line: usize) -> FilePosition {
        FilePosition { path: path.as_ref().to_path_buf(), line: Some(line) }
    }

    /// A file as a whole.
    pub fn file(path: impl AsRef<Path>) -> FilePosition {
        FilePosition { path: path.as_ref().to_path_buf(), line: None }
    }
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// Why a text names no split.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the split `{expression}`: {reason}; for example `train[:60%]`, `train[60%:]`, `test`")]
pub struct SplitError {
    /// The text.
    pub expression: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// Why a task cannot be read, or one of its items cannot be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// The system refused to read a file or directory.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file is not in the format that its name promises.
    #[error("{place}: {message}")]
    Malformed {
        /// Where.
        place: FilePosition,
        /// What is wrong.
        message: String,
    },
    /// An item, or the description of a task, lacks a field.
    #[error("{place}: the field `{field}` is missing")]
    MissingField {
        /// Where.
        place: FilePosition,
        /// Its name.
        field: String,
    },
    /// A field holds something else than it should.
    #[error("{place}: `{field}` should be {expected}, but is {found}")]
    WrongField {
        /// Where.
        place: FilePosition,
        /// Its name.
        field: String,
        /// What it should hold.
        expected: String,
        /// What it holds.
        found: String,
    },
    /// A key that no task has, or none of this kind.
    #[error("{place}: unknown key `{key}`; known are {}", known.join(", "))]
    UnknownKey {
        /// Where.
        place: FilePosition,
        /// The key.
        key: String,
        /// The keys there are.
        known: Vec<String>,
    },
    /// A key asks for something that is not supported here.
    #[error("{place}: `{key}` is not supported: {reason}")]
    Unsupported {
        /// Where.
        place: FilePosition,
        /// The key.
        key: String,
        /// Why, and what can be done instead.
        reason: String,
    },
    /// The data that a task names is nowhere here.
    #[error("{place}: the data `{repository}`{} is missing: {reason}; get it with `{}`, or name the directory that holds {repository} with --data", of_config(config.as_deref()), download_command(repository))]
    MissingData {
        /// Where the task names it.
        place: FilePosition,
        /// The repository on the Hugging Face hub, or the directory.
        repository: String,
        /// Its configuration, where the task names one.
        config: Option<String>,
        /// What was found instead.
        reason: String,
        /// Whether the task has functions that are not evaluated here.
        needs_python: bool,
    },
    /// A question with fewer than two choices asks nothing.
    #[error("{place}: a question needs at least 2 choices, but this one has {found}")]
    TooFewChoices {
        /// Where.
        place: FilePosition,
        /// How many there are.
        found: usize,
    },
    /// The right answer is none of the choices.
    #[error("{place}: the answer {answer} is none of the {choices} choices")]
    AnswerOutOfRange {
        /// Where.
        place: FilePosition,
        /// The index, counted from 0, or the text.
        answer: String,
        /// How many choices there are.
        choices: usize,
    },
    /// A template could not be rendered.
    #[error("{place}: `{key}`: {message}")]
    Template {
        /// The item.
        place: FilePosition,
        /// The key that holds the template.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A split has no items.
    #[error("{}: the split `{split}` of the task `{task}` has no items", path.display())]
    EmptySplit {
        /// The file.
        path: PathBuf,
        /// The task.
        task: String,
        /// The split.
        split: String,
    },
    /// A share of a split that rounds to no items.
    #[error("{}: the share `{split}` of the task `{task}` has none of its {items} items", path.display())]
    EmptyShare {
        /// The task's file.
        path: PathBuf,
        /// The task.
        task: String,
        /// The share.
        split: String,
        /// How many items the split has.
        items: usize,
    },
    /// A text that names no split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// A task has no such split.
    #[error("{}: the task `{task}` has no split `{split}`; it has {}", path.display(), listed(known))]
    UnknownSplit {
        /// The task's file.
        path: PathBuf,
        /// The task.
        task: String,
        /// The split that was asked for.
        split: String,
        /// The splits there are.
        known: Vec<String>,
    },
    /// More examples are wanted in a prompt than there are.
    #[error("{}: {wanted} examples are wanted in the prompts of `{task}`, but the split `{split}` has only {found}", path.display())]
    TooFewExamples {
        /// The task's file.
        path: PathBuf,
        /// The task.
        task: String,
        /// Where examples are taken from.
        split: String,
        /// How many are wanted, with the one that is set aside when the item itself is drawn.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// The prompts of a split are longer than those of any benchmark.
    #[error(
        "{}: the prompts of `{task}` have more than {} GiB of text; score fewer items, or put fewer examples in each prompt",
        path.display(), limit >> 30
    )]
    TooMuchText {
        /// The task's file.
        path: PathBuf,
        /// The task.
        task: String,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Two tasks have the same name.
    #[error("two tasks are named `{name}`: {} and {}", first.display(), second.display())]
    Duplicate {
        /// The name.
        name: String,
        /// The file of one.
        first: PathBuf,
        /// The file of the other.
        second: PathBuf,
    },
    /// A split is given for a task that is not among those to score.
    #[error("the split `{split}` is given for a task `{name}`; tasks are {}", listed(known))]
    SplitOfUnknownTask {
        /// The name.
        name: String,
        /// The split.
        split: String,
        /// The tasks there are.
        known: Vec<String>,
    },
    /// No task, group or tag has this name.
    #[error("no task, group or tag is named `{name}`; tasks are {}", listed(known))]
    UnknownTask {
        /// The name.
        name: String,
        /// The tasks there are.
        known: Vec<String>,
    },
    /// No task, group or tag of a catalog has this name.
    #[error("no task, group or tag is named `{name}`{}{}{}", searched(roots), suggested(near), not_read(unreadable))]
    NotFound {
        /// The name or pattern.
        name: String,
        /// Names that are similar to it.
        near: Vec<String>,
        /// The directories that were searched.
        roots: Vec<PathBuf>,
        /// Files that could not be read, each with the reason: the name may be in one of them.
        unreadable: Vec<(PathBuf, String)>,
    },
    /// A directory holds no task.
    #[error("{}: no task here: neither task.json nor a YAML file with `task`", path.display())]
    NoTask {
        /// The directory.
        path: PathBuf,
    },
}

impl TaskError {
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> TaskError {
        let path = path.to_path_buf();
        move |error| TaskError::Io { path, error }
    }
}

fn of_config(config: Option<&str>) -> String {
    config.map_or_else(String::new, |config| format!(" (configuration `{config}`)"))
}

/// The command that downloads a data repository of the Hugging Face hub.
pub(crate) fn download_command(repository: &str) -> String {
    let quoted = shlex::try_quote(repository).unwrap_or(repository.into());
    format!("glue fetch --dataset {quoted}")
}

fn suggested(near: &[String]) -> String {
    if near.is_empty() { String::new() } else { format!("; similar names are {}", near.join(", ")) }
}

fn not_read(unreadable: &[(PathBuf, String)]) -> String {
    match unreadable {
        [] => String::new(),
        [(path, reason), rest @ ..] => {
            let more = if rest.is_empty() { String::new() } else { format!(", and {} more", rest.len()) };
            format!("; files that cannot be read: {}: {reason}{more}", path.display())
        }
    }
}

fn searched(roots: &[PathBuf]) -> String {
    let paths: Vec<String> = roots.iter().map(|root| root.display().to_string()).collect();
    match paths.as_slice() {
        [] => "; no directory of tasks was found: name one with --include-path, set LM_EVAL_TASKS to a checkout of \
               lm-evaluation-harness, or install the Python package lm_eval"
            .into(),
        paths => format!(" in {}", paths.join(", ")),
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "none".into() } else { names.join(", ") }
}

/// What a language model could not do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ModelError {
    /// What went wrong, with its causes.
    pub message: String,
    /// Which of the requests of the call it was, where it was one.
    pub request: Option<usize>,
    /// Whether the model computed NaN: the model is broken, not the request.
    pub not_a_number: bool,
}

impl ModelError {
    /// An error that has nothing to do with one request in particular.
    pub fn new(message: impl Into<String>) -> ModelError {
        ModelError { message: message.into(), request: None, not_a_number: false }
    }

    /// An error with another below it: its message is that of the other and of all its causes.
    pub fn caused_by(error: impl std::error::Error) -> ModelError {
        ModelError::new(error.chain())
    }

    /// An error of one request of the call.
    pub fn of_request(request: usize, message: impl Into<String>) -> ModelError {
        ModelError { request: Some(request), ..ModelError::new(message) }
    }
}

/// Why an evaluation ended without a report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// A task is not sound.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// There is nothing to score.
    #[error("no tasks were given")]
    NoTasks,
    /// A task runs what the model writes, and that was not allowed.
    #[error("the task `{task}` runs programs that the model writes, which must be allowed with --allow-code-execution")]
    CodeNotAllowed {
        /// The task.
        task: String,
    },
    /// A search would use the items that a benchmark is reported on.
    #[error(
        "the task `{task}` would be searched on `{split}`, the split that this benchmark is reported on: its score would say nothing afterwards; name another split, or set `allow_test_split: true`"
    )]
    TestSplit {
        /// The task.
        task: String,
        /// The split, or share of one.
        split: String,
    },
    /// The model failed on an item.
    #[error("{place}: task `{task}`")]
    Item {
        /// The task.
        task: String,
        /// The item.
        place: FilePosition,
        /// What the model says.
        #[source]
        error: Box<ModelError>,
    },
    /// The model computed NaN where a log-likelihood or a logit should be.
    #[error("model `{model}`: task `{task}`: {place}: {message}; its weights or activations are not finite")]
    NotANumber {
        /// The model.
        model: String,
        /// The task.
        task: String,
        /// The item.
        place: FilePosition,
        /// What was found where.
        message: String,
    },
    /// A metric has no value for the items that were scored, such as a perplexity of texts without a token.
    #[error("model `{model}`: task `{task}`: the metric {metric} has no value for these {n} items")]
    Undefined {
        /// The model.
        model: String,
        /// The task.
        task: String,
        /// The metric.
        metric: String,
        /// How many items there are.
        n: usize,
    },
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Programs could not be run.
    #[error("running programs of the task `{task}`")]
    Code {
        /// The task.
        task: String,
        /// What went wrong.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The cache's directory cannot be used, or samples could not be written.
    #[error("{}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// The caller cancelled it.
    #[error("stopped")]
    Stopped,
}
