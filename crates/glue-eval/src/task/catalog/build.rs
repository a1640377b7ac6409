//! From names to checked tasks: groups with their members, and the keys that a group sets for them.

use super::{EntryKind, TaskCatalog, TaskSet};
use crate::error::{FilePosition, TaskError};
use crate::task::fields::Fields;
use crate::task::group::{Aggregate, Member, TaskGroup};
use crate::task::harness::{self, Document};
use crate::task::{Task, native};
use serde_json::{Map, Value};
use std::collections::HashMap;
use std::path::Path;

type Keys = Map<String, Value>;

/// Keys of a group that are not for its members.
const GROUP_KEYS: &[&str] = &["group", "task", "aggregate_metric_list", "group_alias", "metadata", "tag", "include"];

/// More than any benchmark has; a few lines can nest groups so that they name any number.
const MAX_VISITS: usize = 200_000;

/// Deeper than any benchmark nests groups.
const MAX_NESTING: usize = 32;

pub(super) struct Builder<'a> {
    catalog: &'a TaskCatalog,
    set: TaskSet,
    /// What each task was made of, to tell two of the same name apart.
    made: HashMap<String, (usize, Map<String, Value>)>,
    /// Groups that are done, each with its keys and those that groups around it set.
    done: HashMap<String, Vec<(Keys, Keys)>>,
    /// The groups that are being built, from the outside.
    open: Vec<String>,
    visits: usize,
}

impl<'a> Builder<'a> {
    /// Why one of the tasks takes a Python.
    pub(super) fn needs_python(&self) -> Option<TaskError> {
        self.set.tasks.iter().find_map(Task::needs_python)
    }

    pub(super) fn new(catalog: &'a TaskCatalog) -> Builder<'a> {
        Builder {
            catalog,
            set: TaskSet::default(),
            made: HashMap::new(),
            done: HashMap::new(),
            open: Vec::new(),
            visits: 0,
        }
    }

    pub(super) fn finish(self) -> TaskSet {
        self.set
    }

    /// What a name of the catalog stands for.
    pub(super) fn add(&mut self, name: &str) -> Result<(), TaskError> {
        self.entry(name, &Keys::new()).map(|_| ())
    }

    /// A group that stands in no catalog.
    pub(super) fn add_group(&mut self, document: &Document) -> Result<(), TaskError> {
        let name = fields(document).text("group")?.to_string();
        self.group(name, document, &document.map, &Keys::new()).map(|_| ())
    }

    /// A name with the keys that groups around it set: the members that it is in a group.
    fn entry(&mut self, name: &str, overrides: &Keys) -> Result<Vec<Member>, TaskError> {
        let entry = self.catalog.entries.get(name).ok_or_else(|| self.catalog.not_found(name))?;
        match (entry.kind, &entry.path) {
            (EntryKind::Tag, _) | (_, None) => {
                let mut members = Vec::new();
                for task in &entry.tagged {
                    members.extend(self.entry(task, overrides)?);
                }
                for member in &members {
                    self.belongs(member, name);
                }
                Ok(members)
            }
            (EntryKind::Group, Some(path)) => {
                let document = harness::load(path)?;
                Ok(vec![self.group(name.into(), &document, &document.map, overrides)?])
            }
            (EntryKind::Task, Some(path)) => Ok(vec![self.task(name, path, overrides)?]),
        }
    }

    /// Marks a task as one of a group or tag.
    fn belongs(&mut self, member: &Member, group: &str) {
        let Member::Task(name) = member else { return };
        let Some((at, _)) = self.made.get(name) else { return };
        let groups = &mut self.set.tasks[*at].groups;
        if !groups.iter().any(|known| known == group) {
            groups.push(group.into());
        }
    }

    fn visit(&mut self, place: FilePosition) -> Result<(), TaskError> {
        self.visits += 1;
        if self.visits > MAX_VISITS {
            let message = format!("groups in groups name more than {MAX_VISITS} members");
            return Err(TaskError::Malformed { place, message });
        }
        Ok(())
    }

    fn task(&mut self, name: &str, path: &Path, overrides: &Keys) -> Result<Member, TaskError> {
        self.visit(FilePosition::file(path))?;
        if path.file_name().is_some_and(|file| file == "task.json") {
            if let Some(key) = overrides.keys().next() {
                let reason = "a group cannot change the keys of a task in task.json".to_string();
                return Err(TaskError::Unsupported { place: FilePosition::file(path), key: key.clone(), reason });
            }
            let directory = path.parent().unwrap_or(Path::new(""));
            return self.keep(name, path, Keys::new(), |_| native::open(directory));
        }
        let mut document = harness::load(path)?;
        for (key, value) in overrides {
            document.map.insert(key.clone(), value.clone());
        }
        let data = &self.catalog.data;
        self.keep(name, path, document.map.clone(), |_| harness::open(&document, data))
    }

    /// Adds a task, unless it is there already.
    fn keep(
        &mut self,
        name: &str,
        path: &Path,
        keys: Keys,
        open: impl FnOnce(&Keys) -> Result<Task, TaskError>,
    ) -> Result<Member, TaskError> {
        if let Some((at, known)) = self.made.get(name) {
            let other = &self.set.tasks[*at];
            if other.path != path || *known != keys {
                let (first, second) = (other.path.clone(), path.to_path_buf());
                return Err(TaskError::Duplicate { name: name.into(), first, second });
            }
            return Ok(Member::Task(name.into()));
        }
        let task = open(&keys)?;
        self.made.insert(name.into(), (self.set.tasks.len(), keys));
        self.set.tasks.push(Task { name: name.into(), ..task });
        Ok(Member::Task(name.into()))
    }

    /// A group, whose keys are a file or a part of one. What it sets for its members gives way to what groups around it
    /// set.
    fn group(&mut self, name: String, document: &Document, keys: &Keys, overrides: &Keys) -> Result<Member, TaskError> {
        self.visit(FilePosition::file(&document.path))?;
        let of = Fields { map: keys, ..fields(document) };
        let malformed = |message: String| TaskError::Malformed { place: of.place_of("group"), message };
        if self.open.contains(&name) || self.open.len() >= MAX_NESTING {
            return Err(malformed(format!("the group `{name}` is in itself: {}", self.open.join(" > "))));
        }
        let known = self.done.get(&name).is_some_and(|known| known.iter().any(|(k, o)| k == keys && o == overrides));
        if known {
            return Ok(Member::Group(name));
        }
        let mut for_members: Keys =
            keys.iter().filter(|(key, _)| !GROUP_KEYS.contains(&key.as_str())).map(owned).collect();
        for_members.extend(overrides.iter().map(owned));
        let members = match of.required("task")? {
            Value::String(one) => vec![Value::String(one.clone())],
            Value::Array(items) => items.clone(),
            other => return Err(of.wrong("task", "a list of tasks and groups", other)),
        };
        let at = self.set.groups.len();
        let group = TaskGroup {
            name: name.clone(),
            alias: of.optional_text("group_alias")?.map(String::from),
            members: Vec::new(),
            aggregates: Aggregate::list(&of)?,
            version: version(&of),
            path: document.path.clone(),
        };
        if let Some(other) = self.set.groups.iter().find(|other| other.name == name)
            && other.path != document.path
        {
            let (first, second) = (other.path.clone(), document.path.clone());
            return Err(TaskError::Duplicate { name, first, second });
        }
        self.set.groups.push(group);
        self.open.push(name.clone());
        let mut found: Vec<Member> = Vec::new();
        for member in &members {
            for member in self.member(&name, document, &of, member, &for_members)? {
                if !found.contains(&member) {
                    found.push(member);
                }
            }
        }
        self.open.pop();
        for member in &found {
            self.belongs(member, &name);
        }
        match self.set.groups[..at].iter().position(|other| other.name == name) {
            // The same group again, in another one.
            Some(_) => {
                self.set.groups.remove(at);
            }
            None => self.set.groups[at].members = found,
        }
        self.done.entry(name.clone()).or_default().push((keys.clone(), overrides.clone()));
        Ok(Member::Group(name))
    }

    /// One entry of the list `task` of a group.
    fn member(
        &mut self,
        group: &str,
        document: &Document,
        of: &Fields<'_>,
        member: &Value,
        for_members: &Keys,
    ) -> Result<Vec<Member>, TaskError> {
        let wrong = || of.wrong("task", "names of tasks and groups, or maps with `task` or `group`", member);
        if let Value::String(name) = member {
            return self.named(group, document, name, for_members, false);
        }
        let keys = member.as_object().ok_or_else(wrong)?;
        if let Some(inner) = keys.get("group") {
            let inner = inner.as_str().ok_or_else(wrong)?;
            if !self.catalog.entries.contains_key(inner) {
                return Ok(vec![self.group(format!("{group}::{inner}"), document, keys, for_members)?]);
            }
            let overrides = over(for_members, keys);
            return self.entry(inner, &overrides);
        }
        let name = keys.get("task").and_then(Value::as_str).ok_or_else(wrong)?;
        self.named(group, document, name, &over(for_members, keys), true)
    }

    /// A task, group or tag by name, or a task that is defined in the group.
    fn named(
        &mut self,
        group: &str,
        document: &Document,
        name: &str,
        overrides: &Keys,
        may_define: bool,
    ) -> Result<Vec<Member>, TaskError> {
        if self.catalog.entries.contains_key(name) {
            return self.entry(name, overrides);
        }
        if !may_define || !overrides.contains_key("dataset_path") {
            let not_found = self.catalog.not_found(name);
            return Err(TaskError::Malformed {
                place: FilePosition::file(&document.path),
                message: format!("the group `{group}`: {not_found}"),
            });
        }
        let name = format!("{group}::{name}");
        let mut keys = overrides.clone();
        keys.insert("task".into(), Value::from(name.as_str()));
        let own = Document { map: keys.clone(), ..document.clone() };
        let data = &self.catalog.data;
        Ok(vec![self.keep(&name, &document.path, keys, |_| harness::open(&own, data))?])
    }
}

fn owned((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// Keys for members, and over them those of one member.
fn over(for_members: &Keys, own: &Keys) -> Keys {
    let mut keys = for_members.clone();
    let own = own.iter().filter(|(key, _)| !matches!(key.as_str(), "group" | "task"));
    // How a group of that name is averaged and shown is its own matter.
    keys.extend(own.filter(|(key, _)| !matches!(key.as_str(), "aggregate_metric_list" | "group_alias")).map(owned));
    keys
}

fn fields(document: &Document) -> Fields<'_> {
    Fields { place: FilePosition::file(&document.path), map: &document.map, sources: &document.sources }
}

/// `metadata.version`.
fn version(fields: &Fields<'_>) -> Option<String> {
    let version = fields.get("metadata")?.get("version")?;
    Some(version.as_str().map_or_else(|| glue_lm::jinja::str(version), String::from))
}
