//! Where tasks and their data are looked for, for the commands that take names.

use glue_eval::TaskSources;
use std::path::PathBuf;

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Sources {
    /// Directory with task files of lm-evaluation-harness, searched before LM_EVAL_TASKS (a checkout) and the installed
    /// package lm_eval; can be repeated
    #[arg(long, value_name = "DIR")]
    include_path: Vec<PathBuf>,

    /// Directory with data repositories as ORG/NAME, searched before the working directory and the cache of the Hugging
    /// Face hub; can be repeated
    #[arg(long, value_name = "DIR")]
    data: Vec<PathBuf>,
}

impl Sources {
    pub(crate) fn get(&self) -> TaskSources {
        TaskSources { include_path: self.include_path.clone(), data: self.data.clone() }
    }
}
