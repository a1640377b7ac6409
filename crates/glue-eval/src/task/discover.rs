//! Finding tasks: in files, in directories, by name, group or tag.

use super::harness::{self, Document};
use super::{Task, fields, native};
use crate::error::{FilePosition, TaskError};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// All tasks of some files and directories, in the order of the paths and then of the file names.
///
/// A path is a directory with `task.json`; that file itself; a YAML file of lm-evaluation-harness, of a task or of a
/// group whose tasks stand in the same directory; or a directory in which, at any depth, there are some of these. YAML
/// files without `task` or `group`, which are there to be included, are passed over in a directory.
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
    let mut tasks = Vec::new();
    for path in paths {
        let path = path.as_ref();
        let before = tasks.len();
        if fs::metadata(path).map_err(TaskError::io(path))?.is_dir() {
            directory(path, &mut tasks, 0)?;
        } else {
            file(path, &mut tasks)?;
        }
        if tasks.len() == before {
            return Err(TaskError::NoTask { path: path.to_path_buf() });
        }
    }
    for (i, task) in tasks.iter().enumerate() {
        if let Some(other) = tasks[..i].iter().find(|other| other.name == task.name) {
            return Err(TaskError::Duplicate {
                name: task.name.clone(),
                first: other.path.clone(),
                second: task.path.clone(),
            });
        }
    }
    Ok(tasks)
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

fn directory(path: &Path, tasks: &mut Vec<Task>, depth: usize) -> Result<(), TaskError> {
    if path.join("task.json").is_file() {
        tasks.push(native::open(path)?);
        return Ok(());
    }
    let mut groups = Vec::new();
    let found = tasks.len();
    for path in entries(path)? {
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() {
            if !hidden && depth < MAX_DEPTH {
                directory(&path, tasks, depth + 1)?;
            }
        } else if is_yaml(&path) {
            let document = harness::load(&path)?;
            match role(&document) {
                Role::Task => tasks.push(harness::open(&document)?),
                Role::Group => groups.push(document),
                Role::Part => {}
            }
        }
    }
    for group in groups {
        for member in Group::read(&group)?.members {
            let task = tasks[found..].iter_mut().find(|task| task.name == member.name);
            let task = task.ok_or_else(|| unknown_member(&group, &member.name))?;
            task.groups.extend(group.map.get("group").and_then(Value::as_str).map(String::from));
        }
    }
    Ok(())
}

fn file(path: &Path, tasks: &mut Vec<Task>) -> Result<(), TaskError> {
    let directory = path.parent().unwrap_or(Path::new(""));
    if path.file_name().is_some_and(|name| name == "task.json") {
        tasks.push(native::open(directory)?);
        return Ok(());
    }
    let document = harness::load(path)?;
    match role(&document) {
        Role::Task => tasks.push(harness::open(&document)?),
        Role::Part => {
            return Err(TaskError::MissingField { place: FilePosition::file(path), field: "task".into() });
        }
        Role::Group => {
            let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
            let group = Group::read(&document)?;
            let mut siblings = Vec::new();
            for path in entries(directory)?.into_iter().filter(|path| is_yaml(path)) {
                let sibling = harness::load(&path)?;
                if let (Role::Task, Some(name)) = (role(&sibling), sibling.map.get("task").and_then(Value::as_str)) {
                    siblings.push((name.to_string(), sibling));
                }
            }
            for member in group.members {
                let sibling = siblings.iter().find(|(name, _)| *name == member.name);
                let (_, sibling) = sibling.ok_or_else(|| unknown_member(&document, &member.name))?;
                let mut sibling = sibling.clone();
                sibling.map.extend(member.overrides);
                let mut task = harness::open(&sibling)?;
                task.groups.push(group.name.clone());
                tasks.push(task);
            }
        }
    }
    Ok(())
}

fn unknown_member(group: &Document, name: &str) -> TaskError {
    TaskError::Malformed {
        place: FilePosition::file(&group.path),
        message: format!("the group names the task `{name}`, which none of the files beside it has"),
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

/// A group: some tasks, perhaps with other values for some keys.
struct Group {
    name: String,
    members: Vec<Member>,
}

struct Member {
    name: String,
    overrides: serde_json::Map<String, Value>,
}

impl Group {
    fn read(document: &Document) -> Result<Group, TaskError> {
        let of = fields::Fields {
            place: FilePosition::file(&document.path),
            map: &document.map,
            sources: &document.sources,
        };
        of.only(&[&["group", "task", "aggregate_metric_list", "group_alias", "metadata", "tag"]])?;
        let tasks = of.required("task")?;
        let mut members = Vec::new();
        let mut seen = BTreeSet::new();
        for entry in tasks.as_array().map(Vec::as_slice).unwrap_or_default() {
            let (name, overrides) = match entry {
                Value::String(name) => (name.clone(), serde_json::Map::new()),
                Value::Object(map) if map.contains_key("task") => {
                    let mut overrides = map.clone();
                    match overrides.shift_remove("task") {
                        Some(Value::String(name)) => (name, overrides),
                        _ => return Err(of.wrong("task", "names of tasks", entry)),
                    }
                }
                other => return Err(of.wrong("task", "names of tasks", other)),
            };
            if !seen.insert(name.clone()) {
                return Err(of.wrong("task", "each task once", entry));
            }
            members.push(Member { name, overrides });
        }
        Ok(Group { name: of.text("group")?.into(), members })
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
