//! Templates of tasks: Jinja, as a Python program renders it, within the limits of [`glue_lm::jinja`]. A final line
//! break is kept, and an undefined variable is an error that names it.

use crate::python::regex;
use glue_lm::bounded;
use glue_lm::jinja::{self, MAX_SOURCE, MAX_STEPS, shortened};
use glue_progress::ErrorChain;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value};
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
        let mut environment = jinja::environment();
        // Building fails for delimiters that clash only, and those are left as they are.
        if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
            environment.set_syntax(syntax);
        }
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.add_filter("regex_replace", |text: String, pattern: String, by: String, count: Option<usize>| {
            let invalid = |message| Error::new(ErrorKind::InvalidOperation, format!("regex_replace: {message}"));
            let pattern = regex::compile(&pattern).map_err(invalid)?;
            regex::substitute(&pattern, &by, &text, count.unwrap_or(0)).map_err(invalid)
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
        let compiled = jinja::compile(Environment::clone(&self.environment), source, source);
        let compiled = compiled.map_err(|why| format!("the template was stopped: {}", why.chain()))?;
        self.environment = Arc::new(compiled.map_err(|error| message(&error))?);
        Ok(Template(source.to_string()))
    }

    /// Renders a template over the fields of one item.
    ///
    /// # Errors
    /// What is wrong; a variable that the item lacks is named.
    pub(crate) fn render(&self, template: &Template, fields: &Map<String, Json>) -> Result<String, String> {
        // `{{field}}` alone, the most common template by far, needs no engine.
        if let Some(value) = plain_field(&template.0).and_then(|field| fields.get(field)) {
            return Ok(jinja::str(value));
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
    if error.kind() == ErrorKind::OutOfFuel {
        return format!("the template did not end within {MAX_STEPS} steps");
    }
    let mut text = error.detail().map_or_else(|| error.kind().to_string(), shortened);
    if let Some(line) = error.line() {
        text.push_str(&format!(" (line {line} of the template)"));
    }
    text
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
