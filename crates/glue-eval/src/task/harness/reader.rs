//! From an item of a split to its texts, by the rules of a task.

use super::super::fields::texts;
use super::super::prompt::{self, TextBudget};
use super::Harness;
use super::functions::{Function, Python};
use super::rules::{Rule, Rules};
use crate::data::{Row, describe};
use crate::error::{FilePosition, TaskError};
use crate::python::program::Call;
use crate::python::{self, literal};
use glue_lm::jinja;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

/// An item with what is needed to say where it stands and what its columns are.
pub(super) struct Doc<'a> {
    pub(super) row: &'a Row,
    pub(super) place: FilePosition,
}

/// What turns items of one split into questions.
pub(super) struct Reader<'a> {
    harness: &'a Harness,
    /// The fields that any item of the split has.
    pub(super) columns: BTreeSet<&'a str>,
    pub(super) budget: TextBudget<'a>,
    python: Option<&'a Python>,
    /// What functions gave, by function and row.
    computed: RefCell<HashMap<(*const Function, *const Row), Value>>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        harness: &'a Harness,
        columns: BTreeSet<&'a str>,
        budget: TextBudget<'a>,
        python: Option<&'a Python>,
    ) -> Reader<'a> {
        Reader { harness, columns, budget, python, computed: RefCell::default() }
    }

    /// Calls the functions of the rules for all rows at once.
    pub(super) fn compute(&self, rows: &[(&PathBuf, &Row)]) -> Result<(), TaskError> {
        let rules = &self.harness.rules;
        let all = [
            ("doc_to_text", Some(&rules.text)),
            ("doc_to_target", Some(&rules.target)),
            ("doc_to_choice", rules.choice.as_ref()),
            ("gen_prefix", rules.prefix.as_ref()),
            ("description", self.harness.description.as_ref()),
        ];
        for (key, rule) in all {
            let Some(Rule::Function(function)) = rule else { continue };
            self.call(function, key, rows)?;
        }
        Ok(())
    }

    fn call(&self, function: &Arc<Function>, key: &str, rows: &[(&PathBuf, &Row)]) -> Result<(), TaskError> {
        let calls = rows.iter().map(|(_, row)| vec![Call::Json(Value::Object(row.fields.clone()))]).collect();
        let given = function.each(self.python, calls).map_err(|(at, message)| {
            let place = rows.get(at).map(|(file, row)| FilePosition::at(file, row.line));
            let place = place.unwrap_or_else(|| FilePosition::file(PathBuf::from(&function.name)));
            TaskError::Template { place, key: key.into(), message }
        })?;
        let mut computed = self.computed.borrow_mut();
        for ((_, row), value) in rows.iter().zip(given) {
            computed.insert((Arc::as_ptr(function), std::ptr::from_ref(*row)), value);
        }
        Ok(())
    }

    fn computed(&self, function: &Arc<Function>, key: &str, doc: &Doc<'_>) -> Result<Value, TaskError> {
        let at = (Arc::as_ptr(function), std::ptr::from_ref(doc.row));
        if let Some(value) = self.computed.borrow().get(&at) {
            return Ok(value.clone());
        }
        self.call(function, key, &[(&doc.place.path, doc.row)])?;
        Ok(self.computed.borrow().get(&at).cloned().unwrap_or_default())
    }

    /// The value of a rule before it is interpreted, and whether it came from a template.
    fn value(&self, rule: &Rule, key: &str, doc: &Doc<'_>) -> Result<(Value, bool), TaskError> {
        match rule {
            Rule::Index(index) => Ok((Value::from(*index), false)),
            Rule::List(items) => Ok((Value::Array(items.clone()), false)),
            Rule::Function(function) => {
                let value = self.computed(function, key, doc)?;
                Ok((value.as_bool().map_or_else(|| value.clone(), |flag| Value::from(u8::from(flag))), false))
            }
            Rule::Text(_, column) if self.columns.contains(column.as_str()) => {
                let value = doc.row.fields.get(column).filter(|value| !value.is_null());
                let value =
                    value.ok_or_else(|| TaskError::MissingField { place: doc.place.clone(), field: column.clone() })?;
                // Truth values are numbers in Python.
                Ok((value.as_bool().map_or_else(|| value.clone(), |flag| Value::from(u8::from(flag))), false))
            }
            Rule::Text(template, _) => {
                let text = self.harness.templates.render(template, &doc.row.fields);
                let text = text.map_err(|message| self.failed(doc, key, message))?;
                self.budget.spend(text.len())?;
                Ok((Value::String(text), true))
            }
        }
    }

    fn failed(&self, doc: &Doc<'_>, key: &str, message: String) -> TaskError {
        TaskError::Template { place: doc.place.clone(), key: key.into(), message }
    }

    pub(super) fn wrong(&self, doc: &Doc<'_>, key: &str, expected: &str, found: &Value) -> TaskError {
        TaskError::WrongField {
            place: doc.place.clone(),
            field: key.into(),
            expected: expected.into(),
            found: describe(found),
        }
    }

    /// Text, or an index where there are choices and a template gives digits.
    pub(super) fn text(&self, rules: &Rules, doc: &Doc<'_>) -> Result<Value, TaskError> {
        match self.value(&rules.text, "doc_to_text", doc)? {
            (Value::String(text), true) if rules.choice.is_some() && python::is_index(&text) => Ok(index(text)),
            (value, _) => Ok(value),
        }
    }

    pub(super) fn target(&self, rules: &Rules, doc: &Doc<'_>) -> Result<Value, TaskError> {
        match self.value(&rules.target, "doc_to_target", doc)? {
            (Value::String(text), true) if rules.choice.is_some() && python::is_index(&text) => Ok(index(text)),
            (Value::String(text), true) if text.len() >= 2 && text.starts_with('[') && text.ends_with(']') => {
                Ok(literal::parse(&text).unwrap_or(Value::String(text)))
            }
            (value, _) => Ok(value),
        }
    }

    pub(super) fn choices(&self, rule: &Rule, doc: &Doc<'_>) -> Result<Vec<String>, TaskError> {
        const KEY: &str = "doc_to_choice";
        let value = match self.value(rule, KEY, doc)? {
            (Value::String(text), true) => literal::parse(&text).map_err(|message| self.failed(doc, KEY, message))?,
            (value, _) => value,
        };
        let choices = value.is_array().then(|| texts(&value)).flatten();
        let choices = choices.ok_or_else(|| self.wrong(doc, KEY, "a list of texts", &value))?;
        if choices.len() < 2 {
            return Err(TaskError::TooFewChoices { place: doc.place.clone(), found: choices.len() });
        }
        if choices.iter().any(String::is_empty) {
            return Err(self.wrong(doc, KEY, "a list of texts that are not empty", &value));
        }
        Ok(choices)
    }

    /// Text of a field or template; `None` without a rule.
    pub(super) fn words(&self, rule: Option<&Rule>, key: &str, doc: &Doc<'_>) -> Result<Option<String>, TaskError> {
        let Some(rule) = rule else { return Ok(None) };
        let (value, _) = self.value(rule, key, doc)?;
        Ok(Some(jinja::str(&value)).filter(|text| !text.is_empty()))
    }

    /// The indices of the choices that a target names.
    pub(super) fn gold(&self, target: &Value, choices: &[String], doc: &Doc<'_>) -> Result<Vec<usize>, TaskError> {
        let one = |target: &Value| {
            let index = match target {
                Value::String(text) => choices.iter().position(|choice| choice == text),
                other => {
                    let index = other
                        .as_i64()
                        .ok_or_else(|| self.wrong(doc, "doc_to_target", "the index or the text of a choice", other))?;
                    usize::try_from(index).ok().filter(|&index| index < choices.len())
                }
            };
            index.ok_or_else(|| TaskError::AnswerOutOfRange {
                place: doc.place.clone(),
                answer: jinja::repr(target),
                choices: choices.len(),
            })
        };
        match target {
            Value::Array(items) if items.is_empty() => {
                Err(self.wrong(doc, "doc_to_target", "a choice, or a list of some", target))
            }
            Value::Array(items) => items.iter().map(one).collect(),
            other => Ok(vec![one(other)?]),
        }
    }

    /// An example with its answer.
    pub(super) fn example(&self, doc: &Doc<'_>) -> Result<Vec<prompt::Turn>, TaskError> {
        let rules = &self.harness.fewshot;
        let choices = rules.choice.as_ref().map(|rule| self.choices(rule, doc)).transpose()?;
        let pick = |value: &Value| -> Result<String, TaskError> {
            let index = value.as_u64().and_then(|index| usize::try_from(index).ok());
            match (&choices, index) {
                (Some(choices), Some(index)) => choices.get(index).cloned().ok_or_else(|| {
                    let place = doc.place.clone();
                    TaskError::AnswerOutOfRange { place, answer: index.to_string(), choices: choices.len() }
                }),
                _ => Ok(jinja::str(value)),
            }
        };
        let question = match self.text(rules, doc)? {
            Value::String(text) => text,
            // The question is a choice, and the target its end.
            value if value.is_u64() => pick(&value)?,
            other => return Err(self.wrong(doc, "doc_to_text", "text", &other)),
        };
        let answer = match self.target(rules, doc)? {
            Value::Array(items) => items.first().map(pick).transpose()?.unwrap_or_default(),
            other => pick(&other)?,
        };
        let prefix = self.words(rules.prefix.as_ref(), "gen_prefix", doc)?;
        Ok(prompt::example(question, &answer, prefix.as_deref(), &rules.delimiters))
    }
}

fn index(digits: String) -> Value {
    digits.parse::<u64>().map_or(Value::String(digits), Value::from)
}
