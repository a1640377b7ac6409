//! `glue ops`: the operators as a table, one in full, or all as a reference document.

use crate::failure::Failure;
use crate::reference::{example, operators};
use crate::shell::Shell;
use crate::table::{Align, Table};
use glue_merge::params::{Kind, Scope};
use glue_merge::{BaseRule, InputRule, OperatorDef, ParamSpec, Registry, StatisticOf, StatisticShape, StatisticSpec};
use glue_recipe::operator_document;
use serde_json::json;
use std::fmt::Write;

/// List the merge operators, or describe one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue ops               List all operators
  glue ops dare_ties     Show its formula, parameters and an example config
  glue ops --json        Print the list as JSON")]
pub(crate) struct Args {
    /// Operator to describe (default: list all)
    name: Option<String>,

    /// Print the reference in Markdown
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

/// Prints the list, an operator, or the reference.
pub(crate) fn run(args: &Args, registry: &Registry, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let Some(name) = &args.name else {
        return if args.markdown {
            shell.print(&operators::document(registry))
        } else if shell.json() {
            let all: Vec<_> = registry.iter().map(operator_document).collect();
            shell.print_json(&json!({ "operators": all }))
        } else {
            shell.print(&list(registry, shell))
        };
    };
    let def = registry.get(name).map_err(|error| Failure::refused(error).hint(Some("glue ops lists them all")))?;
    if args.markdown {
        shell.print(&operators::section(def, registry))
    } else if shell.json() {
        shell.print_json(&operator_document(def))
    } else {
        shell.print(&in_full(def, registry, shell))
    }
}

fn list(registry: &Registry, shell: &Shell<'_>) -> String {
    let mut table = Table::with_header(&[
        ("OPERATOR", Align::Left),
        ("MODELS", Align::Left),
        ("BASE", Align::Left),
        ("SUMMARY", Align::Left),
    ]);
    for def in registry.iter() {
        table.row([def.name, &models(def.inputs), base(def.base), def.summary]);
    }
    table.render(|line| shell.heading(line))
}

fn in_full(def: &OperatorDef, registry: &Registry, shell: &Shell<'_>) -> String {
    let mut text = format!("{}\n{}\n\n", shell.heading(def.name), def.summary);
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    facts.row(["formula", def.formula]);
    facts.row(["reference", def.reference]);
    facts.row(["models", &models_besides_base(def)]);
    facts.row(["base", base(def.base)]);
    if let Some(spec) = &def.statistic {
        facts.row(["statistic", &format!("{}, {}: {}", spec.name, statistic(spec), spec.doc)]);
    }
    text += &facts.render(str::to_string);
    if !def.params.is_empty() {
        let mut table = Table::with_header(&[
            ("PARAMETER", Align::Left),
            ("FOR EACH", Align::Left),
            ("DEFAULT", Align::Left),
            ("USUAL", Align::Left),
            ("ALLOWED", Align::Left),
        ]);
        for spec in def.params {
            table.row([spec.name, scope(spec.scope), &default(spec), &usual(spec).unwrap_or_default(), &allowed(spec)]);
        }
        text.push('\n');
        text += &table.render(|line| shell.heading(line));
        text.push('\n');
        let mut docs = Table::new(&[Align::Left, Align::Left]);
        for spec in def.params {
            docs.row([spec.name, spec.doc]);
        }
        text += &docs.render(str::to_string);
    }
    if let Some(config) = example::config(def, registry) {
        let _ = write!(text, "\n{}\n{config}", shell.heading("EXAMPLE"));
    }
    text
}

/// How many models, in short: `2`, `1+`, `2–4`.
fn models(rule: InputRule) -> String {
    match rule.max {
        Some(max) if max == rule.min => max.to_string(),
        Some(max) => format!("{}–{max}", rule.min),
        None => format!("{}+", rule.min),
    }
}

/// How many models, in words.
pub(crate) fn models_besides_base(def: &OperatorDef) -> String {
    let rule = def.inputs;
    let number = match rule.max {
        Some(max) if max == rule.min => max.to_string(),
        Some(max) => format!("{} to {max}", rule.min),
        None => format!("{} or more", rule.min),
    };
    match def.base {
        BaseRule::Unused => number,
        _ => format!("{number}, besides the base"),
    }
}

/// Whether the operator takes a base, in a word.
pub(crate) fn base(rule: BaseRule) -> &'static str {
    match rule {
        BaseRule::Unused => "unused",
        BaseRule::Optional => "optional",
        BaseRule::Required => "required",
    }
}

/// The shape of a statistic and the model it belongs to, in words.
pub(crate) fn statistic(spec: &StatisticSpec) -> String {
    let shape = match spec.shape {
        StatisticShape::Same => "a number for each element",
        StatisticShape::Columns => "a number for each column",
        StatisticShape::Gram => "a matrix over the columns",
    };
    let of = match spec.of {
        StatisticOf::Inputs => "of each model",
        StatisticOf::Base => "of the base",
    };
    format!("{shape}, {of}")
}

/// What a parameter can be set for.
pub(crate) fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Tensor => "tensor",
        Scope::Input => "tensor and model",
    }
}

/// The default, or `required`.
pub(crate) fn default(spec: &ParamSpec) -> String {
    spec.default.map_or_else(|| "required".to_string(), |value| value.to_string())
}

/// The usual range; `None` unless it is a number that people tune.
pub(crate) fn usual(spec: &ParamSpec) -> Option<String> {
    match spec.kind {
        Kind::Number { usual: (a, b), .. } if a < b => Some(format!("{a} to {b}")),
        _ => None,
    }
}

/// The allowed values, in words.
pub(crate) fn allowed(spec: &ParamSpec) -> String {
    spec.kind.to_string()
}
