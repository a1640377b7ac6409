//! The report of `glue inspect` for people.

use super::report::{Mixture, Report, Rope, Tokenizer};
use crate::table::{Align, Table};
use crate::units;
use glue_mixture::{Level, RouterKind};

/// The text; `heading` styles headings.
pub(super) fn render(report: &Report, heading: impl Fn(&str) -> String) -> String {
    let mut facts = Table::new(&[Align::Left, Align::Left]);
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            facts.row([name.to_string(), value]);
        }
    };
    let number = |n: Option<usize>| n.map(|n| units::count(n as u64));
    fact("architecture", architecture(report));
    fact("parameters", Some(units::parameters(report.parameters.total)));
    fact("layers", number(report.layers));
    fact("hidden size", number(report.hidden_size));
    fact("MLP size", number(report.intermediate_size));
    fact("heads", heads(report));
    match &report.mixture {
        None => fact("experts", number(report.experts)),
        Some(mixture) => {
            fact("mixture", Some(mixed(mixture)));
            fact("experts", Some(experts(mixture)));
            fact(
                "mixed layers",
                Some(mixture.mixed_layers.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
            );
        }
    }
    fact("vocabulary", number(report.vocab_size));
    fact("positions", number(report.max_positions));
    fact("tied head", report.tied_head.map(|tied| yes(tied).to_string()));
    for one in &report.rope {
        fact("RoPE", Some(rope(one)));
    }
    fact("tokenizer", report.tokenizer.as_ref().map(tokenizer));
    if report.tokenizer.is_some() {
        fact("chat template", Some(yes(report.chat_template).to_string()));
    }

    let mut text = format!("{}\n{}", heading(&report.path), facts.render(str::to_string));
    text.push('\n');
    text += &shares(report).render(&heading);
    text.push('\n');
    text += &dtypes(report).render(&heading);
    text.push('\n');
    text += &files(report).render(&heading);
    if let Some(table) = tensors(report) {
        text.push('\n');
        text += &table.render(&heading);
    }
    for note in &report.notes {
        text += &format!("\nnote: {note}");
    }
    if !report.notes.is_empty() {
        text.push('\n');
    }
    text
}

/// What is mixed, and by which gates.
fn mixed(mixture: &Mixture) -> String {
    let level = match mixture.level {
        Level::Ffn => "MLPs",
        Level::Block => "whole layers",
        Level::Model if mixture.whole => "whole models",
        Level::Model => "all layers from one on",
    };
    let router = match mixture.router {
        RouterKind::Linear => "linear gates".to_string(),
        RouterKind::Mlp { hidden_size } => format!("gates with a hidden layer, {hidden_size} wide"),
    };
    format!("{level}, {router}, {} form", mixture.form)
}

/// The experts, with their sizes where they are models of their own.
fn experts(mixture: &Mixture) -> String {
    let one = |(i, name): (usize, &String)| match mixture.parameters.get(i) {
        Some(&n) => format!("{name} ({})", units::parameters(n)),
        None => name.clone(),
    };
    let all: Vec<String> = mixture.experts.iter().enumerate().map(one).collect();
    format!("{}: {}; {} at a time", all.len(), all.join(", "), mixture.experts_per_token)
}

fn architecture(report: &Report) -> Option<String> {
    let names = report.architectures.join(", ");
    match (&report.model_type, names.is_empty()) {
        (Some(kind), false) => Some(format!("{names} ({kind})")),
        (Some(kind), true) => Some(kind.clone()),
        (None, false) => Some(names),
        (None, true) => None,
    }
}

fn heads(report: &Report) -> Option<String> {
    let mut text = report.heads?.to_string();
    if let Some(kv) = report.kv_heads.filter(|kv| Some(*kv) != report.heads) {
        text += &format!(", {kv} for keys and values");
    }
    if let Some(dim) = report.head_dim {
        text += &format!(", {dim} wide");
    }
    Some(text)
}

fn rope(rope: &Rope) -> String {
    let mut text = format!("θ {}", rope.theta);
    if let Some(layers) = &rope.layer_type {
        text = format!("{layers}: {text}");
    }
    if rope.kind != "default" {
        text += &format!(", {}", rope.kind);
    }
    if rope.partial != 1.0 {
        text += &format!(", {} of each head", rope.partial);
    }
    for (name, value) in &rope.parameters {
        text += &format!(", {name} {value}");
    }
    text
}

fn tokenizer(tokenizer: &Tokenizer) -> String {
    let kind = tokenizer.kind.as_deref().unwrap_or("of unknown kind");
    match tokenizer.vocabulary {
        Some(n) => format!("{kind}, {}", units::things(n, "token", "tokens")),
        None => kind.to_string(),
    }
}

fn shares(report: &Report) -> Table {
    let mut table = Table::with_header(&[("ROLE", Align::Left), ("PARAMETERS", Align::Right), ("SHARE", Align::Right)]);
    for (role, n) in &report.parameters.by_role {
        let share = 100.0 * *n as f64 / report.parameters.total.max(1) as f64;
        table.row([role.to_string(), units::count(*n), format!("{share:.1} %")]);
    }
    table
}

fn dtypes(report: &Report) -> Table {
    let mut table = Table::with_header(&[
        ("TYPE", Align::Left),
        ("TENSORS", Align::Right),
        ("ELEMENTS", Align::Right),
        ("SIZE", Align::Right),
    ]);
    for (name, amount) in &report.dtypes {
        table.row([
            name.to_string(),
            units::count(amount.tensors as u64),
            units::count(amount.elements),
            units::bytes(amount.bytes),
        ]);
    }
    table
}

fn files(report: &Report) -> Table {
    let mut table = Table::with_header(&[("FILE", Align::Left), ("SIZE", Align::Right)]);
    for file in &report.files {
        table.row([file.name.clone(), units::bytes(file.bytes)]);
    }
    table
}

fn tensors(report: &Report) -> Option<Table> {
    let mut table = Table::with_header(&[
        ("TENSOR", Align::Left),
        ("TYPE", Align::Left),
        ("SHAPE", Align::Left),
        ("ROLE", Align::Left),
        ("LAYER", Align::Right),
    ]);
    for tensor in report.tensors.as_ref()? {
        table.row([
            tensor.name.clone(),
            tensor.dtype.to_string(),
            format!("{:?}", tensor.shape),
            tensor.role.to_string(),
            tensor.layer.map(|layer| layer.to_string()).unwrap_or_default(),
        ]);
    }
    Some(table)
}

fn yes(yes: bool) -> &'static str {
    if yes { "yes" } else { "no" }
}
