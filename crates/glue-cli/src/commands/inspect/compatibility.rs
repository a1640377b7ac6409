//! Several models side by side: which can be merged, and why others cannot.

use crate::commands::zoo;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use crate::visible::one_line;
use glue_metrics::compatibility::{Compatibility, ModelSummary, PairVerdict, Verdict, compatibility};
use glue_tensor::{ModelDir, ModelDirError};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;

/// Number of pairs that are named when many have the same verdict.
const NAMED: usize = 6;

/// Compares the headers of `paths` and prints the verdicts.
pub(super) fn run(paths: &[PathBuf], shell: &mut Shell<'_>) -> Result<(), Failure> {
    let open = |path: &PathBuf| {
        let model = ModelDir::open(path).map_err(|error| match error {
            ModelDirError::NotFound { .. } | ModelDirError::WithAdapter { .. } => Failure::refused(error),
            error => Failure::failed(error),
        })?;
        Ok((path.display().to_string(), model))
    };
    let models: Vec<(String, ModelDir)> = paths.iter().map(open).collect::<Result<_, Failure>>()?;
    let models: Vec<(String, &ModelDir)> = models.iter().map(|(name, model)| (name.clone(), model)).collect();
    let found = compatibility(&models).map_err(zoo::refusal)?;
    if shell.json() { shell.print_json(&found) } else { shell.print(&render(&found, shell)) }
}

fn render(found: &Compatibility, shell: &Shell<'_>) -> String {
    let paths: Vec<String> = found.models.iter().map(|model| model.name.clone()).collect();
    let names: Vec<String> = zoo::short_names(&paths).iter().map(|name| one_line(name).into_owned()).collect();
    let mut table = Table::with_header(&[
        ("MODEL", Align::Left),
        ("TYPE", Align::Left),
        ("PARAMETERS", Align::Right),
        ("LAYERS", Align::Right),
        ("HIDDEN", Align::Right),
        ("HEADS", Align::Right),
        ("VOCABULARY", Align::Right),
        ("TOKENIZER", Align::Left),
        ("HEAD", Align::Left),
        ("DTYPES", Align::Left),
    ]);
    for (name, model) in names.iter().zip(&found.models) {
        table.row(row(name, model));
    }
    let mut text = table.render(|line| shell.heading(line));
    let _ = writeln!(text, "\n{}", shell.heading("Can be merged with each other"));
    for group in &found.groups {
        let members: Vec<&str> = group.iter().map(|&member| names[member].as_str()).collect();
        let _ = writeln!(text, "{}", members.join(", "));
    }
    // Pairs with the same verdict and reasons share a line.
    let mut verdicts: BTreeMap<(Verdict, Vec<String>), Vec<String>> = BTreeMap::new();
    let mut notes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for pair in &found.pairs {
        let both = both(pair, &names);
        for note in pair.notes.iter().filter(|_| pair.verdict != Verdict::MixtureOnly) {
            notes.entry(note.to_string()).or_default().push(both.clone());
        }
        if pair.verdict != Verdict::Mergeable {
            let reasons = pair.reasons.iter().map(ToString::to_string).collect();
            verdicts.entry((pair.verdict, reasons)).or_default().push(both);
        }
    }
    for ((verdict, reasons), pairs) in verdicts {
        let _ = writeln!(text, "\n{}: {}", shell.heading(&verdict.to_string()), some(&pairs));
        for reason in reasons {
            let _ = writeln!(text, "  {}", one_line(&reason));
        }
    }
    if !notes.is_empty() {
        let _ = writeln!(text, "\n{}", shell.heading("Differences that do not prevent merging"));
        for (note, pairs) in notes {
            let _ = writeln!(text, "{}: {}", one_line(&note), some(&pairs));
        }
    }
    text
}

fn both(pair: &PairVerdict, names: &[String]) -> String {
    format!("{} and {}", names[pair.first], names[pair.second])
}

fn some(pairs: &[String]) -> String {
    match pairs.len().checked_sub(NAMED) {
        Some(more @ 1..) => {
            format!("{}, and {} more", pairs[..NAMED].join("; "), units::things(more, "pair", "pairs"))
        }
        _ => pairs.join("; "),
    }
}

fn row(name: &str, model: &ModelSummary) -> [String; 10] {
    let number = |number: Option<usize>| number.map_or_else(|| "–".to_owned(), |number| number.to_string());
    let heads = match (model.heads, model.kv_heads) {
        (Some(heads), Some(kv_heads)) if heads != kv_heads => format!("{heads}/{kv_heads}"),
        (heads, _) => number(heads),
    };
    [
        name.to_owned(),
        model.model_type.clone().unwrap_or_else(|| "–".to_owned()),
        units::short(model.parameters),
        number(model.layers),
        number(model.hidden_size),
        heads,
        number(model.vocab_size),
        // The beginning is enough to distinguish a few.
        model.tokenizer_hash.as_ref().map_or_else(|| "–".to_owned(), |hash| hash.chars().take(8).collect()),
        if model.tied_head { "tied" } else { "own" }.to_owned(),
        model.dtypes.keys().cloned().collect::<Vec<_>>().join(" "),
    ]
}
