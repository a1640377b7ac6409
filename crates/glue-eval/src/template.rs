//! Templates of tasks: Jinja, as a Python program renders it.
//!
//! Values print as Python prints them (`True`, `None`, `['a', 'b']`), methods of Python's text and lists work, a final
//! line break is kept, and an undefined variable is an error that names it. Task files come from strangers, so that a
//! template has limits on its length, steps, memory and time (see [`glue_lm::bounded`]).

use crate::python;
use glue_lm::bounded::{self, Limits};
use glue_lm::chat::{MAX_SOURCE, MAX_STEPS};
use glue_progress::ErrorChain;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use serde_json::{Map, Value as Json};
use std::sync::Arc;

/// An environment with the templates of one task.
#[derive(Debug)]
pub(crate) struct Templates {
    environment: Arc<Environment<'static>>,
}

/// A template that [`Templates::compile`] has accepted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Template(String);

impl Templates {
    pub(crate) fn new() -> Templates {
        let mut environment = Environment::new();
        // Building fails for delimiters that clash only, and those are left as they are.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_fuel(Some(MAX_STEPS));
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(method);
        environment.set_formatter(|out, state, value| match value.kind() {
            ValueKind::String | ValueKind::Undefined | ValueKind::Invalid => {
                minijinja::escape_formatter(out, state, value)
            }
            _ => out.write_str(&print(value)).map_err(Error::from),
        });
        environment.add_filter("string", |value: Value| print(&value));
        environment.add_filter("regex_replace", |text: String, pattern: String, by: String, count: Option<usize>| {
            let invalid = |message| Error::new(ErrorKind::InvalidOperation, format!("regex_replace: {message}"));
            let regex = python::regex::compile(&pattern).map_err(invalid)?;
            python::regex::substitute(&regex, &by, &text, count.unwrap_or(0)).map_err(invalid)
        });
        Templates { environment: Arc::new(environment) }
    }

    /// Checks the syntax of a template.
    ///
    /// # Errors
    /// What is wrong with it, and in which of its lines.
    pub(crate) fn compile(&mut self, source: &str) -> Result<Template, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!("the template has {} bytes; the limit is {MAX_SOURCE}", source.len()));
        }
        let (mut environment, owned) = (Environment::clone(&self.environment), source.to_string());
        let compiled = bounded::run(Limits::COMPILATION, move || {
            environment.add_template_owned(owned.clone(), owned).map_err(|error| message(&error))?;
            Ok::<_, String>(environment)
        });
        self.environment = Arc::new(compiled.map_err(|why| format!("the template was stopped: {}", why.chain()))??);
        Ok(Template(source.to_string()))
    }

    /// Renders a template over the fields of one item.
    ///
    /// # Errors
    /// What is wrong; a variable that the item lacks is named.
    pub(crate) fn render(&self, template: &Template, fields: &Map<String, Json>) -> Result<String, String> {
        // `{{field}}` alone, the most common template by far, needs no engine.
        if let Some(value) = plain_field(&template.0).and_then(|field| fields.get(field)) {
            return Ok(python::repr::str(value));
        }
        let context = Value::from(Serde(fields));
        let (environment, template) = (Arc::clone(&self.environment), template.clone());
        let rendered = bounded::render(move || render(&environment, &template.0, context));
        match rendered.map_err(|why| format!("the template was stopped: {}", why.chain()))? {
            Ok(text) => Ok(text),
            Err(Failed { message, mut undeclared }) => {
                undeclared.retain(|name| !fields.contains_key(name));
                undeclared.sort();
                match undeclared.first() {
                    Some(name) if !self.environment.globals().any(|(global, _)| global == name) => {
                        Err(format!("the item has no field `{name}`"))
                    }
                    _ => Err(message),
                }
            }
        }
    }
}

/// Why a template did not render.
struct Failed {
    message: String,
    /// Where something is undefined: the variables that the template does not set itself.
    undeclared: Vec<String>,
}

fn render(environment: &Environment<'static>, name: &str, context: Value) -> Result<String, Failed> {
    let failed = |error: Error| Failed { message: message(&error), undeclared: Vec::new() };
    let template = environment.get_template(name).map_err(failed)?;
    template.render(context).map_err(|error| {
        let undefined = error.kind() == ErrorKind::UndefinedError
            || error.detail().is_some_and(|detail| detail.contains("is undefined"));
        let undeclared =
            if undefined { template.undeclared_variables(false).into_iter().collect() } else { Vec::new() };
        Failed { undeclared, ..failed(error) }
    })
}

/// Methods of Python's values; some that `pycompat` lacks are added.
fn method(state: &mut State<'_, '_>, value: &Value, method: &str, arguments: &[Value]) -> Result<Value, Error> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) {
        match (method, arguments) {
            ("index", [wanted]) => {
                return value.try_iter()?.position(|item| item == *wanted).map(Value::from).ok_or_else(|| {
                    Error::new(ErrorKind::InvalidOperation, format!("{} is not in the list", print(wanted)))
                });
            }
            ("count", [wanted]) => {
                return Ok(Value::from(value.try_iter()?.filter(|item| item == wanted).count()));
            }
            _ => {}
        }
    }
    if let Some(text) = value.as_str() {
        let text_of = |argument: &Value| argument.as_str().map(str::to_string);
        match (method, arguments) {
            ("rsplit", [separator, most @ ..]) if most.len() <= 1 => {
                if let (Some(separator), Some(most)) =
                    (text_of(separator).filter(|text| !text.is_empty()), most.first().map_or(Some(-1), Value::as_i64))
                {
                    let most = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
                    let mut pieces: Vec<&str> = text.rsplitn(most, &separator).collect();
                    pieces.reverse();
                    return Ok(pieces.into_iter().map(Value::from).collect());
                }
            }
            ("removeprefix", [prefix]) => {
                if let Some(prefix) = text_of(prefix) {
                    return Ok(Value::from(text.strip_prefix(&prefix).unwrap_or(text)));
                }
            }
            ("removesuffix", [suffix]) => {
                if let Some(suffix) = text_of(suffix) {
                    return Ok(Value::from(text.strip_suffix(&suffix).unwrap_or(text)));
                }
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, arguments)
}

/// The name in a template that is `{{name}}` and nothing else.
fn plain_field(source: &str) -> Option<&str> {
    let name = source.strip_prefix("{{")?.strip_suffix("}}")?.trim();
    let mut characters = name.chars();
    let plain = characters.next()?.is_ascii_alphabetic() && characters.all(|c| c.is_ascii_alphanumeric() || c == '_');
    // Words of the language, which are no variables.
    let reserved = matches!(name, "true" | "false" | "none" | "True" | "False" | "None" | "loop" | "self");
    (plain && !reserved).then_some(name)
}

fn message(error: &Error) -> String {
    /// Messages quote values, which can be of any length.
    const SHOWN: usize = 1000;
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("the template did not end within {MAX_STEPS} steps");
    }
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), str::to_string);
    if let Some((end, _)) = text.char_indices().nth(SHOWN) {
        text.truncate(end);
        text.push('…');
    }
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
}

/// `str(value)`.
fn print(value: &Value) -> String {
    if let Some(text) = value.as_str() {
        return text.to_string();
    }
    serde_json::to_value(value).map_or_else(|_| value.to_string(), |json| python::repr::str(&json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields() -> Map<String, Json> {
        let value = json!({"q": "Why? ", "choices": ["a", "it's"], "flag": true, "none": null, "n": 3, "x": 1.0,
            "deep": {"text": ["one", "two"]}, "answer": "B"});
        value.as_object().cloned().unwrap()
    }

    fn render(source: &str) -> Result<String, String> {
        let mut templates = Templates::new();
        let template = templates.compile(source)?;
        templates.render(&template, &fields())
    }

    #[test]
    fn a_field_that_is_missing_is_named() {
        for source in ["{{ question }}", "{{question}}", "a {{ question.strip() }}", "{% if question %}x{% endif %}"] {
            assert_eq!(render(source), Err("the item has no field `question`".into()), "{source}");
        }
        assert!(render("{{ deep.nothing }}").unwrap_err().contains("undefined"));
        assert!(render("{{ q").unwrap_err().contains("line 1 of the template"));
    }

    #[test]
    fn templates_render_as_jinja2_does() {
        let cases: Json = serde_json::from_str(include_str!("../tests/data/templates.json")).unwrap();
        let mut wrong = Vec::new();
        for case in cases["cases"].as_array().unwrap() {
            let (source, expected) = (case["template"].as_str().unwrap(), case["rendered"].as_str().unwrap());
            let rendered = render(source);
            if rendered.as_deref() != Ok(expected) {
                wrong.push(format!("{source}: {rendered:?}, expected {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
