//! Tasks by path and by name, for the commands that take both.

use glue_eval::{DataSources, TaskCatalog, TaskError, TaskSet, load_task_set, select};
use std::path::{Path, PathBuf};

/// Where tasks and their data are looked for.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Sources {
    /// Directory with task files of lm-evaluation-harness, searched before LM_EVAL_TASKS (a checkout) and the installed
    /// package lm_eval; can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) include_path: Vec<PathBuf>,

    /// Directory with data repositories as ORG/NAME, searched before the working directory and the cache of the Hugging
    /// Face hub; can be repeated
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Vec<PathBuf>,
}

impl Sources {
    /// The places of data.
    pub(crate) fn data(&self) -> DataSources {
        DataSources::new(self.data.iter().cloned())
    }

    /// All tasks that have a name.
    pub(crate) fn catalog(&self) -> Result<TaskCatalog, TaskError> {
        TaskCatalog::with_installed(&self.include_path, self.data())
    }
}

/// The tasks of `requests`, which are names, shell patterns and paths, in this order; of directories only those named
/// `only`, if there are some.
pub(crate) fn load(requests: &[String], only: &[String], sources: &Sources) -> Result<TaskSet, TaskError> {
    let paths: Vec<&str> = requests.iter().map(String::as_str).filter(|request| is_path(request)).collect();
    if !only.is_empty() && paths.len() == requests.len() && paths.iter().all(|path| Path::new(path).is_dir()) {
        return TaskCatalog::open(&paths, sources.data())?.load(only);
    }
    let mut set = TaskSet::default();
    let mut catalog = None;
    for run in requests.chunk_by(|a, b| is_path(a) == is_path(b)) {
        let found = if run.first().is_some_and(|first| is_path(first)) {
            load_task_set(run, &sources.data())?
        } else {
            let catalog = match &mut catalog {
                Some(catalog) => catalog,
                none => none.insert(sources.catalog()?),
            };
            catalog.load(run)?
        };
        set.tasks.extend(found.tasks);
        set.groups.extend(found.groups);
    }
    set.check_names()?;
    if !only.is_empty() {
        set.tasks = select(set.tasks, only)?;
        set.groups.clear();
    }
    Ok(set)
}

/// Whether a request is a path: it exists, or looks like one.
fn is_path(request: &str) -> bool {
    let path = Path::new(request);
    let file =
        path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json");
    path.exists() || request.contains('/') || file
}
