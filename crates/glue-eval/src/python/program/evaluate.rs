//! Expressions.

use super::Fault;
use super::execute::Machine;
use super::numbers;
use super::syntax::*;
use super::value::{Closure, Dict, Scope, V};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

impl Machine<'_> {
    pub(super) fn evaluate(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<V, Fault> {
        self.step(1)?;
        let value = self.evaluate_kind(expr, scope);
        value.map_err(|fault| fault.at(expr.line, scope.file))
    }

    fn evaluate_kind(&mut self, expr: &Expr, scope: &Rc<Scope>) -> Result<V, Fault> {
        match &expr.kind {
            ExprKind::Name(name) => self.look_up(name, scope),
            ExprKind::None => Ok(V::None),
            ExprKind::Bool(flag) => Ok(V::Bool(*flag)),
            ExprKind::Int(number) => Ok(V::Int(*number)),
            ExprKind::Float(number) => Ok(V::Float(*number)),
            ExprKind::Str(text) => Ok(V::str(&**text)),
            ExprKind::Format(pieces) => self.format_pieces(pieces, scope).map(V::str),
            ExprKind::List(items) => self.items(items, scope).map(V::list),
            ExprKind::Tuple(items) => self.items(items, scope).map(V::tuple),
            ExprKind::Set(items) => Ok(V::set(Dict::of_keys(self.items(items, scope)?)?)),
            ExprKind::Dict(pairs) => self.dictionary(pairs, scope),
            ExprKind::Attribute(value, name) => {
                let value = self.evaluate(value, scope)?;
                self.attribute(&value, name)
            }
            ExprKind::Index(value, index) => {
                let value = self.evaluate(value, scope)?;
                if let ExprKind::Slice(parts) = &index.kind {
                    let mut bounds = [None, None, None];
                    for (bound, part) in bounds.iter_mut().zip(parts) {
                        let Some(part) = part else { continue };
                        *bound = match self.evaluate(part, scope)? {
                            V::None => None,
                            other => Some(other.int().ok_or_else(|| type_error("slices take whole numbers"))?),
                        };
                    }
                    return self.slice(&value, bounds);
                }
                let index = self.evaluate(index, scope)?;
                self.index(&value, &index)
            }
            ExprKind::Slice(_) => Err(Fault::unsupported(expr.line, "a slice beside an index")),
            ExprKind::Call(function, arguments) => self.call_expression(function, arguments, scope),
            ExprKind::Unary(operator, value) => {
                let value = self.evaluate(value, scope)?;
                numbers::unary(*operator, &value)
            }
            ExprKind::Binary(operator, left, right) => {
                let left = self.evaluate(left, scope)?;
                let right = self.evaluate(right, scope)?;
                self.binary(*operator, &left, &right)
            }
            ExprKind::And(items) | ExprKind::Or(items) => {
                let stops_at = matches!(expr.kind, ExprKind::Or(_));
                let mut value = V::None;
                for item in items {
                    value = self.evaluate(item, scope)?;
                    if value.truth()? == stops_at {
                        break;
                    }
                }
                Ok(value)
            }
            ExprKind::Compare(first, rest) => self.comparisons(first, rest, scope),
            ExprKind::Conditional(parts) => {
                let [test, value, otherwise] = &**parts;
                let holds = self.evaluate(test, scope)?.truth()?;
                self.evaluate(if holds { value } else { otherwise }, scope)
            }
            ExprKind::Lambda(function) => {
                self.closure(function, scope, false).map(|closure| V::Function(Rc::new(closure)))
            }
            ExprKind::Comprehension(comprehension) => self.comprehension(comprehension, scope),
            ExprKind::Starred(_) => Err(Fault::unsupported(expr.line, "`*` outside of a list")),
            ExprKind::Walrus(name, value) => {
                let value = self.evaluate(value, scope)?;
                self.bind(name, value.clone(), scope);
                Ok(value)
            }
            ExprKind::Yield(value) => {
                let value = value.as_ref().map_or(Ok(V::None), |value| self.evaluate(value, scope))?;
                self.yields.last_mut().ok_or_else(|| Fault::unsupported(expr.line, "`yield` here"))?.push(value);
                Ok(V::None)
            }
        }
    }

    fn look_up(&mut self, name: &Name, scope: &Rc<Scope>) -> Result<V, Fault> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            if let Some(value) = scope.names.borrow().get(name) {
                return Ok(value.clone());
            }
            at = scope.parent.as_ref();
        }
        if &**name == "__file__" {
            return Ok(V::str(self.program.path_of(scope.file)));
        }
        self.builtin(name).ok_or_else(|| Fault::raised("NameError", format!("name '{name}' is not defined")))
    }

    /// The items of a list, with those of what stands behind a `*`.
    pub(super) fn items(&mut self, items: &[Expr], scope: &Rc<Scope>) -> Result<Vec<V>, Fault> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            match &item.kind {
                ExprKind::Starred(inner) => {
                    let inner = self.evaluate(inner, scope)?;
                    out.extend(self.iterate(&inner)?);
                }
                _ => out.push(self.evaluate(item, scope)?),
            }
        }
        Ok(out)
    }

    fn dictionary(&mut self, pairs: &[(Option<Expr>, Expr)], scope: &Rc<Scope>) -> Result<V, Fault> {
        let mut dict = Dict::default();
        for (key, value) in pairs {
            match key {
                Some(key) => {
                    let key = self.evaluate(key, scope)?;
                    let value = self.evaluate(value, scope)?;
                    dict.insert(key, value)?;
                }
                None => {
                    let V::Dict(other) = self.evaluate(value, scope)? else {
                        return Err(type_error("`**` takes a dictionary"));
                    };
                    for (key, value) in other.borrow().iter() {
                        dict.insert(key.clone(), value.clone())?;
                    }
                }
            }
        }
        Ok(V::dict(dict))
    }

    fn comparisons(&mut self, first: &Expr, rest: &[(Comparison, Expr)], scope: &Rc<Scope>) -> Result<V, Fault> {
        let mut left = self.evaluate(first, scope)?;
        for (i, (comparison, right)) in rest.iter().enumerate() {
            let right = self.evaluate(right, scope)?;
            let holds = self.compare(*comparison, &left, &right)?;
            if i + 1 == rest.len() || !holds.truth()? {
                return Ok(holds);
            }
            left = right;
        }
        Ok(V::Bool(true))
    }

    pub(super) fn compare(&mut self, comparison: Comparison, left: &V, right: &V) -> Result<V, Fault> {
        let elementwise =
            !matches!(comparison, Comparison::In | Comparison::NotIn | Comparison::Is | Comparison::IsNot);
        if elementwise && let Some(pairs) = numbers::broadcast(left, right)? {
            let compared = pairs.iter().map(|(a, b)| self.compare(comparison, a, b));
            return Ok(V::Array(Rc::new(compared.collect::<Result<_, _>>()?)));
        }
        let holds = match comparison {
            Comparison::Equal => left.equal(right)?,
            Comparison::NotEqual => !left.equal(right)?,
            Comparison::Is => left.is(right),
            Comparison::IsNot => !left.is(right),
            Comparison::In => self.contains(right, left)?,
            Comparison::NotIn => !self.contains(right, left)?,
            ordered => {
                if let (V::Set(a), V::Set(b)) = (left, right) {
                    let (a, b) = (a.borrow(), b.borrow());
                    let within =
                        |a: &Dict, b: &Dict| a.keys().iter().all(|key| key.key().is_ok_and(|key| b.contains(&key)));
                    return Ok(V::Bool(match ordered {
                        Comparison::LessEqual => within(&a, &b),
                        Comparison::Less => within(&a, &b) && a.len() < b.len(),
                        Comparison::GreaterEqual => within(&b, &a),
                        _ => within(&b, &a) && b.len() < a.len(),
                    }));
                }
                let order = left.compare(right)?;
                order.is_some_and(|order| match ordered {
                    Comparison::Less => order.is_lt(),
                    Comparison::LessEqual => order.is_le(),
                    Comparison::Greater => order.is_gt(),
                    _ => order.is_ge(),
                })
            }
        };
        Ok(V::Bool(holds))
    }

    fn contains(&mut self, container: &V, item: &V) -> Result<bool, Fault> {
        match container {
            V::Str(text) => match item {
                V::Str(part) => Ok(text.contains(&**part)),
                other => Err(type_error(&format!("'in <string>' requires string, not {}", other.type_name()))),
            },
            V::Dict(dict) | V::Set(dict) => {
                let key = item.key()?;
                Ok(dict.borrow().contains(&key))
            }
            other => {
                for one in self.iterate(other)? {
                    self.step(1)?;
                    if one.is(item) || one.equal(item)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    fn comprehension(&mut self, comprehension: &Comprehension, scope: &Rc<Scope>) -> Result<V, Fault> {
        let own = Rc::new(Scope::new(Some(Rc::clone(scope)), scope.file));
        let mut out = Collected { items: Vec::new(), dict: Dict::default() };
        self.clauses(comprehension, 0, &own, &mut out)?;
        self.retire(own);
        Ok(match comprehension.kind {
            Collection::List => V::list(out.items),
            Collection::Generator => V::iterator(out.items),
            Collection::Set => V::set(out.dict),
            Collection::Dict => V::dict(out.dict),
        })
    }

    fn clauses(
        &mut self,
        comprehension: &Comprehension,
        depth: usize,
        scope: &Rc<Scope>,
        out: &mut Collected,
    ) -> Result<(), Fault> {
        let Some(clause) = comprehension.clauses.get(depth) else {
            let element = self.evaluate(&comprehension.element, scope)?;
            match (&comprehension.value, comprehension.kind) {
                (Some(value), _) => {
                    let value = self.evaluate(value, scope)?;
                    out.dict.insert(element, value)?;
                }
                (None, Collection::Set) => out.dict.insert(element, V::None)?,
                (None, _) => out.items.push(element),
            }
            return Ok(());
        };
        let iterable = self.evaluate(&clause.iterable, scope)?;
        'items: for item in self.iterate(&iterable)? {
            self.assign(&clause.target, item, scope)?;
            for condition in &clause.conditions {
                if !self.evaluate(condition, scope)?.truth()? {
                    continue 'items;
                }
            }
            self.clauses(comprehension, depth + 1, scope, out)?;
        }
        Ok(())
    }

    fn format_pieces(&mut self, pieces: &[Piece], scope: &Rc<Scope>) -> Result<String, Fault> {
        let mut out = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Value { value, conversion, spec } => {
                    let value = self.evaluate(value, scope)?;
                    let spec = self.format_pieces(spec, scope)?;
                    out.push_str(&self.formatted(&value, *conversion, &spec)?);
                }
            }
            self.grow(out.len())?;
        }
        Ok(out)
    }

    pub(super) fn closure(
        &mut self,
        function: &Arc<Function>,
        scope: &Rc<Scope>,
        is_static: bool,
    ) -> Result<Closure, Fault> {
        let defaults = function
            .parameters
            .iter()
            .map(|parameter| parameter.default.as_ref().map(|default| self.evaluate(default, scope)).transpose());
        let defaults = defaults.collect::<Result<_, _>>()?;
        // Names of a class are not seen in its functions.
        let visible =
            if scope.is_class { scope.parent.clone().unwrap_or_else(|| Rc::clone(scope)) } else { Rc::clone(scope) };
        Ok(Closure { function: Arc::clone(function), defaults, scope: visible, class: RefCell::new(None), is_static })
    }

    fn call_expression(&mut self, function: &Expr, arguments: &[Argument], scope: &Rc<Scope>) -> Result<V, Fault> {
        // What depends on where it is called from.
        if let ExprKind::Name(name) = &function.kind {
            match &**name {
                "globals" => return Ok(V::Module(self.module_scope(scope.file))),
                "super" if arguments.is_empty() => return self.above(scope),
                _ => {}
            }
        }
        let function = self.evaluate(function, scope)?;
        let mut positional = Vec::with_capacity(arguments.len());
        let mut keywords = Vec::new();
        for argument in arguments {
            match argument {
                Argument::Positional(value) => positional.push(self.evaluate(value, scope)?),
                Argument::Star(value) => {
                    let value = self.evaluate(value, scope)?;
                    positional.extend(self.iterate(&value)?);
                }
                Argument::Keyword(name, value) => keywords.push((Name::clone(name), self.evaluate(value, scope)?)),
                Argument::DoubleStar(value) => match self.evaluate(value, scope)? {
                    V::Dict(dict) => {
                        for (key, value) in dict.borrow().iter() {
                            keywords.push((key.to_str()?.into(), value.clone()));
                        }
                    }
                    _ => return Err(type_error("`**` takes a dictionary")),
                },
            }
        }
        self.call(&function, positional, keywords)
    }

    /// `super()` in a method.
    fn above(&mut self, scope: &Rc<Scope>) -> Result<V, Fault> {
        let mut at = Some(scope);
        while let Some(scope) = at {
            if let (Some(class), Some(own)) = (&*scope.class.borrow(), &*scope.this.borrow()) {
                return Ok(V::Super(Rc::new((class.bases.clone(), own.clone()))));
            }
            at = scope.parent.as_ref();
        }
        Err(Fault::raised("RuntimeError", "super(): no arguments"))
    }

    pub(super) fn index(&mut self, value: &V, index: &V) -> Result<V, Fault> {
        let position = |length: usize, what: &str| -> Result<usize, Fault> {
            let Some(index) = index.int() else {
                return Err(type_error(&format!("{what} indices must be integers, not {}", index.type_name())));
            };
            let at = if index < 0 { index + length as i64 } else { index };
            let at = usize::try_from(at).ok().filter(|&at| at < length);
            at.ok_or_else(|| Fault::raised("IndexError", format!("{what} index out of range")))
        };
        match value {
            V::List(items) => {
                let items = items.borrow();
                Ok(items[position(items.len(), "list")?].clone())
            }
            V::Tuple(items) => Ok(items[position(items.len(), "tuple")?].clone()),
            V::Str(text) => {
                let at = match text.is_ascii() {
                    true => {
                        let at = position(text.len(), "string")?;
                        return Ok(V::str(&text[at..=at]));
                    }
                    false => position(text.chars().count(), "string")?,
                };
                Ok(V::str(text.chars().nth(at).map(String::from).unwrap_or_default()))
            }
            V::Dict(dict) => {
                let key = index.key()?;
                if let Some(found) = dict.borrow().get(&key) {
                    return Ok(found.clone());
                }
                let (default, is_counter) = (dict.borrow().default.clone(), dict.borrow().is_counter);
                match default {
                    Some(make) => {
                        let made = self.call(&make, Vec::new(), Vec::new())?;
                        dict.borrow_mut().insert(index.clone(), made.clone())?;
                        Ok(made)
                    }
                    None if is_counter => Ok(V::Int(0)),
                    None => Err(Fault::raised("KeyError", index.to_repr(0)?)),
                }
            }
            V::Array(items) => match index {
                V::Array(chosen) if chosen.is_empty() => Ok(index.clone()),
                V::Array(chosen) if matches!(chosen[0], V::Bool(_)) => {
                    if chosen.len() != items.len() {
                        return Err(Fault::raised("IndexError", "a mask of another length"));
                    }
                    let kept = items.iter().zip(chosen.iter()).filter(|(_, keep)| matches!(keep, V::Bool(true)));
                    Ok(V::Array(Rc::new(kept.map(|(item, _)| item.clone()).collect())))
                }
                V::Array(chosen) => {
                    let picked = chosen.iter().map(|at| self.index(value, at)).collect::<Result<_, _>>()?;
                    Ok(V::Array(Rc::new(picked)))
                }
                _ => Ok(items[position(items.len(), "array")?].clone()),
            },
            V::Matrix(matrix) => matrix.borrow().get(index),
            V::Dataset(rows) => match index {
                V::Str(_) => {
                    let rows = rows.borrow().clone();
                    Ok(V::list(rows.iter().map(|row| self.index(row, index)).collect::<Result<_, _>>()?))
                }
                _ => {
                    let rows = rows.borrow();
                    Ok(rows[position(rows.len(), "dataset")?].clone())
                }
            },
            V::Match(found) => found.group(index),
            V::Module(scope) => {
                let name = index.to_str()?;
                let found = scope.names.borrow().get(&*name).cloned();
                found.ok_or_else(|| Fault::raised("KeyError", index.to_repr(0).unwrap_or_default()))
            }
            // As in `list[str]`.
            V::Native(_) => Ok(value.clone()),
            V::Missing(why) => Err(Fault::missing(why)),
            other => Err(type_error(&format!("'{}' object is not subscriptable", other.type_name()))),
        }
    }

    fn slice(&mut self, value: &V, [start, end, step]: [Option<i64>; 3]) -> Result<V, Fault> {
        let step = step.unwrap_or(1);
        if step == 0 {
            return Err(Fault::raised("ValueError", "slice step cannot be zero"));
        }
        let chosen = |length: usize| -> Vec<usize> {
            let length = length as i64;
            let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
            let clamp = |at: i64| (if at < 0 { at + length } else { at }).clamp(low, high);
            let mut at = start.map_or(if step > 0 { low } else { high }, clamp);
            let end = end.map_or(if step > 0 { high } else { low }, clamp);
            let mut chosen = Vec::new();
            while if step > 0 { at < end } else { at > end } {
                chosen.push(at as usize);
                at = at.saturating_add(step);
            }
            chosen
        };
        let pick = |items: &[V]| -> Vec<V> { chosen(items.len()).into_iter().map(|at| items[at].clone()).collect() };
        match value {
            V::List(items) => Ok(V::list(pick(&items.borrow()))),
            V::Tuple(items) => Ok(V::tuple(pick(items))),
            V::Array(items) => Ok(V::Array(Rc::new(pick(items)))),
            V::Str(text) if text.is_ascii() && step == 1 => {
                let chosen = chosen(text.len());
                let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else { return Ok(V::str("")) };
                self.grow(chosen.len())?;
                Ok(V::str(&text[*first..=*last]))
            }
            V::Str(text) => {
                let characters: Vec<char> = text.chars().collect();
                self.grow(characters.len())?;
                Ok(V::str(chosen(characters.len()).into_iter().map(|at| characters[at]).collect::<String>()))
            }
            V::Dataset(rows) => {
                // As columns.
                let rows = pick(&rows.borrow());
                self.columns_of(&rows)
            }
            V::Missing(why) => Err(Fault::missing(why)),
            other => Err(type_error(&format!("'{}' object is not subscriptable", other.type_name()))),
        }
    }

    /// Everything that an iterable still has.
    pub(super) fn iterate(&mut self, value: &V) -> Result<Vec<V>, Fault> {
        let items: Vec<V> = match value {
            V::List(items) => items.borrow().clone(),
            V::Tuple(items) => items.to_vec(),
            V::Array(items) => items.to_vec(),
            V::Matrix(matrix) => matrix.borrow().items(),
            V::Dict(dict) | V::Set(dict) => dict.borrow().keys(),
            V::Dataset(rows) => rows.borrow().clone(),
            V::Str(text) => text.chars().map(|c| V::str(c.to_string())).collect(),
            V::Iterator(items) => items.borrow_mut().drain(..).collect(),
            V::Missing(why) => return Err(Fault::missing(why)),
            other => return Err(type_error(&format!("'{}' object is not iterable", other.type_name()))),
        };
        self.step(items.len() as u64)?;
        Ok(items)
    }
}

struct Collected {
    items: Vec<V>,
    dict: Dict,
}

pub(super) fn type_error(message: &str) -> Fault {
    Fault::raised("TypeError", message)
}

impl Scope {
    pub(super) fn new(parent: Option<Rc<Scope>>, file: usize) -> Scope {
        Scope {
            names: RefCell::new(HashMap::new()),
            parent,
            file,
            function: None,
            is_class: false,
            class: RefCell::new(None),
            this: RefCell::new(None),
        }
    }
}
