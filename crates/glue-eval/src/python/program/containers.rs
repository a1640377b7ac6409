//! Methods of lists, tuples, dictionaries and sets.

use super::Fault;
use super::calls::{Arguments, Keywords};
use super::evaluate::type_error;
use super::execute::Machine;
use super::syntax::Binary;
use super::value::{Dict, V};

pub(super) const LIST: &[&str] =
    &["append", "extend", "insert", "pop", "remove", "index", "count", "sort", "reverse", "copy", "clear"];
pub(super) const TUPLE: &[&str] = &["index", "count"];
pub(super) const DICT: &[&str] = &[
    "get",
    "items",
    "keys",
    "values",
    "update",
    "pop",
    "setdefault",
    "copy",
    "clear",
    "most_common",
    "elements",
    "total",
];
pub(super) const SET: &[&str] = &[
    "add",
    "update",
    "union",
    "intersection",
    "difference",
    "symmetric_difference",
    "issubset",
    "issuperset",
    "remove",
    "discard",
    "copy",
    "isdisjoint",
    "pop",
    "clear",
];

impl Machine<'_> {
    pub(super) fn container_method(
        &mut self,
        value: &V,
        name: &str,
        positional: Vec<V>,
        keywords: Keywords,
    ) -> Result<V, Fault> {
        match value {
            V::List(_) => self.list_method(value, name, positional, keywords),
            V::Dict(_) => self.dict_method(value, name, positional, keywords),
            V::Set(_) => self.set_method(value, name, positional),
            V::Tuple(items) => {
                let items = V::list(items.to_vec());
                self.list_method(&items, name, positional, keywords)
            }
            other => Err(Fault::unsupported(0, format!("`{name}` of a {}", other.type_name()))),
        }
    }

    fn list_method(&mut self, value: &V, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let V::List(items) = value else { return Err(type_error("expected a list")) };
        let mut arguments = Arguments::new(name, positional, keywords);
        match name {
            "append" => items.borrow_mut().push(arguments.required("object")?),
            "extend" => {
                let more = arguments.required("iterable")?;
                let more = self.iterate(&more)?;
                items.borrow_mut().extend(more);
            }
            "insert" => {
                let at = arguments.int("index")?;
                let length = items.borrow().len() as i64;
                let at = (if at < 0 { at + length } else { at }).clamp(0, length);
                items.borrow_mut().insert(at as usize, arguments.required("object")?);
            }
            "pop" => {
                let length = items.borrow().len() as i64;
                let at = arguments.optional("index").map_or(Some(-1), |at| at.int());
                let at = at.map(|at| if at < 0 { at + length } else { at }).filter(|at| (0..length).contains(at));
                let at = at.ok_or_else(|| Fault::raised("IndexError", "pop index out of range"))?;
                return Ok(items.borrow_mut().remove(at as usize));
            }
            "remove" | "index" => {
                let wanted = arguments.required("value")?;
                let start = arguments.optional("start").and_then(|start| start.int()).unwrap_or(0);
                let mut found = None;
                for (i, item) in items.borrow().iter().enumerate().skip(usize::try_from(start).unwrap_or(0)) {
                    self.step(1)?;
                    if item.equal(&wanted)? {
                        found = Some(i);
                        break;
                    }
                }
                let at = found.ok_or_else(|| Fault::raised("ValueError", "the value is not in the list"))?;
                if name == "index" {
                    arguments.done()?;
                    return Ok(V::Int(at as i64));
                }
                items.borrow_mut().remove(at);
            }
            "count" => {
                let wanted = arguments.required("value")?;
                let mut count = 0;
                for item in items.borrow().iter() {
                    count += i64::from(item.equal(&wanted)?);
                }
                return Ok(V::Int(count));
            }
            "sort" => {
                let sorted = self.sorted(items.borrow().clone(), &mut arguments)?;
                *items.borrow_mut() = sorted;
            }
            "reverse" => items.borrow_mut().reverse(),
            "copy" => return Ok(V::list(items.borrow().clone())),
            "clear" => items.borrow_mut().clear(),
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a list"))),
        }
        arguments.done()?;
        Ok(V::None)
    }

    /// Sorted by `key`, `reverse` if that is asked for; equal items stay in their order.
    pub(super) fn sorted(&mut self, items: Vec<V>, arguments: &mut Arguments<'_>) -> Result<Vec<V>, Fault> {
        let key = arguments.keyword("key").filter(|key| !matches!(key, V::None));
        let reverse = arguments.keyword("reverse").map_or(Ok(false), |reverse| reverse.truth())?;
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            let by = match &key {
                Some(key) => self.call(key, vec![item.clone()], Vec::new())?,
                None => item.clone(),
            };
            keyed.push((by, item));
        }
        self.step(keyed.len() as u64 * 8)?;
        let mut fault = None;
        keyed.sort_by(|(a, _), (b, _)| {
            let order = match if reverse { b.compare(a) } else { a.compare(b) } {
                Ok(order) => order,
                Err(error) => {
                    fault.get_or_insert(error);
                    None
                }
            };
            order.unwrap_or(std::cmp::Ordering::Equal)
        });
        fault.map_or(Ok(()), Err)?;
        Ok(keyed.into_iter().map(|(_, item)| item).collect())
    }

    fn dict_method(&mut self, value: &V, name: &str, positional: Vec<V>, keywords: Keywords) -> Result<V, Fault> {
        let V::Dict(dict) = value else { return Err(type_error("expected a dictionary")) };
        let pairs = |dict: &Dict| dict.iter().map(|(k, v)| V::tuple(vec![k.clone(), v.clone()])).collect::<Vec<_>>();
        if name == "update" {
            let mut more = Vec::new();
            for value in &positional {
                more.extend(self.pairs(value)?);
            }
            more.extend(keywords.into_iter().map(|(name, value)| (V::str(&*name), value)));
            let is_counter = dict.borrow().is_counter;
            for (key, value) in more {
                let value = match (is_counter, dict.borrow().get(&key.key()?)) {
                    (true, Some(old)) => self.binary(Binary::Add, old, &value)?,
                    _ => value,
                };
                dict.borrow_mut().insert(key, value)?;
            }
            return Ok(V::None);
        }
        let mut arguments = Arguments::new(name, positional, keywords);
        let result = match name {
            "get" | "pop" | "setdefault" => {
                let key = arguments.required("key")?;
                let default = arguments.optional("default");
                let hash = key.key()?;
                let found = dict.borrow().get(&hash).cloned();
                match (found, name) {
                    (Some(found), "pop") => {
                        dict.borrow_mut().remove(&hash);
                        found
                    }
                    (Some(found), _) => found,
                    (None, "get") => default.unwrap_or(V::None),
                    (None, "setdefault") => {
                        let default = default.unwrap_or(V::None);
                        dict.borrow_mut().insert(key, default.clone())?;
                        default
                    }
                    (None, _) => {
                        default.ok_or_else(|| Fault::raised("KeyError", key.to_repr(0).unwrap_or_default()))?
                    }
                }
            }
            "items" => V::list(pairs(&dict.borrow())),
            "keys" => V::list(dict.borrow().keys()),
            "values" => V::list(dict.borrow().iter().map(|(_, value)| value.clone()).collect()),
            "copy" => V::dict(dict.borrow().clone()),
            "clear" => {
                *dict.borrow_mut() = Dict::default();
                V::None
            }
            "total" if dict.borrow().is_counter => {
                let counts: Vec<V> = dict.borrow().iter().map(|(_, value)| value.clone()).collect();
                super::numbers::sum(&counts, V::Int(0), self)?
            }
            "elements" if dict.borrow().is_counter => {
                let mut all = Vec::new();
                for (key, count) in dict.borrow().iter() {
                    let count = usize::try_from(count.int().unwrap_or(0)).unwrap_or(0);
                    self.step(count as u64)?;
                    all.extend(std::iter::repeat_n(key.clone(), count));
                }
                V::iterator(all)
            }
            "most_common" if dict.borrow().is_counter => {
                let mut sorted: Vec<(V, V)> = dict.borrow().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
                sorted.sort_by_key(|(_, count)| std::cmp::Reverse(count.int().unwrap_or(0)));
                let n = arguments.optional("n").and_then(|n| n.int()).map_or(sorted.len(), |n| n.max(0) as usize);
                V::list(sorted.into_iter().take(n).map(|(key, count)| V::tuple(vec![key, count])).collect())
            }
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a dictionary"))),
        };
        arguments.done()?;
        Ok(result)
    }

    /// The pairs of a dictionary or of a list of pairs.
    pub(super) fn pairs(&mut self, value: &V) -> Result<Vec<(V, V)>, Fault> {
        if let V::Dict(dict) = value {
            return Ok(dict.borrow().iter().map(|(key, value)| (key.clone(), value.clone())).collect());
        }
        let mut pairs = Vec::new();
        for item in self.iterate(value)? {
            let pair = self.iterate(&item)?;
            let [key, value] = <[V; 2]>::try_from(pair).map_err(|_| Fault::raised("ValueError", "expected pairs"))?;
            pairs.push((key, value));
        }
        Ok(pairs)
    }

    fn set_method(&mut self, value: &V, name: &str, positional: Vec<V>) -> Result<V, Fault> {
        let V::Set(set) = value else { return Err(type_error("expected a set")) };
        let mut others = Vec::new();
        if matches!(name, "add" | "remove" | "discard") {
            let mut arguments = Arguments::new(name, positional, Vec::new());
            let item = arguments.required("object")?;
            arguments.done()?;
            if name == "add" {
                set.borrow_mut().insert(item, V::None)?;
                return Ok(V::None);
            }
            let key = item.key()?;
            let removed = set.borrow_mut().remove(&key).is_some();
            if !removed && name == "remove" {
                return Err(Fault::raised("KeyError", item.to_repr(0)?));
            }
            return Ok(V::None);
        }
        for other in &positional {
            others.push(V::set(Dict::of_keys(self.iterate(other)?)?));
        }
        let operator = match name {
            "union" | "update" => Binary::Or,
            "intersection" => Binary::And,
            "difference" => Binary::Sub,
            "symmetric_difference" => Binary::Xor,
            "copy" => return Ok(V::set(set.borrow().clone())),
            "clear" => {
                *set.borrow_mut() = Dict::default();
                return Ok(V::None);
            }
            "issubset" | "issuperset" | "isdisjoint" => {
                let (Some(V::Set(other)), 1) = (others.first(), others.len()) else {
                    return Err(type_error(&format!("{name}() takes one iterable")));
                };
                let (a, b) = (set.borrow(), other.borrow());
                let (a, b) = if name == "issuperset" { (&*b, &*a) } else { (&*a, &*b) };
                let mut keys = a.iter().map(|(key, _)| key.key().is_ok_and(|key| b.contains(&key)));
                return Ok(V::Bool(if name == "isdisjoint" {
                    !keys.any(|within| within)
                } else {
                    keys.all(|within| within)
                }));
            }
            _ => return Err(Fault::unsupported(0, format!("`{name}` of a set"))),
        };
        let mut result = V::set(set.borrow().clone());
        for other in &others {
            result = self.binary(operator, &result, other)?;
        }
        if let ("update", V::Set(result)) = (name, &result) {
            let result = result.borrow().clone();
            *set.borrow_mut() = result;
            return Ok(V::None);
        }
        Ok(result)
    }
}
