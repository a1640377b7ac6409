//! A merge config for any operator, from the parameters that it declares.

use glue_merge::params::{Kind, Scope};
use glue_merge::{BaseRule, Operator, OperatorDef, ParamSpec, Registry, StatisticOf};
use std::fmt::Write;

/// Models that examples merge.
const MODELS: [&str; 4] = ["models/math", "models/code", "models/chat", "models/law"];

/// Number of models of an example, if the operator allows any.
const SHOWN: usize = 2;

/// A config that uses `def` with each of its parameters: its default, or the middle of its usual range.
///
/// `None` for an operator that wraps another when no operator of `registry` can be wrapped.
pub(crate) fn config(def: &OperatorDef, registry: &Registry) -> Option<String> {
    // The registry has it as a constant of the program, which is what an `Operator` is made of.
    let def = registry.get(def.name).ok()?;
    let operator = match def.wraps() {
        None => Operator::new(def),
        Some(_) => {
            let all: Vec<Operator> = registry.iter().filter_map(|inner| Operator::wrapping(def, inner).ok()).collect();
            *all.iter().find(|operator| operator.inputs().allows(SHOWN)).or(all.first())?
        }
    };
    let rule = operator.inputs();
    let n = SHOWN.max(rule.min).min(rule.max.unwrap_or(usize::MAX));
    let mut text = format!("merge_method: {}\n", def.name);
    match def.base {
        BaseRule::Unused => {}
        BaseRule::Optional => text.push_str("base_model: models/base  # may be left out\n"),
        BaseRule::Required => text.push_str("base_model: models/base\n"),
    }
    let measured = operator.statistic().map(|statistic| statistic.of);
    if measured == Some(StatisticOf::Base) {
        text.push_str("base_statistics: statistics/base\n");
    }
    text.push_str("models:\n");
    for model in MODELS.iter().cycle().take(n) {
        let _ = writeln!(text, "  - model: {model}");
        if measured == Some(StatisticOf::Inputs) {
            let _ = writeln!(text, "    statistics: {}", model.replace("models", "statistics"));
        }
        section(&mut text, &operator, Scope::Input, "    ");
    }
    section(&mut text, &operator, Scope::Tensor, "");
    text.push_str("dtype: bfloat16\n");
    Some(text)
}

fn section(text: &mut String, operator: &Operator, scope: Scope, indent: &str) {
    let mut specs = operator.specs().filter(|spec| spec.scope == scope).peekable();
    if specs.peek().is_none() {
        return;
    }
    let _ = writeln!(text, "{indent}parameters:");
    for spec in specs {
        let note = if spec.default.is_some() { "  # the default" } else { "" };
        let _ = writeln!(text, "{indent}  {}: {}{note}", spec.name, value(spec, operator));
    }
}

fn value(spec: &ParamSpec, operator: &Operator) -> String {
    if let Some(default) = spec.default {
        return default.to_string();
    }
    match spec.kind {
        Kind::Number { usual: (a, b), .. } => ((a + b) / 2.0).to_string(),
        Kind::Integer { min, .. } => min.to_string(),
        Kind::Flag => "true".to_string(),
        Kind::Choice { options, .. } => options.first().copied().unwrap_or_default().to_string(),
        Kind::Operator => operator.inner().map_or("", |inner| inner.name).to_string(),
        _ => String::new(),
    }
}
