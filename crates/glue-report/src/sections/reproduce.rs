//! The commands, the configuration, the versions and the hashes.

use crate::data::{Artifact, Report};
use crate::document::{Block, Cell, Table};
use crate::format::NONE;
use glue_text::words;

pub(super) fn reproduce(report: &Report) -> Vec<Block> {
    let run = &report.run;
    let mut blocks = Vec::new();
    let versions: Vec<String> = run.versions.iter().map(|v| format!("{} {}", v.name, v.version)).collect();
    let mut text = format!("Seed {}.", run.seed);
    if !versions.is_empty() {
        text += &format!(" Versions: {}.", words::list(&versions));
    }
    text += " The same inputs, versions and seed give the same files, whatever the number of threads.";
    blocks.push(Block::text(text));
    for command in &run.commands {
        blocks.push(Block::Code {
            title: command.title.clone(),
            text: command.command.clone(),
            language: "sh",
            open: true,
        });
    }
    if let Some(last) = report.outcome.as_ref().filter(|last| !last.usage.is_empty()) {
        blocks.push(Block::heading("Using the model"));
        if !last.opened_by.is_empty() {
            blocks.push(Block::text(last.opened_by.as_str()));
        }
        for usage in &last.usage {
            blocks.push(Block::Code {
                title: usage.title.clone(),
                text: usage.command.clone(),
                language: "sh",
                open: true,
            });
        }
    }
    if !run.config.is_empty() {
        let title = format!("Configuration: {}", run.config_path);
        blocks.push(Block::Code { title, text: run.config.clone(), language: "yaml", open: false });
    }
    for (caption, artifacts) in [("Inputs.", &run.inputs), ("Outputs.", &run.outputs)] {
        if !artifacts.is_empty() {
            blocks.push(hashes(caption, artifacts).fold_above(24).block());
        }
    }
    blocks
}

fn hashes(caption: &str, artifacts: &[Artifact]) -> Table {
    let mut table = Table::new(caption, &["name", "path", "#size", "hash of contents"]);
    for artifact in artifacts {
        table.row(vec![
            Cell::new(&artifact.name),
            Cell::code(&artifact.path),
            Cell::new(artifact.bytes.map_or(NONE.to_string(), words::bytes)),
            Cell::code(&artifact.hash),
        ]);
    }
    table
}
