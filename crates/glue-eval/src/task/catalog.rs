//! Tasks by name: an index of all task files below some directories, and what is made of the names in it.

mod build;
mod places;
mod scan;
mod status;

pub use status::{Counts, Status};

use super::harness::{self, Document};
use super::{Task, TaskGroup, native};
use crate::data::DataSources;
use crate::error::TaskError;
use parking_lot::Mutex;
use rayon::prelude::*;
use scan::{Head, Named};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EntryKind {
    /// A task.
    Task,
    /// Tasks and groups, with a score of their own.
    Group,
    /// A mark of some tasks, which stands for all of them.
    Tag,
}

impl EntryKind {
    /// `task`, `group` or `tag`.
    pub fn name(self) -> &'static str {
        match self {
            EntryKind::Task => "task",
            EntryKind::Group => "group",
            EntryKind::Tag => "tag",
        }
    }
}

/// A name in a [`TaskCatalog`].
#[derive(Debug, Clone)]
pub struct Entry {
    kind: EntryKind,
    path: Option<PathBuf>,
    /// The tasks of a tag.
    tagged: BTreeSet<String>,
}

impl Entry {
    /// What it is.
    pub fn kind(&self) -> EntryKind {
        self.kind
    }

    /// The file that describes it; `None` for a tag.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }
}

/// Tasks, and the groups they were asked for as.
#[derive(Debug, Default)]
pub struct TaskSet {
    /// The tasks, each once.
    pub tasks: Vec<Task>,
    /// The groups, each before its members.
    pub groups: Vec<TaskGroup>,
}

/// An index of the tasks, groups and tags below some directories. Files are looked at when it is made, and read when
/// they are asked for: a file that cannot be read is an error only then.
#[derive(Debug)]
pub struct TaskCatalog {
    roots: Vec<PathBuf>,
    entries: BTreeMap<String, Entry>,
    unreadable: Vec<(PathBuf, String)>,
    data: DataSources,
}

impl TaskCatalog {
    /// The tasks below these directories; a name in an earlier one hides that in a later one.
    ///
    /// # Errors
    /// [`TaskError::Io`] for a directory that cannot be read.
    pub fn open(roots: &[impl AsRef<Path>], data: DataSources) -> Result<TaskCatalog, TaskError> {
        let mut catalog = TaskCatalog { roots: Vec::new(), entries: BTreeMap::new(), unreadable: Vec::new(), data };
        for root in roots.iter().map(AsRef::as_ref) {
            for (name, entry) in index(root, &mut catalog.unreadable)? {
                catalog.entries.entry(name).or_insert(entry);
            }
            catalog.roots.push(root.to_path_buf());
        }
        Ok(catalog)
    }

    /// The tasks of these directories; then those of the checkout of lm-evaluation-harness that the environment
    /// variable `LM_EVAL_TASKS` names, which is its root or its directory of tasks; else, without that variable, those
    /// of the installed package `lm_eval`, in the active virtual or conda environment or that of `python3`.
    ///
    /// # Errors
    /// [`TaskError::Io`] for a directory that cannot be read.
    ///
    /// ```no_run
    /// use glue_eval::{DataSources, TaskCatalog};
    ///
    /// let catalog = TaskCatalog::with_installed(&["my-tasks"], DataSources::default())?;
    /// let set = catalog.load(&["arc_challenge", "mmlu"])?;
    /// println!("{} tasks in {} groups", set.tasks.len(), set.groups.len());
    /// # Ok::<(), glue_eval::TaskError>(())
    /// ```
    pub fn with_installed(include: &[impl AsRef<Path>], data: DataSources) -> Result<TaskCatalog, TaskError> {
        let mut roots: Vec<PathBuf> = include.iter().map(|path| path.as_ref().to_path_buf()).collect();
        match std::env::var_os("LM_EVAL_TASKS").filter(|value| !value.is_empty()) {
            Some(named) => {
                let named = PathBuf::from(named);
                roots.push(places::tasks_directory(&named).unwrap_or(named));
            }
            None => roots.extend(places::installed()),
        }
        TaskCatalog::open(&roots, data)
    }

    /// The directories, in the order in which they are searched.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// All names in alphabetical order.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// Files that look like tasks and cannot be read, each with the reason.
    pub fn unreadable(&self) -> &[(PathBuf, String)] {
        &self.unreadable
    }

    /// The names that a name or a shell pattern such as `mmlu_*` stands for, in alphabetical order.
    ///
    /// # Errors
    /// [`TaskError::NotFound`], with the names that are most like it.
    pub fn matching(&self, pattern: &str) -> Result<Vec<&str>, TaskError> {
        if let Some((name, _)) = self.entries.get_key_value(pattern) {
            return Ok(vec![name]);
        }
        if pattern.contains(['*', '?', '['])
            && let Ok(compiled) = glob::Pattern::new(&pattern.replace("**", "*"))
        {
            let names: Vec<&str> =
                self.entries.keys().map(String::as_str).filter(|name| compiled.matches(name)).collect();
            if !names.is_empty() {
                return Ok(names);
            }
        }
        Err(self.not_found(pattern))
    }

    fn not_found(&self, name: &str) -> TaskError {
        const MAX_SHOWN: usize = 5;
        let mut near: Vec<(usize, &String)> = self
            .entries
            .keys()
            .filter(|known| known.chars().count().abs_diff(name.chars().count()) <= 3 + name.len() / 2)
            .map(|known| {
                let part = known.contains(name) || (known.len() > 2 && name.contains(known.as_str()));
                (if part { 1 } else { distance(name, known) }, known)
            })
            .filter(|(distance, _)| *distance <= 1 + name.len() / 4)
            .collect();
        near.sort();
        TaskError::NotFound {
            name: name.into(),
            near: near.into_iter().take(MAX_SHOWN).map(|(_, name)| name.clone()).collect(),
            roots: self.roots.clone(),
            unreadable: self.unreadable.clone(),
        }
    }

    /// The tasks and groups that these names and patterns stand for, in this order.
    ///
    /// # Errors
    /// [`TaskError`]: a name that is not there, a task that is not sound, data that is missing, or two tasks of the
    /// same name that differ.
    pub fn load(&self, names: &[impl AsRef<str>]) -> Result<TaskSet, TaskError> {
        let mut builder = build::Builder::new(self);
        for pattern in names {
            for name in self.matching(pattern.as_ref())? {
                builder.add(name)?;
            }
        }
        Ok(builder.finish())
    }

    /// A group from its file, whose members are in this catalog.
    pub(super) fn load_group(&self, document: &Document) -> Result<TaskSet, TaskError> {
        let mut builder = build::Builder::new(self);
        builder.add_group(document)?;
        Ok(builder.finish())
    }
}

/// Changes of a letter that make one name of another, up to a limit that no suggestion has.
fn distance(from: &str, to: &str) -> usize {
    const MAX_LENGTH: usize = 100;
    let to: Vec<char> = to.chars().take(MAX_LENGTH).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(MAX_LENGTH).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// Deeper than anyone files tasks; links that lead back up end there.
const MAX_DEPTH: usize = 16;

fn files(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let hidden = name.to_string_lossy().starts_with(['.']) || name == "__pycache__";
        let path = entry.path();
        let kind = entry.file_type()?;
        let is_directory = kind.is_dir() || (kind.is_symlink() && path.is_dir());
        if is_directory && !hidden && depth < MAX_DEPTH {
            files(&path, depth + 1, found)?;
        } else if !is_directory && (name == "task.json" || is_yaml(&path)) {
            found.push(path);
        }
    }
    Ok(())
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml")
}

/// The names in one directory; the first file in the order of paths has a name.
fn index(root: &Path, unreadable: &mut Vec<(PathBuf, String)>) -> Result<BTreeMap<String, Entry>, TaskError> {
    let mut paths = Vec::new();
    files(root, 0, &mut paths).map_err(TaskError::io(root))?;
    paths.sort();
    let included = Mutex::new(HashMap::new());
    let heads: Vec<_> = paths.par_iter().map(|path| (path, head_of(path, &included))).collect();
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for (path, head) in heads {
        let head = match head {
            Ok(head) => head,
            Err(reason) => {
                unreadable.push((path.clone(), reason));
                continue;
            }
        };
        let (name, kind) = match (head.task, head.group) {
            (Some(Named::Name(name)), group) => {
                let tags = head.tag.into_iter().flatten().chain(group);
                for tag in tags.filter(|tag| *tag != name) {
                    let entry = entries.entry(tag).or_insert_with(|| Entry {
                        kind: EntryKind::Tag,
                        path: None,
                        tagged: BTreeSet::new(),
                    });
                    entry.tagged.insert(name.clone());
                }
                (name, EntryKind::Task)
            }
            (_, Some(group)) => (group, EntryKind::Group),
            _ => continue,
        };
        let entry = Entry { kind, path: Some(path.clone()), tagged: BTreeSet::new() };
        match entries.get_mut(&name) {
            None => {
                entries.insert(name, entry);
            }
            // A file says more of a name than the tags of others do.
            Some(other) if other.kind == EntryKind::Tag => *other = entry,
            Some(_) => {}
        }
    }
    Ok(entries)
}

type Included = Mutex<HashMap<PathBuf, Result<Arc<Head>, String>>>;

/// The head of a file with those of the files that it includes.
fn head_of(path: &Path, included: &Included) -> Result<Head, String> {
    if path.file_name().is_some_and(|name| name == "task.json") {
        let directory = path.parent().unwrap_or(Path::new(""));
        let task = native::open(directory).map_err(|error| chain(&error))?;
        let tag = Some(task.groups().to_vec());
        return Ok(Head { task: Some(Named::Name(task.name)), tag, ..Head::default() });
    }
    merged(path, included, 0)
}

fn merged(path: &Path, included: &Included, depth: usize) -> Result<Head, String> {
    const MAX_INCLUDES: usize = 16;
    if depth > MAX_INCLUDES {
        return Err("files include each other".into());
    }
    let text = glue_tensor::files::read_to_string(path, glue_tensor::files::CONFIG_BYTES);
    let text = text.map_err(|error| error.to_string())?;
    let Some(mut head) = scan::head(&text) else { return parsed(path) };
    // The last of the included files counts.
    for include in std::mem::take(&mut head.include).iter().rev() {
        let of = path.parent().unwrap_or(Path::new("")).join(include);
        let known = included.lock().get(&of).cloned();
        let other = match known {
            Some(known) => known,
            None => {
                let other = merged(&of, included, depth + 1).map(Arc::new);
                let other = other.map_err(|reason| format!("`{include}`, which it includes: {reason}"));
                included.lock().insert(of, other.clone());
                other
            }
        }?;
        head.task = head.task.or_else(|| other.task.clone());
        head.group = head.group.or_else(|| other.group.clone());
        head.tag = head.tag.or_else(|| other.tag.clone());
        head.class |= other.class;
    }
    Ok(head)
}

/// The head of a file by the YAML parser.
fn parsed(path: &Path) -> Result<Head, String> {
    let document = harness::load(path).map_err(|error| chain(&error))?;
    let text = |key: &str| document.map.get(key).and_then(serde_json::Value::as_str).map(String::from);
    let task = match document.map.get("task") {
        Some(serde_json::Value::Array(_)) => Some(Named::List),
        _ => text("task").map(Named::Name),
    };
    let tag = document.map.get("tag").and_then(super::texts);
    let class = document.map.contains_key("class");
    Ok(Head { task, group: text("group"), tag, include: Vec::new(), class })
}

fn chain(error: &TaskError) -> String {
    glue_progress::ErrorChain::chain(error)
}
