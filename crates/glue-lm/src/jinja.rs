//! Jinja templates as Python programs render them, for templates that come from strangers.
//!
//! Models bring chat templates and task files bring prompts, both written for Jinja2 in a Python program: values print
//! as Python prints them (`True`, `None`, `['a', 'b']`), and methods of Python's strings and lists work. A template
//! sees nothing but what it is given, and has limits on its length, steps, memory and time (see [`crate::bounded`]).

pub(crate) mod python;

use crate::bounded::{self, Exceeded, Limits};
use minijinja::{AutoEscape, Environment, Error, Value};

pub use python::{repr, str};

/// Steps of the template engine in one rendering. A template takes some tens for each message of a chat.
pub const MAX_STEPS: u64 = 20_000_000;

/// Length of the source of a template, in bytes. The longest ones in use have about 30 kB.
pub const MAX_SOURCE: usize = 256 << 10;

/// An environment without templates: nothing is escaped, rendering ends after [`MAX_STEPS`], values have Python's
/// methods and print as in Python, also by the filter `string`.
#[must_use]
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(python::print);
    environment.add_filter("string", |value: &Value| python::to_str(value));
    environment
}

/// The environment with a further template, compiled within [`Limits::COMPILATION`]. Its length is the caller's to
/// check, against [`MAX_SOURCE`].
///
/// # Errors
/// [`Exceeded`]; the inner error is that of a template that does not parse.
pub fn compile(
    mut environment: Environment<'static>,
    name: impl Into<String>,
    source: impl Into<String>,
) -> Result<Result<Environment<'static>, Error>, Exceeded> {
    let (name, source) = (name.into(), source.into());
    bounded::run(Limits::COMPILATION, move || {
        environment.add_template_owned(name, source)?;
        Ok(environment)
    })
}

/// A message of the engine with at most 1000 characters: messages quote values, which can be of any length.
#[must_use]
pub fn shortened(message: &str) -> String {
    const SHOWN: usize = 1000;
    match message.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_string(),
    }
}
