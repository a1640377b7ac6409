//! Functions and types that every program has, and the members of modules.

use super::Fault;
use super::calls::{Arguments, Keywords, partial};
use super::evaluate::type_error;
use super::execute::Machine;
use super::patterns;
use super::syntax::{Binary, Comparison};
use super::value::{Dict, V};
use super::{numbers, value::Key};
use std::rc::Rc;

const BUILTINS: &[&str] = &[
    "len",
    "range",
    "enumerate",
    "zip",
    "map",
    "filter",
    "sorted",
    "reversed",
    "sum",
    "min",
    "max",
    "abs",
    "round",
    "any",
    "all",
    "chr",
    "ord",
    "list",
    "tuple",
    "dict",
    "set",
    "frozenset",
    "str",
    "int",
    "float",
    "bool",
    "repr",
    "type",
    "isinstance",
    "issubclass",
    "hasattr",
    "getattr",
    "setattr",
    "callable",
    "next",
    "iter",
    "divmod",
    "pow",
    "format",
    "print",
    "object",
    "staticmethod",
    "property",
    "open",
    "globals",
];

const MODULES: &[&str] = &[
    "re",
    "json",
    "string",
    "math",
    "numpy",
    "functools",
    "collections",
    "itertools",
    "typing",
    "os",
    "pathlib",
    "random",
    "ast",
    "unicodedata",
    "copy",
    "datasets",
    "logging",
    "sys",
    "abc",
    "warnings",
    "__future__",
    "collections.abc",
    "os.path",
    "lm_eval",
    "lm_eval.api",
    "lm_eval.api.registry",
    "typing_extensions",
    "regex",
    "_sacrebleu",
];

pub(super) fn is_module(path: &str) -> bool {
    MODULES.contains(&path) || path.starts_with("typing.")
}

/// The class above one of the usual exceptions.
pub(super) fn exception_above(class: &str) -> Option<&'static str> {
    Some(match class {
        "KeyError" | "IndexError" => "LookupError",
        "ZeroDivisionError" | "OverflowError" => "ArithmeticError",
        "JSONDecodeError" | "UnicodeDecodeError" | "UnicodeEncodeError" => "ValueError",
        "ModuleNotFoundError" => "ImportError",
        "FileNotFoundError" | "FileExistsError" | "TimeoutError" => "OSError",
        "RecursionError" | "NotImplementedError" => "RuntimeError",
        _ => return None,
    })
}

/// A member of a module or a class that is written here.
pub(super) fn member(module: &str, name: &str) -> V {
    const LOWER: &str = "abcdefghijklmnopqrstuvwxyz";
    const UPPER: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
    // Other modules with the same members.
    let module = match module {
        "regex" => "re",
        "_sacrebleu" => "sacrebleu",
        _ => module,
    };
    match (module, name) {
        ("string", "punctuation") => V::str("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("string", "ascii_lowercase") => V::str(LOWER),
        ("string", "ascii_uppercase") => V::str(UPPER),
        ("string", "ascii_letters") => V::str(format!("{LOWER}{UPPER}")),
        ("string", "digits") => V::str("0123456789"),
        ("string", "whitespace") => V::str(" \t\n\r\u{b}\u{c}"),
        ("math" | "numpy", "pi") => V::Float(std::f64::consts::PI),
        ("math" | "numpy", "inf") => V::Float(f64::INFINITY),
        ("math" | "numpy", "nan") => V::Float(f64::NAN),
        ("sys", "maxunicode") => V::Int(0x10_ffff),
        ("re", flag) if patterns::flag(flag).is_some() => V::Int(patterns::flag(flag).unwrap_or(0)),
        ("json", "JSONDecodeError") => V::ExceptionClass("JSONDecodeError".into()),
        ("re", "error") => V::ExceptionClass("re.error".into()),
        ("typing", "TYPE_CHECKING") => V::Bool(false),
        ("os", "environ") => V::dict(Dict::default()),
        ("collections", "OrderedDict") => V::Native("dict".into()),
        _ => V::Native(format!("{module}.{name}").into()),
    }
}

impl Machine<'_> {
    pub(super) fn builtin(&mut self, name: &str) -> Option<V> {
        if BUILTINS.contains(&name) {
            return Some(V::Native(name.into()));
        }
        let is_exception = name.ends_with("Error") || matches!(name, "Exception" | "BaseException" | "StopIteration");
        if is_exception {
            return Some(V::ExceptionClass(name.into()));
        }
        match name {
            "__name__" => Some(V::str("lm_eval.tasks")),
            "Ellipsis" => Some(V::None),
            _ => None,
        }
    }

    pub(super) fn call_native(&mut self, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        if let Some((module, function)) = name.split_once('.') {
            return match module {
                "re" => self.re_function(function, positional, keywords),
                "logging" | "warnings" if function == "getLogger" => Ok(V::Native("logging.logger".into())),
                "logging" | "warnings" => Ok(V::None),
                "functools" => match function {
                    "partial" => partial(positional, keywords),
                    // What they keep is computed again.
                    "cache" | "lru_cache" | "wraps" => match positional.into_iter().next() {
                        Some(function @ V::Function(_)) if name != "functools.wraps" => Ok(function),
                        _ => Ok(V::Native("functools.identity".into())),
                    },
                    "identity" => Arguments::new(name, positional, keywords).required("function"),
                    "reduce" => self.reduce(positional),
                    _ => Err(unknown(name)),
                },
                "lm_eval" if function.starts_with("api.registry.register_") => {
                    Ok(V::Native("functools.identity".into()))
                }
                "str" | "list" | "dict" | "set" | "tuple" if function != "maketrans" && function != "fromkeys" => {
                    // A method that is called with its object.
                    let mut positional = positional;
                    if positional.is_empty() {
                        return Err(type_error(&format!("{name}() needs an argument")));
                    }
                    let this = positional.remove(0);
                    let method = self.attribute(&this, &function.into())?;
                    self.call(&method, positional, keywords)
                }
                _ => self.module_function(name, positional, keywords),
            };
        }
        let mut arguments = Arguments::new(name, positional, keywords);
        let result = match name {
            "len" => {
                let value = arguments.required("object")?;
                let length = match &value {
                    V::Str(text) => text.chars().count(),
                    V::Bytes(text) => text.len(),
                    V::List(items) => items.borrow().len(),
                    V::Tuple(items) => items.len(),
                    V::Dict(dict) | V::Set(dict) => dict.borrow().len(),
                    V::Array(items) => items.len(),
                    V::Matrix(matrix) => matrix.borrow().shape()[0],
                    V::Dataset(rows) => rows.borrow().len(),
                    other => return Err(type_error(&format!("object of type '{}' has no len()", other.type_name()))),
                };
                V::Int(length as i64)
            }
            "range" => self.range(&mut arguments)?,
            "enumerate" => {
                let items = arguments.required("iterable")?;
                let start = arguments.optional("start").and_then(|start| start.int()).unwrap_or(0);
                let items = self.iterate(&items)?;
                V::iterator((start..).zip(items).map(|(i, item)| V::tuple(vec![V::Int(i), item])))
            }
            "zip" => {
                let strict = arguments.keyword("strict").map_or(Ok(false), |strict| strict.truth())?;
                let lists = arguments.rest().iter().map(|one| self.iterate(one)).collect::<Result<Vec<_>, _>>()?;
                let length = lists.iter().map(Vec::len).min().unwrap_or(0);
                if strict && lists.iter().any(|list| list.len() != length) {
                    return Err(Fault::raised("ValueError", "zip() arguments have different lengths"));
                }
                V::iterator((0..length).map(|i| V::tuple(lists.iter().map(|list| list[i].clone()).collect())))
            }
            "map" => {
                let function = arguments.required("function")?;
                let lists = arguments.rest().iter().map(|one| self.iterate(one)).collect::<Result<Vec<_>, _>>()?;
                let length = lists.iter().map(Vec::len).min().unwrap_or(0);
                let mut out = Vec::with_capacity(length);
                for i in 0..length {
                    out.push(self.call(&function, lists.iter().map(|list| list[i].clone()).collect(), Vec::new())?);
                }
                V::iterator(out)
            }
            "filter" => {
                let function = arguments.required("function")?;
                let items = arguments.required("iterable")?;
                let mut out = Vec::new();
                for item in self.iterate(&items)? {
                    let keep = match &function {
                        V::None => item.truth()?,
                        function => self.call(function, vec![item.clone()], Vec::new())?.truth()?,
                    };
                    if keep {
                        out.push(item);
                    }
                }
                V::iterator(out)
            }
            "sorted" => {
                let items = arguments.required("iterable")?;
                let items = self.iterate(&items)?;
                V::list(self.sorted(items, &mut arguments)?)
            }
            "reversed" => {
                let items = arguments.required("sequence")?;
                let items = self.iterate(&items)?;
                V::iterator(items.into_iter().rev())
            }
            "sum" => {
                let items = arguments.required("iterable")?;
                let start = arguments.optional("start").unwrap_or(V::Int(0));
                let items = self.iterate(&items)?;
                numbers::sum(&items, start, self)?
            }
            "min" | "max" => self.extreme(name, &mut arguments)?,
            "abs" => match arguments.required("number")? {
                V::Float(number) => V::Float(number.abs()),
                V::Array(items) => {
                    let items = items.iter().map(|item| self.call_native("abs", vec![item.clone()], Vec::new()));
                    V::Array(Rc::new(items.collect::<Result<_, _>>()?))
                }
                other => V::Int(other.int().map(i64::wrapping_abs).ok_or_else(|| type_error("abs() takes a number"))?),
            },
            "round" => {
                let value = arguments.required("number")?;
                let digits = arguments.optional("ndigits").filter(|digits| !matches!(digits, V::None));
                match (value.int(), value.number(), digits) {
                    (Some(number), ..) => V::Int(number),
                    (None, Some(number), Some(digits)) => V::Float(numbers::round(number, digits.int().unwrap_or(0))),
                    (None, Some(number), None) if number.is_finite() => V::Int(number.round_ties_even() as i64),
                    _ => return Err(type_error("round() takes a number")),
                }
            }
            "any" | "all" => {
                let items = arguments.required("iterable")?;
                let mut holds = name == "all";
                for item in self.iterate(&items)? {
                    if item.truth()? != (name == "all") {
                        holds = !holds;
                        break;
                    }
                }
                V::Bool(holds)
            }
            "chr" => {
                let code = arguments.int("i")?;
                let c = u32::try_from(code).ok().and_then(char::from_u32);
                V::str(c.ok_or_else(|| Fault::raised("ValueError", "chr() arg not in range"))?.to_string())
            }
            "ord" => {
                let text = arguments.text("c")?;
                let mut characters = text.chars();
                match (characters.next(), characters.next()) {
                    (Some(c), None) => V::Int(u32::from(c).into()),
                    _ => return Err(type_error("ord() expected a character")),
                }
            }
            "list" | "tuple" | "set" | "frozenset" => {
                let items = match arguments.optional("iterable") {
                    Some(items) => self.iterate(&items)?,
                    None => Vec::new(),
                };
                match name {
                    "list" => V::list(items),
                    "tuple" => V::tuple(items),
                    _ => V::set(Dict::of_keys(items)?),
                }
            }
            "dict" => {
                let mut dict = Dict::default();
                if let Some(first) = arguments.optional("mapping") {
                    for (key, value) in self.pairs(&first)? {
                        dict.insert(key, value)?;
                    }
                }
                for (name, value) in arguments.keywords() {
                    dict.insert(V::str(&*name), value)?;
                }
                V::dict(dict)
            }
            "str" => match arguments.optional("object") {
                None => V::str(""),
                Some(value) => V::str(self.formatted(&value, None, "")?),
            },
            "repr" => V::str(arguments.required("object")?.to_repr(0)?),
            "format" => {
                let value = arguments.required("value")?;
                let spec = arguments.optional("format_spec").map_or(Ok(String::new()), |spec| spec.to_str())?;
                V::str(self.formatted(&value, None, &spec)?)
            }
            "int" => match arguments.optional("x") {
                None => V::Int(0),
                Some(value) => to_int(&value, arguments.optional("base"))?,
            },
            "float" => match arguments.optional("x") {
                None => V::Float(0.0),
                Some(value) => to_float(&value)?,
            },
            "bool" => V::Bool(arguments.optional("x").map_or(Ok(false), |value| value.truth())?),
            "type" => match arguments.required("object")? {
                V::Instance(instance) => V::Class(Rc::clone(&instance.class)),
                V::Exception(exception) => V::ExceptionClass(exception.0.clone()),
                other => V::Native(other.type_name().into()),
            },
            "isinstance" | "issubclass" => {
                let value = arguments.required("object")?;
                let class = arguments.required("class")?;
                V::Bool(is_instance(&value, &class)?)
            }
            "hasattr" | "getattr" => {
                let object = arguments.required("object")?;
                let attribute = arguments.text("name")?;
                let default = arguments.optional("default");
                match (self.attribute(&object, &(&*attribute).into()), name) {
                    (Ok(V::Missing(why)), _) => return Err(Fault::missing(&why)),
                    (Ok(_), "hasattr") => V::Bool(true),
                    (Ok(found), _) => found,
                    (Err(fault), "hasattr") if !fault.is_unsupported() => V::Bool(false),
                    (Err(fault), _) => default.filter(|_| !fault.is_unsupported()).ok_or(fault)?,
                }
            }
            "callable" => V::Bool(matches!(
                arguments.required("object")?,
                V::Function(_) | V::Method(_) | V::Partial(_) | V::Native(_) | V::Bound(_) | V::Class(_)
            )),
            "next" => {
                let items = arguments.required("iterator")?;
                let default = arguments.optional("default");
                let V::Iterator(items) = &items else { return Err(type_error("next() takes an iterator")) };
                let next = items.borrow_mut().pop_front();
                next.or(default).ok_or_else(|| Fault::raised("StopIteration", ""))?
            }
            "iter" => {
                let items = arguments.required("iterable")?;
                if let V::Iterator(_) = items { items } else { V::iterator(self.iterate(&items)?) }
            }
            "divmod" => {
                let (a, b) = (arguments.required("x")?, arguments.required("y")?);
                V::tuple(vec![self.binary(Binary::FloorDiv, &a, &b)?, self.binary(Binary::Mod, &a, &b)?])
            }
            "pow" => {
                let (a, b) = (arguments.required("base")?, arguments.required("exp")?);
                self.binary(Binary::Pow, &a, &b)?
            }
            "print" => return Ok(V::None),
            "staticmethod" | "property" => arguments.required("function")?,
            "open" => {
                let path = arguments.required("file")?.to_str()?;
                return Ok(V::Path(Rc::new(path.into())));
            }
            _ => return Err(unknown(name)),
        };
        arguments.done()?;
        Ok(result)
    }

    fn range(&mut self, arguments: &mut Arguments<'_>) -> Result<V, Fault> {
        let first = arguments.int("stop")?;
        let (start, end) = match arguments.optional("end") {
            None => (0, first),
            Some(end) => (first, end.int().ok_or_else(|| type_error("range() takes whole numbers"))?),
        };
        let step = arguments.optional("step").map_or(Some(1), |step| step.int()).filter(|&step| step != 0);
        let step = step.ok_or_else(|| Fault::raised("ValueError", "range() arg 3 must not be zero"))?;
        let span = if step > 0 { end.saturating_sub(start) } else { start.saturating_sub(end) };
        let count = u64::try_from(span).unwrap_or(0).div_ceil(step.unsigned_abs());
        if count > 20_000_000 {
            return Err(Fault::unsupported(0, "a range of more than 20 million numbers"));
        }
        self.step(count)?;
        Ok(V::list((0..count as i64).map(|i| V::Int(start + i * step)).collect()))
    }

    fn extreme(&mut self, name: &str, arguments: &mut Arguments<'_>) -> Result<V, Fault> {
        let key = arguments.keyword("key").filter(|key| !matches!(key, V::None));
        let default = arguments.keyword("default");
        let mut items = arguments.rest();
        if items.len() == 1 {
            items = self.iterate(&items[0])?;
        }
        let mut best: Option<(V, V)> = None;
        for item in items {
            let by = match &key {
                Some(key) => self.call(key, vec![item.clone()], Vec::new())?,
                None => item.clone(),
            };
            let wins = match &best {
                None => true,
                Some((_, other)) => {
                    let comparison = if name == "max" { Comparison::Greater } else { Comparison::Less };
                    self.compare(comparison, &by, other)?.truth()?
                }
            };
            if wins {
                best = Some((item, by));
            }
        }
        let empty = || Fault::raised("ValueError", format!("{name}() iterable argument is empty"));
        best.map(|(item, _)| item).or(default).ok_or_else(empty)
    }

    fn reduce(&mut self, positional: Vec<V>) -> Result<V, Fault> {
        let mut arguments = Arguments::new("reduce", positional, Vec::new());
        let function = arguments.required("function")?;
        let items = arguments.required("iterable")?;
        let mut items = self.iterate(&items)?.into_iter();
        let empty = || type_error("reduce() of empty iterable with no initial value");
        let mut value = match arguments.optional("initial") {
            Some(initial) => initial,
            None => items.next().ok_or_else(empty)?,
        };
        for item in items {
            value = self.call(&function, vec![value, item], Vec::new())?;
        }
        Ok(value)
    }
}

impl Arguments<'_> {
    /// What is left of the arguments by name.
    pub(super) fn keywords(&mut self) -> Keywords {
        std::mem::take(&mut self.keywords)
    }
}

pub(super) fn unknown(name: &str) -> Fault {
    Fault::unsupported(0, format!("`{name}` is not evaluated here"))
}

fn to_int(value: &V, base: Option<V>) -> Result<V, Fault> {
    let invalid = |text: &str| Fault::raised("ValueError", format!("invalid literal for int() with base 10: '{text}'"));
    match (value, value.int(), value.number()) {
        (_, Some(number), _) => Ok(V::Int(number)),
        (V::Float(number), ..) if !number.is_finite() => {
            Err(Fault::raised("ValueError", "cannot convert float NaN or infinity to integer"))
        }
        (V::Float(number), ..) if number.abs() < 9.2e18 => Ok(V::Int(number.trunc() as i64)),
        (V::Str(text), ..) => {
            let digits = crate::python::strip(text);
            let base = base.and_then(|base| base.int()).unwrap_or(10);
            let unsigned = digits.trim_start_matches(['+', '-']);
            let plain = !unsigned.is_empty()
                && unsigned.len() + 1 >= digits.len()
                && !unsigned.starts_with('_')
                && !unsigned.ends_with('_')
                && !unsigned.contains("__");
            let parsed = i64::from_str_radix(&digits.replace('_', ""), u32::try_from(base).unwrap_or(10).clamp(2, 36));
            match parsed {
                Ok(number) if plain => Ok(V::Int(number)),
                _ if plain && unsigned.bytes().all(|byte| byte.is_ascii_digit()) => {
                    Err(Fault::unsupported(0, "whole numbers of more than 64 bits"))
                }
                _ => Err(invalid(text)),
            }
        }
        (V::Missing(why), ..) => Err(Fault::missing(why)),
        _ => Err(type_error(&format!("int() takes a number or a text, not '{}'", value.type_name()))),
    }
}

fn to_float(value: &V) -> Result<V, Fault> {
    if let Some(number) = value.number() {
        return Ok(V::Float(number));
    }
    let V::Str(text) = value else {
        return Err(type_error(&format!("float() takes a number or a text, not '{}'", value.type_name())));
    };
    let digits = crate::python::strip(text).replace('_', "");
    match digits.parse::<f64>() {
        Ok(number) => Ok(V::Float(number)),
        Err(_) => Err(Fault::raised("ValueError", format!("could not convert string to float: '{text}'"))),
    }
}

fn is_instance(value: &V, class: &V) -> Result<bool, Fault> {
    Ok(match class {
        V::Tuple(classes) => {
            for class in classes.iter() {
                if is_instance(value, class)? {
                    return Ok(true);
                }
            }
            false
        }
        V::Class(class) => match value {
            V::Instance(instance) => instance.class.descends_from(class),
            V::Class(other) => other.descends_from(class),
            _ => false,
        },
        V::ExceptionClass(class) => matches!(value, V::Exception(exception) if exception.0 == *class),
        V::Native(name) => {
            let name = name.rsplit('.').next().unwrap_or(name);
            let own = value.type_name();
            match name {
                "object" => true,
                "int" => matches!(own, "int" | "bool"),
                "dict" | "Mapping" | "Dict" => matches!(value, V::Dict(_)),
                "List" => own == "list",
                "integer" | "floating" | "str_" | "bool_" => false,
                "Iterable" => matches!(
                    value,
                    V::List(_) | V::Tuple(_) | V::Dict(_) | V::Set(_) | V::Str(_) | V::Array(_) | V::Iterator(_)
                ),
                "Sequence" => matches!(value, V::List(_) | V::Tuple(_) | V::Str(_)),
                "Callable" => matches!(value, V::Function(_) | V::Method(_) | V::Partial(_) | V::Native(_)),
                "frozenset" => false,
                _ => name == own,
            }
        }
        V::Missing(why) => return Err(Fault::missing(why)),
        other => return Err(type_error(&format!("isinstance() takes a type, not {}", other.type_name()))),
    })
}

/// How often each item occurs.
pub(super) fn counted(items: Vec<V>) -> Result<Dict, Fault> {
    let mut dict = Dict { is_counter: true, ..Dict::default() };
    for item in items {
        let key: Key = item.key()?;
        let count = dict.get(&key).and_then(V::int).unwrap_or(0);
        dict.insert(item, V::Int(count + 1))?;
    }
    Ok(dict)
}
