//! Calls, and attributes of values.

use super::Fault;
use super::evaluate::type_error;
use super::execute::{Flow, Machine};
use super::syntax::{Name, ParameterKind};
use super::value::{Class, Closure, Dict, Instance, Partial, Scope, V};
use super::{containers, natives, strings};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Arguments by their names.
pub(super) type Keywords = Vec<(Name, V)>;

impl Machine<'_> {
    pub(super) fn call(&mut self, function: &V, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        self.step(1)?;
        match function {
            V::Function(closure) => self.call_closure(closure, None, positional, keywords),
            V::Method(method) => self.call_closure(&method.1, Some(method.0.clone()), positional, keywords),
            V::Partial(partial) => {
                let mut all = partial.positional.clone();
                all.extend(positional);
                let mut named: Keywords = partial
                    .keywords
                    .iter()
                    .filter(|(name, _)| !keywords.iter().any(|(own, _)| own == name))
                    .cloned()
                    .collect();
                named.extend(keywords);
                self.call(&partial.function, all, named)
            }
            V::Native(name) => self.call_native(name, positional, keywords),
            V::Bound(bound) => self.call_bound(&bound.0, &bound.1, positional, keywords),
            V::Class(class) => self.instantiate(class, positional, keywords),
            V::Instance(instance) => match instance.class.find("__call__") {
                Some((V::Function(closure), _)) => {
                    self.call_closure(&closure, Some(function.clone()), positional, keywords)
                }
                _ => Err(type_error(&format!("'{}' object is not callable", instance.class.name))),
            },
            V::ExceptionClass(name) => {
                let message = positional.into_iter().next().unwrap_or(V::None);
                Ok(V::Exception(Rc::new((Name::clone(name), message))))
            }
            V::Missing(why) => Err(Fault::missing(why)),
            other => Err(type_error(&format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_closure(
        &mut self,
        closure: &Rc<Closure>,
        this: Option<V>,
        positional: Vec<V>,
        keywords: Keywords,
    ) -> Result<V, Fault> {
        self.enter()?;
        let mut scope = Scope::new(Some(Rc::clone(&closure.scope)), closure.scope.file);
        scope.function = Some(std::sync::Arc::clone(&closure.function));
        *scope.class.borrow_mut() = closure.class.borrow().clone();
        let this = if closure.is_static { None } else { this };
        *scope.this.borrow_mut() = this.clone();
        let positional = this.into_iter().chain(positional).collect();
        let scope = Rc::new(scope);
        bind_arguments(closure, positional, keywords, &scope)?;
        if closure.function.is_generator {
            self.yields.push(Vec::new());
        }
        let flow = self.block(&closure.function.body, &scope);
        let yielded = if closure.function.is_generator { self.yields.pop() } else { None };
        let result = match flow? {
            Flow::Return(value) => value,
            _ => V::None,
        };
        self.calls -= 1;
        *scope.this.borrow_mut() = None;
        self.retire(scope);
        Ok(yielded.map_or(result, V::iterator))
    }

    fn instantiate(&mut self, class: &Rc<Class>, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let instance =
            V::Instance(Rc::new(Instance { class: Rc::clone(class), attributes: RefCell::new(HashMap::new()) }));
        match class.find("__init__") {
            Some((V::Function(closure), _)) => {
                self.call_closure(&closure, Some(instance.clone()), positional, keywords)?;
            }
            _ if positional.is_empty() && keywords.is_empty() => {}
            _ => return Err(type_error(&format!("{}() takes no arguments", class.name))),
        }
        Ok(instance)
    }

    pub(super) fn attribute(&mut self, value: &V, name: &Name) -> Result<V, Fault> {
        let missing = |value: &V| {
            Fault::raised("AttributeError", format!("'{}' object has no attribute '{name}'", value.type_name()))
        };
        match value {
            V::Missing(_) => Ok(value.clone()),
            V::Module(scope) => {
                if &**name == "update" {
                    // `globals().update(…)`.
                    return Ok(V::Bound(Rc::new((value.clone(), Name::clone(name)))));
                }
                let found = scope.names.borrow().get(name).cloned();
                found.ok_or_else(|| missing(value))
            }
            V::Native(module) => Ok(natives::member(module, name)),
            V::Instance(instance) => {
                if let Some(found) = instance.attributes.borrow().get(name) {
                    return Ok(found.clone());
                }
                match instance.class.find(name) {
                    Some((V::Function(closure), _)) if !closure.is_static => {
                        Ok(V::Method(Rc::new((value.clone(), closure))))
                    }
                    Some((found, _)) => Ok(found),
                    None if &**name == "__class__" => Ok(V::Class(Rc::clone(&instance.class))),
                    None => Err(missing(value)),
                }
            }
            V::Class(class) => match class.find(name) {
                Some((found, _)) => Ok(found),
                None if &**name == "__name__" => Ok(V::str(&*class.name)),
                None => Err(missing(value)),
            },
            V::Super(above) => match above.0.iter().find_map(|class| class.find(name)) {
                Some((V::Function(closure), _)) => Ok(V::Method(Rc::new((above.1.clone(), closure)))),
                Some((found, _)) => Ok(found),
                // Of `object`.
                None if &**name == "__init__" => Ok(V::Native("object.__init__".into())),
                None => Err(missing(value)),
            },
            V::Function(closure) if &**name == "__name__" => Ok(V::str(&*closure.function.name)),
            V::Exception(exception) if &**name == "args" => Ok(V::tuple(vec![exception.1.clone()])),
            V::Path(path) => match &**name {
                "parent" => Ok(V::Path(Rc::new(path.parent().map(Into::into).unwrap_or_default()))),
                "name" => Ok(V::str(path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default())),
                "stem" => Ok(V::str(path.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default())),
                _ => Ok(V::Bound(Rc::new((value.clone(), Name::clone(name))))),
            },
            V::Dataset(rows) if &**name == "column_names" => {
                let first = rows.borrow().first().cloned();
                let Some(V::Dict(first)) = first else { return Ok(V::list(Vec::new())) };
                let keys = first.borrow().keys();
                Ok(V::list(keys))
            }
            V::Dataset(rows) if &**name == "num_rows" => Ok(V::Int(rows.borrow().len() as i64)),
            V::Matrix(matrix) if &**name == "shape" => {
                Ok(V::tuple(matrix.borrow().shape().iter().map(|&size| V::Int(size as i64)).collect()))
            }
            V::Array(items) if &**name == "size" => Ok(V::Int(items.len() as i64)),
            V::Array(items) if &**name == "shape" => Ok(V::tuple(vec![V::Int(items.len() as i64)])),
            V::ExceptionClass(class) if &**name == "__name__" => Ok(V::str(&**class)),
            V::Regex(regex) if &**name == "pattern" => Ok(V::str(regex.as_str())),
            V::None | V::Bool(_) | V::Int(_) | V::Float(_) if !matches!(&**name, "is_integer" | "item" | "astype") => {
                Err(missing(value))
            }
            _ if is_method(value, name) => Ok(V::Bound(Rc::new((value.clone(), Name::clone(name))))),
            _ => Err(missing(value)),
        }
    }

    fn call_bound(&mut self, value: &V, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        match value {
            V::Str(text) => self.string_method(text, name, positional, keywords),
            V::List(_) | V::Tuple(_) | V::Dict(_) | V::Set(_) | V::Iterator(_) => {
                self.container_method(value, name, positional, keywords)
            }
            V::Regex(regex) => {
                let regex = Rc::clone(regex);
                self.pattern_method(&regex, name, positional, keywords)
            }
            V::Match(found) => found.method(name, positional),
            V::Dataset(rows) => {
                let rows = Rc::clone(rows);
                self.dataset_method(&rows, name, positional, keywords)
            }
            V::Array(_) => {
                let mut all = vec![value.clone()];
                all.extend(positional);
                match name {
                    "flatten" | "copy" => Ok(value.clone()),
                    "astype" => {
                        let class = all.get(1).cloned().unwrap_or(V::None);
                        let items = self.iterate(value)?;
                        let items = items.into_iter().map(|item| self.call(&class, vec![item], Vec::new()));
                        Ok(V::Array(Rc::new(items.collect::<Result<_, _>>()?)))
                    }
                    "tolist" => Ok(V::list(self.iterate(value)?)),
                    _ => self.call_native(&format!("numpy.{name}"), all, keywords),
                }
            }
            V::Float(number) if name == "is_integer" => Ok(V::Bool(number.fract() == 0.0)),
            V::Int(_) | V::Float(_) | V::Bool(_) if name == "item" => Ok(value.clone()),
            // Of a number of numpy.
            V::Int(_) | V::Float(_) | V::Bool(_) if name == "astype" => {
                let mut arguments = Arguments::new(name, positional, keywords);
                let class = arguments.required("dtype")?;
                arguments.done()?;
                self.call(&class, vec![value.clone()], Vec::new())
            }
            V::Int(_) if name == "is_integer" => Ok(V::Bool(true)),
            V::Path(path) => {
                let path = Rc::clone(path);
                self.path_method(&path, name, positional)
            }
            V::Module(scope) if name == "update" => {
                let Some(V::Dict(more)) = positional.first() else {
                    return Err(type_error("update() takes a dictionary"));
                };
                for (key, value) in more.borrow().iter() {
                    scope.names.borrow_mut().insert(key.to_str()?.into(), value.clone());
                }
                Ok(V::None)
            }
            other => Err(Fault::unsupported(0, format!("`{name}` of a {}", other.type_name()))),
        }
    }
}

/// Whether a value of a type that is written here has such a method.
fn is_method(value: &V, name: &str) -> bool {
    match value {
        V::Str(_) => strings::METHODS.contains(&name),
        V::List(_) => containers::LIST.contains(&name),
        V::Tuple(_) => containers::TUPLE.contains(&name),
        V::Dict(_) => containers::DICT.contains(&name),
        V::Set(_) => containers::SET.contains(&name),
        _ => true,
    }
}

fn bind_arguments(closure: &Closure, positional: Vec<V>, keywords: Keywords, scope: &Rc<Scope>) -> Result<(), Fault> {
    let function = &closure.function;
    let wrong = |message: String| Err(type_error(&format!("{}() {message}", function.name)));
    let mut names = scope.names.borrow_mut();
    let mut positional = positional.into_iter();
    let mut keywords = keywords;
    let mut take = |name: &Name| {
        let at = keywords.iter().position(|(given, _)| given == name)?;
        Some(keywords.remove(at).1)
    };
    let mut rest = None;
    let mut all = None;
    for (parameter, default) in function.parameters.iter().zip(&closure.defaults) {
        let name = Name::clone(&parameter.name);
        let value = match parameter.kind {
            ParameterKind::Rest => {
                rest = Some(name);
                continue;
            }
            ParameterKind::Keywords => {
                all = Some(name);
                continue;
            }
            ParameterKind::Plain => match positional.next() {
                Some(value) => match take(&name) {
                    Some(_) => return wrong(format!("got multiple values for argument '{name}'")),
                    None => Some(value),
                },
                None => take(&name),
            },
            ParameterKind::KeywordOnly => take(&name),
        };
        match value.or_else(|| default.clone()) {
            Some(value) => names.insert(name, value),
            None => return wrong(format!("missing a required argument: '{name}'")),
        };
    }
    let left: Vec<V> = positional.collect();
    match rest {
        Some(name) => _ = names.insert(name, V::tuple(left)),
        None if left.is_empty() => {}
        None => return wrong("takes fewer positional arguments".into()),
    }
    match all {
        Some(name) => {
            let mut dict = Dict::default();
            for (name, value) in keywords {
                dict.insert(V::str(&*name), value)?;
            }
            names.insert(name, V::dict(dict));
        }
        None => {
            if let Some((name, _)) = keywords.first() {
                return wrong(format!("got an unexpected keyword argument '{name}'"));
            }
        }
    }
    Ok(())
}

/// The arguments of a function that is written here, by position or by name.
pub(super) struct Arguments<'a> {
    function: &'a str,
    positional: std::vec::IntoIter<V>,
    pub(super) keywords: Keywords,
}

impl<'a> Arguments<'a> {
    pub(super) fn new(function: &'a str, positional: Vec<V>, keywords: Keywords) -> Arguments<'a> {
        Arguments { function, positional: positional.into_iter(), keywords }
    }

    /// The next one, which may also be given by name.
    pub(super) fn optional(&mut self, name: &str) -> Option<V> {
        self.positional.next().or_else(|| self.keyword(name))
    }

    pub(super) fn keyword(&mut self, name: &str) -> Option<V> {
        let at = self.keywords.iter().position(|(given, _)| &**given == name)?;
        Some(self.keywords.remove(at).1)
    }

    pub(super) fn required(&mut self, name: &str) -> Result<V, Fault> {
        match self.optional(name) {
            Some(V::Missing(why)) => Err(Fault::missing(&why)),
            Some(value) => Ok(value),
            None => Err(type_error(&format!("{}() lacks the argument '{name}'", self.function))),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<Rc<str>, Fault> {
        match self.required(name)? {
            V::Str(text) => Ok(text),
            other => Err(type_error(&format!("{}() takes a text, not {}", self.function, other.type_name()))),
        }
    }

    pub(super) fn int(&mut self, name: &str) -> Result<i64, Fault> {
        let value = self.required(name)?;
        value
            .int()
            .ok_or_else(|| type_error(&format!("{}() takes a whole number, not {}", self.function, value.type_name())))
    }

    pub(super) fn rest(&mut self) -> Vec<V> {
        self.positional.by_ref().collect()
    }

    /// Refuses what nobody asked for: it would change the result.
    pub(super) fn done(mut self) -> Result<(), Fault> {
        if self.positional.next().is_some() {
            return Err(Fault::unsupported(0, format!("so many arguments of {}()", self.function)));
        }
        match self.keywords.first() {
            None => Ok(()),
            Some((name, _)) => Err(Fault::unsupported(0, format!("the argument `{name}` of {}()", self.function))),
        }
    }
}

pub(super) fn partial(mut positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
    if positional.is_empty() {
        return Err(type_error("partial() takes a function"));
    }
    let function = positional.remove(0);
    if let V::Missing(why) = &function {
        return Err(Fault::missing(why));
    }
    Ok(V::Partial(Rc::new(Partial { function, positional, keywords })))
}
