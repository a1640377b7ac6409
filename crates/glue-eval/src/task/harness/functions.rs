//! Functions that a task takes from a Python file beside it: `key: !function module.name`.
//!
//! They are evaluated by [`program`](crate::python::program), without Python, if everything they use is known there.
//! Otherwise the task loads, and is refused when its items are read, with what is missing.

mod python;

pub(crate) use python::Python;

use super::super::fields::Fields;
use crate::error::{FilePosition, TaskError};
use crate::python::program::{Call, MadeRow, Program};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What stands before the name of a function, after a file was read and before it is parsed: a character for private
/// use.
pub(super) const MARK: char = '\u{e0f1}';

const KEY: &str = "!function";

/// A function by its name, and the program that it is in.
#[derive(Debug, Clone)]
pub(crate) struct Function {
    /// As in the task file, as `utils.process_docs`.
    pub(crate) name: String,
    file: PathBuf,
    /// Its name in its file.
    attribute: String,
    /// Or why it cannot be evaluated.
    program: Result<Arc<Program>, String>,
    /// Whether its file loads the metric that runs programs.
    runs_code: bool,
}

/// The programs of one task, by their files, and what it takes from them.
#[derive(Debug, Default)]
pub(in crate::task) struct Programs {
    files: HashMap<PathBuf, Result<Arc<Program>, String>>,
    /// Each with the key that names it, and where.
    pub(super) functions: Vec<(FilePosition, String, Arc<Function>)>,
}

/// Turns marked texts of a document in `directory` into functions.
pub(super) fn resolve(value: &mut Value, directory: &Path) {
    match value {
        Value::String(text) => {
            if let Some(name) = text.strip_prefix(MARK) {
                let (module, _) = name.rsplit_once('.').unwrap_or((name, ""));
                let file = directory.join(format!("{}.py", module.replace('.', "/")));
                *value = json!({KEY: name, "file": file});
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| resolve(item, directory)),
        Value::Object(map) => map.values_mut().for_each(|value| resolve(value, directory)),
        _ => {}
    }
}

/// The text of a task file with functions marked as such, line by line.
pub(super) fn mark(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let marked = line.split_once(KEY).filter(|(before, after)| {
            // In quotes or a comment it is mere text.
            after.starts_with(' ') && !before.contains(['#', '"', '\'']) && before.trim_end().ends_with([':', '-'])
        });
        let Some((before, after)) = marked else {
            out.push_str(line);
            continue;
        };
        let name = after.trim_start_matches(' ').trim_start_matches(['"', '\'']);
        let end = name.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.' | '-'))).unwrap_or(name.len());
        let rest = name[end..].trim_start_matches(['"', '\'']);
        out.push_str(&format!("{before}\"{MARK}{}\"{rest}", &name[..end]));
    }
    out
}

impl Function {
    /// The function that is the value of a key, if it is one.
    ///
    /// # Errors
    /// [`TaskError`] for a function without a module.
    pub(super) fn of(
        fields: &Fields<'_>,
        key: &str,
        value: &Value,
        programs: &mut Programs,
    ) -> Result<Option<Arc<Function>>, TaskError> {
        let Some(map) = value.as_object().filter(|map| map.contains_key(KEY)) else { return Ok(None) };
        let name = map.get(KEY).and_then(Value::as_str).unwrap_or_default();
        let Some((_, attribute)) = name.rsplit_once('.') else {
            let expected = "a function of a Python file, as `!function utils.process_docs`";
            return Err(fields.wrong(key, expected, &Value::from(name)));
        };
        let file = PathBuf::from(map.get("file").and_then(Value::as_str).unwrap_or_default());
        let program = programs.files.entry(file.clone()).or_insert_with(|| {
            let loaded = Program::load(&file).map(Arc::new);
            loaded.map_err(|fault| format!("{}: {fault}", file.display()))
        });
        let runs_code = program.as_ref().is_ok_and(|program| program.loads("code_eval"));
        let program = program.clone().and_then(|program| match program.check(attribute) {
            Ok(()) => Ok(program),
            Err(fault) => Err(format!("{}: {fault}", file.display())),
        });
        let function = Arc::new(Function { name: name.into(), file, attribute: attribute.into(), program, runs_code });
        programs.functions.push((fields.place_of(key), key.into(), Arc::clone(&function)));
        Ok(Some(function))
    }

    /// The name without that of its module.
    pub(super) fn attribute(&self) -> &str {
        &self.attribute
    }

    /// Why it cannot be evaluated.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// Whether its file loads the metric that runs programs.
    pub(super) fn runs_code(&self) -> bool {
        self.runs_code
    }

    /// The program; or the Python that runs the function where it cannot be evaluated, if that is allowed.
    fn runner<'a>(&'a self, python: Option<&'a Python>) -> Result<Runner<'a>, String> {
        match (&self.program, python) {
            (Ok(program), _) => Ok(Runner::Program(program)),
            (Err(_), Some(python)) => Ok(Runner::Python(python)),
            (Err(why), None) => Err(why.clone()),
        }
    }

    /// The rows that it makes of a dataset.
    pub(crate) fn rows(&self, python: Option<&Python>, rows: Vec<Map<String, Value>>) -> Result<Vec<MadeRow>, String> {
        match self.runner(python)? {
            Runner::Program(program) => program.rows(&self.attribute, rows).map_err(|fault| self.said(&fault)),
            Runner::Python(python) => python.rows(&self.file, &self.attribute, rows).map_err(|why| self.said(&why)),
        }
    }

    /// What it gives for each list of arguments; or the number of the call that failed, and why.
    pub(crate) fn each(&self, python: Option<&Python>, calls: Vec<Vec<Call>>) -> Result<Vec<Value>, (usize, String)> {
        match self.runner(python).map_err(|why| (0, why))? {
            Runner::Program(program) => {
                program.each(&self.attribute, calls).map_err(|(call, fault)| (call, self.said(&fault)))
            }
            Runner::Python(python) => {
                let given = python.each(&self.file, &self.attribute, "each", &[], &calls);
                given.map_err(|(call, why)| (call, self.said(&why)))
            }
        }
    }

    /// What it gives, as a metric, for each pair of a reference and a prediction.
    pub(crate) fn metric(
        &self,
        python: Option<&Python>,
        options: Vec<(String, Value)>,
        pairs: Vec<Vec<Call>>,
    ) -> Result<Vec<Value>, (usize, String)> {
        match self.runner(python).map_err(|why| (0, why))? {
            Runner::Program(program) => {
                program.metric(&self.attribute, options, pairs).map_err(|(call, fault)| (call, self.said(&fault)))
            }
            Runner::Python(python) => {
                let given = python.each(&self.file, &self.attribute, "metric", &options, &pairs);
                given.map_err(|(call, why)| (call, self.said(&why)))
            }
        }
    }

    /// What it makes, as a filter, of the answers to an item.
    pub(crate) fn filter(
        &self,
        python: Option<&Python>,
        options: Vec<(String, Value)>,
        answers: &[String],
        fields: &Map<String, Value>,
    ) -> Result<Value, String> {
        match self.runner(python)? {
            Runner::Program(program) => {
                let made = program.filter(&self.attribute, options, answers.to_vec(), fields.clone());
                made.map_err(|fault| self.said(&fault))
            }
            Runner::Python(python) => {
                let call = vec![vec![Call::Json(answers.into()), Call::Json(Value::Object(fields.clone()))]];
                let made = python.each(&self.file, &self.attribute, "filter", &options, &call);
                made.map_err(|(_, why)| self.said(&why)).map(|mut made| made.pop().unwrap_or_default())
            }
        }
    }

    fn said(&self, fault: &impl std::fmt::Display) -> String {
        format!("`{}`: {fault}", self.name)
    }

    /// The error of a task that needs a function which cannot be evaluated.
    pub(super) fn unsupported(&self, place: FilePosition, key: &str) -> Option<TaskError> {
        let problem = self.problem()?;
        let reason = format!(
            "`{}` is a Python function that cannot be evaluated here: {problem}; --allow-python runs it in a sandbox with \
             the Python that is installed",
            self.name
        );
        Some(TaskError::Unsupported { place, key: key.into(), reason })
    }
}

/// What runs a function.
enum Runner<'a> {
    Program(&'a Arc<Program>),
    Python(&'a Python),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_marked_and_text_is_left_alone() {
        for (line, expected) in [
            ("process_docs: !function utils.f\n", "process_docs: \"\u{e0f1}utils.f\"\n"),
            ("  - function: !function utils.F # why\n", "  - function: \"\u{e0f1}utils.F\" # why\n"),
            ("- !function a.b.c", "- \"\u{e0f1}a.b.c\""),
            ("x: {f: !function u.g, k: 1}\n", "x: {f: \"\u{e0f1}u.g\", k: 1}\n"),
            ("doc_to_text: \"!function utils.f\"\n", "doc_to_text: \"!function utils.f\"\n"),
            ("# process_docs: !function utils.f\n", "# process_docs: !function utils.f\n"),
        ] {
            assert_eq!(mark(line), expected);
        }
        let mut value = json!({"a": [{"b": "\u{e0f1}m.n.f"}, "f"]});
        resolve(&mut value, Path::new("/t"));
        assert_eq!(value, json!({"a": [{"b": {"!function": "m.n.f", "file": "/t/m/n.py"}}, "f"]}));
    }
}
