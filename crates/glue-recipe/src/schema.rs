//! The dialect as a JSON schema, from the tables that parsing goes by.

use crate::keys::{self, Key, ValueKind};
use glue_merge::params::{Kind, Scope};
use glue_merge::{ParamSpec, Registry};
use glue_tensor::Dtype;
use serde_json::{Map, Value, json};

/// The JSON schema (2020-12) of one recipe with the operators of `registry`.
pub fn schema(registry: &Registry) -> Value {
    let mut schema = mapping(keys::TOP, registry);
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema".into();
    schema["title"] = "Model-GLUE recipe".into();
    schema["required"] = json!(["merge_method"]);
    let body = |key: &str| json!({ "required": [key] });
    schema["oneOf"] = json!([body("models"), body("slices"), body("modules")]);
    schema["$defs"] = json!({
        "model": {
            "description": "A path or the name of an earlier stage; or the same as mergekit writes it in full.",
            "oneOf": [{ "type": "string", "minLength": 1 }, mapping(keys::REFERENCE, registry)],
        },
        "parameters": parameters(registry),
    });
    // What each operator takes, and what it needs a base for.
    let conditions: Vec<Value> = registry
        .iter()
        .map(|def| {
            let names: Vec<&str> = def.params.iter().map(|spec| spec.name).collect();
            let mut then = json!({});
            if def.wraps().is_none() {
                then["properties"] = json!({ "parameters": { "propertyNames": { "enum": names } } });
            }
            if def.base == glue_merge::BaseRule::Required && def.wraps().is_none() {
                then["required"] = json!(["base_model"]);
            }
            json!({ "if": { "properties": { "merge_method": { "const": def.name } } }, "then": then })
        })
        .collect();
    schema["allOf"] = json!(conditions);
    schema
}

fn mapping(keys: &[Key], registry: &Registry) -> Value {
    let properties: Map<String, Value> = keys
        .iter()
        .filter(|key| key.kind != ValueKind::Unavailable)
        .map(|key| {
            let mut value = holds(key, registry);
            value["description"] = key.doc.into();
            (key.name.to_string(), value)
        })
        .collect();
    let required: Vec<&str> = keys
        .iter()
        .map(|key| key.name)
        .filter(|name| ["model", "layer_range", "sources", "path"].contains(name))
        .collect();
    json!({ "type": "object", "additionalProperties": false, "required": required, "properties": properties })
}

fn holds(key: &Key, registry: &Registry) -> Value {
    match key.kind {
        ValueKind::Operator => {
            let choices: Vec<Value> =
                registry.iter().map(|def| json!({ "const": def.name, "description": def.summary })).collect();
            json!({ "oneOf": choices })
        }
        ValueKind::Model => json!({ "$ref": "#/$defs/model" }),
        ValueKind::ListOf(keys) => json!({ "type": "array", "minItems": 1, "items": mapping(keys, registry) }),
        ValueKind::Mapping(keys) if keys == keys::PATH => {
            json!({ "oneOf": [{ "type": "string", "minLength": 1 }, mapping(keys, registry)] })
        }
        ValueKind::Mapping(keys) => mapping(keys, registry),
        ValueKind::NamedMappings(keys) => {
            json!({ "type": "object", "minProperties": 1, "additionalProperties": mapping(keys, registry) })
        }
        ValueKind::Parameters => json!({ "$ref": "#/$defs/parameters" }),
        ValueKind::Layers => json!({
            "type": "array", "minItems": 2, "maxItems": 2, "items": { "type": "integer", "minimum": 0 },
        }),
        ValueKind::Dtype => {
            let names: Vec<&str> = Dtype::ALL.iter().filter(|d| d.is_float()).map(|d| d.torch_name()).collect();
            json!({ "examples": names, "type": "string" })
        }
        ValueKind::TokenizerSource => json!({ "anyOf": [{ "enum": ["base", "union"] }, { "$ref": "#/$defs/model" }] }),
        ValueKind::Text => json!({ "type": "string", "minLength": 1 }),
        ValueKind::Seed => json!({ "type": "integer", "minimum": 0, "maximum": u64::MAX }),
        ValueKind::Unavailable => json!(false),
        ValueKind::Flag => json!({ "type": "boolean" }),
        ValueKind::Word(words) => json!({ "enum": words }),
    }
}

/// Every parameter of every operator. One that several operators have may be of several kinds.
fn parameters(registry: &Registry) -> Value {
    let mut properties: Map<String, Value> = Map::new();
    for (name, why) in keys::WITHOUT_EFFECT {
        properties.insert((*name).into(), json!({ "description": format!("Without effect: {why}.") }));
    }
    for (def, spec) in registry.iter().flat_map(|def| def.params.iter().map(move |spec| (def, spec))) {
        let value = parameter(spec, registry);
        let line = format!("{}: {} ({})", def.name, spec.doc, scope(spec.scope));
        match properties.get_mut(spec.name) {
            Some(known) => {
                if let Some(list) = known["anyOf"].as_array_mut()
                    && !list.contains(&value)
                {
                    list.push(value);
                }
                known["description"] = format!("{}\n{line}", known["description"].as_str().unwrap_or_default()).into();
            }
            None => {
                properties.insert(spec.name.into(), json!({ "description": line, "anyOf": [value] }));
            }
        }
    }
    json!({ "type": "object", "additionalProperties": false, "properties": properties })
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Tensor => "for the whole merge",
        Scope::Input => "for each model",
    }
}

/// A scalar, a list of them over the layers, or a list of either with filters.
fn parameter(spec: &ParamSpec, registry: &Registry) -> Value {
    let scalar = match spec.kind {
        Kind::Number { range, .. } => {
            let mut number = json!({ "type": "number" });
            if range.min.is_finite() {
                number[if range.open { "exclusiveMinimum" } else { "minimum" }] = range.min.into();
            }
            if range.max.is_finite() {
                number["maximum"] = range.max.into();
            }
            number
        }
        Kind::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Choice { options, on, off } => {
            let mut words: Vec<Value> = options.iter().map(|word| Value::from(*word)).collect();
            words.extend(on.map(|_| Value::from(true)));
            words.extend(off.map(|_| Value::from(false)));
            json!({ "enum": words })
        }
        Kind::Operator => {
            let inner =
                registry.iter().filter(|def| def.base == glue_merge::BaseRule::Required && def.wraps().is_none());
            return json!({ "enum": inner.map(|def| def.name).collect::<Vec<_>>() });
        }
        _ => json!({}),
    };
    let plain = json!({ "anyOf": [scalar, { "type": "array", "minItems": 1, "items": scalar }] });
    let case = json!({
        "type": "object",
        "additionalProperties": false,
        "required": ["value"],
        "properties": { "filter": { "type": "string", "description": keys::CASE[0].doc }, "value": plain },
    });
    json!({ "anyOf": [plain, case, { "type": "array", "minItems": 1, "items": case }] })
}
