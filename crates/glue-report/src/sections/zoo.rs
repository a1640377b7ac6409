//! The zoo: models, tasks, compatibility, similarity, clusters.

use crate::charts::drawing::Medium;
use crate::charts::heatmap::Colours;
use crate::charts::{dendrogram, heatmap, pairs};
use crate::data::{Model, Pair, Report};
use crate::document::{Block, Cell, Chart, Column, Table};
use crate::format::{self, NONE, capital};
use glue_text::words;
use std::collections::BTreeSet;

pub(super) fn inputs(report: &Report) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    if !report.models.is_empty() {
        blocks.push(models(&report.models).block());
    }
    if !report.tasks.is_empty() {
        blocks.push(tasks(report).block());
    }
    blocks
}

fn models(models: &[Model]) -> Table {
    let columns = ["model", "family", "architecture", "#parameters", "type", "#vocabulary", "tokenizer", "read from"];
    let caption = format!("{} in the zoo.", words::things(models.len(), "model", "models"));
    let mut table = Table::new(caption, &columns);
    for model in models {
        let dash = |text: &str| Cell::new(if text.is_empty() { NONE } else { text });
        let vocabulary = model.vocab_size.map_or(NONE.to_string(), |size| words::count(size as u64));
        let tokenizer = model.tokenizer.as_ref().map_or(Cell::new(NONE), |hash| Cell::code(format::start(hash, 12)));
        table.row(vec![
            Cell::new(&model.name).minor(if model.base { "base" } else { "" }),
            dash(&model.family),
            dash(&model.architecture),
            Cell::new(words::count(model.parameters)),
            dash(&model.dtype),
            Cell::new(vocabulary),
            tokenizer,
            Cell::code(&model.path),
        ]);
    }
    table
}

fn tasks(report: &Report) -> Table {
    let mut splits: Vec<&str> = Vec::new();
    for split in report.tasks.iter().flat_map(|task| &task.splits) {
        if !splits.contains(&split.split.as_str()) {
            splits.push(&split.split);
        }
    }
    let mut table = Table::new("Tasks, with the number of items in each split.", &["task", "metric", "description"]);
    table.columns.extend(splits.iter().map(|split| Column::number(split)));
    for task in &report.tasks {
        let description = task.description.as_deref().unwrap_or(NONE);
        let mut row = vec![Cell::new(&task.name), Cell::new(&task.metric), Cell::new(description)];
        for split in &splits {
            let found = task.splits.iter().find(|entry| entry.split == *split);
            row.push(Cell::new(found.map_or(NONE.to_string(), |entry| words::count(entry.items as u64))));
        }
        table.row(row);
    }
    table
}

pub(super) fn compatibility(report: &Report) -> Vec<Block> {
    if report.compatibility.is_empty() {
        return Vec::new();
    }
    let mut blocks = vec![Block::text(
        "From headers and configs alone, before any weight was read. Two models that can be merged are not necessarily \
         worth merging: scores decide.",
    )];
    let mut table =
        Table::new("Every pair of models and what can be done with it.", &["verdict", "#pairs", "models", "why"]);
    // Pairs of which the same can be said, in the order in which they first come.
    let mut groups: Vec<Vec<&Pair>> = Vec::new();
    for pair in &report.compatibility {
        let same = |group: &&mut Vec<&Pair>| {
            let known = group[0];
            known.verdict == pair.verdict && known.reasons == pair.reasons && known.notes == pair.notes
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(pair),
            None => groups.push(vec![pair]),
        }
    }
    groups.sort_by_key(|group| group[0].verdict);
    for group in groups {
        let Pair { verdict, reasons, notes, .. } = group[0];
        let why = match reasons.is_empty() {
            true => "same names and shapes, same vocabulary".to_string(),
            false => reasons.join("; "),
        };
        let note = if notes.is_empty() { String::new() } else { format!("note: {}", notes.join("; ")) };
        table.row(vec![
            Cell::new(format!("{} {}", pairs::mark(*verdict), pairs::words(*verdict))),
            Cell::new(words::count(group.len() as u64)),
            Cell::new(describe(&group)),
            Cell::new(why).minor(note),
        ]);
    }
    let names: Vec<&str> = report.models.iter().map(|model| model.name.as_str()).collect();
    if names.len() > 1 {
        let caption = "● merge  ◐ merge after vocabulary alignment  ○ mix only";
        blocks.push(Block::figure(caption, "half", pairs::pairs("pairs", &names, &report.compatibility)));
    }
    blocks.push(table.block());
    blocks
}

/// Pairs in words: all of some models, one with others, or one by one.
fn describe(pairs: &[&Pair]) -> String {
    let edges: BTreeSet<(&str, &str)> = pairs.iter().map(|pair| ordered(&pair.first, &pair.second)).collect();
    let mut names: Vec<&str> = Vec::new();
    for name in pairs.iter().flat_map(|pair| [pair.first.as_str(), pair.second.as_str()]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let n = names.len();
    if n > 2 && edges.len() == n * (n - 1) / 2 {
        return format!("any two of {}", words::list(&names));
    }
    // One side is what the first model is paired with, the other side everything else.
    if let Some(first) = names.first() {
        let beside: Vec<&str> = names.iter().copied().filter(|name| edges.contains(&ordered(first, name))).collect();
        let others: Vec<&str> = names.iter().copied().filter(|name| !beside.contains(name)).collect();
        let across = beside.iter().all(|a| others.iter().all(|b| edges.contains(&ordered(a, b))));
        if across && edges.len() == beside.len() * others.len() {
            let (few, many) = if beside.len() < others.len() { (beside, others) } else { (others, beside) };
            return format!("{} with {}", any(&few), any(&many));
        }
    }
    let listed: Vec<String> =
        pairs.iter().take(12).map(|pair| format!("{} with {}", pair.first, pair.second)).collect();
    let more = pairs.len().saturating_sub(listed.len());
    let more = if more > 0 { format!("; {more} more") } else { String::new() };
    format!("{}{more}", listed.join("; "))
}

fn ordered<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    if a < b { (a, b) } else { (b, a) }
}

fn any(names: &[&str]) -> String {
    if names.len() > 1 { format!("any of {}", words::list(names)) } else { words::list(names) }
}

pub(super) fn similarity(report: &Report) -> Vec<Block> {
    let clusters = report.clustering.as_ref().map_or(&[][..], |clustering| &clustering.clusters);
    let threshold = report.clustering.as_ref().map(|clustering| clustering.threshold);
    let mut blocks = Vec::new();
    if let Some(clustering) = &report.clustering {
        let found = words::things(clusters.len(), "cluster", "clusters");
        let text = format!(
            "{} clustering at {} found {found}. The pipeline of Model-GLUE merges the models of each cluster.",
            capital(&clustering.method),
            format::fixed(clustering.threshold, 2)
        );
        blocks.push(Block::text(text));
    }
    let mut charts = Vec::new();
    let mut colours = None;
    if let Some(similarity) = &report.similarity {
        let (order, groups) = heatmap::order(similarity, report.dendrogram.as_ref(), clusters);
        colours = Colours::of(similarity, &order, &groups).note(similarity.scale);
        let svg = heatmap::heatmap(Medium::Page, similarity, &order, &groups).inline("heatmap");
        charts.push(Chart { title: format!("Similarity: {}", similarity.metric), svg });
    }
    if let Some(tree) = report.dendrogram.as_ref().filter(|tree| !tree.names.is_empty()) {
        let svg = dendrogram::dendrogram(Medium::Page, tree, clusters, threshold).inline("dendrogram");
        charts.push(Chart { title: format!("Dendrogram, {} linkage", tree.link), svg });
    }
    if !charts.is_empty() {
        let mut caption =
            "Left of each name of the dendrogram: its cluster. A dash: shapes differ, nothing to compare. \
                           Frames: clusters."
                .to_string();
        if report.dendrogram.is_none() || clusters.is_empty() {
            caption = "A dash: shapes differ, nothing to compare.".to_string();
        }
        if let Some(note) = colours {
            caption += &format!(" {note}");
        }
        blocks.push(Block::Figures { caption, size: "pair", charts });
    }
    if !clusters.is_empty() {
        let mut table = Table::new("Clusters.", &["cluster", "#models", "members", "compared with"]);
        for cluster in clusters {
            table.row(vec![
                Cell::new(&cluster.name),
                Cell::new(words::count(cluster.members.len() as u64)),
                Cell::new(cluster.members.join(", ")),
                Cell::new(&cluster.first),
            ]);
        }
        blocks.push(table.block());
    }
    blocks
}

#[cfg(test)]
mod tests {
    //! Pairs in words.
    use super::*;

    #[test]
    fn pairs_are_described_in_few_words() {
        let check = |pairs: &[(&str, &str)], expected: &str| {
            let pairs: Vec<Pair> = pairs
                .iter()
                .map(|(a, b)| Pair { first: a.to_string(), second: b.to_string(), ..Pair::default() })
                .collect();
            assert_eq!(describe(&pairs.iter().collect::<Vec<_>>()), expected);
        };
        check(&[("a", "b")], "a with b");
        check(&[("a", "b"), ("a", "c"), ("b", "c")], "any two of a, b and c");
        check(&[("a", "c"), ("b", "c")], "c with any of a and b");
        check(&[("a", "c"), ("a", "d"), ("b", "c"), ("b", "d")], "any of a and b with any of c and d");
        check(&[("a", "b"), ("b", "c"), ("c", "d")], "a with b; b with c; c with d");
    }
}
