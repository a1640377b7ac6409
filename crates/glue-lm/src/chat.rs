//! Chat templates: from messages to the text of a prompt.
//!
//! A template is a Jinja program that comes with a model, so that it is treated as untrusted: it sees nothing but what it
//! is given, and has limits on its length, steps, memory and time (see [`crate::bounded`]). It is rendered as transformers renders it (`apply_chat_template` with
//! `tokenize=False`): block tags take their line with them, values print as Python prints them, `tojson` is
//! `json.dumps(ensure_ascii=False)`, and there are `raise_exception`, `strftime_now`, `break` and `continue`, and
//! `{% generation %}` blocks, which mark what the model says and print as they are.

mod clock;
mod python;

pub use clock::{ClockError, DateTime};

use crate::bounded::{self, Exceeded, Limits};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, ErrorKind};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAME: &str = "chat_template";

/// Steps of the template engine in one rendering. A template takes some tens per message.
pub const MAX_STEPS: u64 = 20_000_000;

/// Length of the source of a template, in bytes. The longest ones in use have about 30 kB.
pub const MAX_SOURCE: usize = 256 << 10;

/// Why messages did not become a prompt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChatError {
    /// The template does not parse.
    #[error("chat template, line {line}: {message}")]
    Template {
        /// The line of the template, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// The template itself refuses the messages, by `raise_exception`.
    #[error("the chat template refuses the messages: {message}")]
    Refused {
        /// The template's words.
        message: String,
    },
    /// There are no messages.
    #[error("a chat needs at least one message")]
    NoMessages,
    /// The template writes the current date, and none was given.
    #[error("the chat template writes the current date (line {line}); give one")]
    NoDate {
        /// The line of the template, from 1.
        line: usize,
    },
    /// The template took more steps than any template should, such as by nested loops.
    #[error("the chat template did not end within {MAX_STEPS} steps")]
    Endless,
    /// The template is longer than any template should be.
    #[error("the chat template has {found} bytes; the limit is {MAX_SOURCE}")]
    TooLong {
        /// Its length, in bytes.
        found: usize,
    },
    /// The template was stopped.
    #[error("the chat template was stopped")]
    Exceeded(#[from] Exceeded),
    /// The template failed on these messages.
    #[error("chat template, line {line}: {message}")]
    Render {
        /// The line of the template, from 1.
        line: usize,
        /// What went wrong.
        message: String,
    },
}

/// One message of a chat.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    fields: Map<String, Value>,
}

impl Message {
    /// A message of `role` (`system`, `user`, `assistant`, or whatever else the template knows).
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        let fields = [("role", Value::from(role.into())), ("content", Value::from(content.into()))];
        Message { fields: fields.into_iter().map(|(key, value)| (key.to_string(), value)).collect() }
    }

    /// The message with a further field, such as `tool_calls`, or with another value of one. Null takes it away.
    pub fn with(mut self, key: impl Into<String>, value: Value) -> Message {
        self.fields.insert(key.into(), value);
        self
    }

    /// The role; empty when the field was changed to something that is not a string.
    pub fn role(&self) -> &str {
        self.fields.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The content; empty when it is not a string, but for instance a list of parts.
    pub fn content(&self) -> &str {
        self.fields.get("content").and_then(Value::as_str).unwrap_or_default()
    }
}

/// What a template is given besides the messages.
#[derive(Debug, Clone, Default)]
pub struct ChatOptions {
    /// Whether the prompt ends with the beginning of the model's answer. Default: no.
    pub add_generation_prompt: bool,
    /// Tools that the model may call, each as a JSON schema. Default: none.
    pub tools: Option<Vec<Value>>,
    /// Documents to draw upon, each an object. Default: none.
    pub documents: Option<Vec<Value>>,
    /// Further variables, such as `enable_thinking`; they win over special tokens. Default: none.
    pub variables: Map<String, Value>,
    /// What `strftime_now` takes for the current time. Without one, the default, there is no such function: a template
    /// that asks for it uses its fixed date, and one that does not is refused.
    pub now: Option<DateTime>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    special_tokens: BTreeMap<String, String>,
}

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` become variables, such as `bos_token`.
    ///
    /// # Errors
    /// [`ChatError::Template`], [`ChatError::TooLong`], [`ChatError::Exceeded`]
    pub fn new(source: &str, special_tokens: &BTreeMap<String, String>) -> Result<ChatTemplate, ChatError> {
        if source.len() > MAX_SOURCE {
            return Err(ChatError::TooLong { found: source.len() });
        }
        let source = without_generation_blocks(source);
        let environment = bounded::run(Limits::COMPILATION, move || environment(source))??;
        Ok(ChatTemplate { environment: Arc::new(environment), special_tokens: special_tokens.clone() })
    }

    /// The text of the prompt. It has the special tokens that the template writes, usually BOS among them: encode it
    /// without adding any.
    ///
    /// # Errors
    /// [`ChatError`]
    pub fn render(&self, messages: &[Message], options: &ChatOptions) -> Result<String, ChatError> {
        if messages.is_empty() {
            return Err(ChatError::NoMessages);
        }
        let mut context = Map::new();
        context.extend(self.special_tokens.iter().map(|(role, token)| (role.clone(), Value::from(token.as_str()))));
        context.extend(options.variables.clone());
        let list = |values: &Option<Vec<Value>>| values.clone().map_or(Value::Null, Value::Array);
        context.insert("tools".to_string(), list(&options.tools));
        context.insert("documents".to_string(), list(&options.documents));
        context.insert("add_generation_prompt".to_string(), options.add_generation_prompt.into());
        let messages = messages.iter().map(|message| Value::Object(without_nulls(&message.fields)));
        context.insert("messages".to_string(), Value::Array(messages.collect()));

        let context = minijinja::Value::from(Serde(context));
        let mut environment = Arc::clone(&self.environment);
        if let Some(now) = options.now {
            Arc::make_mut(&mut environment).add_function("strftime_now", move |format: &str| {
                now.format(format)
                    .map_err(|error| minijinja::Error::new(ErrorKind::InvalidOperation, error.to_string()))
            });
        }
        bounded::render(move || {
            environment.get_template(NAME).and_then(|template| template.render(context)).map_err(render_error)
        })?
    }
}

/// An environment with `source` for its template.
fn environment(source: String) -> Result<Environment<'static>, ChatError> {
    let template_error =
        |error: minijinja::Error| ChatError::Template { line: error.line().unwrap_or(1), message: describe(&error) };
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(template_error)?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_unknown_method_callback(python::method);
    environment.set_formatter(python::print);
    environment.add_filter("tojson", python::tojson);
    environment.add_filter("string", python::string);
    environment.add_function("raise_exception", raise_exception);
    environment.add_template_owned(NAME, source).map_err(template_error)?;
    Ok(environment)
}

fn without_nulls(fields: &Map<String, Value>) -> Map<String, Value> {
    fields.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The error behind `raise_exception`, to be told from others.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

fn raise_exception(message: &str) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message.to_string())))
}

fn render_error(error: minijinja::Error) -> ChatError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref() {
            return ChatError::Refused { message: shortened(message) };
        }
        source = cause.source();
    }
    let (line, message) = (error.line().unwrap_or(1), describe(&error));
    match error.kind() {
        ErrorKind::OutOfFuel => ChatError::Endless,
        ErrorKind::UnknownFunction if message.contains("strftime_now") => ChatError::NoDate { line },
        _ => ChatError::Render { line, message },
    }
}

/// Kind and detail, without the place, which the error carries on its own.
fn describe(error: &minijinja::Error) -> String {
    match error.detail() {
        Some(detail) => format!("{}: {}", error.kind(), shortened(detail)),
        None => error.kind().to_string(),
    }
}

/// A message that quotes values, which can be of any length.
fn shortened(message: &str) -> String {
    const SHOWN: usize = 1000;
    match message.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_string(),
    }
}

/// The source with `{% generation %}` blocks made into `{% with %}` blocks, which have a scope of their own as well.
fn without_generation_blocks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start + 2);
        out.push_str(before);
        let end = tag.find("%}").unwrap_or(tag.len());
        let word = tag[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        rest = match word {
            "generation" | "endgeneration" => {
                out.push_str(&tag[..end].replace("generation", "with"));
                &tag[end..]
            }
            _ => tag,
        };
    }
    out.push_str(rest);
    out
}
