//! Values as Python's `str` and `repr` print them, and methods of Python's strings and lists.

use minijinja::value::{Serde, ValueKind, from_args};
use minijinja::{Error, ErrorKind, Output, State, Value};
use std::fmt::Write;

/// How a template prints a value: strings as they are, the rest as Python's `str`.
pub(super) fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        // What is invalid carries an error, which comes out here.
        ValueKind::String | ValueKind::Invalid => minijinja::escape_formatter(out, state, value),
        _ => out.write_str(&to_str(value)?).map_err(Error::from),
    }
}

/// `str(value)` of a value in a template; nothing for one that is undefined.
///
/// # Errors
/// That of an iterator within the value.
pub(super) fn to_str(value: &Value) -> Result<String, Error> {
    match (value.kind(), value.as_str()) {
        (ValueKind::Undefined, _) => Ok(String::new()),
        (_, Some(text)) => Ok(text.to_string()),
        _ => {
            let mut text = String::new();
            write_repr(&mut text, value)?;
            Ok(text)
        }
    }
}

/// Python's `str(value)`: text as it is, everything else as [`repr`].
#[must_use]
pub fn str(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| repr(value), str::to_owned)
}

/// Python's `repr(value)`.
#[must_use]
pub fn repr(value: &serde_json::Value) -> String {
    let mut text = String::new();
    // JSON holds nothing that could fail to be read.
    match write_repr(&mut text, &Value::from(Serde(value))) {
        Ok(()) => text,
        Err(_) => value.to_string(),
    }
}

fn write_repr(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::None => out.push_str("None"),
        ValueKind::Bool => out.push_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value)?,
        ValueKind::String => write_quoted(out, value.as_str().unwrap_or_default()),
        ValueKind::Map => {
            out.push('{');
            for (index, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, &key)?;
                out.push_str(": ");
                write_repr(out, &value.get_item(&key)?)?;
            }
            out.push('}');
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.push(open);
            for (index, item) in value.try_iter()?.checked().enumerate() {
                out.push_str(if index > 0 { ", " } else { "" });
                write_repr(out, &item?)?;
            }
            if value.is_tuple() && value.len() == Some(1) {
                out.push(',');
            }
            out.push(close);
        }
        _ => write!(out, "{value}").map_err(Error::from)?,
    }
    Ok(())
}

fn write_quoted(out: &mut String, text: &str) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for letter in text.chars() {
        match letter {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            letter if letter == quote => out.extend(['\\', quote]),
            letter if is_printable(letter) => out.push(letter),
            letter => {
                // Writing to a `String` cannot fail.
                let _ = match u32::from(letter) {
                    code @ ..=0xff => write!(out, "\\x{code:02x}"),
                    code @ ..=0xffff => write!(out, "\\u{code:04x}"),
                    code => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
}

/// `str.isprintable`, but for code points that no Unicode version has assigned: those count as printable here.
fn is_printable(letter: char) -> bool {
    let invisible = matches!(u32::from(letter),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
        | 0xe000..=0xf8ff | 0xfeff | 0xfff9..=0xfffb | 0xe0001 | 0xe0020..=0xe007f | 0xf0000..);
    letter == ' ' || !(letter.is_control() || letter.is_whitespace() || invisible)
}

/// A number as Python writes it.
///
/// # Errors
/// For a number that is neither an integer nor an `f64`.
pub(crate) fn write_number(out: &mut String, value: &Value) -> Result<(), Error> {
    match value.is_integer() {
        true => write!(out, "{value}").map_err(Error::from),
        false => {
            out.push_str(&float(f64::try_from(value.clone())?));
            Ok(())
        }
    }
}

/// A float in the fewest digits that give it back, with an exponent below 1e-4 and from 1e16 on.
fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_string();
    }
    if value.is_infinite() {
        return (if value > 0.0 { "inf" } else { "-inf" }).to_string();
    }
    let text = format!("{value:?}");
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return text;
    };
    let mantissa = mantissa.strip_suffix(".0").unwrap_or(mantissa);
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Methods of Python's strings, lists and dictionaries.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => string_method(text, name, args)?,
        None => list_method(value, name, args)?,
    };
    own.map_or_else(|| minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args), Ok)
}

/// The methods of lists that `minijinja_contrib` lacks; `None` for all others.
fn list_method(value: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        return Ok(None);
    }
    Ok(Some(match name {
        "index" => {
            let (item,): (Value,) = from_args(args)?;
            let position = value.try_iter()?.position(|other| other == item).map(Value::from);
            let missing = format!("{} is not in the list", to_str(&item)?);
            position.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, missing))?
        }
        "count" => {
            let (item,): (Value,) = from_args(args)?;
            Value::from(value.try_iter()?.filter(|other| *other == item).count())
        }
        _ => return Ok(None),
    }))
}

/// The methods of strings that `minijinja_contrib` lacks; `None` for all others.
fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let three = |(a, b, c): (&str, &str, &str)| Value::from((a, b, c));
    Ok(Some(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "partition" => {
            let (at,): (&str,) = from_args(args)?;
            three(text.split_once(at).map_or((text, "", ""), |(before, after)| (before, at, after)))
        }
        "rpartition" => {
            let (at,): (&str,) = from_args(args)?;
            three(text.rsplit_once(at).map_or(("", "", text), |(before, after)| (before, at, after)))
        }
        "rsplit" => match from_args::<(Option<&str>, Option<i64>)>(args)? {
            (Some(""), _) => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit: the separator is empty")),
            (Some(at), limit) => {
                let parts = limit.and_then(|limit| usize::try_from(limit).ok());
                let parts = parts.map_or(usize::MAX, |limit| limit.saturating_add(1));
                let mut parts: Vec<&str> = text.rsplitn(parts, at).collect();
                parts.reverse();
                parts.into_iter().map(Value::from).collect()
            }
            (None, None) => text.split_whitespace().map(Value::from).collect(),
            (None, Some(_)) => {
                return Err(Error::new(ErrorKind::InvalidOperation, "rsplit with a limit needs a separator"));
            }
        },
        _ => return Ok(None),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_written_as_by_python() {
        // Made by python: repr(x)
        let cases = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (5e-324, "5e-324"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, expected) in cases {
            assert_eq!(float(value), expected);
        }
    }

    #[test]
    fn values_print_as_in_python() {
        // The right column is what CPython 3.12 prints.
        for (value, expected) in [
            (json!(null), "None"),
            (json!([true, false]), "[True, False]"),
            (json!([1, -2, 1.0, 0.1]), "[1, -2, 1.0, 0.1]"),
            (json!(1e16), "1e+16"),
            (json!(123456789012345.0), "123456789012345.0"),
            (json!(1.5e-7), "1.5e-07"),
            (json!(0.0001), "0.0001"),
            (json!(["a", "it's", "say \"x\"", "it's \"x\""]), r#"['a', "it's", 'say "x"', 'it\'s "x"']"#),
            (json!(["a\nb\t\\", "\u{7f}\u{a0}", "é\u{200b}😀"]), r"['a\nb\t\\', '\x7f\xa0', 'é\u200b😀']"),
            (json!({"a": {"b": []}}), "{'a': {'b': []}}"),
        ] {
            assert_eq!(repr(&value), expected);
        }
        assert_eq!(str(&json!("it's")), "it's");
    }
}
