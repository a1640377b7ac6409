//! What can be wrong with gates, their training data, and what is kept of a training.

use glue_eval::{EvalError, ModelError, TaskError};
use glue_linalg::LinalgError;
use glue_lm::{LmError, TextError, TokenizerError};
use glue_progress::Progress;
use glue_tensor::{CheckpointError, WriteError};
use std::io;
use std::path::PathBuf;

/// Why there are no gates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// Gates are to be made from prompts, and an expert has none.
    #[error("expert `{expert}` has no positive prompts, which gate mode `{mode}` needs")]
    NoPrompts {
        /// The expert.
        expert: String,
        /// The gate mode.
        mode: String,
    },
    /// Prompts are to be taken from the items of tasks, and no task is this expert's.
    #[error(
        "expert `{expert}` has no prompts, and no task is its own: {}; give it prompts, or name its tasks or skills",
        assigned.iter().map(|(task, expert)| format!("{task} goes to `{expert}`")).collect::<Vec<_>>().join(", ")
    )]
    NoItems {
        /// The expert.
        expert: String,
        /// Each task and the expert it was given to.
        assigned: Vec<(String, String)>,
    },
    /// A gate is to be trained by a loss that does not say how to change it.
    #[error("gate `{gate}` cannot be trained by this loss: {reason}")]
    NoGradient {
        /// What the names of its tensors begin with.
        gate: String,
        /// Why.
        reason: String,
    },
    /// A prompt has no tokens, so that there is no state of it.
    #[error("the prompt {prompt:?} has no tokens")]
    EmptyPrompt {
        /// The prompt.
        prompt: String,
    },
    /// The states of an expert's prompts, less those of its negative prompts, have no direction.
    #[error("gate {gate}: the row of expert `{expert}` is zero: its negative prompts cancel its positive ones")]
    ZeroRow {
        /// The gate, counted from 0.
        gate: usize,
        /// The expert.
        expert: String,
    },
    /// A router with one hidden layer is too narrow to hold a matrix.
    #[error("an MLP of width {inner} cannot hold the rows of {experts} experts, expected a width of at least {}", 2 * experts)]
    TooNarrow {
        /// Its width.
        inner: usize,
        /// The experts.
        experts: usize,
    },
    /// Two numbers that should be equal are not.
    #[error("{what}: expected {expected}, found {found}")]
    Mismatch {
        /// What was counted.
        what: String,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A setting is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A task or a skill was given to an expert that the mixture does not have.
    #[error("`{name}` is given to expert `{expert}`, but the mixture has {}", known.join(", "))]
    UnknownExpert {
        /// The task or skill.
        name: String,
        /// The expert named.
        expert: String,
        /// The experts there are.
        known: Vec<String>,
    },
    /// Something was assigned that no task is called.
    #[error("`{name}` is given to an expert, but no task or skill has that name; there are {}", known.join(", "))]
    UnknownTask {
        /// The name given.
        name: String,
        /// Names of tasks and skills.
        known: Vec<String>,
    },
    /// There are too few items to learn from, or to validate with.
    #[error("{found} items {purpose}, expected at least {expected}")]
    TooFewItems {
        /// What they are for.
        purpose: &'static str,
        /// How many are needed.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Items of a task carry no right answer, which these labels need.
    #[error("task `{task}`: its items carry no right answer, which {purpose} needs")]
    NoAnswer {
        /// The task.
        task: String,
        /// What needs it.
        purpose: &'static str,
    },
    /// A number that should be finite is not.
    #[error("{what} is not finite: {found}")]
    NotFinite {
        /// What it is.
        what: String,
        /// Its value.
        found: f64,
    },
    /// The model has a part that cannot be taken apart for this purpose.
    #[error("{what}: {reason}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// Why it cannot be done.
        reason: String,
    },
    /// A training of other data or settings was to be resumed.
    #[error("{}: made with other {what}; remove it, or train without resuming", path.display())]
    OtherTraining {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A file of saved states is not one, or is damaged.
    #[error("{}: {reason}", path.display())]
    StateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused an operation.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        #[source]
        error: io::Error,
    },
    /// The caller asked to end.
    #[error("stopped")]
    Stopped,
    /// Files of a model cannot be read.
    #[error(transparent)]
    Checkpoint(Box<CheckpointError>),
    /// A file cannot be written.
    #[error(transparent)]
    Write(Box<WriteError>),
    /// A mixture cannot be read, or its gates cannot be written.
    #[error(transparent)]
    Mixture(Box<glue_mixture::MixError>),
    /// A file of a model is not what it was when the model was opened.
    #[error(transparent)]
    Changed(#[from] glue_tensor::FileChanged),
    /// A model cannot be run.
    #[error(transparent)]
    Model(Box<LmError>),
    /// A model and its tokenizer do not fit.
    #[error(transparent)]
    Text(Box<TextError>),
    /// A text cannot be encoded.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A task is not sound.
    #[error(transparent)]
    Task(Box<TaskError>),
    /// An item is not sound.
    #[error(transparent)]
    Eval(Box<EvalError>),
    /// An expert did not score its items.
    #[error("expert `{expert}`")]
    Expert {
        /// The expert.
        expert: String,
        /// What it said.
        #[source]
        error: ModelError,
    },
    /// Linear algebra failed.
    #[error(transparent)]
    Linalg(#[from] LinalgError),
    /// An operation on activations failed.
    #[error("computation")]
    Compute(#[from] candle_core::Error),
}

/// Errors of other crates are boxed: some are large, and a result is as large as its largest error.
macro_rules! boxed {
    ($($variant:ident: $error:ty),*) => {
        $(impl From<$error> for RouterError {
            fn from(error: $error) -> RouterError {
                RouterError::$variant(Box::new(error))
            }
        })*
    };
}

boxed! {
    Checkpoint: CheckpointError, Write: WriteError, Mixture: glue_mixture::MixError, Model: LmError, Text: TextError,
    Task: TaskError, Eval: EvalError
}

/// # Errors
/// [`RouterError::Stopped`] once `progress` is cancelled.
pub(crate) fn check_cancelled(progress: &dyn Progress) -> Result<(), RouterError> {
    if progress.is_cancelled() { Err(RouterError::Stopped) } else { Ok(()) }
}
