//! Two runs side by side.

use crate::check::check;
use crate::data::{Cost, Report, Role, RuleRow, Score, SizeRow, TestRow};
use crate::document::{Block, Cell, Column, Section, Table, score_cell};
use crate::error::ReportError;
use crate::format::{self, NONE};
use crate::html::Page;
use crate::markdown;
use crate::sections::p_value;
use crate::summary::{Line, independent, is_clear, is_single, result, summary, unfinished};
use glue_text::words;
use std::collections::BTreeMap;

/// One of two runs.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// What to call it, such as its directory.
    pub name: &'a str,
    /// Its report.
    pub report: &'a Report,
    /// Its cost, where it is known.
    pub cost: Option<&'a Cost>,
}

/// Two runs side by side: sizes, test scores, decisions and configs. Differences are those of the second run from the
/// first.
#[derive(Debug, Clone)]
pub struct Comparison {
    title: String,
    lines: Vec<Line>,
    warnings: Vec<String>,
    sections: Vec<Section>,
}

/// Compares two runs. Standard errors of differences take the two runs as independent: a report does not have the
/// scores of single items, so that two runs on the same items cannot be paired, and the errors are too large rather
/// than too small. Runs on different data are compared with a warning.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`], [`ReportError::Join`] for data that
/// contradicts itself.
pub fn compare(first: Side<'_>, second: Side<'_>) -> Result<Comparison, ReportError> {
    for side in [first, second] {
        check(side.report, side.cost)?;
    }
    let sides = [first, second];
    let sections = [
        Section { id: "sizes", title: "Sizes", blocks: sizes(sides) },
        Section { id: "test", title: "Test scores", blocks: test(sides) },
        Section { id: "decisions", title: "Decisions that differ", blocks: decisions(sides) },
        Section { id: "cost", title: "Cost", blocks: cost(sides) },
        Section { id: "config", title: "Config", blocks: config(sides) },
    ];
    Ok(Comparison {
        title: format!("{} and {}", first.name, second.name),
        lines: lines(sides),
        warnings: warnings(sides),
        sections: sections.into_iter().filter(|section| !section.blocks.is_empty()).collect(),
    })
}

impl Comparison {
    /// The lines a comparison begins with: what each run ended with, and the difference.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// What makes the two runs hard to compare: full sentences.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// One self-contained page, like that of a report.
    ///
    /// # Errors
    /// [`ReportError::Template`], which is a fault of this crate.
    pub fn html(&self) -> Result<String, ReportError> {
        let page = Page {
            kind: "Comparison of two runs",
            title: self.title.clone(),
            lines: self.lines.clone(),
            warnings: self.warnings.clone(),
            sections: self.sections.clone(),
            footer: "All figures are in the report.json of the two runs.",
            ..Page::default()
        };
        page.render()
    }

    /// The same in Markdown, in the dialect of GitHub.
    pub fn markdown(&self) -> String {
        markdown::head(&self.title, None, &self.lines, &self.warnings) + &markdown::body(&self.sections)
    }
}

type Sides<'a> = [Side<'a>; 2];

fn lines(sides: Sides<'_>) -> Vec<Line> {
    let summaries = sides.map(|side| summary(side.report));
    let [a, b] = sides;
    let mut lines = Vec::new();
    for (label, side, summary) in [("First", a, &summaries[0]), ("Second", b, &summaries[1])] {
        let unfinished = unfinished(side.report).map_or(String::new(), |_| " It is not finished.".to_string());
        lines.push(Line::new(label, format!("{}: {}{unfinished}", side.name, result(side.report, summary))));
    }
    let finals = summaries.each_ref().map(|summary| summary.last.as_ref().map(|last| last.average));
    let text = match finals {
        [Some(before), Some(after)] => {
            let difference = independent(after, before);
            let clear = match is_clear(difference.value, difference.stderr) {
                true => "",
                false => ", which is no clear difference",
            };
            let points = format::points(difference);
            format!("The final model of {} has {points} against that of {} (unpaired error){clear}.", b.name, a.name)
        }
        _ => "Unknown: the test has not run in both.".to_string(),
    };
    lines.push(Line::new("Difference", text));
    lines
}

fn warnings([a, b]: Sides<'_>) -> Vec<String> {
    let mut warnings = Vec::new();
    let names = |side: Side<'_>| side.report.tasks.iter().map(|task| task.name.clone()).collect::<Vec<_>>();
    if names(a) != names(b) {
        warnings.push("The tasks differ: averages are over different tasks and cannot be compared.".to_string());
    }
    let items = |side: Side<'_>| -> BTreeMap<(String, String), usize> {
        let tasks = side.report.tasks.iter();
        let of = |task: &crate::data::Task| {
            let splits = task.splits.iter().map(|split| ((task.name.clone(), split.split.clone()), split.items));
            splits.collect::<Vec<_>>()
        };
        tasks.flat_map(of).collect()
    };
    let (before, after) = (items(a), items(b));
    let other = before.iter().filter_map(|(key, n)| Some((key, n, after.get(key).filter(|other| *other != n)?)));
    for ((task, split), before, after) in other {
        warnings
            .push(format!("Split {split} of task {task} has {before} items in the first run, {after} in the second."));
    }
    let hash = |side: Side<'_>| -> BTreeMap<String, String> {
        side.report.run.inputs.iter().map(|input| (input.name.clone(), input.hash.clone())).collect()
    };
    let (before, after) = (hash(a), hash(b));
    let is_data = |name: &&String| !name.starts_with("config");
    let changed =
        before.keys().filter(is_data).filter(|name| after.get(*name).is_some_and(|hash| *hash != before[*name]));
    let changed: Vec<&str> = changed.map(String::as_str).collect();
    if !changed.is_empty() {
        warnings.push(format!("Inputs of the same name have different contents: {}.", words::list(&changed)));
    }
    warnings
}

/// The rows of the tables of sizes, those that are the same thing beside each other.
fn sizes(sides: Sides<'_>) -> Vec<Block> {
    let rows = sides.map(|side| side.report.sizes.as_slice());
    let pairs = paired(rows, |row: &SizeRow| row.what.clone());
    if pairs.is_empty() {
        return Vec::new();
    }
    let [a, b] = sides.map(|side| side.name);
    let mut table = Table::new(
        "What can be used, by size. ◆ a final model. Differences in points, with unpaired standard errors.",
        &["what it is"],
    );
    for name in [a, b] {
        table.columns.push(Column::new(name));
        table.columns.extend(["parameters", "score"].map(Column::number));
    }
    table.columns.push(Column::number("difference"));
    for pair in pairs {
        let mut cells = vec![Cell::new(pair.iter().flatten().next().map_or("", |row| &row.what))];
        for row in pair {
            let Some(row) = row else {
                cells.extend([Cell::new(NONE), Cell::new(NONE), Cell::new(NONE)]);
                continue;
            };
            cells.extend([
                Cell::new(&row.name).minor(if row.last { "◆" } else { "" }).strong(row.last),
                Cell::new(words::short(row.parameters)),
                score_cell(Some(row.score)),
            ]);
        }
        cells.push(difference(pair.map(|row| row.map(|row| row.score))));
        table.row(cells);
    }
    vec![table.block()]
}

/// Test scores per task of what both runs have: the final models, the best single models and merges, and models of the
/// same name.
fn test(sides: Sides<'_>) -> Vec<Block> {
    let summaries = sides.map(|side| summary(side.report));
    let row = |side: Side<'_>, name: &str| -> Option<TestRow> {
        side.report.test.iter().flat_map(|test| &test.rows).find(|row| row.name == name).cloned()
    };
    let pick = |name: [Option<&str>; 2]| -> Option<[TestRow; 2]> {
        Some([row(sides[0], name[0]?)?, row(sides[1], name[1]?)?])
    };
    let [first, second] = &summaries;
    let name = |best: &Option<crate::summary::Best>| best.as_ref().map(|best| best.name.clone());
    let compared = [
        ("final model", [name(&first.last), name(&second.last)]),
        ("best single model", [name(&first.best_single), name(&second.best_single)]),
        ("best merge", [name(&first.best_merged), name(&second.best_merged)]),
    ];
    let mut blocks = Vec::new();
    for (what, names) in compared {
        let Some(rows) = pick(names.each_ref().map(|name| name.as_deref())) else { continue };
        let [a, b] = &rows;
        if a.name == b.name && a.scores == b.scores {
            blocks.push(Block::text(format!("The {what}, {}, has the same scores in both runs.", a.name)));
        } else {
            blocks.push(scores(sides, what, &rows).block());
        }
    }
    let singles = |side: Side<'_>| -> Vec<TestRow> {
        let rows = side.report.test.iter().flat_map(|test| &test.rows);
        rows.filter(|row| is_single(row) || row.role == Role::Reference).cloned().collect()
    };
    let rows = sides.map(singles);
    let pairs = paired([&rows[0], &rows[1]], |row: &TestRow| row.name.clone());
    let mut table = Table::new("Averages of single models and baselines.", &["model"]);
    table.columns.extend([sides[0].name, sides[1].name, "difference"].map(Column::number));
    for pair in pairs {
        let average = [0, 1].map(|k| pair[k].and_then(|row| row.average(&sides[k].report.tasks)));
        // The same figures in both runs say nothing.
        if average[0].zip(average[1]).is_some_and(|(a, b)| a == b) {
            continue;
        }
        let name = pair.iter().flatten().next().map_or("", |row| &row.name);
        table.row(vec![Cell::new(name), score_cell(average[0]), score_cell(average[1]), difference(average)]);
    }
    if !table.rows.is_empty() {
        blocks.push(table.fold_above(12).block());
    }
    if !blocks.is_empty() {
        let text = "Differences are in points. Their standard errors take the two runs as independent, although both may \
                    have used the same items: they are too large rather than too small. In bold: more than two standard \
                    errors.";
        blocks.insert(0, Block::text(text));
    }
    blocks
}

fn scores(sides: Sides<'_>, what: &str, rows: &[TestRow; 2]) -> Table {
    let mut table = Table::new(
        format!("The {what}: {} in {}, {} in {}.", rows[0].name, sides[0].name, rows[1].name, sides[1].name),
        &["task"],
    );
    table.columns.extend([sides[0].name, sides[1].name, "difference"].map(Column::number));
    let tasks = sides.map(|side| side.report.tasks.as_slice());
    for pair in paired(tasks, |task| task.name.clone()) {
        let Some(task) = pair.iter().flatten().next() else { continue };
        let found = [0, 1].map(|k| rows[k].get(&task.name));
        table.row(vec![Cell::new(&task.name), score_cell(found[0]), score_cell(found[1]), difference(found)]);
    }
    let average = [0, 1].map(|k| rows[k].average(tasks[k]));
    let strong = |cell: Cell| cell.strong(true);
    let [a, b] = average.map(|score| strong(score_cell(score)));
    table.row(vec![strong(Cell::new("average")), a, b, difference(average)]);
    table
}

/// A difference in points with its unpaired standard error, in bold where it is clear.
fn difference([before, after]: [Option<Score>; 2]) -> Cell {
    let Some((before, after)) = before.zip(after) else { return Cell::new(NONE) };
    if before == after {
        return Cell::new("same");
    }
    let difference = independent(after, before);
    let stderr = difference.stderr.map_or(String::new(), |stderr| format!("± {}", format::fixed(stderr * 100.0, 1)));
    let clear = is_clear(difference.value, difference.stderr);
    Cell::new(format::signed(difference.value * 100.0, 1)).minor(stderr).strong(clear)
}

/// Decisions that came out differently, and those that only one of the runs made.
fn decisions(sides: Sides<'_>) -> Vec<Block> {
    let rows = sides.map(|side| side.report.decisions.as_slice());
    if rows.iter().all(|rows| rows.is_empty()) {
        return Vec::new();
    }
    let key = |row: &RuleRow| format!("{}\n{}\n{}", row.question, row.incumbent, row.challenger);
    let mut table = Table::new("Decisions that differ.", &["question", "incumbent", "challenger"]);
    table.columns.extend([sides[0].name, sides[1].name].map(Column::new));
    let mut same = 0;
    for pair in paired(rows, key) {
        if let [Some(a), Some(b)] = pair
            && a.accepted == b.accepted
        {
            same += 1;
            continue;
        }
        let Some(row) = pair.iter().flatten().next() else { continue };
        let mut cells = vec![Cell::new(&row.question), Cell::new(&row.incumbent), Cell::new(&row.challenger)];
        cells.extend(pair.map(|row| match row {
            None => Cell::new("not asked"),
            Some(row) => {
                let gain = format::points(Score { value: row.gain, stderr: row.stderr, n: None });
                let verdict = if row.accepted { "replaced" } else { "incumbent stays" };
                Cell::new(verdict).minor(format!("{gain}, p {}", p_value(row.p))).strong(row.accepted)
            }
        }));
        table.row(cells);
    }
    let same = words::things(same, "decision is", "decisions are");
    let mut blocks = vec![Block::text(format!("{same} the same in both runs."))];
    if !table.rows.is_empty() {
        blocks.push(table.fold_above(30).block());
    }
    blocks
}

fn cost(sides: Sides<'_>) -> Vec<Block> {
    let mut table = Table::new("Cost of the two runs.", &["run", "#time", "#peak memory", "#merges evaluated"]);
    for side in sides {
        let selections = side.report.selections.iter().flat_map(|selection| &selection.strategies);
        let evaluations: u64 = selections.map(|strategy| strategy.evaluations).sum();
        let frontier = side.report.frontier.as_ref().map_or(0, |frontier| frontier.evaluations);
        table.row(vec![
            Cell::new(side.name),
            Cell::new(side.cost.map_or(NONE.to_string(), |cost| words::duration(cost.seconds()))),
            Cell::new(side.cost.and_then(Cost::peak_bytes).map_or(NONE.to_string(), words::bytes)),
            Cell::new(words::count(evaluations.saturating_add(frontier))),
        ]);
    }
    vec![table.block()]
}

fn config([a, b]: Sides<'_>) -> Vec<Block> {
    if a.report.run.config == b.report.run.config {
        return match a.report.run.config.is_empty() {
            true => Vec::new(),
            false => vec![Block::text("The configs are the same.")],
        };
    }
    let text = diff(&a.report.run.config, &b.report.run.config);
    let title = format!("− {} + {}", a.name, b.name);
    vec![Block::Code { title, text, language: "diff", open: true }]
}

/// Entries of two lists with the same key beside each other, in the order of the first list and then of the second. Of
/// entries with one key, the first of one list goes with the first of the other.
fn paired<T>([first, second]: [&[T]; 2], key: impl Fn(&T) -> String) -> Vec<[Option<&T>; 2]> {
    let mut open: Vec<Option<&T>> = second.iter().map(Some).collect();
    let mut pairs: Vec<[Option<&T>; 2]> = Vec::new();
    for entry in first {
        let same = open.iter_mut().find(|other| other.is_some_and(|other| key(other) == key(entry)));
        pairs.push([Some(entry), same.and_then(Option::take)]);
    }
    pairs.extend(open.into_iter().flatten().map(|entry| [None, Some(entry)]));
    pairs
}

/// Lines that differ with three lines around them, as `diff -u` shows them without its numbers of lines. A longest
/// common subsequence, if the parts that differ are not very long; else these are shown one after the other.
fn diff(before: &str, after: &str) -> String {
    const AROUND: usize = 3;
    const CELLS: usize = 4_000_000;
    let (a, b): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let head = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let tail = a[head..].iter().rev().zip(b[head..].iter().rev()).take_while(|(x, y)| x == y).count();
    let (x, y) = (&a[head..a.len() - tail], &b[head..b.len() - tail]);
    let mut all: Vec<(char, &str)> = a[..head].iter().map(|line| (' ', *line)).collect();
    if x.len().saturating_mul(y.len()) > CELLS {
        all.extend(x.iter().map(|line| ('-', *line)).chain(y.iter().map(|line| ('+', *line))));
    } else {
        // Length of the longest common subsequence of the rests from i and j on.
        let width = y.len() + 1;
        let mut longest = vec![0u32; (x.len() + 1) * width];
        for i in (0..x.len()).rev() {
            for j in (0..y.len()).rev() {
                longest[i * width + j] = match x[i] == y[j] {
                    true => longest[(i + 1) * width + j + 1] + 1,
                    false => longest[(i + 1) * width + j].max(longest[i * width + j + 1]),
                };
            }
        }
        let (mut i, mut j) = (0, 0);
        while i < x.len() || j < y.len() {
            if i < x.len() && j < y.len() && x[i] == y[j] {
                all.push((' ', x[i]));
                (i, j) = (i + 1, j + 1);
            } else if j == y.len() || (i < x.len() && longest[(i + 1) * width + j] >= longest[i * width + j + 1]) {
                all.push(('-', x[i]));
                i += 1;
            } else {
                all.push(('+', y[j]));
                j += 1;
            }
        }
    }
    all.extend(a[a.len() - tail..].iter().map(|line| (' ', *line)));
    let near = |at: usize| {
        let around = at.saturating_sub(AROUND)..(at + AROUND + 1).min(all.len());
        all[around].iter().any(|(mark, _)| *mark != ' ')
    };
    let mut text = String::new();
    let mut skipped = false;
    for (at, (mark, line)) in all.iter().enumerate() {
        if near(at) {
            if skipped {
                text += "…\n";
            }
            text += format!("{mark} {line}").trim_end();
            text += "\n";
        }
        skipped = !near(at);
    }
    text
}

#[cfg(test)]
mod tests {
    //! Lines that differ.
    use super::*;

    #[test]
    fn lines_that_differ_are_found() {
        let check = |before: &str, after: &str, expected: &str| assert_eq!(diff(before, after), expected);
        check("a\nb\nc\n", "a\nx\nc\n", "  a\n- b\n+ x\n  c\n");
        check("", "a\n", "+ a\n");
        check("a\nb\nc\nd\n", "b\nc\ne\nd\n", "- a\n  b\n  c\n+ e\n  d\n");
        // Only three lines around a change.
        let many: String = (0..20).map(|i| format!("{i}\n")).collect();
        let changed = many.replace("10\n", "ten\n");
        check(&many, &changed, "…\n  7\n  8\n  9\n- 10\n+ ten\n  11\n  12\n  13\n");
        // Parts too long for a table of all pairs.
        let (long, other): (String, String) =
            ((0..2001).map(|i| format!("{i}\n")).collect(), (0..2001).map(|i| format!("x{i}\n")).collect());
        assert_eq!(diff(&long, &other).lines().count(), 4002);
    }
}
