//! Recipes of candidates as text, in the dialect of `glue merge` and mergekit.
//!
//! Numbers have all their digits and no exponent, which every YAML reader reads as the same number; names are quoted.
//! The same input always gives the same text.

use crate::contract::Candidate;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The key of the parameter for the weight of a model.
pub const WEIGHT: &str = "weight";

/// What all candidates of a search have in common: a recipe without method, models and parameters. Each field is the
/// key of a recipe of the same name; absent fields are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecipeTemplate {
    /// The base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
    /// Type of the output, unless `out_dtype` overrides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Type of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub out_dtype: Option<String>,
    /// The model whose tokenizer the output gets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizer_source: Option<String>,
    /// The chat template of the output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// What to do when a model lacks a tensor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_missing: Option<String>,
    /// What to do with NaN and infinities in an input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_nonfinite: Option<String>,
    /// Seed of random operators.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Paths of the statistics of models, by model. Only for operators that use them.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub statistics: BTreeMap<String, String>,
    /// Path of the statistics of the base. Only for operators that use them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_statistics: Option<String>,
}

/// The value of a parameter in a recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ParamText {
    /// `true` or `false`.
    Flag(bool),
    /// A finite number.
    Number(f64),
    /// A word.
    Text(String),
    /// Numbers that are interpolated over the layers.
    Gradient(Vec<f64>),
    /// The value of the first case that matches.
    Cases(Vec<CaseText>),
}

/// A value for the tensors whose name contains `filter`, or for all tensors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CaseText {
    /// Part of a name; `None` matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// The value; not [`ParamText::Cases`].
    pub value: ParamText,
}

impl From<f64> for ParamText {
    fn from(x: f64) -> ParamText {
        ParamText::Number(x)
    }
}

impl From<&str> for ParamText {
    fn from(word: &str) -> ParamText {
        ParamText::Text(word.into())
    }
}

/// A key and its value.
pub type NamedParam = (String, ParamText);

/// The recipe that merges `models`, each with its own parameters, by `method`, with `parameters` for all of them.
pub fn recipe(
    template: &RecipeTemplate,
    method: &str,
    models: &[(String, Vec<NamedParam>)],
    parameters: &[NamedParam],
) -> Candidate {
    let mut text = format!("merge_method: {}\n", quoted(method));
    let mut key = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            line(&mut text, format_args!("{name}: {}", quoted(value)));
        }
    };
    key("base_model", &template.base_model);
    key("base_statistics", &template.base_statistics);
    key("dtype", &template.dtype);
    key("out_dtype", &template.out_dtype);
    key("tokenizer_source", &template.tokenizer_source);
    key("chat_template", &template.chat_template);
    key("on_missing", &template.on_missing);
    key("on_nonfinite", &template.on_nonfinite);
    if let Some(seed) = template.seed {
        line(&mut text, format_args!("seed: {seed}"));
    }
    line(&mut text, format_args!("models:"));
    for (model, own) in models {
        line(&mut text, format_args!("  - model: {}", quoted(model)));
        if let Some(path) = template.statistics.get(model) {
            line(&mut text, format_args!("    statistics: {}", quoted(path)));
        }
        write_parameters(&mut text, "    ", own);
    }
    write_parameters(&mut text, "", parameters);
    Candidate { recipe: text }
}

/// The recipe that merges models with these weights by `method`, with `parameters` for all of them.
pub fn weighted(
    template: &RecipeTemplate,
    method: &str,
    weights: &[(String, f64)],
    parameters: &[NamedParam],
) -> Candidate {
    let weigh =
        |(model, weight): &(String, f64)| (model.clone(), vec![(WEIGHT.to_string(), ParamText::Number(*weight))]);
    recipe(template, method, &weights.iter().map(weigh).collect::<Vec<_>>(), parameters)
}

/// The recipe of one model unchanged, except for the type of its elements if `template` has one: the recipe of a
/// baseline.
pub fn alone(template: &RecipeTemplate, model: &str) -> Candidate {
    let template = RecipeTemplate { base_model: None, ..template.clone() };
    recipe(&template, "passthrough", &[(model.to_string(), Vec::new())], &[])
}

fn write_parameters(text: &mut String, indent: &str, parameters: &[NamedParam]) {
    if parameters.is_empty() {
        return;
    }
    line(text, format_args!("{indent}parameters:"));
    for (key, value) in parameters {
        match value {
            ParamText::Cases(cases) => {
                line(text, format_args!("{indent}  {}:", quoted(key)));
                for case in cases {
                    let value = inline(&case.value);
                    match &case.filter {
                        Some(filter) => {
                            line(text, format_args!("{indent}    - {{filter: {}, value: {value}}}", quoted(filter)));
                        }
                        None => line(text, format_args!("{indent}    - {{value: {value}}}")),
                    }
                }
            }
            other => line(text, format_args!("{indent}  {}: {}", quoted(key), inline(other))),
        }
    }
}

fn inline(value: &ParamText) -> String {
    match value {
        ParamText::Flag(x) => x.to_string(),
        ParamText::Number(x) => number(*x),
        ParamText::Text(x) => quoted(x),
        ParamText::Gradient(points) => {
            format!("[{}]", points.iter().map(|x| number(*x)).collect::<Vec<_>>().join(", "))
        }
        // The dialect has no cases within cases; the reader of the recipe refuses them.
        ParamText::Cases(cases) => {
            let case = |case: &CaseText| format!("{{value: {}}}", inline(&case.value));
            format!("[{}]", cases.iter().map(case).collect::<Vec<_>>().join(", "))
        }
    }
}

/// All digits and no exponent: readers of YAML disagree about which exponents make a number.
fn number(x: f64) -> String {
    // Adding zero turns -0 into 0.
    (x + 0.0).to_string()
}

/// A plain word unchanged; anything else in double quotes, where YAML reads the escapes of JSON.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-/.".contains(c);
    // Words that start with something else may be numbers or dates; some readers take `yes` and similar words for
    // flags.
    let word = text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.chars().all(plain);
    let special = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    if word && !special.contains(&text.to_ascii_lowercase().as_str()) {
        text.to_string()
    } else {
        serde_json::Value::from(text).to_string()
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_merge::{Registry, Setting};
    use glue_recipe::recipe::Body;
    use glue_recipe::{ParamValue, Recipe};

    fn parse(candidate: &Candidate) -> Recipe {
        let parsed = Recipe::parse(&candidate.recipe, "test", &Registry::builtin());
        parsed.unwrap_or_else(|error| panic!("{error}\n{}", candidate.recipe)).remove(0)
    }

    #[test]
    fn text_is_what_one_would_write() {
        let template = RecipeTemplate {
            base_model: Some("zoo/base".into()),
            dtype: Some("float16".into()),
            ..RecipeTemplate::default()
        };
        let cases = ParamText::Cases(vec![
            CaseText { filter: Some("layers.0.".into()), value: 0.25.into() },
            CaseText { filter: None, value: ParamText::Gradient(vec![1.0, 1e-7]) },
        ]);
        let models = [("zoo/a".to_string(), vec![("weight".to_string(), cases)]), ("b c".to_string(), vec![])];
        let candidate = recipe(&template, "task_arithmetic", &models, &[("lambda".into(), 0.5.into())]);
        let expected = "merge_method: task_arithmetic\nbase_model: zoo/base\ndtype: float16\nmodels:\n  - model: zoo/a\n    \
                        parameters:\n      weight:\n        - {filter: layers.0., value: 0.25}\n        - {value: [1, \
                        0.0000001]}\n  - model: \"b c\"\nparameters:\n  lambda: 0.5\n";
        assert_eq!(candidate.recipe, expected);
    }

    #[test]
    fn whatever_is_written_is_read_again() {
        let awkward =
            ["a: b", "yes", "1.0", "#x", "[q]", "é\n\"\\", "~", "- a", "a b", "{x}", "*a", "&a", "%", "2020-01-01"];
        let numbers = [1e-7, 0.1 + 0.2, -0.0, 1e16, 5e-324, 123456.789, -1.0 / 3.0];
        for (name, x) in awkward.iter().zip(numbers.iter().cycle()) {
            let template = RecipeTemplate { seed: Some(u64::MAX >> 1), ..RecipeTemplate::default() };
            let parsed = parse(&weighted(&template, "linear", &[(name.to_string(), *x), ("other".into(), 1.0)], &[]));
            let Body::Models(models) = &parsed.parts[0].body else { panic!("models were written") };
            assert_eq!(models[0].model.value, *name);
            let read = models[0].settings.get(WEIGHT).map(|at| at.value.clone());
            assert_eq!(read, Some(ParamValue::Scalar(Setting::Number(*x))), "{name}");
            assert_eq!(parsed.seed, Some(u64::MAX >> 1));
        }
    }

    #[test]
    fn a_model_alone_needs_nothing_else() {
        let template = RecipeTemplate { base_model: Some("base".into()), ..RecipeTemplate::default() };
        assert_eq!(alone(&template, "a").recipe, "merge_method: passthrough\nmodels:\n  - model: a\n");
    }
}
