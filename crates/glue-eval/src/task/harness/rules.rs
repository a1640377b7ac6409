//! Rules: how the texts of a question follow from an item, by a field, a template, a number or a list.

use super::super::Kind;
use super::super::fields::Fields;
use super::super::prompt::Delimiters;
use super::functions::{Function, Programs};
use crate::error::TaskError;
use crate::template::{Template, Templates};
use serde_json::Value;
use std::sync::Arc;

/// How a text, a target or a list of choices follows from an item.
#[derive(Debug, Clone)]
pub(super) enum Rule {
    /// The field of this name, or else the template.
    Text(Template, String),
    Index(i64),
    List(Vec<Value>),
    /// Of the item.
    Function(Arc<Function>),
}

/// The rules for one question, and how its answer begins.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) text: Rule,
    pub(super) target: Rule,
    pub(super) choice: Option<Rule>,
    pub(super) prefix: Option<Rule>,
    pub(super) delimiters: Delimiters,
}

pub(super) fn rules(
    fields: &Fields<'_>,
    templates: &mut Templates,
    programs: &mut Programs,
    kind: Kind,
    scored_by_function: bool,
) -> Result<Rules, TaskError> {
    let choice = rule(fields, "doc_to_choice", templates, programs)?;
    if kind == Kind::MultipleChoice && choice.is_none() {
        return Err(TaskError::MissingField { place: fields.place.clone(), field: "doc_to_choice".into() });
    }
    let missing = |key: &str| TaskError::MissingField { place: fields.place.clone(), field: key.into() };
    let text = match rule(fields, "doc_to_text", templates, programs)? {
        Some(text) => text,
        None if kind == Kind::LogLikelihoodRolling => {
            Rule::Text(templates.compile("").unwrap_or_default(), String::new())
        }
        None => return Err(missing("doc_to_text")),
    };
    Ok(Rules {
        text,
        target: match rule(fields, "doc_to_target", templates, programs)? {
            Some(target) => target,
            None if scored_by_function => Rule::List(Vec::new()),
            None => return Err(missing("doc_to_target")),
        },
        choice,
        prefix: rule(fields, "gen_prefix", templates, programs)?,
        delimiters: Delimiters {
            target: fields.optional_text("target_delimiter")?.unwrap_or(" ").into(),
            example: fields.optional_text("fewshot_delimiter")?.unwrap_or("\n\n").into(),
        },
    })
}

pub(super) fn rule(
    fields: &Fields<'_>,
    key: &str,
    templates: &mut Templates,
    programs: &mut Programs,
) -> Result<Option<Rule>, TaskError> {
    let Some(value) = fields.get(key) else { return Ok(None) };
    if let Some(function) = Function::of(fields, key, value, programs)? {
        return Ok(Some(Rule::Function(function)));
    }
    let rule = match value {
        Value::String(source) => {
            let template = templates.compile(source).map_err(|message| TaskError::Template {
                place: fields.place_of(key),
                key: key.into(),
                message,
            })?;
            Some(Rule::Text(template, source.clone()))
        }
        Value::Number(number) => number.as_i64().map(Rule::Index),
        Value::Array(items) => Some(Rule::List(items.clone())),
        Value::Object(map) if key == "doc_to_choice" => Some(Rule::List(map.values().cloned().collect())),
        _ => None,
    };
    rule.map(Some).ok_or_else(|| fields.wrong(key, "a field's name, a template, an index or a list", value))
}
