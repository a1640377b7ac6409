//! The test: bars of every model for every task, and the table behind them.

use crate::charts::bars::{Bar, Fill, domain, panel};
use crate::data::{Report, Role, Score, TestRow};
use crate::document::{Block, Cell, Chart, Column, Table, score_cell};
use crate::format;
use crate::summary::{Summary, is_single, summary};
use crate::svg::slug;

/// What is compared at the beginning of a report: the best single model, the best merge, the final model, the oracle.
pub(crate) fn overview(report: &Report) -> Option<Block> {
    let summary = summary(report);
    let (test, single) = (report.test.as_ref()?, summary.best_single.as_ref()?);
    let row = |name: &str| test.rows.iter().find(|row| row.name == name);
    let mut rows = vec![(row(&single.name)?, "best single", Fill::Best)];
    if let Some(best) = &summary.best_merged {
        rows.push((row(&best.name)?, "best merge", Fill::Merged));
    }
    if let Some(last) = &summary.last {
        rows.push((row(&last.name)?, "final", Fill::Final));
    }
    let bars = |score: &dyn Fn(&TestRow) -> Option<Score>, oracle: Option<Score>| {
        let bar = |&(row, name, fill): &(&TestRow, &str, Fill)| Bar { name: name.to_string(), fill, score: score(row) };
        let mut bars: Vec<Bar> = rows.iter().map(bar).collect();
        bars.push(Bar { name: "oracle".to_string(), fill: Fill::Oracle, score: oracle });
        bars
    };
    let named = rows.iter().filter(|(row, name, _)| row.name != *name);
    let names: Vec<String> = named.map(|(row, name, _)| format!("{name}: {}", row.name)).collect();
    let caption = format!(
        "Scores on the test split with their standard errors. {}; oracle: each task's best single model.",
        format::capital(&names.join("; "))
    );
    Some(Block::Figures { caption, size: "small", charts: panels(report, &summary, "overview", &bars) })
}

type Bars<'a> = dyn Fn(&dyn Fn(&TestRow) -> Option<Score>, Option<Score>) -> Vec<Bar> + 'a;

/// A panel for the average and one for each task, on the same scale.
fn panels(report: &Report, summary: &Summary, id: &str, bars: &Bars<'_>) -> Vec<Chart> {
    let oracle = summary.oracle.as_ref();
    let average = bars(&|row| row.average(&report.tasks), oracle.map(|oracle| oracle.average));
    let mut all = vec![("average of all tasks".to_string(), "average".to_string(), average)];
    for task in &report.tasks {
        let best = oracle.and_then(|oracle| oracle.picks.iter().find(|pick| pick.0 == task.name)).map(|pick| pick.2);
        let bars = bars(&|row| row.get(&task.name), best);
        all.push((format!("{} ({})", task.name, task.metric), task.name.clone(), bars));
    }
    let scale = domain(all.iter().flat_map(|(_, _, bars)| bars));
    all.into_iter()
        .map(|(title, name, bars)| {
            let svg = panel(&format!("{id}-{}", slug(&name)), &format!("Test scores: {title}"), &bars, scale);
            Chart { title, svg }
        })
        .collect()
}

pub(super) fn test(report: &Report) -> Vec<Block> {
    let Some(test) = report.test.as_ref().filter(|test| !test.rows.is_empty()) else { return Vec::new() };
    let summary = summary(report);
    let best = summary.best_single.as_ref().map(|best| best.name.as_str());
    let mut rows: Vec<&TestRow> = test.rows.iter().collect();
    // Single models from the best down, then baselines, then what was made of them.
    let rank = |row: &TestRow| match row.role {
        Role::Base | Role::Single => 0,
        Role::Reference => 1,
        Role::Merged => 2,
        Role::Mixture => 3,
        Role::Final => 4,
    };
    let value = |row: &TestRow| row.average(&report.tasks).map_or(f64::NEG_INFINITY, |score| score.value);
    rows.sort_by(|a, b| rank(a).cmp(&rank(b)).then(value(b).total_cmp(&value(a))));
    let fill = |row: &TestRow| match row.role {
        _ if is_single(row) && Some(row.name.as_str()) == best => Fill::Best,
        Role::Base | Role::Single => Fill::Single,
        Role::Reference => Fill::Reference,
        Role::Merged => Fill::Merged,
        Role::Mixture => Fill::Mixture,
        Role::Final => Fill::Final,
    };
    let bars = |score: &dyn Fn(&TestRow) -> Option<Score>, oracle: Option<Score>| {
        let bar = |row: &&TestRow| Bar { name: row.name.clone(), fill: fill(row), score: score(row) };
        let mut bars: Vec<Bar> = rows.iter().map(bar).collect();
        bars.push(Bar { name: "oracle".to_string(), fill: Fill::Oracle, score: oracle });
        bars
    };
    let mut blocks = vec![Block::text(format!(
        "Scores on the {} split, used once, after all decisions. Errors are standard errors; the oracle is each task's \
         best single model, chosen on the test items themselves.",
        test.split
    ))];
    let caption =
        "Names in bold: the best single model and the final one. Grey: single models. Dashed outline on grey: baselines. \
         Hatched: merges. Dotted: mixtures that are not final. Solid: the final model. Dashed outline: the oracle."
            .to_string();
    blocks.push(Block::Figures { caption, size: "small", charts: panels(report, &summary, "test", &bars) });
    blocks.push(table(report, &rows, &summary).block());
    if let Some(oracle) = &summary.oracle {
        let picks: Vec<String> = oracle.picks.iter().map(|(task, model, _)| format!("{task}: {model}")).collect();
        blocks.push(Block::text(format!("The oracle asks {}.", picks.join(", "))));
    }
    if let Some(gain) = summary.gain.filter(|gain| gain.stderr.is_some()) {
        let how = match gain.paired {
            true => "is paired: it comes from differences item by item",
            false => "treats the two averages as independent, which overestimates it, since both used the same items",
        };
        blocks.push(Block::text(format!("The standard error of the gain {how}.")));
    }
    blocks
}

fn table(report: &Report, rows: &[&TestRow], summary: &Summary) -> Table {
    let mut table = Table::new(
        "Test scores (± standard error; bold: best of its column, except the oracle).",
        &["model", "what it is"],
    );
    table.columns.extend(report.tasks.iter().map(|task| Column::number(&task.name)));
    table.columns.extend(["average", "points over best single", "of the oracle"].map(Column::number));
    table.highlight = rows.iter().position(|row| row.role == Role::Final);
    let single = summary.best_single.as_ref().map(|best| best.average.value);
    let oracle = summary.oracle.as_ref().map(|oracle| oracle.average.value).filter(|value| *value > 0.0);
    let best_of = |score: &dyn Fn(&TestRow) -> Option<Score>| {
        rows.iter().filter_map(|row| score(row)).map(|s| s.value).reduce(f64::max)
    };
    let cell = |score: Option<Score>, best: Option<f64>| {
        let strong = rows.len() > 1 && score.is_some() && score.map(|score| score.value) == best;
        let cell = score_cell(score).strong(strong);
        score.map_or(cell.clone(), |score| cell.bar(score.value))
    };
    let relative = |average: Option<Score>| {
        let points = average.zip(single).map(|(average, single)| format::signed((average.value - single) * 100.0, 1));
        let share = average.zip(oracle).map(|(average, oracle)| format::percent(average.value / oracle));
        [points, share].map(|text| Cell::new(text.unwrap_or(format::NONE.to_string())))
    };
    for row in rows {
        let role = match row.role {
            Role::Single => "single",
            Role::Base => "base",
            Role::Reference => "baseline",
            Role::Merged => "merge",
            Role::Mixture => "mixture",
            Role::Final => "final",
        };
        let mut cells = vec![Cell::new(&row.name).strong(row.role == Role::Final), Cell::new(role)];
        for task in &report.tasks {
            cells.push(cell(row.get(&task.name), best_of(&|row| row.get(&task.name))));
        }
        cells.push(cell(row.average(&report.tasks), best_of(&|row| row.average(&report.tasks))));
        cells.extend(relative(row.average(&report.tasks)));
        table.row(cells);
    }
    if let Some(oracle) = &summary.oracle {
        let mut cells = vec![Cell::new("oracle"), Cell::new("best single of each task")];
        cells.extend(oracle.picks.iter().map(|(_, _, score)| cell(Some(*score), None)));
        cells.push(cell(Some(oracle.average), None));
        cells.extend(relative(Some(oracle.average)));
        table.row(cells);
    }
    table
}
