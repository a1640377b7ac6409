//! Functions that are run by the Python that is installed, in the [`sandbox`](crate::sandbox): all calls of one
//! function in one process.

use crate::python::program::{Call, MadeRow};
use crate::sandbox::{Limits, Options, Outcome, Sandbox};
use glue_progress::ErrorChain;
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const HOST: &str = include_str!("host.py");

/// The column that says which row a row was before.
const ORIGIN: &str = "__row_of_the_split__";

/// What precedes the results in what the process prints.
const MARK: char = '\u{1e}';

/// What functions may use: they import libraries, and work on all items at once.
const LIMITS: Limits = Limits {
    wall_time: Duration::from_secs(600),
    cpu_time: Duration::from_secs(600),
    memory_bytes: 16 << 30,
    file_bytes: 16 << 20,
    open_files: 256,
    threads: 64,
    output_bytes: 256 << 20,
    scratch_bytes: 64 << 20,
    scratch_entries: 4096,
};

/// How Python functions of tasks are run.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    options: Options,
}

impl Python {
    /// With the interpreter and the confinement of programs.
    pub(crate) fn new(options: &Options) -> Python {
        Python { options: Options { packages: true, ..options.clone() } }
    }

    /// The rows that a function makes of a dataset.
    pub(super) fn rows(
        &self,
        file: &Path,
        function: &str,
        rows: Vec<Map<String, Value>>,
    ) -> Result<Vec<MadeRow>, String> {
        let made = self.run(file, function, "rows", json!({"rows": rows, "origin": ORIGIN})).map_err(|(_, why)| why)?;
        let row = |made: Value| match made {
            Value::Array(mut pair) if pair.len() == 2 => {
                let row = pair.pop().unwrap_or_default();
                let origin = pair.pop().and_then(|origin| origin.as_u64()).and_then(|at| usize::try_from(at).ok());
                Ok((origin, row))
            }
            _ => Err("it gives no rows".to_string()),
        };
        made.into_iter().map(row).collect()
    }

    /// What a function gives for each list of arguments.
    pub(super) fn each(
        &self,
        file: &Path,
        function: &str,
        kind: &str,
        options: &[(String, Value)],
        calls: &[Vec<Call>],
    ) -> Result<Vec<Value>, (usize, String)> {
        let calls: Vec<Vec<Value>> = calls.iter().map(|call| call.iter().map(argument).collect()).collect();
        let options: Map<String, Value> = options.iter().cloned().collect();
        let count = calls.len();
        let given = self.run(file, function, kind, json!({"calls": calls, "options": options}))?;
        if given.len() != count {
            return Err((0, format!("it gave {} results for {count} calls", given.len())));
        }
        Ok(given)
    }

    fn run(&self, file: &Path, function: &str, kind: &str, what: Value) -> Result<Vec<Value>, (usize, String)> {
        let refuse = |message: String| (0, message);
        let file = std::path::absolute(file).map_err(|error| refuse(error.to_string()))?;
        let directory = file.parent().unwrap_or(Path::new("/"));
        let tasks = directory.ancestors().find(|ancestor| ancestor.ends_with("lm_eval/tasks"));
        // Above the package, so that it can be imported; the package is what is read.
        let package = tasks.and_then(Path::parent);
        let (path, readable) = match package {
            Some(package) => (package.parent().unwrap_or(package), package),
            None => (directory, directory),
        };
        let module = match tasks.and_then(|tasks| file.strip_prefix(tasks).ok()) {
            Some(relative) => {
                let names: Vec<_> =
                    relative.with_extension("").iter().map(|n| n.to_string_lossy().into_owned()).collect();
                format!("lm_eval.tasks.{}", names.join("."))
            }
            None => file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default(),
        };
        let mut request = json!({
            "file": file, "module": module, "function": function, "kind": kind, "paths": [path], "options": {},
        });
        if let (Value::Object(request), Value::Object(what)) = (&mut request, what) {
            request.extend(what);
        }
        // JSON in JSON: a text in quotes that Python reads as it is.
        let text = Value::from(request.to_string()).to_string();
        let program = format!("import json\nREQUEST = json.loads({text})\n{HOST}");
        let options = Options { readable: vec![PathBuf::from(readable)], ..self.options.clone() };
        let sandbox = Sandbox::with_options(LIMITS, &options).map_err(|error| refuse(error.chain()))?;
        let execution = sandbox.run(&program).map_err(|error| refuse(error.chain()))?;
        if execution.outcome != Outcome::Passed {
            let said = execution.stderr.trim().lines().last().unwrap_or_default().to_string();
            return Err(refuse(format!("Python {}: {said}", execution.outcome)));
        }
        let results = execution.stdout.split_once(MARK).map(|(_, results)| results).unwrap_or_default();
        match serde_json::from_str(results) {
            Ok(Value::Array(results)) => Ok(results),
            Ok(Value::Object(error)) => {
                let call = error.get("call").and_then(Value::as_u64).and_then(|call| usize::try_from(call).ok());
                let message = error.get("error").and_then(Value::as_str).unwrap_or("it failed");
                Err((call.unwrap_or(0), message.to_string()))
            }
            _ => Err(refuse("it gave no results, or too many".into())),
        }
    }
}

/// An argument in a form that the other side knows.
fn argument(call: &Call) -> Value {
    let number = |x: f64| if x.is_finite() { json!(x) } else { Value::from(if x > 0.0 { "inf" } else { "-inf" }) };
    match call {
        Call::Json(value) => json!({"json": value}),
        Call::Float(x) => json!({"floats": [number(*x)]}),
        Call::Tuple(items) | Call::List(items) => {
            let pairs = items.iter().map(|item| match item {
                Call::Tuple(pair) => match pair.as_slice() {
                    [Call::Float(x), Call::Json(flag)] => Some(json!([number(*x), flag])),
                    _ => None,
                },
                _ => None,
            });
            if let Some(pairs) = pairs.collect::<Option<Vec<_>>>().filter(|pairs| !pairs.is_empty()) {
                return json!({"tuples": pairs});
            }
            let floats = items.iter().map(|item| if let Call::Float(x) = item { Some(number(*x)) } else { None });
            if let Some(floats) = floats.collect::<Option<Vec<_>>>().filter(|floats| !floats.is_empty()) {
                return json!({"floats": floats});
            }
            let plain = items.iter().map(|item| if let Call::Json(value) = item { value.clone() } else { Value::Null });
            json!({"json": plain.collect::<Vec<_>>()})
        }
    }
}
