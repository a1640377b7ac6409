//! `report.md`: the search for people.

use crate::context::{Verdict, short};
use crate::contract::Scores;
use crate::summary::{Row, Summary};
use glue_text::markdown::{code, inline};
use std::fmt::Write;

/// The report in Markdown.
pub(crate) fn report(summary: &Summary) -> String {
    let mut text = String::from("# Search\n\n");
    let out = &mut text;
    let _ = writeln!(
        out,
        "The best merge, found by {}: {}.\n\n{}\n",
        code(&summary.best),
        best_words(summary),
        inline(&summary.reason)
    );
    let _ = writeln!(out, "`best.yml` is its recipe, for `glue merge`; `best` is the merged model.\n");
    let _ = writeln!(out, "## Strategies\n");
    let _ = writeln!(
        out,
        "Averages over the tasks: on the search items, on the validation items, and the gap between them. A gap above zero \
         means that the search overfits the search items.\n"
    );
    let _ = writeln!(out, "| strategy | result | search | validation | gap | all | evaluations | items saved |");
    let _ = writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|");
    for strategy in &summary.strategies {
        let name = if strategy.row.name == summary.best {
            format!("**{}**", inline(&strategy.row.name))
        } else {
            inline(&strategy.row.name)
        };
        let saved = match strategy.items {
            0 => "–".to_string(),
            items => format!("{:.0} %", 100.0 * strategy.items_saved as f64 / items as f64),
        };
        let _ = writeln!(
            out,
            "| {name} | {} | {} | {} | {saved} |",
            inline(&strategy.row.what),
            averages(&strategy.row),
            strategy.evaluations
        );
    }
    for strategy in summary.strategies.iter().filter(|strategy| strategy.ended.is_some()) {
        let why = inline(strategy.ended.as_deref().unwrap_or_default());
        let _ = writeln!(out, "\n{} ended early: {why}.", code(&strategy.row.name));
    }
    let _ = writeln!(
        out,
        "\n## Finalists\n\nThe best candidates of each strategy by search score and those that a strategy nominated, such as \
         the mean of an optimiser's distribution.\n\n| finalist | models | result | search | validation | gap | all |\n\
         |---|--:|---|--:|--:|--:|--:|"
    );
    for finalist in &summary.finalists {
        let (name, what) = (inline(&finalist.row.name), inline(&finalist.row.what));
        let _ = writeln!(out, "| {name} | {} | {what} | {} |", finalist.models, averages(&finalist.row));
    }
    if !summary.ruling.is_empty() {
        let _ = writeln!(
            out,
            "\n## Decisions\n\nSignificant at 5 %, corrected for the number of challengers: a merge is accepted if its gain is; a model is \
             not if its loss is, and it gains in no task.\n\n| question | incumbent | challenger | gain | standard error | p | challengers | accepted |\n\
             |---|---|---|--:|--:|--:|--:|---|"
        );
        for row in &summary.ruling {
            let _ = writeln!(
                out,
                "| {} | {} | {} | {:+.4} | {} | {} | {} | {} |",
                inline(&row.question),
                inline(&row.incumbent),
                inline(&row.challenger),
                row.gain,
                row.stderr.map_or("–".into(), |stderr| format!("{stderr:.4}")),
                short(row.p),
                row.challengers,
                if row.accepted { "yes" } else { "no" },
            );
        }
    }
    let _ = writeln!(out, "\n## Models alone\n\n| model | search | validation | gap | all |\n|---|--:|--:|--:|--:|");
    for model in &summary.models {
        let _ = writeln!(out, "| {} | {} |", inline(&model.name), averages(model));
    }
    if let Some(best) = summary.best_row() {
        let _ = writeln!(out, "\n## Tasks\n\n| task | metric | search | validation |\n|---|---|--:|--:|");
        for task in best.row.search.iter().flat_map(|scores| &scores.tasks) {
            let held =
                best.row.validation.as_ref().and_then(|scores| scores.tasks.iter().find(|t| t.task == task.task));
            let held = held.map_or("–".into(), |held| format!("{:.4} of {}", held.value, held.n));
            let (name, metric) = (inline(&task.task), inline(&task.metric));
            let _ = writeln!(out, "| {name} | {metric} | {:.4} of {} | {held} |", task.value, task.n);
        }
    }
    if !summary.filter.is_empty() {
        let _ = writeln!(out, "\n## Harmful models\n");
        for verdict in &summary.filter {
            let _ = writeln!(out, "- {}: {}", inline(&verdict.model), inline(&verdict.reason));
        }
    }
    let count = |verdict| summary.candidates.iter().filter(|trial| trial.verdict == verdict).count();
    let _ = writeln!(
        out,
        "\n## Candidates\n\n{} evaluations; of {} candidates {} were accepted, {} rejected, {} failed. `search.json` lists each with \
         its scores and the reason. Racing saved {} of {} items.\n\n![convergence](convergence.svg)",
        summary.evaluations,
        summary.candidates.len(),
        count(Verdict::Accepted),
        count(Verdict::Rejected),
        count(Verdict::Failed),
        summary.items_saved,
        summary.items,
    );
    text
}

fn best_words(summary: &Summary) -> String {
    summary.best_row().map_or_else(String::new, |best| inline(&best.row.what))
}

fn averages(row: &Row) -> String {
    let of = |scores: &Option<Scores>| scores.as_ref().map_or("–".into(), |scores| format!("{:.4}", scores.average));
    let number = |x: Option<f64>| x.map_or("–".into(), short);
    let proxy = row.proxy.map_or("–".into(), |x| format!("{x:.4}"));
    format!("{} | {} | {} | {proxy}", of(&row.search), of(&row.validation), number(row.gap))
}
