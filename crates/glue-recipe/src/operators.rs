//! What is to be known of an operator, as JSON.

use glue_merge::params::{Kind, Scope, Value};
use glue_merge::{BaseRule, OperatorDef, ParamSpec, StatisticOf, StatisticShape};
use serde_json::json;

/// An operator with its parameters, defaults and docs, as JSON: what `glue ops --json` prints.
pub fn operator_document(def: &OperatorDef) -> serde_json::Value {
    let parameters: Vec<_> = def.params.iter().map(parameter).collect();
    json!({
        "name": def.name,
        "summary": def.summary,
        "formula": def.formula,
        "reference": def.reference,
        "models": { "min": def.inputs.min, "max": def.inputs.max },
        "base": match def.base {
            BaseRule::Unused => "unused",
            BaseRule::Optional => "optional",
            BaseRule::Required => "required",
        },
        "wraps": def.wraps(),
        "statistic": def.statistic.map(|spec| json!({
            "name": spec.name,
            "doc": spec.doc,
            "shape": match spec.shape {
                StatisticShape::Same => "same",
                StatisticShape::Columns => "columns",
                StatisticShape::Gram => "gram",
            },
            "of": match spec.of {
                StatisticOf::Inputs => "inputs",
                StatisticOf::Base => "base",
            },
        })),
        "parameters": parameters,
    })
}

fn parameter(spec: &ParamSpec) -> serde_json::Value {
    // An infinite bound means no limit.
    let limit = |x: f64| Some(x).filter(|x| x.abs() < f64::MAX);
    let mut document = json!({
        "name": spec.name,
        "doc": spec.doc,
        "per_model": spec.scope == Scope::Input,
        "required": spec.default.is_none(),
        "default": spec.default.and_then(value),
        "allowed": spec.kind.to_string(),
    });
    let details = match spec.kind {
        Kind::Number { range, usual } => json!({
            "kind": "number",
            "min": limit(range.min),
            "min_excluded": range.open,
            "max": limit(range.max),
            "usual": [usual.0, usual.1],
        }),
        Kind::Integer { min, max } => json!({
            "kind": "integer",
            "min": min,
            "max": Some(max).filter(|max| *max < i64::MAX),
        }),
        Kind::Flag => json!({ "kind": "flag" }),
        Kind::Choice { options, on, off } => json!({
            "kind": "choice",
            "options": options,
            "true": on,
            "false": off,
        }),
        Kind::Operator => json!({ "kind": "operator" }),
        _ => json!({ "kind": null }),
    };
    if let (Some(document), serde_json::Value::Object(details)) = (document.as_object_mut(), details) {
        document.extend(details);
    }
    document
}

fn value(value: Value) -> Option<serde_json::Value> {
    match value {
        Value::Number(x) => Some(json!(x)),
        Value::Integer(x) => Some(json!(x)),
        Value::Flag(x) => Some(json!(x)),
        Value::Word(x) => Some(json!(x)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    //! What a reader of the documents relies on.
    use super::*;
    use glue_merge::Registry;

    #[test]
    fn a_document_says_what_a_parameter_takes() {
        let document = operator_document(Registry::builtin().get("ties").unwrap());
        assert_eq!((&document["name"], &document["base"]), (&json!("ties"), &json!("required")));
        let parameters = document["parameters"].as_array().unwrap();
        let density = parameters.iter().find(|parameter| parameter["name"] == "density").unwrap();
        let found = ["kind", "per_model", "required", "default", "min", "min_excluded", "max"].map(|key| &density[key]);
        assert_eq!(json!(found), json!(["number", true, false, 1.0, 0.0, true, 1.0]));
        // No limit is null, as infinity is nothing in JSON.
        let weight = parameters.iter().find(|parameter| parameter["name"] == "weight").unwrap();
        assert_eq!((&weight["min"], &weight["default"]), (&json!(null), &json!(null)));
    }

    #[test]
    fn every_parameter_has_a_kind() {
        for def in Registry::builtin().iter() {
            let document = operator_document(def);
            for parameter in document["parameters"].as_array().unwrap() {
                assert!(parameter["kind"].is_string(), "{}: {parameter}", def.name);
            }
        }
    }
}
