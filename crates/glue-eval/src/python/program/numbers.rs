//! Arithmetic.

use super::Fault;
use super::evaluate::type_error;
use super::execute::Machine;
use super::syntax::{Binary, Unary};
use super::value::{Dict, V};
use std::cell::RefCell;
use std::rc::Rc;

pub(super) fn unary(operator: Unary, value: &V) -> Result<V, Fault> {
    let wrong = || type_error(&format!("bad operand type for a unary operator: '{}'", value.type_name()));
    if let (V::Array(items), Unary::Minus | Unary::Invert) = (value, operator) {
        let items = items.iter().map(|item| match (operator, item) {
            (Unary::Invert, V::Bool(flag)) => Ok(V::Bool(!flag)),
            _ => unary(operator, item),
        });
        return Ok(V::Array(Rc::new(items.collect::<Result<_, _>>()?)));
    }
    if let (V::Matrix(matrix), Unary::Minus) = (value, operator) {
        return Ok(V::Matrix(Rc::new(RefCell::new(matrix.borrow().negated()))));
    }
    match operator {
        Unary::Not => Ok(V::Bool(!value.truth()?)),
        Unary::Minus => match (value.int(), value.number()) {
            (Some(number), _) => number.checked_neg().map(V::Int).ok_or_else(too_large),
            (None, Some(number)) => Ok(V::Float(-number)),
            _ => Err(wrong()),
        },
        Unary::Plus if value.number().is_some() => Ok(value.int().map_or_else(|| value.clone(), V::Int)),
        Unary::Invert => value.int().map(|number| V::Int(!number)).ok_or_else(wrong),
        Unary::Plus => Err(wrong()),
    }
}

fn too_large() -> Fault {
    Fault::unsupported(0, "whole numbers of more than 64 bits")
}

/// The pairs of two arrays, or of one and a number; `None` without an array.
pub(super) fn broadcast(left: &V, right: &V) -> Result<Option<Vec<(V, V)>>, Fault> {
    let pairs = match (left, right) {
        (V::Matrix(_), _) | (_, V::Matrix(_)) => {
            return Err(Fault::unsupported(0, "arithmetic of arrays made by numpy.zeros"));
        }
        // One number for all.
        (V::Array(a), V::Array(b)) if a.len() == 1 && b.len() != 1 => {
            b.iter().map(|item| (a[0].clone(), item.clone())).collect()
        }
        (V::Array(a), V::Array(b)) if b.len() == 1 && a.len() != 1 => {
            a.iter().map(|item| (item.clone(), b[0].clone())).collect()
        }
        (V::Array(a), V::Array(b)) if a.len() == b.len() => a.iter().cloned().zip(b.iter().cloned()).collect(),
        (V::Array(a), V::List(b)) if a.len() == b.borrow().len() => {
            a.iter().cloned().zip(b.borrow().iter().cloned()).collect()
        }
        (V::List(a), V::Array(b)) if b.len() == a.borrow().len() => {
            a.borrow().iter().cloned().zip(b.iter().cloned()).collect()
        }
        (V::Tuple(a), V::Array(b)) | (V::Array(b), V::Tuple(a)) if a.len() == b.len() => {
            let (a, b) = (a.iter().cloned(), b.iter().cloned());
            if let V::Tuple(_) = left { a.zip(b).collect() } else { b.zip(a).collect() }
        }
        (V::Array(_), V::Array(_) | V::List(_) | V::Tuple(_)) | (V::List(_) | V::Tuple(_), V::Array(_)) => {
            return Err(Fault::unsupported(0, "arithmetic of arrays of different lengths"));
        }
        (V::Array(a), one) => a.iter().map(|item| (item.clone(), one.clone())).collect(),
        (one, V::Array(b)) => b.iter().map(|item| (one.clone(), item.clone())).collect(),
        _ => return Ok(None),
    };
    Ok(Some(pairs))
}

impl Machine<'_> {
    pub(super) fn binary(&mut self, operator: Binary, left: &V, right: &V) -> Result<V, Fault> {
        for value in [left, right] {
            if let V::Missing(why) = value {
                return Err(Fault::missing(why));
            }
        }
        if let Some(pairs) = broadcast(left, right)? {
            self.step(pairs.len() as u64)?;
            let is_float = |value: &V| matches!(value, V::Float(_));
            let results = pairs.iter().map(|(a, b)| match (operator, a, b) {
                // numpy gives no exception.
                (Binary::Div, a, b) if (is_float(a) || a.int().is_some()) && b.number() == Some(0.0) => {
                    Ok(V::Float(a.number().unwrap_or(f64::NAN) / 0.0))
                }
                _ => self.binary(operator, a, b),
            });
            return Ok(V::Array(Rc::new(results.collect::<Result<_, _>>()?)));
        }
        if let (Some(a), Some(b)) = (left.int(), right.int())
            && operator != Binary::Div
        {
            let both_bools = matches!((left, right), (V::Bool(_), V::Bool(_)));
            return integers(operator, a, b, both_bools);
        }
        if let (Some(a), Some(b)) = (left.number(), right.number()) {
            return floats(operator, a, b);
        }
        match (operator, left, right) {
            (Binary::Add, V::Str(a), V::Str(b)) => {
                self.grow(a.len() + b.len())?;
                Ok(V::str(format!("{a}{b}")))
            }
            (Binary::Add, V::List(a), V::List(b)) => {
                let joined: Vec<V> = a.borrow().iter().chain(b.borrow().iter()).cloned().collect();
                self.step(joined.len() as u64)?;
                Ok(V::list(joined))
            }
            (Binary::Add, V::Tuple(a), V::Tuple(b)) => {
                self.step((a.len() + b.len()) as u64)?;
                Ok(V::tuple(a.iter().chain(b.iter()).cloned().collect()))
            }
            (Binary::Mul, V::Str(text), times) | (Binary::Mul, times, V::Str(text)) if times.int().is_some() => {
                let times = usize::try_from(times.int().unwrap_or(0)).unwrap_or(0);
                self.grow(text.len().saturating_mul(times))?;
                Ok(V::str(text.repeat(times)))
            }
            (Binary::Mul, V::List(items), times) | (Binary::Mul, times, V::List(items)) if times.int().is_some() => {
                let times = usize::try_from(times.int().unwrap_or(0)).unwrap_or(0);
                let items = items.borrow();
                self.step(items.len().saturating_mul(times) as u64)?;
                Ok(V::list(std::iter::repeat_n(&*items, times).flatten().cloned().collect()))
            }
            (Binary::Mod, V::Str(format), values) => self.percent(format, values).map(V::str),
            (Binary::Div, V::Path(path), V::Str(name)) => Ok(V::Path(Rc::new(path.join(&**name)))),
            (Binary::Or, V::Dict(a), V::Dict(b)) => {
                let mut joined = a.borrow().clone();
                for (key, value) in b.borrow().iter() {
                    joined.insert(key.clone(), value.clone())?;
                }
                Ok(V::dict(joined))
            }
            (Binary::And | Binary::Or | Binary::Sub | Binary::Xor, V::Set(a), V::Set(b)) => {
                set_operation(operator, &a.borrow(), &b.borrow()).map(V::set)
            }
            (Binary::And | Binary::Sub | Binary::Add, V::Dict(a), V::Dict(b)) if a.borrow().is_counter => {
                counters(operator, &a.borrow(), &b.borrow()).map(V::dict)
            }
            // Of types.
            (Binary::Or, V::Native(_), _) | (Binary::Or, _, V::Native(_)) => Ok(left.clone()),
            _ => {
                let (left, right) = (left.type_name(), right.type_name());
                Err(type_error(&format!("unsupported operand types: '{left}' and '{right}'")))
            }
        }
    }
}

fn set_operation(operator: Binary, a: &Dict, b: &Dict) -> Result<Dict, Fault> {
    let within = |key: &V, other: &Dict| key.key().map(|key| other.contains(&key));
    let mut out = Dict::default();
    for key in a.keys() {
        let keep = match operator {
            Binary::And => within(&key, b)?,
            Binary::Or => true,
            _ => !within(&key, b)?,
        };
        if keep {
            out.insert(key, V::None)?;
        }
    }
    if matches!(operator, Binary::Or | Binary::Xor) {
        for key in b.keys() {
            if operator == Binary::Or || !within(&key, a)? {
                out.insert(key, V::None)?;
            }
        }
    }
    Ok(out)
}

fn counters(operator: Binary, a: &Dict, b: &Dict) -> Result<Dict, Fault> {
    let count =
        |dict: &Dict, key: &V| -> Result<i64, Fault> { Ok(dict.get(&key.key()?).and_then(V::int).unwrap_or(0)) };
    let mut out = Dict { is_counter: true, ..Dict::default() };
    let mut keys = a.keys();
    if operator == Binary::Add {
        keys.extend(b.keys());
    }
    for key in keys {
        let (left, right) = (count(a, &key)?, count(b, &key)?);
        let number = match operator {
            Binary::And => left.min(right),
            Binary::Sub => left - right,
            _ => left.saturating_add(right),
        };
        if number > 0 {
            out.insert(key, V::Int(number))?;
        }
    }
    Ok(out)
}

fn division_by_zero() -> Fault {
    Fault::raised("ZeroDivisionError", "division by zero")
}

fn integers(operator: Binary, a: i64, b: i64, bools: bool) -> Result<V, Fault> {
    let checked = |result: Option<i64>| result.map(V::Int).ok_or_else(too_large);
    match operator {
        Binary::Add => checked(a.checked_add(b)),
        Binary::Sub => checked(a.checked_sub(b)),
        Binary::Mul => checked(a.checked_mul(b)),
        Binary::FloorDiv | Binary::Mod if b == 0 => Err(division_by_zero()),
        Binary::FloorDiv => {
            checked(a.checked_div_euclid(b).map(|q| if b < 0 && a.rem_euclid(b) != 0 { q - 1 } else { q }))
        }
        Binary::Mod => {
            let remainder = a.wrapping_rem(b);
            Ok(V::Int(if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder }))
        }
        Binary::Pow if b < 0 => floats(operator, a as f64, b as f64),
        Binary::Pow => checked(u32::try_from(b).ok().and_then(|b| a.checked_pow(b))),
        Binary::And if bools => Ok(V::Bool(a & b != 0)),
        Binary::Or if bools => Ok(V::Bool(a | b != 0)),
        Binary::Xor if bools => Ok(V::Bool(a ^ b != 0)),
        Binary::And => Ok(V::Int(a & b)),
        Binary::Or => Ok(V::Int(a | b)),
        Binary::Xor => Ok(V::Int(a ^ b)),
        Binary::ShiftLeft => checked(u32::try_from(b).ok().filter(|&b| b < 62).and_then(|b| a.checked_mul(1 << b))),
        Binary::ShiftRight => Ok(V::Int(a >> b.clamp(0, 63))),
        Binary::Div => Err(Fault::unsupported(0, "this division")),
    }
}

fn floats(operator: Binary, a: f64, b: f64) -> Result<V, Fault> {
    Ok(V::Float(match operator {
        Binary::Add => a + b,
        Binary::Sub => a - b,
        Binary::Mul => a * b,
        Binary::Div | Binary::FloorDiv | Binary::Mod if b == 0.0 => return Err(division_by_zero()),
        Binary::Div => a / b,
        Binary::FloorDiv => (a / b).floor(),
        Binary::Mod => {
            let remainder = a % b;
            if remainder != 0.0 && (remainder < 0.0) != (b < 0.0) { remainder + b } else { remainder }
        }
        Binary::Pow => a.powf(b),
        _ => return Err(type_error("unsupported operand types: 'float' and 'float'")),
    }))
}

/// `sum` of numbers as Python adds them: whole numbers exactly, others with the rounding errors carried along.
pub(super) fn sum(items: &[V], start: V, machine: &mut Machine<'_>) -> Result<V, Fault> {
    let mut total = start;
    let mut items = items.iter().peekable();
    while let Some(item) = items.next_if(|item| item.int().is_some() && total.int().is_some()) {
        total = machine.binary(Binary::Add, &total, item)?;
    }
    if matches!(total, V::Int(_) | V::Bool(_) | V::Float(_)) && items.peek().is_some_and(|item| item.number().is_some())
    {
        let (mut high, mut low) = (total.number().unwrap_or(0.0), 0.0);
        while let Some(item) = items.next_if(|item| item.number().is_some()) {
            let x = item.number().unwrap_or(0.0);
            let next = high + x;
            low += if high.abs() >= x.abs() { (high - next) + x } else { (x - next) + high };
            high = next;
        }
        total = V::Float(if low != 0.0 && low.is_finite() { high + low } else { high });
    }
    for item in items {
        total = machine.binary(Binary::Add, &total, item)?;
    }
    Ok(total)
}

/// `round(number)` and `round(number, digits)`: halves to even, by the decimal digits that the number shows.
pub(super) fn round(number: f64, digits: i64) -> f64 {
    if !number.is_finite() || digits > 300 {
        return number;
    }
    if digits < 0 {
        let scale = 10f64.powi(i32::try_from(-digits).unwrap_or(400));
        return (number / scale).round_ties_even() * scale;
    }
    // Formatting rounds the exact value, and so halves that are exact to even.
    format!("{number:.*}", usize::try_from(digits).unwrap_or(0)).parse().unwrap_or(number)
}

/// The sum of numpy: pairwise, so that results are the same to the last bit.
pub(super) fn pairwise(items: &[f64]) -> f64 {
    let n = items.len();
    if n < 8 {
        // From minus zero, the sum of nothing.
        return items.iter().fold(-0.0, |sum, item| sum + item) + 0.0;
    }
    if n <= 128 {
        let mut lanes = [0.0; 8];
        lanes.copy_from_slice(&items[..8]);
        let whole = n - n % 8;
        for chunk in items[8..whole].chunks_exact(8) {
            lanes.iter_mut().zip(chunk).for_each(|(lane, item)| *lane += item);
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        return items[whole..].iter().fold(sum, |sum, item| sum + item);
    }
    let half = n / 2 - n / 2 % 8;
    pairwise(&items[..half]) + pairwise(&items[half..])
}
