//! Tasks by path and by name, for whoever takes both.

use super::{TaskCatalog, TaskSet, load_task_set, select};
use crate::data::DataSources;
use crate::error::TaskError;
use std::path::{Path, PathBuf};

/// Where tasks are found by name, and their data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskSources {
    /// Directories with task files of lm-evaluation-harness, searched before the places of
    /// [`TaskCatalog::with_installed`]; none by default.
    pub include_path: Vec<PathBuf>,
    /// Directories with data repositories as `ORG/NAME`, searched before the places of [`DataSources`]; none by
    /// default.
    pub data: Vec<PathBuf>,
}

impl TaskSources {
    /// The places of data.
    pub fn data(&self) -> DataSources {
        DataSources::new(self.data.iter().cloned())
    }

    /// All tasks that have a name.
    ///
    /// # Errors
    /// [`TaskError::Io`] for a directory that cannot be read.
    pub fn catalog(&self) -> Result<TaskCatalog, TaskError> {
        TaskCatalog::with_installed(&self.include_path, self.data())
    }

    /// The tasks of `requests`, which are names, shell patterns and [paths](TaskSources::is_path), in this order; of
    /// these only those named `only`, if there are some. Groups are kept where nothing is left out.
    ///
    /// # Errors
    /// [`TaskError`] for a path or a name that is not there, a task that is not sound, two tasks of one name, and a
    /// name in `only` that no task, group or tag has.
    pub fn load(&self, requests: &[impl AsRef<str>], only: &[String]) -> Result<TaskSet, TaskError> {
        let requests: Vec<&str> = requests.iter().map(AsRef::as_ref).collect();
        if !only.is_empty() && requests.iter().all(|request| Path::new(request).is_dir()) {
            return TaskCatalog::open(&requests, self.data())?.load(only);
        }
        let mut set = TaskSet::default();
        let mut catalog = None;
        for run in requests.chunk_by(|a, b| Self::is_path(a) == Self::is_path(b)) {
            let found = if run.first().is_some_and(|first| Self::is_path(first)) {
                load_task_set(run, &self.data())?
            } else {
                let catalog = match &mut catalog {
                    Some(catalog) => catalog,
                    none => none.insert(self.catalog()?),
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

    /// Whether a request is a path and no name: there is such a file or directory, or it has a slash in it or ends like
    /// a task file.
    pub fn is_path(request: &str) -> bool {
        let path = Path::new(request);
        let file =
            path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json");
        path.exists() || request.contains('/') || file
    }
}
