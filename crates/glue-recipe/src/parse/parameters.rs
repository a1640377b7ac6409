//! Parameters: which there are, where they may stand, and their values.

use super::reader::{Entries, Reader, Result};
use crate::error::RecipeError;
use crate::keys;
use crate::settings::{Case, ParamValue, Settings};
use glue_merge::params::{Kind, Scope};
use glue_merge::{Operator, ParamError, ParamSpec, Setting};
use glue_yaml::{At, Node, Tree};

/// Where parameters stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    /// At the top.
    Top,
    /// At a module or a slice.
    Shared,
    /// At one of several models.
    Model,
}

impl Reader<'_> {
    /// The parameters at one place. Without an operator, because it could not be read, only their names are checked.
    pub(super) fn settings(&self, entries: &Entries<'_>, operator: Option<&Operator>, level: Level) -> Settings {
        let mut settings = Settings::default();
        let Some(node) = entries.get("parameters") else { return settings };
        let Tree::Map(map) = &node.value else {
            self.keep(self.wrong::<()>(node, "parameters", "a mapping from parameters to values"));
            return settings;
        };
        for (key, value) in map {
            if let Some(spec) = self.spec(key, operator, level)
                && let Some(operator) = operator
                && value.value != Tree::Null
            {
                if spec.kind == Kind::Operator {
                    // Read with the operator itself, from the top level.
                    if level != Level::Top {
                        self.keep(self.wrong::<()>(value, spec.name, "given in the top-level `parameters`"));
                    }
                } else if let Some(value) = self.value(value, operator, spec) {
                    settings.push(spec.name, value, key.at);
                }
            }
        }
        settings
    }

    /// The parameter called `key`; `None` with an error or a warning if it is unknown or has no effect here.
    fn spec(&self, key: &At<String>, operator: Option<&Operator>, level: Level) -> Option<&'static ParamSpec> {
        let refuse = |error| self.refuse(RecipeError::Param { place: self.place(key.at), error: Box::new(error) });
        let known: Vec<_> = operator.iter().flat_map(|operator| operator.specs()).collect();
        let name = operator.map_or("", |operator| operator.def().name);
        let found = known.iter().copied().find(|spec| spec.name == key.value);
        match found {
            // One that must be given, and is given where it cannot be, would be missed later without a place.
            Some(spec) if spec.scope == Scope::Tensor && level == Level::Model && spec.default.is_none() => {
                refuse(ParamError::NotPerInput { operator: name, key: spec.name });
            }
            Some(spec) if spec.scope == Scope::Tensor && level == Level::Model && spec.kind != Kind::Operator => {
                self.warn(key.at, &key.value, format!("for {name} it holds for the whole merge, not for a model"));
            }
            Some(spec) => return Some(spec),
            None if keys::WITHOUT_EFFECT.iter().any(|row| row.0 == key.value) => {
                let why = keys::WITHOUT_EFFECT.iter().find(|row| row.0 == key.value).map_or("", |row| row.1);
                self.warn(key.at, &key.value, why);
            }
            None if self.is_parameter(&key.value) => {
                if operator.is_some() {
                    let names: Vec<_> = known.iter().map(|spec| format!("`{}`", spec.name)).collect();
                    let has =
                        if names.is_empty() { "it has none".into() } else { format!("it has {}", names.join(", ")) };
                    self.warn(key.at, &key.value, format!("{name} has no such parameter; {has}"));
                }
            }
            None if keys::TOP.iter().any(|top| top.name == key.value) => {
                self.warn(key.at, &key.value, "it is no parameter; it belongs at the top of the recipe");
            }
            None if operator.is_none() => {
                let mut names: Vec<_> = self.registry.iter().flat_map(|def| def.params).map(|spec| spec.name).collect();
                names.sort_unstable();
                names.dedup();
                self.refuse(RecipeError::UnknownKey {
                    place: self.place(key.at),
                    inside: "`parameters`",
                    key: key.value.clone(),
                    nearest: glue_merge::registry::nearest(&key.value, names.iter().copied()),
                    known: names,
                });
            }
            None => {
                let known: Vec<_> = known.iter().map(|spec| spec.name).collect();
                let nearest = glue_merge::registry::nearest(&key.value, known.iter().copied());
                refuse(ParamError::Unknown { operator: name, key: key.value.clone(), nearest, known });
            }
        }
        None
    }

    fn value(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Option<ParamValue> {
        match &node.value {
            Tree::Map(_) => Some(ParamValue::Cases(vec![self.case(node, operator, spec)?])),
            Tree::List(list) if list.iter().any(|entry| matches!(entry.value, Tree::Map(_))) => {
                self.each(node, spec.name, |entry| self.case(entry, operator, spec)).map(ParamValue::Cases)
            }
            _ => self.plain_value(node, operator, spec),
        }
    }

    fn case(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Option<Case> {
        let entries = self.entries(node, "a value with a filter", keys::CASE)?;
        let filter = entries.get("filter").and_then(|node| self.keep(self.text(node, "filter")));
        let value = self.required(&entries, "value").and_then(|node| self.plain_value(node, operator, spec))?;
        Some(Case { filter: filter.map(|text| text.value), value })
    }

    /// A scalar, or a list of values over the layers.
    fn plain_value(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Option<ParamValue> {
        let Tree::List(list) = &node.value else {
            return self.keep(self.scalar(node, operator, spec)).map(ParamValue::Scalar);
        };
        if list.is_empty() {
            return self.keep(self.wrong(
                node,
                spec.name,
                "a value, a list of values over the layers, or a list of filters and values",
            ));
        }
        let values = self.each(node, spec.name, |node| self.keep(self.scalar(node, operator, spec)))?;
        let number = |value: &Setting| match value {
            Setting::Number(x) => Some(*x),
            _ => None,
        };
        Some(match spec.kind {
            Kind::Number { .. } | Kind::Integer { .. } => {
                ParamValue::Gradient(values.iter().filter_map(number).collect())
            }
            _ => ParamValue::Steps(values),
        })
    }

    fn scalar(&self, node: &Node, operator: &Operator, spec: &ParamSpec) -> Result<Setting> {
        let is_number = matches!(spec.kind, Kind::Number { .. } | Kind::Integer { .. });
        let setting = match &node.value {
            Tree::Flag(x) => Setting::Flag(*x),
            // Words of YAML 1.1, which mergekit reads; a model may well be called so.
            Tree::Text(x) if matches!(spec.kind, Kind::Flag | Kind::Choice { .. }) && yaml_1_1_flag(x).is_some() => {
                Setting::Flag(yaml_1_1_flag(x) == Some(true))
            }
            Tree::Integer(x) => Setting::Number(*x as f64),
            Tree::Number(x) => Setting::Number(*x),
            // In YAML 1.1 `1e-5` is text, so that configs have numbers in quotes.
            Tree::Text(x) => match x.parse::<f64>() {
                Ok(number) if is_number && number.is_finite() => Setting::Number(number),
                _ => Setting::Text(x.clone()),
            },
            _ => return self.wrong(node, spec.name, spec.kind.to_string()),
        };
        match spec.check(operator.def().name, &setting) {
            Ok(_) => Ok(setting),
            Err(error) => Err(RecipeError::Param { place: self.place(node.at), error: Box::new(error) }),
        }
    }
}

fn yaml_1_1_flag(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    }
}
