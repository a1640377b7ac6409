//! A program as it is loaded, and its functions as jobs within limits.

use super::Fault;
use super::execute::Machine;
use super::parse;
use super::syntax::{ExprKind, Node, Stmt, StmtKind, walk};
use super::value::{Closure, Scope, V};
use glue_lm::bounded;
use glue_progress::ErrorChain;
use glue_tensor::files;
use serde_json::{Map, Value as Json};
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Modules that a program may have; those of any task are fewer than ten.
const MAX_FILES: usize = 64;

/// Under which name a module of the tasks is imported.
const TASKS: &str = "lm_eval.tasks";

/// Stand-ins for modules of libraries, in the part of Python that is evaluated here.
const LIBRARY: &[(&str, &str)] = &[
    ("lm_eval.utils", include_str!("library/utils.py")),
    ("lm_eval.api.filter", include_str!("library/filters.py")),
    ("lm_eval.filters.extraction", include_str!("library/filters.py")),
    ("lm_eval.filters.transformation", include_str!("library/filters.py")),
    ("sklearn.metrics", include_str!("library/classification.py")),
    ("transformers.data.metrics.squad_metrics", include_str!("library/squad.py")),
    ("sacrebleu", include_str!("library/sacrebleu.py")),
    ("scipy.optimize", include_str!("library/assignment.py")),
    ("rouge_score.rouge_scorer", include_str!("library/rouge.py")),
    ("rouge_score.scoring", include_str!("library/rouge.py")),
];

/// Modules that consist of others.
const PACKAGES: &[&str] =
    &["sklearn", "scipy", "transformers", "transformers.data", "transformers.data.metrics", "rouge_score"];

/// A Python file with what it imports from the tasks beside it.
pub(crate) struct Program {
    files: Vec<File>,
    /// The directory that may be read.
    root: PathBuf,
    /// Of the contents of all files.
    hash: u64,
}

struct File {
    path: PathBuf,
    /// Its name as a module.
    module: String,
    body: Vec<Stmt>,
}

/// A row that a function made, and which row it was before.
pub(crate) type MadeRow = (Option<usize>, Json);

/// An argument of a function.
#[derive(Debug, Clone)]
pub(crate) enum Call {
    Json(Json),
    /// A number that may be infinite.
    Float(f64),
    Tuple(Vec<Call>),
    List(Vec<Call>),
}

impl Call {
    fn value(&self) -> V {
        match self {
            Call::Json(json) => V::from_json(json),
            Call::Float(number) => V::Float(*number),
            Call::Tuple(items) => V::tuple(items.iter().map(Call::value).collect()),
            Call::List(items) => V::list(items.iter().map(Call::value).collect()),
        }
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Not where it is: the same file elsewhere is the same program.
        write!(f, "Program({:016x})", self.hash)
    }
}

impl Program {
    /// Reads a Python file, and those that it imports from the same tasks.
    ///
    /// # Errors
    /// [`Fault`] for a file that cannot be read or is beyond what is evaluated here.
    pub(crate) fn load(path: &Path) -> Result<Program, Fault> {
        let absolute = std::path::absolute(path).map_err(|error| Fault::unsupported(0, error.to_string()))?;
        let directory = absolute.parent().unwrap_or(Path::new("/"));
        let tasks = directory.ancestors().find(|ancestor| ancestor.ends_with("lm_eval/tasks"));
        let root = tasks.unwrap_or(directory).to_path_buf();
        let mut program = Program { files: Vec::new(), root, hash: 0 };
        let mut hasher = xxhash_rust::xxh3::Xxh3::new();
        program.add(&absolute, &mut hasher)?;
        let mut next = 0;
        while next < program.files.len() {
            for path in program.imports(next) {
                if program.files.len() < MAX_FILES && program.find(&path).is_none() {
                    program.import(&path, &mut hasher);
                }
            }
            next += 1;
        }
        program.hash = hasher.digest();
        Ok(program)
    }

    fn add(&mut self, path: &Path, hasher: &mut xxhash_rust::xxh3::Xxh3) -> Result<(), Fault> {
        let text = files::read_to_string(path, files::CONFIG_BYTES)
            .map_err(|error| Fault::unsupported(0, format!("{}: {error}", path.display())))?;
        hasher.update(text.as_bytes());
        let relative = path.strip_prefix(&self.root).unwrap_or(path).with_extension("");
        let names: Vec<_> = relative.iter().map(|name| name.to_string_lossy()).collect();
        let module = format!("{TASKS}.{}", names.join("."));
        let module = module.strip_suffix(".__init__").unwrap_or(&module).to_string();
        self.files.push(File { path: path.to_path_buf(), module, body: parse::module(&text)? });
        Ok(())
    }

    /// Adds a module by its name, if there is one that can be read.
    fn import(&mut self, module: &str, hasher: &mut xxhash_rust::xxh3::Xxh3) {
        if let Some((_, text)) = LIBRARY.iter().find(|(name, _)| *name == module) {
            if let Ok(body) = parse::module(text) {
                self.files.push(File { path: PathBuf::new(), module: module.into(), body });
            }
            return;
        }
        let Some(relative) = module.strip_prefix(TASKS).and_then(|rest| rest.strip_prefix('.')) else { return };
        let below: PathBuf = relative.split('.').collect();
        let candidates = [self.root.join(&below).with_extension("py"), self.root.join(&below).join("__init__.py")];
        if let Some(path) = candidates.iter().find(|path| path.is_file()) {
            // What cannot be read is missing where it is used.
            let _ = self.add(path, hasher);
        }
    }

    /// The modules that a file imports, anywhere in it.
    fn imports(&self, file: usize) -> Vec<String> {
        let mut out = Vec::new();
        walk(&self.files[file].body, &mut |node| {
            let Node::Statement(statement) = node else { return };
            match &statement.kind {
                StmtKind::Import(modules) => out.extend(modules.iter().map(|(path, _)| path.to_string())),
                StmtKind::ImportFrom(dots, module, names) => {
                    let path = self.absolute(*dots, module, file);
                    out.extend(names.iter().map(|(name, _)| format!("{path}.{name}")));
                    out.push(path);
                }
                _ => {}
            }
        });
        out
    }

    fn find(&self, module: &str) -> Option<usize> {
        self.files.iter().position(|file| file.module == module)
    }

    /// The file of a module, as it is imported by another.
    pub(super) fn module(&self, path: &str, _from: usize) -> Option<usize> {
        self.find(path)
    }

    /// Whether a module consists of others that are here.
    pub(super) fn is_package(path: &str) -> bool {
        PACKAGES.contains(&path)
    }

    /// The full name of a module that is named with dots before it.
    pub(super) fn absolute(&self, dots: usize, module: &str, file: usize) -> String {
        if dots == 0 {
            return module.to_string();
        }
        let own = &self.files[file];
        let is_package = own.path.ends_with("__init__.py");
        let mut parts: Vec<&str> = own.module.split('.').collect();
        parts.truncate(parts.len().saturating_sub(dots - usize::from(is_package)));
        parts.extend(Some(module).filter(|module| !module.is_empty()));
        parts.join(".")
    }

    pub(super) fn body(&self, file: usize) -> &[Stmt] {
        &self.files[file].body
    }

    pub(super) fn path_of(&self, file: usize) -> String {
        self.files[file].path.display().to_string()
    }

    /// A data file of the tasks.
    pub(super) fn read(&self, path: &Path) -> Result<String, Fault> {
        let outside = || Fault::unsupported(0, format!("reading {}, which is not of the tasks", path.display()));
        let real = path.canonicalize().map_err(|error| Fault::raised("FileNotFoundError", error.to_string()))?;
        let root = self.root.canonicalize().map_err(|_| outside())?;
        if !real.starts_with(root) {
            return Err(outside());
        }
        files::read_to_string(&real, files::CONFIG_BYTES).map_err(|error| Fault::raised("OSError", error.to_string()))
    }

    /// Whether there is such a function, and all that it needs is here.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(self: &Arc<Program>, function: &str) -> Result<(), Fault> {
        let function = function.to_string();
        self.job(0, move |machine| {
            let found = machine.find(&function)?;
            machine.check(&found, &mut HashSet::new())
        })
    }

    /// Whether a module that the program loads by this name, such as `code_eval`, is behind a function.
    pub(crate) fn loads(&self, name: &str) -> bool {
        let mut found = false;
        walk(&self.files[0].body, &mut |node| {
            let Node::Expression(expression) = node else { return };
            found |= matches!(&expression.kind, ExprKind::Str(text) if **text == *name);
        });
        found
    }

    /// The rows that a function makes of a dataset, each with the number of the row that it was before, where it is
    /// known.
    ///
    /// # Errors
    /// [`Fault`]
    pub(crate) fn rows(
        self: &Arc<Program>,
        function: &str,
        rows: Vec<Map<String, Json>>,
    ) -> Result<Vec<MadeRow>, Fault> {
        let function = function.to_string();
        let size = rows.iter().map(|row| row.len() + 1).sum::<usize>() * 512;
        self.job(size, move |machine| {
            let found = machine.find(&function)?;
            let rows: Vec<V> = rows.iter().map(V::from_map).collect();
            for (i, row) in rows.iter().enumerate() {
                if let V::Dict(row) = row {
                    row.borrow_mut().origin = Some(i);
                }
            }
            let dataset = V::Dataset(Rc::new(RefCell::new(rows)));
            let made = machine.call(&found, vec![dataset], Vec::new())?;
            machine.refresh();
            let made = machine.iterate(&made)?;
            let row = |row: &V| {
                let origin = if let V::Dict(dict) = row { dict.borrow().origin } else { None };
                Ok((origin, row.to_json(0)?))
            };
            made.iter().map(row).collect()
        })
    }

    /// What a function gives for each of several lists of arguments.
    ///
    /// # Errors
    /// The number of the call that failed, and why.
    pub(crate) fn each(
        self: &Arc<Program>,
        function: &str,
        calls: Vec<Vec<Call>>,
    ) -> Result<Vec<Json>, (usize, Fault)> {
        self.calls(function, calls, |machine, found, arguments| {
            machine.call(found, arguments.iter().map(Call::value).collect(), Vec::new())
        })
    }

    /// What a metric gives for pairs of a reference and a prediction: it takes a list of each by name, or both in one
    /// list.
    ///
    /// # Errors
    /// As [`each`](Program::each).
    pub(crate) fn metric(
        self: &Arc<Program>,
        function: &str,
        options: Vec<(String, Json)>,
        pairs: Vec<Vec<Call>>,
    ) -> Result<Vec<Json>, (usize, Fault)> {
        self.calls(function, pairs, move |machine, found, pair| {
            let list = |i: usize| V::list(pair.get(i).map(Call::value).into_iter().collect());
            let mut named = vec![("references".into(), list(0)), ("predictions".into(), list(1))];
            named.extend(options.iter().map(|(name, value)| (name.as_str().into(), V::from_json(value))));
            match machine.call(found, Vec::new(), named) {
                Err(fault) if fault.class.as_deref() == Some("TypeError") => {
                    machine.call(found, vec![V::list(pair.iter().map(Call::value).collect())], Vec::new())
                }
                result => result,
            }
        })
    }

    /// What a filter makes of the answers to one item: a function of all answers and items, or a class with a method
    /// `apply` of the same, made with `options`.
    ///
    /// # Errors
    /// [`Fault`]
    pub(crate) fn filter(
        self: &Arc<Program>,
        function: &str,
        options: Vec<(String, Json)>,
        answers: Vec<String>,
        fields: Map<String, Json>,
    ) -> Result<Json, Fault> {
        let all = vec![Call::List(vec![Call::Json(answers.into())]), Call::List(vec![Call::Json(fields.into())])];
        let made = self.calls(function, vec![all], move |machine, found, arguments| {
            let mut apply = found.clone();
            if let V::Class(_) = found {
                let named = options.iter().map(|(name, value)| (name.as_str().into(), V::from_json(value)));
                let filter = machine.call(found, Vec::new(), named.collect())?;
                apply = machine.attribute(&filter, &"apply".into())?;
            }
            let made = machine.call(&apply, arguments.iter().map(Call::value).collect(), Vec::new())?;
            let made = machine.iterate(&made)?;
            made.into_iter().next().ok_or_else(|| Fault::raised("IndexError", "the filter gives no answers"))
        });
        made.map_err(|(_, fault)| fault)?.pop().ok_or_else(|| Fault::raised("IndexError", "the filter gives nothing"))
    }

    fn calls(
        self: &Arc<Program>,
        function: &str,
        calls: Vec<Vec<Call>>,
        call: impl Fn(&mut Machine<'_>, &V, &[Call]) -> Result<V, Fault> + Send + 'static,
    ) -> Result<Vec<Json>, (usize, Fault)> {
        let function = function.to_string();
        let result = self.job(calls.len() * 4096, move |machine| {
            let found = machine.find(&function)?;
            let mut out = Vec::with_capacity(calls.len());
            for arguments in &calls {
                machine.refresh();
                match call(machine, &found, arguments).and_then(|value| value.to_json(0)) {
                    Ok(json) => out.push(json),
                    Err(fault) => return Ok(Err((out.len(), fault))),
                }
            }
            Ok(Ok(out))
        });
        result.map_err(|fault| (0, fault))?
    }

    fn job<T: Send + 'static>(
        self: &Arc<Program>,
        size: usize,
        work: impl FnOnce(&mut Machine<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let limits = bounded::Limits { memory: (1 << 30) + 16 * size, time: Duration::from_secs(1800) };
        let program = Arc::clone(self);
        let done = bounded::run(limits, move || work(&mut Machine::new(&program)));
        done.unwrap_or_else(|why| Err(Fault::unsupported(0, format!("the function was stopped: {}", why.chain()))))
    }
}

impl Machine<'_> {
    /// A function of the main file.
    fn find(&mut self, name: &str) -> Result<V, Fault> {
        let scope = self.module_scope(0);
        let found = scope.names.borrow().get(name).cloned();
        match found {
            Some(V::Missing(why)) => Err(Fault::missing(&why)),
            Some(found) => Ok(found),
            None => Err(Fault::unsupported(0, format!("the file defines no `{name}`"))),
        }
    }

    /// Looks for names that are missing, in a function and in all that it names.
    fn check(&mut self, value: &V, seen: &mut HashSet<usize>) -> Result<(), Fault> {
        match value {
            V::Missing(why) => Err(Fault::missing(why)),
            V::Partial(partial) => self.check(&partial.function, seen),
            V::Function(closure) => self.check_closure(closure, seen),
            V::Method(method) => self.check_closure(&method.1, seen),
            V::Class(class) if seen.insert(Rc::as_ptr(class) as usize) => {
                for base in &class.bases {
                    self.check(&V::Class(Rc::clone(base)), seen)?;
                }
                let attributes: Vec<V> = class.attributes.borrow().values().cloned().collect();
                attributes.iter().try_for_each(|value| self.check(value, seen))
            }
            V::Instance(instance) => self.check(&V::Class(Rc::clone(&instance.class)), seen),
            _ => Ok(()),
        }
    }

    fn check_closure(&mut self, closure: &Rc<Closure>, seen: &mut HashSet<usize>) -> Result<(), Fault> {
        if !seen.insert(Rc::as_ptr(closure) as usize) {
            return Ok(());
        }
        let mut names = Vec::new();
        let mut imports = Vec::new();
        walk(&closure.function.body, &mut |node| match node {
            Node::Expression(expression) => {
                if let ExprKind::Name(name) = &expression.kind {
                    names.push((name.clone(), expression.line));
                }
            }
            Node::Statement(statement) => match &statement.kind {
                StmtKind::Import(modules) => {
                    imports.extend(modules.iter().map(|(path, _)| (path.to_string(), statement.line)));
                }
                StmtKind::ImportFrom(dots, module, _) => {
                    let path = self.program.absolute(*dots, module, closure.scope.file);
                    imports.push((path, statement.line));
                }
                _ => {}
            },
        });
        let file = closure.scope.file;
        for (path, line) in imports {
            let known = self.program.module(&path, file).is_some()
                || super::natives::is_module(&path)
                || Program::is_package(&path);
            if !known {
                return Err(Fault::missing(&format!("the module `{path}` is not evaluated here")).at(line, file));
            }
        }
        for (name, line) in names {
            let mut at: Option<Rc<Scope>> = Some(Rc::clone(&closure.scope));
            while let Some(scope) = at {
                let found = scope.names.borrow().get(&name).cloned();
                if let Some(value) = found {
                    self.check(&value, seen).map_err(|fault| fault.at(line, file))?;
                    break;
                }
                at = scope.parent.clone();
            }
        }
        Ok(())
    }
}
