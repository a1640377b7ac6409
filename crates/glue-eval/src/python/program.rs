//! Functions that a task takes from a Python file, evaluated here: the part of Python that such functions are written
//! in, without a Python interpreter.
//!
//! A program can compute and nothing else. It reads the modules and the data files beside it, in the directory of tasks
//! that it belongs to; there is no way to write, to start anything or to reach a network. Its memory, its time and its
//! depth are limited. A module that is not known here is an error where it is used and not where it is imported, so
//! that a function works whatever else its file holds.
//!
//! What a program does here it does in Python: whatever is not known to be the same is refused, as
//! [`Fault::is_unsupported`], which no `except` catches.

mod calls;
mod containers;
mod datasets;
mod evaluate;
mod execute;
mod matrix;
mod modules;
mod natives;
mod numbers;
mod parse;
mod patterns;
mod strings;
mod syntax;
mod targets;
mod tokens;
mod value;

pub(crate) use self::job::{Call, MadeRow, Program};

mod job;

use std::fmt;

/// Why a program has no result.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// The class of the exception; `None` for what this evaluator does not do.
    class: Option<String>,
    message: String,
    /// Lines of the innermost and the outer calls, each with the file's number; filled on the way out.
    line: usize,
    file: Option<usize>,
}

impl Fault {
    fn unsupported(line: usize, message: impl Into<String>) -> Fault {
        Fault { class: None, message: message.into(), line, file: None }
    }

    fn missing(why: &str) -> Fault {
        Fault::unsupported(0, why)
    }

    fn raised(class: &str, message: impl Into<String>) -> Fault {
        Fault { class: Some(class.into()), message: message.into(), line: 0, file: None }
    }

    /// Whether the program asks for something that is not evaluated here, and not at fault itself.
    pub(crate) fn is_unsupported(&self) -> bool {
        self.class.is_none()
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(class) = &self.class {
            f.write_str(class)?;
            f.write_str(if self.message.is_empty() { "" } else { ": " })?;
        }
        f.write_str(&self.message)?;
        if self.line > 0 { write!(f, " (line {})", self.line) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::path::Path;
    use std::sync::Arc;

    /// Equal, but for the last bits of numbers, in which a sum or a logarithm may differ.
    fn same(found: &Value, expected: &Value) -> bool {
        match (found, expected) {
            (Value::Number(a), Value::Number(b)) => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                a == b || (a - b).abs() <= 1e-12 * a.abs().max(b.abs())
            }
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
            }
            _ => found == expected,
        }
    }

    fn argument(value: &Value, tuples: bool) -> Call {
        match value {
            Value::Array(items) if tuples => Call::List(
                items
                    .iter()
                    .map(|item| match item.as_array().map(Vec::as_slice) {
                        Some([logprob, greedy]) => Call::Tuple(vec![
                            Call::Float(logprob.as_f64().unwrap_or(f64::NAN)),
                            Call::Json(greedy.clone()),
                        ]),
                        _ => Call::Json(item.clone()),
                    })
                    .collect(),
            ),
            other => Call::Json(other.clone()),
        }
    }

    fn call(program: &Arc<Program>, case: &Value) -> Result<Value, Fault> {
        let function = case["function"].as_str().unwrap();
        program.check(function)?;
        let arguments = case["arguments"].as_array().unwrap();
        if case["kind"] == "rows" {
            let rows = arguments[0].as_array().unwrap().iter().map(|row| row.as_object().unwrap().clone()).collect();
            return Ok(program.rows(function, rows)?.into_iter().map(|(_, row)| row).collect());
        }
        let tuples = case["tuples"] == true;
        let arguments = arguments.iter().enumerate().map(|(i, value)| argument(value, tuples && i == 1)).collect();
        Ok(program.each(function, vec![arguments]).map_err(|(_, fault)| fault)?.remove(0))
    }

    fn language() -> Arc<Program> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/program");
        Arc::new(Program::load(&directory.join("language.py")).unwrap())
    }

    #[test]
    fn the_language_is_that_of_python() {
        let cases: Vec<Value> = serde_json::from_str(include_str!("../../tests/data/program/cases.json")).unwrap();
        let program = language();
        let mut wrong = Vec::new();
        for case in &cases {
            match call(&program, case) {
                Ok(found) if same(&found, &case["expected"]) => {}
                Ok(Value::Array(found)) => {
                    let expected = case["expected"].as_array().unwrap();
                    let differs = found.iter().zip(expected).enumerate().filter(|(_, (a, b))| !same(a, b));
                    let differs: Vec<String> = differs.map(|(i, (a, b))| format!("[{i}] {a}, expected {b}")).collect();
                    wrong.push(format!("{}: {}", case["function"], differs.join("\n  ")));
                }
                other => wrong.push(format!("{}: {:?}", case["function"], other.map_err(|fault| fault.to_string()))),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn what_is_missing_is_named_before_anything_is_called() {
        let fault = language().check("unused").unwrap_err();
        assert!(fault.is_unsupported());
        assert_eq!(
            fault.to_string(),
            "`something` of the module `missing_package.inside` is not evaluated here (line 258)"
        );
        assert_eq!(language().check("no_such").unwrap_err().to_string(), "the file defines no `no_such`");
    }

    /// What a program of one function `f` is refused with.
    fn fault(body: &str) -> Fault {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("utils.py");
        std::fs::write(&path, body).unwrap();
        let program = match Program::load(&path) {
            Ok(program) => Arc::new(program),
            Err(fault) => return fault,
        };
        program.each("f", vec![vec![]]).unwrap_err().1
    }

    #[test]
    fn programs_without_end_are_ended() {
        for (body, expected) in [
            ("def f():\n    while True:\n        pass\n", "did not end within"),
            ("def f():\n    return f()\n", "maximum recursion depth"),
            ("def f():\n    x = 'a'\n    while True:\n        x = x + x\n", "a text of more than"),
            ("def f():\n    return 'a' * 10**12\n", "a text of more than"),
            ("def f():\n    return [0] * 10**12\n", "did not end within"),
            ("def f():\n    return list(range(10**12))\n", "a range of more than"),
            ("def f():\n    return 2 ** 100\n", "more than 64 bits"),
            (
                "def f():\n    try:\n        return 2 ** 100\n    except Exception:\n        return 0\n",
                "more than 64 bits",
            ),
            ("def f():\n    return open('/etc/passwd').read()\n", "which is not of the tasks"),
            ("def f():\n    import os\n    return os.system('true')\n", "`os.system` is not evaluated here"),
            ("def f():\n    return eval('1')\n", "name 'eval' is not defined"),
            ("def f(:\n", "expected a name"),
            ("def f():\n  return \"open\n", "a string does not end on its line"),
        ] {
            let fault = fault(body);
            assert!(fault.to_string().contains(expected), "{body}: {fault}");
        }
        let deep = format!("def f():\n    return {}1{}\n", "(".repeat(500), ")".repeat(500));
        assert!(fault(&deep).to_string().contains("deep"), "{}", fault(&deep));
        let deep = format!("def f():\n    return {}\n", "-".repeat(5000));
        assert!(fault(&deep).to_string().contains("deep"), "{}", fault(&deep));
        let nested = "def f():\n    x = []\n    for i in range(10000):\n        x = [x]\n    return x\n";
        assert!(fault(nested).to_string().contains("too deep"), "{}", fault(nested));
    }

    /// Counts the tasks all of whose functions are evaluated, of lines with task, key, file and function.
    #[test]
    #[ignore = "takes a list of the functions of all tasks of a tree"]
    fn functions_of_a_tree() {
        let path = std::env::var("GLUE_FUNCTION_NAMES").expect("GLUE_FUNCTION_NAMES names the list");
        let (mut programs, mut checked) = (std::collections::HashMap::new(), std::collections::HashMap::new());
        let mut tasks = std::collections::BTreeMap::<String, Option<String>>::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let [task, _, file, function] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let problem = (!file.is_empty()).then(|| {
                let key = (file.to_string(), function.to_string());
                let check = || -> Option<String> {
                    let program = programs
                        .entry(file.to_string())
                        .or_insert_with(|| Program::load(Path::new(file)).map(Arc::new));
                    let checked = program.as_ref().map_err(Clone::clone).and_then(|program| program.check(function));
                    checked.err().map(|fault| fault.message)
                };
                checked.entry(key).or_insert_with(check).clone()
            });
            let known = tasks.entry(task.to_string()).or_default();
            *known = known.take().or(problem.flatten());
        }
        let mut reasons = std::collections::BTreeMap::<&str, usize>::new();
        tasks.values().flatten().for_each(|why| *reasons.entry(why).or_default() += 1);
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let refused = tasks.values().flatten().count();
        println!("{} of {} tasks need nothing else", tasks.len() - refused, tasks.len());
        reasons.iter().for_each(|(why, count)| println!("{count} {why}"));
        assert!(!tasks.is_empty());
    }

    /// Repeats the calls of `tests/interop/functions.py`.
    #[test]
    #[ignore = "takes the file that tests/interop/functions.py makes"]
    fn agrees_with_python_on_cases() {
        let path = std::env::var("GLUE_FUNCTION_CASES").expect("GLUE_FUNCTION_CASES names the file of cases");
        let cases: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut programs = std::collections::HashMap::new();
        let (mut equal, mut refused, mut wrong) = (0, std::collections::BTreeMap::<String, usize>::new(), Vec::new());
        for case in &cases {
            let file = case["file"].as_str().unwrap();
            let program = programs.entry(file).or_insert_with(|| Program::load(Path::new(file)).map(Arc::new));
            let found = program.as_ref().map_err(Clone::clone).and_then(|program| call(program, case));
            match found {
                Ok(found) if same(&found, &case["expected"]) => equal += 1,
                Err(fault) if fault.is_unsupported() => {
                    *refused
                        .entry(format!("{fault} {} {}", file.rsplit("tasks/").next().unwrap(), case["function"]))
                        .or_default() += 1;
                }
                other => wrong.push(format!(
                    "{file} {}: {:?}\n  expected {}",
                    case["function"],
                    other.map(|value| value.to_string()).map_err(|fault| fault.to_string()),
                    case["expected"]
                )),
            }
        }
        for (why, count) in &refused {
            println!("refused {count}: {why}");
        }
        println!("{equal} of {} equal, {} refused", cases.len(), refused.values().sum::<usize>());
        assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
    }
}
