//! Statements, and the limits of what a program may do.

use super::Fault;
use super::job::Program;
use super::syntax::*;
use super::value::{Class, Scope, V};
use crate::python::random::Random;
use fancy_regex::Regex;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Steps of one call from outside, each some ten nanoseconds.
const MAX_STEPS: u64 = 200_000_000;

/// Length of one text, in bytes.
const MAX_TEXT: usize = 64 << 20;

/// Calls in each other.
const MAX_CALLS: usize = 200;

/// How a block ended.
pub(super) enum Flow {
    Next,
    Break,
    Continue,
    Return(V),
}

/// A program that runs.
pub(super) struct Machine<'p> {
    pub(super) program: &'p Program,
    modules: HashMap<usize, Rc<Scope>>,
    steps: u64,
    pub(super) calls: usize,
    /// What the generators that run have given.
    pub(super) yields: Vec<Vec<V>>,
    pub(super) regexes: HashMap<(Rc<str>, i64), Rc<Regex>>,
    /// The class above each class of exceptions that the program defines.
    pub(super) exceptions: HashMap<Name, Name>,
    /// What handlers are for, innermost last.
    handled: Vec<Fault>,
    /// Scopes that functions hold, which may hold these functions.
    scopes: Vec<Rc<Scope>>,
    classes: Vec<Rc<Class>>,
    pub(super) random: Option<Random>,
}

impl<'p> Machine<'p> {
    pub(super) fn new(program: &'p Program) -> Machine<'p> {
        Machine {
            program,
            modules: HashMap::new(),
            steps: 0,
            calls: 0,
            yields: Vec::new(),
            regexes: HashMap::new(),
            exceptions: HashMap::new(),
            handled: Vec::new(),
            scopes: Vec::new(),
            classes: Vec::new(),
            random: None,
        }
    }

    /// Counts steps, and refuses those beyond the limit.
    pub(super) fn step(&mut self, steps: u64) -> Result<(), Fault> {
        self.steps += steps;
        if self.steps > MAX_STEPS {
            return Err(Fault::unsupported(0, format!("the function did not end within {MAX_STEPS} steps")));
        }
        Ok(())
    }

    /// Counts from zero again, for the next item.
    pub(super) fn refresh(&mut self) {
        self.steps = 0;
    }

    /// Counts a text of some length.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), Fault> {
        if bytes > MAX_TEXT {
            return Err(Fault::unsupported(
                0,
                format!("the function makes a text of more than {} MiB", MAX_TEXT >> 20),
            ));
        }
        self.step(bytes as u64 / 16)
    }

    pub(super) fn enter(&mut self) -> Result<(), Fault> {
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return Err(Fault::raised("RecursionError", "maximum recursion depth exceeded"));
        }
        Ok(())
    }

    /// Takes a scope whose work is done. What still holds it may be what it holds.
    pub(super) fn retire(&mut self, scope: Rc<Scope>) {
        if Rc::strong_count(&scope) > 1 {
            self.scopes.push(scope);
        }
    }

    /// The names of a module, whose statements are run the first time.
    pub(super) fn module_scope(&mut self, file: usize) -> Rc<Scope> {
        if let Some(scope) = self.modules.get(&file) {
            return Rc::clone(scope);
        }
        let scope = Rc::new(Scope::new(None, file));
        self.modules.insert(file, Rc::clone(&scope));
        for statement in self.program.body(file) {
            if let Err(fault) = self.execute(statement, &scope) {
                // It may be that nobody needs what the statement was to define.
                let why: Rc<str> = fault.to_string().into();
                let mut names = Vec::new();
                bound_names(statement, &mut names);
                for name in names {
                    scope.names.borrow_mut().entry(name).or_insert_with(|| V::Missing(Rc::clone(&why)));
                }
            }
        }
        scope
    }

    pub(super) fn block(&mut self, body: &[Stmt], scope: &Rc<Scope>) -> Result<Flow, Fault> {
        for statement in body {
            match self.execute(statement, scope)? {
                Flow::Next => {}
                other => return Ok(other),
            }
        }
        Ok(Flow::Next)
    }

    fn execute(&mut self, statement: &Stmt, scope: &Rc<Scope>) -> Result<Flow, Fault> {
        self.step(1)?;
        self.execute_kind(statement, scope).map_err(|fault| fault.at(statement.line, scope.file))
    }

    fn execute_kind(&mut self, statement: &Stmt, scope: &Rc<Scope>) -> Result<Flow, Fault> {
        match &statement.kind {
            StmtKind::Expr(value) => {
                self.evaluate(value, scope)?;
            }
            StmtKind::Assign(targets, value) => {
                let value = self.evaluate(value, scope)?;
                for target in targets {
                    self.assign(target, value.clone(), scope)?;
                }
            }
            StmtKind::Augmented(target, operator, value) => {
                let old = self.evaluate(target, scope)?;
                let value = self.evaluate(value, scope)?;
                let new = match (&old, operator, &value) {
                    (V::List(items), Binary::Add, more) => {
                        let more = self.iterate(more)?;
                        items.borrow_mut().extend(more);
                        old.clone()
                    }
                    _ => self.binary(*operator, &old, &value)?,
                };
                self.assign(target, new, scope)?;
            }
            StmtKind::Return(value) => {
                let value = value.as_ref().map_or(Ok(V::None), |value| self.evaluate(value, scope))?;
                return Ok(Flow::Return(value));
            }
            StmtKind::If(test, body, otherwise) => {
                let holds = self.evaluate(test, scope)?.truth()?;
                return self.block(if holds { body } else { otherwise }, scope);
            }
            StmtKind::For(target, iterable, body, otherwise) => {
                let iterable = self.evaluate(iterable, scope)?;
                for item in self.iterate(&iterable)? {
                    self.assign(target, item, scope)?;
                    match self.block(body, scope)? {
                        Flow::Break => return Ok(Flow::Next),
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                }
                return self.block(otherwise, scope);
            }
            StmtKind::While(test, body, otherwise) => {
                while self.evaluate(test, scope)?.truth()? {
                    match self.block(body, scope)? {
                        Flow::Break => return Ok(Flow::Next),
                        Flow::Return(value) => return Ok(Flow::Return(value)),
                        Flow::Next | Flow::Continue => {}
                    }
                }
                return self.block(otherwise, scope);
            }
            StmtKind::Try { body, handlers, otherwise, finally } => {
                let flow = self.attempt(body, handlers, otherwise, scope);
                match self.block(finally, scope)? {
                    Flow::Next => {}
                    other => return Ok(other),
                }
                return flow;
            }
            StmtKind::With(items, body) => {
                for (context, target) in items {
                    let value = self.evaluate(context, scope)?;
                    if let Some(target) = target {
                        self.assign(target, value, scope)?;
                    }
                }
                return self.block(body, scope);
            }
            StmtKind::Raise(None) => {
                let again = self.handled.last().cloned();
                return Err(again.unwrap_or_else(|| Fault::raised("RuntimeError", "No active exception to reraise")));
            }
            StmtKind::Raise(Some(value)) => return Err(self.exception(value, scope)?),
            StmtKind::Assert(test, message) => {
                if !self.evaluate(test, scope)?.truth()? {
                    let message =
                        message.as_ref().map(|message| self.evaluate(message, scope)?.to_str()).transpose()?;
                    return Err(Fault::raised("AssertionError", message.unwrap_or_default()));
                }
            }
            StmtKind::Function(function, decorators) => {
                let decorators =
                    decorators.iter().map(|one| self.evaluate(one, scope)).collect::<Result<Vec<_>, _>>()?;
                let is_static =
                    decorators.iter().any(|one| matches!(one, V::Native(name) if &**name == "staticmethod"));
                let mut value = V::Function(Rc::new(self.closure(function, scope, is_static)?));
                for decorator in decorators.iter().rev() {
                    value = self.call(decorator, vec![value], Vec::new())?;
                }
                self.bind(&function.name, value, scope);
            }
            StmtKind::Class { name, bases, body, decorators } => {
                let value = self.class(name, bases, body, scope)?;
                let mut value = value;
                for decorator in decorators.iter().rev() {
                    let decorator = self.evaluate(decorator, scope)?;
                    value = self.call(&decorator, vec![value], Vec::new())?;
                }
                self.bind(name, value, scope);
            }
            StmtKind::Import(modules) => {
                for (path, bound) in modules {
                    let (name, path) = match bound {
                        Some(name) => (Name::clone(name), Name::clone(path)),
                        None => {
                            let first = path.split('.').next().unwrap_or_default();
                            (Name::from(first), Name::from(first))
                        }
                    };
                    let value = self.import(&path, scope.file);
                    self.bind(&name, value, scope);
                }
            }
            StmtKind::ImportFrom(dots, module, names) => self.import_from(*dots, module, names, scope)?,
            StmtKind::Delete(targets) => targets.iter().try_for_each(|target| self.delete(target, scope))?,
            StmtKind::Global | StmtKind::Pass => {}
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn attempt(
        &mut self,
        body: &[Stmt],
        handlers: &[Handler],
        otherwise: &[Stmt],
        scope: &Rc<Scope>,
    ) -> Result<Flow, Fault> {
        let calls = self.calls;
        let fault = match self.block(body, scope) {
            Ok(Flow::Next) => return self.block(otherwise, scope),
            Ok(flow) => return Ok(flow),
            Err(fault) => fault,
        };
        self.calls = calls;
        let Some(raised) = fault.class.clone() else { return Err(fault) };
        for handler in handlers {
            let catches = match &handler.class {
                None => true,
                Some(class) => {
                    let class = self.evaluate(class, scope)?;
                    let classes = if let V::Tuple(classes) = &class { classes.to_vec() } else { vec![class] };
                    classes.iter().any(|class| self.catches(class, &raised))
                }
            };
            if !catches {
                continue;
            }
            if let Some(name) = &handler.name {
                let exception = (Name::from(raised.as_str()), V::str(fault.message.as_str()));
                self.bind(name, V::Exception(Rc::new(exception)), scope);
            }
            self.handled.push(fault);
            let flow = self.block(&handler.body, scope);
            self.handled.pop();
            return flow;
        }
        Err(fault)
    }

    fn catches(&self, class: &V, raised: &str) -> bool {
        let wanted = match class {
            V::ExceptionClass(name) => name,
            V::Missing(_) => return false,
            V::Native(name) => name,
            _ => return false,
        };
        let wanted = wanted.rsplit('.').next().unwrap_or(wanted);
        let mut class = raised.to_string();
        loop {
            if class == wanted || matches!(wanted, "Exception" | "BaseException") {
                return true;
            }
            let above = self.exceptions.get(class.as_str()).map(|name| name.to_string());
            let above = above.or_else(|| super::natives::exception_above(&class).map(str::to_string));
            match above {
                Some(above) => class = above,
                None => return false,
            }
        }
    }

    fn exception(&mut self, value: &Expr, scope: &Rc<Scope>) -> Result<Fault, Fault> {
        match self.evaluate(value, scope)? {
            V::ExceptionClass(name) => Ok(Fault::raised(&name, "")),
            V::Exception(exception) => {
                let message = if let V::None = exception.1 { String::new() } else { exception.1.to_str()? };
                Ok(Fault::raised(&exception.0, message))
            }
            V::Missing(why) => Ok(Fault::missing(&why)),
            other => Err(Fault::unsupported(value.line, format!("raising a {}", other.type_name()))),
        }
    }

    fn class(&mut self, name: &Name, bases: &[Argument], body: &[Stmt], scope: &Rc<Scope>) -> Result<V, Fault> {
        let mut above = Vec::new();
        for base in bases {
            let Argument::Positional(base) = base else { continue };
            match self.evaluate(base, scope)? {
                V::Class(class) => above.push(class),
                V::ExceptionClass(base) => {
                    self.exceptions.insert(Name::clone(name), base);
                    return Ok(V::ExceptionClass(Name::clone(name)));
                }
                V::Native(base) if matches!(&*base, "object" | "abc.ABC") => {}
                V::Missing(why) => return Err(Fault::missing(&why)),
                other => {
                    return Err(Fault::unsupported(0, format!("a class that descends from `{}`", other.type_name())));
                }
            }
        }
        let mut own = Scope::new(Some(Rc::clone(scope)), scope.file);
        own.is_class = true;
        let own = Rc::new(own);
        self.block(body, &own)?;
        let attributes = own.names.borrow_mut().drain().collect();
        let class = Rc::new(Class { name: Name::clone(name), bases: above, attributes: RefCell::new(attributes) });
        for value in class.attributes.borrow().values() {
            if let V::Function(closure) = value {
                *closure.class.borrow_mut() = Some(Rc::clone(&class));
            }
        }
        self.classes.push(Rc::clone(&class));
        Ok(V::Class(class))
    }

    fn import(&mut self, path: &str, from: usize) -> V {
        if let Some(file) = self.program.module(path, from) {
            return V::Module(self.module_scope(file));
        }
        if super::natives::is_module(path) || Program::is_package(path) {
            return V::Native(path.into());
        }
        V::Missing(format!("the module `{path}` is not evaluated here").into())
    }

    fn import_from(
        &mut self,
        dots: usize,
        module: &str,
        names: &[(Name, Option<Name>)],
        scope: &Rc<Scope>,
    ) -> Result<(), Fault> {
        let path = self.program.absolute(dots, module, scope.file);
        let found = self.import(&path, scope.file);
        for (name, bound) in names {
            if &**name == "*" {
                let V::Module(found) = &found else {
                    return Err(Fault::unsupported(0, format!("`from {path} import *`")));
                };
                let all: Vec<(Name, V)> =
                    found.names.borrow().iter().map(|(name, value)| (Name::clone(name), value.clone())).collect();
                all.into_iter().for_each(|(name, value)| self.bind(&name, value, scope));
                continue;
            }
            let value = match &found {
                V::Module(found) => found.names.borrow().get(name).cloned(),
                // What a package has is modules.
                V::Native(package) if Program::is_package(package) => None,
                V::Native(_) => Some(self.attribute(&found, name)?),
                _ => None,
            };
            let value = match value {
                Some(value) => value,
                None => match self.program.module(&format!("{path}.{name}"), scope.file) {
                    Some(file) => V::Module(self.module_scope(file)),
                    None => V::Missing(format!("`{name}` of the module `{path}` is not evaluated here").into()),
                },
            };
            self.bind(bound.as_ref().unwrap_or(name), value, scope);
        }
        Ok(())
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        // Functions and the scopes that hold them hold each other.
        for scope in self.scopes.drain(..).chain(self.modules.drain().map(|(_, scope)| scope)) {
            scope.names.borrow_mut().clear();
            *scope.this.borrow_mut() = None;
            *scope.class.borrow_mut() = None;
        }
        for class in self.classes.drain(..) {
            let attributes = std::mem::take(&mut *class.attributes.borrow_mut());
            for value in attributes.values() {
                if let V::Function(closure) = value {
                    *closure.class.borrow_mut() = None;
                }
            }
        }
    }
}

impl Fault {
    /// The same with where it happened, if that is not known yet.
    pub(super) fn at(mut self, line: usize, file: usize) -> Fault {
        if self.file.is_none() {
            (self.line, self.file) = (line, Some(file));
        }
        self
    }
}

/// The names that a statement of a module would define.
fn bound_names(statement: &Stmt, out: &mut Vec<Name>) {
    fn target(expr: &Expr, out: &mut Vec<Name>) {
        match &expr.kind {
            ExprKind::Name(name) => out.push(Name::clone(name)),
            ExprKind::Tuple(items) | ExprKind::List(items) => items.iter().for_each(|item| target(item, out)),
            _ => {}
        }
    }
    let mut all = |body: &[Stmt]| body.iter().for_each(|statement| bound_names(statement, out));
    match &statement.kind {
        StmtKind::Assign(targets, _) => targets.iter().for_each(|one| target(one, out)),
        StmtKind::Augmented(one, ..) => target(one, out),
        StmtKind::Function(function, _) => out.push(Name::clone(&function.name)),
        StmtKind::Class { name, .. } => out.push(Name::clone(name)),
        StmtKind::Import(modules) => {
            let name = |(path, bound): &(Name, Option<Name>)| {
                bound.clone().unwrap_or_else(|| path.split('.').next().unwrap_or_default().into())
            };
            out.extend(modules.iter().map(name));
        }
        StmtKind::ImportFrom(_, _, names) => {
            out.extend(names.iter().map(|(name, bound)| bound.clone().unwrap_or_else(|| Name::clone(name))));
        }
        StmtKind::If(_, body, otherwise) | StmtKind::While(_, body, otherwise) => {
            all(body);
            all(otherwise);
        }
        StmtKind::For(_, _, body, _) | StmtKind::With(_, body) => all(body),
        StmtKind::Try { body, handlers, otherwise, finally } => {
            all(body);
            handlers.iter().for_each(|handler| all(&handler.body));
            all(otherwise);
            all(finally);
        }
        _ => {}
    }
}
