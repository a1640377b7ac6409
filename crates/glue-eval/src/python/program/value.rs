//! What a program works on.

use super::Fault;
use super::matrix::Matrix;
use super::syntax::{Function, Name};
use fancy_regex::Regex;
use glue_lm::jinja;
use serde_json::{Map, Value as Json};
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

#[derive(Clone)]
pub(super) enum V {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Rc<str>),
    /// A text in UTF-8.
    Bytes(Rc<str>),
    List(Rc<RefCell<Vec<V>>>),
    Tuple(Rc<[V]>),
    Dict(Rc<RefCell<Dict>>),
    Set(Rc<RefCell<Dict>>),
    /// Of numpy.
    Array(Rc<Vec<V>>),
    /// Of numpy, and filled after it was made.
    Matrix(Rc<RefCell<Matrix>>),
    /// What is left of an iterator.
    Iterator(Rc<RefCell<VecDeque<V>>>),
    /// A function, class or module that is written here, by its full name.
    Native(Name),
    /// A method of a value that is written here.
    Bound(Rc<(V, Name)>),
    Function(Rc<Closure>),
    /// A function of a class with its first argument.
    Method(Rc<(V, Rc<Closure>)>),
    Partial(Rc<Partial>),
    Class(Rc<Class>),
    Instance(Rc<Instance>),
    /// The classes above one, seen from an instance.
    Super(Rc<(Vec<Rc<Class>>, V)>),
    Module(Rc<Scope>),
    Regex(Rc<Regex>),
    Match(Rc<Match>),
    Dataset(Rc<RefCell<Vec<V>>>),
    /// A class of exceptions, and one of them.
    ExceptionClass(Name),
    Exception(Rc<(Name, V)>),
    Path(Rc<PathBuf>),
    /// What could not be had, and why: an error where it is used.
    Missing(Rc<str>),
}

pub(super) struct Closure {
    pub(super) function: Arc<Function>,
    pub(super) defaults: Vec<Option<V>>,
    pub(super) scope: Rc<Scope>,
    /// The class in whose body it is.
    pub(super) class: RefCell<Option<Rc<Class>>>,
    pub(super) is_static: bool,
}

pub(super) struct Partial {
    pub(super) function: V,
    pub(super) positional: Vec<V>,
    pub(super) keywords: Vec<(Name, V)>,
}

pub(super) struct Class {
    pub(super) name: Name,
    pub(super) bases: Vec<Rc<Class>>,
    pub(super) attributes: RefCell<HashMap<Name, V>>,
}

pub(super) struct Instance {
    pub(super) class: Rc<Class>,
    pub(super) attributes: RefCell<HashMap<Name, V>>,
}

/// Names and what they stand for; in a function those of what is around it are seen too.
pub(super) struct Scope {
    pub(super) names: RefCell<HashMap<Name, V>>,
    pub(super) parent: Option<Rc<Scope>>,
    /// The file of the module.
    pub(super) file: usize,
    /// The function that runs in it.
    pub(super) function: Option<Arc<Function>>,
    pub(super) is_class: bool,
    /// The class of the method that runs in it, and the object that it is of.
    pub(super) class: RefCell<Option<Rc<Class>>>,
    pub(super) this: RefCell<Option<V>>,
}

pub(super) struct Match {
    /// Text, start and end of each group, in characters.
    pub(super) groups: Vec<Option<(Rc<str>, usize, usize)>>,
    pub(super) names: Vec<(String, usize)>,
}

impl Class {
    /// The value of an attribute, of this class or of one above.
    pub(super) fn find(self: &Rc<Class>, name: &str) -> Option<(V, Rc<Class>)> {
        if let Some(value) = self.attributes.borrow().get(name) {
            return Some((value.clone(), Rc::clone(self)));
        }
        self.bases.iter().find_map(|base| base.find(name))
    }

    pub(super) fn descends_from(self: &Rc<Class>, other: &Rc<Class>) -> bool {
        Rc::ptr_eq(self, other) || self.bases.iter().any(|base| base.descends_from(other))
    }
}

/// A value as the key of a dictionary: equal values are equal keys.
#[derive(PartialEq, Eq, Hash, Clone)]
pub(super) enum Key {
    None,
    Int(i64),
    Float(u64),
    Str(Rc<str>),
    Tuple(Vec<Key>),
    Identity(usize),
}

/// A dictionary, or a set: in the order of insertion.
#[derive(Default, Clone)]
pub(super) struct Dict {
    pub(super) index: HashMap<Key, usize>,
    pub(super) entries: Vec<Option<(V, V)>>,
    /// What makes a value for a key that is missing, and whether keys are counted.
    pub(super) default: Option<V>,
    pub(super) is_counter: bool,
    /// Which row of the data it was at first, counted from 0.
    pub(super) origin: Option<usize>,
}

impl Dict {
    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn get(&self, key: &Key) -> Option<&V> {
        self.index.get(key).and_then(|&at| self.entries[at].as_ref()).map(|(_, value)| value)
    }

    pub(super) fn contains(&self, key: &Key) -> bool {
        self.index.contains_key(key)
    }

    pub(super) fn insert(&mut self, key: V, value: V) -> Result<(), Fault> {
        let hash = key.key()?;
        match self.index.get(&hash) {
            Some(&at) => {
                if let Some((_, old)) = &mut self.entries[at] {
                    *old = value;
                }
            }
            None => {
                self.index.insert(hash, self.entries.len());
                self.entries.push(Some((key, value)));
            }
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &Key) -> Option<V> {
        let at = self.index.remove(key)?;
        let removed = self.entries[at].take().map(|(_, value)| value);
        if self.entries.len() > 32 && self.entries.len() > 2 * self.index.len() {
            self.entries.retain(Option::is_some);
            let keys = self.entries.iter().flatten().map(|(key, _)| key.key().unwrap_or(Key::None));
            self.index = keys.zip(0..).collect();
        }
        removed
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = (&V, &V)> {
        self.entries.iter().flatten().map(|(key, value)| (key, value))
    }

    pub(super) fn keys(&self) -> Vec<V> {
        self.iter().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn of_keys(keys: impl IntoIterator<Item = V>) -> Result<Dict, Fault> {
        let mut dict = Dict::default();
        keys.into_iter().try_for_each(|key| dict.insert(key, V::None))?;
        Ok(dict)
    }
}

impl V {
    pub(super) fn str(text: impl Into<Rc<str>>) -> V {
        V::Str(text.into())
    }

    pub(super) fn list(items: Vec<V>) -> V {
        V::List(Rc::new(RefCell::new(items)))
    }

    pub(super) fn tuple(items: Vec<V>) -> V {
        V::Tuple(items.into())
    }

    pub(super) fn dict(dict: Dict) -> V {
        V::Dict(Rc::new(RefCell::new(dict)))
    }

    pub(super) fn set(dict: Dict) -> V {
        V::Set(Rc::new(RefCell::new(dict)))
    }

    pub(super) fn iterator(items: impl IntoIterator<Item = V>) -> V {
        V::Iterator(Rc::new(RefCell::new(items.into_iter().collect())))
    }

    pub(super) fn from_json(json: &Json) -> V {
        match json {
            Json::Null => V::None,
            Json::Bool(flag) => V::Bool(*flag),
            Json::Number(number) => match number.as_i64() {
                Some(number) => V::Int(number),
                None => V::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => V::str(text.as_str()),
            Json::Array(items) => V::list(items.iter().map(V::from_json).collect()),
            Json::Object(map) => V::from_map(map),
        }
    }

    pub(super) fn from_map(map: &Map<String, Json>) -> V {
        let mut dict = Dict::default();
        for (key, value) in map {
            // A text is always a key.
            let _ = dict.insert(V::str(key.as_str()), V::from_json(value));
        }
        V::dict(dict)
    }

    /// As data. Tuples, arrays and sets become lists; numbers that are not finite the texts `NaN`, `Infinity` and
    /// `-Infinity`.
    pub(super) fn to_json(&self, depth: usize) -> Result<Json, Fault> {
        if depth > 64 {
            return Err(Fault::raised("RecursionError", "a value is nested too deep"));
        }
        let list = |items: &[V]| items.iter().map(|item| item.to_json(depth + 1)).collect::<Result<Vec<_>, _>>();
        Ok(match self {
            V::None => Json::Null,
            V::Bool(flag) => Json::Bool(*flag),
            V::Int(number) => Json::from(*number),
            V::Float(number) => match serde_json::Number::from_f64(*number) {
                Some(number) => Json::Number(number),
                None if number.is_nan() => Json::from("NaN"),
                None => Json::from(if *number > 0.0 { "Infinity" } else { "-Infinity" }),
            },
            V::Str(text) => Json::from(&**text),
            V::List(items) => Json::Array(list(&items.borrow())?),
            V::Tuple(items) => Json::Array(list(items)?),
            V::Array(items) => Json::Array(list(items)?),
            V::Matrix(matrix) => Json::Array(list(&matrix.borrow().items())?),
            V::Iterator(items) => Json::Array(list(&items.borrow().iter().cloned().collect::<Vec<_>>())?),
            V::Set(items) => Json::Array(list(&items.borrow().keys())?),
            V::Dataset(rows) => Json::Array(list(&rows.borrow())?),
            V::Dict(dict) => {
                let dict = dict.borrow();
                let pairs = dict.iter().map(|(key, value)| {
                    let key = if let V::Str(text) = key { text.to_string() } else { key.to_str()? };
                    Ok((key, value.to_json(depth + 1)?))
                });
                Json::Object(pairs.collect::<Result<Map<_, _>, Fault>>()?)
            }
            V::Missing(why) => return Err(Fault::missing(why)),
            other => return Err(Fault::unsupported(0, format!("a {} as a result", other.type_name()))),
        })
    }

    pub(super) fn type_name(&self) -> &str {
        match self {
            V::None => "NoneType",
            V::Bool(_) => "bool",
            V::Int(_) => "int",
            V::Float(_) => "float",
            V::Str(_) => "str",
            V::Bytes(_) => "bytes",
            V::List(_) => "list",
            V::Tuple(_) => "tuple",
            V::Dict(dict) if dict.borrow().is_counter => "Counter",
            V::Dict(dict) if dict.borrow().default.is_some() => "defaultdict",
            V::Dict(_) => "dict",
            V::Set(_) => "set",
            V::Array(_) | V::Matrix(_) => "ndarray",
            V::Iterator(_) => "generator",
            V::Native(name) => name,
            V::Bound(_) | V::Method(_) => "method",
            V::Function(_) => "function",
            V::Partial(_) => "partial",
            V::Class(_) | V::ExceptionClass(_) => "type",
            V::Instance(instance) => &instance.class.name,
            V::Super(_) => "super",
            V::Module(_) => "module",
            V::Regex(_) => "Pattern",
            V::Match(_) => "Match",
            V::Dataset(_) => "Dataset",
            V::Exception(exception) => &exception.0,
            V::Path(_) => "PosixPath",
            V::Missing(_) => "missing",
        }
    }

    pub(super) fn truth(&self) -> Result<bool, Fault> {
        Ok(match self {
            V::None => false,
            V::Bool(flag) => *flag,
            V::Int(number) => *number != 0,
            V::Float(number) => *number != 0.0,
            V::Str(text) | V::Bytes(text) => !text.is_empty(),
            V::List(items) => !items.borrow().is_empty(),
            V::Tuple(items) => !items.is_empty(),
            V::Dict(dict) | V::Set(dict) => dict.borrow().len() > 0,
            V::Array(items) if items.len() == 1 => items[0].truth()?,
            V::Array(_) | V::Matrix(_) => {
                return Err(Fault::raised("ValueError", "the truth value of an array is ambiguous"));
            }
            V::Dataset(rows) => !rows.borrow().is_empty(),
            V::Missing(why) => return Err(Fault::missing(why)),
            _ => true,
        })
    }

    pub(super) fn key(&self) -> Result<Key, Fault> {
        Ok(match self {
            V::None => Key::None,
            V::Bool(flag) => Key::Int((*flag).into()),
            V::Int(number) => Key::Int(*number),
            V::Float(number) if number.fract() == 0.0 && number.abs() < 9e15 => Key::Int(*number as i64),
            V::Float(number) => Key::Float(number.to_bits()),
            V::Str(text) => Key::Str(Rc::clone(text)),
            V::Tuple(items) => Key::Tuple(items.iter().map(V::key).collect::<Result<_, _>>()?),
            V::Function(function) => Key::Identity(Rc::as_ptr(function) as usize),
            V::Instance(instance) => Key::Identity(Rc::as_ptr(instance) as usize),
            V::Class(class) => Key::Identity(Rc::as_ptr(class) as usize),
            V::Native(name) => Key::Tuple(vec![Key::None, Key::Str((&**name).into())]),
            V::Missing(why) => return Err(Fault::missing(why)),
            other => {
                return Err(Fault::raised("TypeError", format!("unhashable type: '{}'", other.type_name())));
            }
        })
    }

    /// A number; a truth value is one.
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            V::Bool(flag) => Some(f64::from(u8::from(*flag))),
            V::Int(number) => Some(*number as f64),
            V::Float(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn int(&self) -> Option<i64> {
        match self {
            V::Bool(flag) => Some((*flag).into()),
            V::Int(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn equal(&self, other: &V) -> Result<bool, Fault> {
        self.equal_within(other, 0)
    }

    fn equal_within(&self, other: &V, depth: usize) -> Result<bool, Fault> {
        if depth > 200 {
            return Err(Fault::raised("RecursionError", "values are nested too deep to be compared"));
        }
        let all = |a: &[V], b: &[V]| -> Result<bool, Fault> {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(b) {
                if !a.equal_within(b, depth + 1)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if let (Some(a), Some(b)) = (self.int(), other.int()) {
            return Ok(a == b);
        }
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a == b);
        }
        match (self, other) {
            (V::Missing(why), _) | (_, V::Missing(why)) => Err(Fault::missing(why)),
            (V::None, V::None) => Ok(true),
            (V::Str(a), V::Str(b)) | (V::Bytes(a), V::Bytes(b)) => Ok(a == b),
            (V::List(a), V::List(b)) => Ok(Rc::ptr_eq(a, b) || all(&a.borrow(), &b.borrow())?),
            (V::Tuple(a), V::Tuple(b)) => all(a, b),
            (V::Array(a), V::Array(b)) => all(a, b),
            (V::Matrix(_), _) | (_, V::Matrix(_)) => Err(Fault::unsupported(0, "comparing arrays made by numpy.zeros")),
            (V::Set(a), V::Set(b)) => {
                let (a, b) = (a.borrow(), b.borrow());
                Ok(a.len() == b.len() && a.index.keys().all(|key| b.contains(key)))
            }
            (V::Dict(a), V::Dict(b)) => {
                if Rc::ptr_eq(a, b) {
                    return Ok(true);
                }
                let (a, b) = (a.borrow(), b.borrow());
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (key, value) in a.iter() {
                    match b.get(&key.key()?) {
                        Some(other) if value.equal_within(other, depth + 1)? => {}
                        _ => return Ok(false),
                    }
                }
                Ok(true)
            }
            (V::Native(a), V::Native(b)) | (V::ExceptionClass(a), V::ExceptionClass(b)) => Ok(a == b),
            (V::Class(a), V::Class(b)) => Ok(Rc::ptr_eq(a, b)),
            (V::Instance(a), V::Instance(b)) => Ok(Rc::ptr_eq(a, b)),
            (V::Function(a), V::Function(b)) => Ok(Rc::ptr_eq(a, b)),
            (V::Path(a), V::Path(b)) => Ok(a == b),
            _ => Ok(false),
        }
    }

    /// `None` where one of them is NaN.
    pub(super) fn compare(&self, other: &V) -> Result<Option<Ordering>, Fault> {
        if let (Some(a), Some(b)) = (self.int(), other.int()) {
            return Ok(Some(a.cmp(&b)));
        }
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.partial_cmp(&b));
        }
        let all = |a: &[V], b: &[V]| -> Result<Option<Ordering>, Fault> {
            for (a, b) in a.iter().zip(b) {
                if !a.equal(b)? {
                    return a.compare(b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        };
        match (self, other) {
            (V::Str(a), V::Str(b)) => Ok(Some(a.cmp(b))),
            (V::List(a), V::List(b)) => all(&a.borrow(), &b.borrow()),
            (V::Tuple(a), V::Tuple(b)) => all(a, b),
            (V::Missing(why), _) | (_, V::Missing(why)) => Err(Fault::missing(why)),
            _ => Err(Fault::raised(
                "TypeError",
                format!("'{}' and '{}' have no order", self.type_name(), other.type_name()),
            )),
        }
    }

    /// Whether both are the same object. Equal numbers and texts count as the same.
    pub(super) fn is(&self, other: &V) -> bool {
        match (self, other) {
            (V::None, V::None) => true,
            (V::Bool(a), V::Bool(b)) => a == b,
            (V::Int(a), V::Int(b)) => a == b,
            (V::Str(a), V::Str(b)) => a == b,
            (V::List(a), V::List(b)) => Rc::ptr_eq(a, b),
            (V::Dict(a), V::Dict(b)) | (V::Set(a), V::Set(b)) => Rc::ptr_eq(a, b),
            (V::Tuple(a), V::Tuple(b)) => Rc::ptr_eq(a, b),
            (V::Native(a), V::Native(b)) | (V::ExceptionClass(a), V::ExceptionClass(b)) => a == b,
            (V::Class(a), V::Class(b)) => Rc::ptr_eq(a, b),
            (V::Instance(a), V::Instance(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// `str(value)`.
    pub(super) fn to_str(&self) -> Result<String, Fault> {
        match self {
            V::Str(text) => Ok(text.to_string()),
            V::Exception(exception) => match &exception.1 {
                V::None => Ok(String::new()),
                message => message.to_str(),
            },
            V::Path(path) => Ok(path.to_string_lossy().into_owned()),
            other => other.to_repr(0),
        }
    }

    /// `repr(value)`.
    pub(super) fn to_repr(&self, depth: usize) -> Result<String, Fault> {
        if depth > 64 {
            return Err(Fault::raised("RecursionError", "a value is nested too deep"));
        }
        let list = |items: &[V]| -> Result<String, Fault> {
            Ok(items.iter().map(|item| item.to_repr(depth + 1)).collect::<Result<Vec<_>, _>>()?.join(", "))
        };
        Ok(match self {
            V::Float(number) => float_repr(*number),
            V::None | V::Bool(_) | V::Int(_) | V::Str(_) => jinja::repr(&self.to_json(depth)?),
            V::List(items) => format!("[{}]", list(&items.borrow())?),
            V::Tuple(items) if items.len() == 1 => format!("({},)", items[0].to_repr(depth + 1)?),
            V::Tuple(items) => format!("({})", list(items)?),
            V::Dict(dict) => {
                let dict = dict.borrow();
                let pairs = dict
                    .iter()
                    .map(|(key, value)| Ok(format!("{}: {}", key.to_repr(depth + 1)?, value.to_repr(depth + 1)?)));
                let pairs = pairs.collect::<Result<Vec<_>, Fault>>()?.join(", ");
                if dict.is_counter { format!("Counter({{{pairs}}})") } else { format!("{{{pairs}}}") }
            }
            V::Set(items) if items.borrow().len() == 0 => "set()".into(),
            V::Set(items) => format!("{{{}}}", list(&items.borrow().keys())?),
            V::Missing(why) => return Err(Fault::missing(why)),
            other => return Err(Fault::unsupported(0, format!("a {} as text", other.type_name()))),
        })
    }
}

/// A number as Python shows it.
pub(super) fn float_repr(number: f64) -> String {
    match serde_json::Number::from_f64(number) {
        Some(number) => jinja::str(&Json::Number(number)),
        None if number.is_nan() => "nan".into(),
        None => if number > 0.0 { "inf" } else { "-inf" }.into(),
    }
}
