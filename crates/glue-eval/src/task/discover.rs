//! Finding tasks: in files, in directories, by name, group or tag.

use super::harness::{self, Document};
use super::{Task, TaskCatalog, TaskSet, native};
use crate::data::DataSources;
use crate::error::{FilePosition, TaskError};
use serde_json::Value;
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

/// All tasks of some files and directories, in the order of the paths and then of the file names.
///
/// A path is a directory with `task.json`; that file itself; a YAML file of lm-evaluation-harness, of a task or of a
/// group whose members stand below the same directory; or a directory in which, at any depth, there are some of these.
/// YAML files without `task` or `group`, which are there to be included, are passed over in a directory.
///
/// In a directory each task is what its own file says, and a group is a name for its members. What a group sets for its
/// members applies where the group itself is loaded: by its file, or by its name from a
/// [`TaskCatalog`](super::TaskCatalog).
///
/// # Errors
/// [`TaskError`] for a description that is not sound, for a directory without a task, and for two tasks of the same
/// name.
///
/// ```no_run
/// let tasks = glue_eval::load_tasks(&["zoo/tasks"])?;
/// for task in &tasks {
///     println!("{} ({}): {}", task.name(), task.kind().name(), task.splits().join(", "));
/// }
/// # Ok::<(), glue_eval::TaskError>(())
/// ```
pub fn load_tasks(paths: &[impl AsRef<Path>]) -> Result<Vec<Task>, TaskError> {
    load_task_set(paths, &DataSources::default()).map(|set| set.tasks)
}

/// [`load_tasks`] with other places for their data, and with the groups whose files are among the paths.
///
/// # Errors
/// Those of [`load_tasks`].
pub fn load_task_set(paths: &[impl AsRef<Path>], data: &DataSources) -> Result<TaskSet, TaskError> {
    let mut set = TaskSet::default();
    for path in paths {
        let path = path.as_ref();
        let before = set.tasks.len();
        if fs::metadata(path).map_err(TaskError::io(path))?.is_dir() {
            directory(path, data, &mut set.tasks, 0)?;
        } else {
            file(path, data, &mut set)?;
        }
        if set.tasks.len() == before {
            return Err(TaskError::NoTask { path: path.to_path_buf() });
        }
    }
    set.check_names()?;
    Ok(set)
}

impl TaskSet {
    /// Refuses two tasks of the same name.
    ///
    /// # Errors
    /// [`TaskError::Duplicate`].
    pub fn check_names(&self) -> Result<(), TaskError> {
        let mut seen: HashMap<&str, &Task> = HashMap::new();
        for task in &self.tasks {
            if let Some(other) = seen.insert(&task.name, task) {
                let (first, second) = (other.path.clone(), task.path.clone());
                return Err(TaskError::Duplicate { name: task.name.clone(), first, second });
            }
        }
        Ok(())
    }
}

/// The tasks with these names, or in a group or with a tag of these names, in the order in which they were loaded.
///
/// # Errors
/// [`TaskError::UnknownTask`] for a name that none of them has.
pub fn select(tasks: Vec<Task>, names: &[impl AsRef<str>]) -> Result<Vec<Task>, TaskError> {
    let has = |task: &Task, name: &str| task.name == name || task.groups.iter().any(|group| group == name);
    for name in names.iter().map(AsRef::as_ref) {
        if !tasks.iter().any(|task| has(task, name)) {
            let known = tasks.iter().map(|task| task.name.clone()).collect();
            return Err(TaskError::UnknownTask { name: name.into(), known });
        }
    }
    let wanted = |task: &Task| names.iter().any(|name| has(task, name.as_ref()));
    Ok(tasks.into_iter().filter(wanted).collect())
}

/// Deeper than anyone files tasks; links that lead back up end there.
const MAX_DEPTH: usize = 16;

fn directory(path: &Path, data: &DataSources, tasks: &mut Vec<Task>, depth: usize) -> Result<(), TaskError> {
    let mut groups = Vec::new();
    let found = tasks.len();
    below(path, data, tasks, &mut groups, depth)?;
    let named: HashMap<&str, &Document> =
        groups.iter().filter_map(|group| Some((group.map.get("group")?.as_str()?, group))).collect();
    for (name, group) in &named {
        let mut members = Vec::new();
        leaves(group, &named, &tasks[found..], &mut Vec::new(), &mut members)?;
        for member in members {
            let groups = &mut tasks[found + member].groups;
            if !groups.iter().any(|known| known == name) {
                groups.push((*name).to_string());
            }
        }
    }
    Ok(())
}

fn below(
    path: &Path,
    data: &DataSources,
    tasks: &mut Vec<Task>,
    groups: &mut Vec<Document>,
    depth: usize,
) -> Result<(), TaskError> {
    if path.join("task.json").is_file() {
        tasks.push(native::open(path)?);
        return Ok(());
    }
    for path in entries(path)? {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() {
            if !hidden && depth < MAX_DEPTH {
                below(&path, data, tasks, groups, depth + 1)?;
            }
        } else if is_yaml(&path) {
            let document = harness::load(&path)?;
            match role(&document) {
                Role::Task => tasks.push(harness::open(&document, data)?),
                Role::Group => groups.push(document),
                Role::Part => {}
            }
        }
    }
    Ok(())
}

/// The tasks of a group and of the groups and tags in it, by their numbers.
fn leaves<'a>(
    group: &'a Document,
    groups: &HashMap<&str, &'a Document>,
    tasks: &[Task],
    seen: &mut Vec<&'a Path>,
    members: &mut Vec<usize>,
) -> Result<(), TaskError> {
    if seen.contains(&group.path.as_path()) {
        return Ok(());
    }
    seen.push(&group.path);
    let list = group.map.get("task").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    for entry in list {
        let name = match entry {
            Value::String(name) => name.as_str(),
            entry => match entry.get("task").or_else(|| entry.get("group")).and_then(Value::as_str) {
                Some(name) => name,
                None => continue,
            },
        };
        let here =
            tasks.iter().enumerate().filter(|(_, task)| task.name == name || task.groups.iter().any(|g| g == name));
        let before = members.len();
        members.extend(here.map(|(number, _)| number));
        match groups.get(name) {
            Some(inner) => leaves(inner, groups, tasks, seen, members)?,
            // What is defined in the group is no task of the directory.
            None if entry.get("group").is_some() || entry.get("dataset_path").is_some() => {}
            None if members.len() == before => return Err(unknown_member(group, name)),
            None => {}
        }
    }
    Ok(())
}

fn file(path: &Path, data: &DataSources, set: &mut TaskSet) -> Result<(), TaskError> {
    let directory = path.parent().unwrap_or(Path::new(""));
    if path.file_name().is_some_and(|name| name == "task.json") {
        set.tasks.push(native::open(directory)?);
        return Ok(());
    }
    let document = harness::load(path)?;
    match role(&document) {
        Role::Task => set.tasks.push(harness::open(&document, data)?),
        Role::Part => {
            return Err(TaskError::MissingField { place: FilePosition::file(path), field: "task".into() });
        }
        Role::Group => {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let group = TaskCatalog::open(&[directory], data.clone())?.load_group(&document)?;
            set.tasks.extend(group.tasks);
            set.groups.extend(group.groups);
        }
    }
    Ok(())
}

fn unknown_member(group: &Document, name: &str) -> TaskError {
    TaskError::Malformed {
        place: FilePosition::file(&group.path),
        message: format!("the group names `{name}`, which is no task, group or tag of this directory"),
    }
}

enum Role {
    Task,
    Group,
    /// To be included by others.
    Part,
}

fn role(document: &Document) -> Role {
    match (document.map.get("group"), document.map.get("task")) {
        (_, Some(Value::String(_))) => Role::Task,
        (Some(_), Some(Value::Array(_))) => Role::Group,
        _ if document.map.contains_key("class") => Role::Task,
        _ => Role::Part,
    }
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, TaskError> {
    let entries = fs::read_dir(directory).map_err(TaskError::io(directory))?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(TaskError::io(directory))?;
    paths.sort();
    Ok(paths)
}

fn is_yaml(path: &Path) -> bool {
    path.is_file() && path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}
