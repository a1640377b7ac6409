//! What can go wrong in a run.

use crate::stage::Stage;
use std::io;
use std::path::{Path, PathBuf};

/// Why a run ended early. Finished stages are kept, and a later run resumes from there.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A model cannot be opened.
    #[error("model `{model}`")]
    Model {
        /// Its path in the config.
        model: String,
        /// Why.
        #[source]
        error: Box<glue_tensor::model_dir::ModelDirError>,
    },
    /// A model cannot be run or scored.
    #[error("model `{model}`")]
    Run {
        /// Its name.
        model: String,
        /// Why.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No model of the zoo can be scored.
    #[error("no model of the zoo could be scored; `{model}`: {reason}")]
    NoScores {
        /// The first of them.
        model: String,
        /// Why.
        reason: String,
    },
    /// Statistics of a model cannot be read.
    #[error("statistics")]
    Statistics(#[source] Box<glue_tensor::CheckpointError>),
    /// Models cannot be compared.
    #[error(transparent)]
    Metrics(#[from] glue_metrics::MetricsError),
    /// A task cannot be read, or an evaluation failed.
    #[error(transparent)]
    Eval(#[from] glue_eval::EvalError),
    /// Tasks on different scales without weights, or weights that do not fit.
    #[error("`tasks.weights`")]
    Scale(#[from] glue_eval::scale::ScaleError),
    /// The search in a cluster failed.
    #[error("the search in cluster {cluster}")]
    Search {
        /// Name of the cluster.
        cluster: String,
        /// Why.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A mixture cannot be made.
    #[error("a mixture of {experts}")]
    Mixture {
        /// Its experts.
        experts: String,
        /// Why.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] glue_tensor::WriteError),
    /// A file cannot be read or moved.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        error: io::Error,
    },
    /// A file of the run was changed.
    #[error("{}: {found}: the file is not what the run wrote", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The stage that wrote it.
        stage: Stage,
        /// What is wrong with it.
        found: String,
    },
    /// A result cannot be written as JSON, such as a score that is NaN.
    #[error("{}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        error: serde_json::Error,
    },
    /// A file to be copied cannot be read, or is a link that leads out of its model directory.
    #[error(transparent)]
    SideFile(#[from] glue_tensor::SideFileError),
    /// A file of a model changed after the run began. Stages that were finished before are kept.
    #[error(transparent)]
    Changed(#[from] glue_tensor::FileChanged),
    /// The output directory holds something else.
    #[error("{}: expected a new or empty directory, or this run with `--resume`; found {found}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// The value found.
        found: String,
    },
    /// A config is not written over another file.
    #[error("{} exists; delete it to write a new one", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A stage lacks something that it needs.
    #[error("{0}")]
    Unsuitable(String),
    /// The user stopped the run.
    #[error("stopped; finished stages are kept, and `--resume` continues from there")]
    Stopped,
}

impl PipelineError {
    pub(crate) fn io(path: &Path, error: io::Error) -> PipelineError {
        PipelineError::Io { path: path.into(), error }
    }

    pub(crate) fn json(path: &Path, error: serde_json::Error) -> PipelineError {
        PipelineError::Json { path: path.into(), error }
    }
}
