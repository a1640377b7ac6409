//! What must hold of the data before anything is drawn.

use crate::data::{Confusion, Cost, Dendrogram, Frontier, Report, Score, Similarity, SizeRow, TaskScore};
use crate::error::ReportError;
use crate::pictures::{Convergence, Routing};

/// Refuses numbers that are not finite, tables whose rows do not fit their names, and names that are ambiguous.
pub(crate) fn check(report: &Report, cost: Option<&Cost>) -> Result<(), ReportError> {
    unique_beside_average("tasks", report.tasks.iter().map(|task| task.name.as_str()))?;
    unique_beside_average("models", report.models.iter().map(|model| model.name.as_str()))?;
    if let Some(similarity) = &report.similarity {
        check_similarity(similarity)?;
    }
    if let Some(dendrogram) = &report.dendrogram {
        check_dendrogram(dendrogram)?;
    }
    if let Some(clustering) = &report.clustering {
        finite("clusters: threshold", Some(clustering.threshold))?;
        unique("clusters", clustering.clusters.iter().map(|cluster| cluster.name.as_str()))?;
    }
    for table in &report.individual {
        let place = format!("scores on {}", table.split);
        unique_beside_average(&place, table.rows.iter().map(|row| row.name.as_str()))?;
        for row in &table.rows {
            check_scores(&format!("{place}, {}", row.name), &row.scores)?;
        }
    }
    check_selections(report)?;
    check_frontier(report)?;
    for candidate in &report.candidates {
        score(&format!("candidate {}", candidate.name), candidate.score)?;
    }
    for step in report.mixture.iter().flat_map(|mixture| &mixture.steps) {
        score(&format!("mixture, {}", step.action), step.score)?;
    }
    check_router(report)?;
    if let Some(test) = &report.test {
        unique_beside_average("test", test.rows.iter().map(|row| row.name.as_str()))?;
        finite("test: standard error of the gain", test.gain_stderr)?;
        for row in &test.rows {
            check_scores(&format!("test, {}", row.name), &row.scores)?;
        }
        for row in &test.over_bases {
            check_scores(&format!("test, gain over {}", row.name), &row.scores)?;
        }
    }
    finite("limits: seconds", report.limits.seconds)?;
    cost.map_or(Ok(()), check_cost)
}

pub(crate) fn check_similarity(similarity: &Similarity) -> Result<(), ReportError> {
    unique("similarity", similarity.names.iter().map(String::as_str))?;
    let n = similarity.names.len();
    shape("similarity", n, "rows", similarity.matrix.len())?;
    for (row, name) in similarity.matrix.iter().zip(&similarity.names) {
        let place = format!("similarity of {name}");
        shape(&place, n, "figures", row.len())?;
        row.iter().try_for_each(|figure| finite(&place, *figure))?;
    }
    Ok(())
}

pub(crate) fn check_dendrogram(dendrogram: &Dendrogram) -> Result<(), ReportError> {
    let n = dendrogram.names.len();
    let mut used = vec![false; n + dendrogram.joins.len()];
    for (k, join) in dendrogram.joins.iter().enumerate() {
        finite(&format!("dendrogram: join {k}"), join.height)?;
        for node in [join.first, join.second] {
            if node >= n + k || used[node] {
                return Err(ReportError::Join { join: k, node });
            }
            used[node] = true;
        }
    }
    Ok(())
}

/// Refuses an order of models that `similarity` does not have, and groups of more models than are in it.
pub(crate) fn check_order(similarity: &Similarity, order: &[usize], groups: &[usize]) -> Result<(), ReportError> {
    let n = similarity.names.len();
    order.iter().try_for_each(|&model| below("heatmap: order", n, model))?;
    let grouped = groups.iter().fold(0usize, |sum, group| sum.saturating_add(*group));
    below("heatmap: models in groups", order.len() + 1, grouped)
}

/// Refuses scores that are no numbers and evaluations that were not made.
pub(crate) fn check_convergence(search: &Convergence) -> Result<(), ReportError> {
    for strategy in &search.strategies {
        let place = format!("convergence of {}", strategy.name);
        for &(evaluation, score) in &strategy.points {
            finite(&place, Some(score))?;
            below(&place, search.evaluations + 1, evaluation)?;
        }
    }
    Ok(())
}

/// Refuses rows that do not fit the experts, and amounts that are negative, infinite or NaN.
pub(crate) fn check_routing(routing: &Routing) -> Result<(), ReportError> {
    let n = routing.experts.len();
    for row in &routing.rows {
        let place = format!("routing of {}", row.name);
        shape(&place, n, "amounts", row.amounts.len())?;
        row.amounts.iter().try_for_each(|amount| finite(&place, Some(*amount)))?;
        if let Some(&found) = row.amounts.iter().find(|amount| **amount < 0.0) {
            return Err(ReportError::Negative { place, found });
        }
        row.right.map_or(Ok(()), |right| below(&format!("{place}: right expert"), n, right))?;
    }
    Ok(())
}

fn check_selections(report: &Report) -> Result<(), ReportError> {
    unique("selections", report.selections.iter().map(|selection| selection.cluster.as_str()))?;
    for selection in &report.selections {
        let place = format!("cluster {}", selection.cluster);
        score(&format!("{place}, best member"), selection.best_member)?;
        unique(&place, selection.strategies.iter().map(|strategy| strategy.name.as_str()))?;
        for strategy in &selection.strategies {
            let place = format!("{place}, {}", strategy.name);
            score(&place, strategy.proxy)?;
            score(&place, strategy.validation)?;
            for figure in strategy.curve.iter().flat_map(|point| [Some(point.best), point.validation]) {
                finite(&format!("{place}, curve"), figure)?;
            }
        }
        for decision in &selection.decisions {
            score(&format!("{place}, {}", decision.candidate), decision.score)?;
        }
        if let Some(weights) = &selection.weights {
            for row in &weights.rows {
                let place = format!("{place}, weights of {}", row.model);
                shape(&place, weights.groups.len(), "weights", row.values.len())?;
                row.values.iter().try_for_each(|value| finite(&place, *value))?;
            }
        }
    }
    Ok(())
}

/// The frontier, the sizes and what was decided.
fn check_frontier(report: &Report) -> Result<(), ReportError> {
    report.frontier.as_ref().map_or(Ok(()), check_frontier_points)?;
    check_sizes(&report.sizes)?;
    for row in &report.decisions {
        let place = format!("decision on {}", row.challenger);
        finite(&place, Some(row.gain))?;
        finite(&format!("{place}, standard error"), row.stderr)?;
        finite(&format!("{place}, p"), Some(row.p))?;
    }
    unique("flips", report.flips.iter().map(|flips| flips.task.as_str()))
}

pub(crate) fn check_sizes(rows: &[SizeRow]) -> Result<(), ReportError> {
    for row in rows {
        let place = format!("sizes, {}", row.name);
        score(&place, Some(row.score))?;
        score(&format!("{place}, gain"), row.gain)?;
    }
    Ok(())
}

pub(crate) fn check_frontier_points(frontier: &Frontier) -> Result<(), ReportError> {
    for point in &frontier.points {
        let place = format!("frontier, {} models", point.experts.len());
        score(&place, point.search)?;
        score(&place, point.validation)?;
    }
    Ok(())
}

fn check_router(report: &Report) -> Result<(), ReportError> {
    let Some(router) = &report.router else { return Ok(()) };
    score("router: accuracy", router.accuracy)?;
    if let Some(confusion) = &router.confusion {
        check_confusion(confusion)?;
    }
    for load in &router.load {
        let place = format!("router: load of {}", load.task);
        shape(&place, router.experts.len(), "shares", load.shares.len())?;
        load.shares.iter().try_for_each(|share| finite(&place, Some(*share)))?;
    }
    Ok(())
}

fn check_confusion(confusion: &Confusion) -> Result<(), ReportError> {
    shape("router: confusion", confusion.skills.len(), "rows", confusion.counts.len())?;
    shape("router: right experts", confusion.skills.len(), "skills", confusion.right.len())?;
    for (skill, right) in confusion.skills.iter().zip(&confusion.right) {
        let place = format!("router: right expert of {skill}");
        right.map_or(Ok(()), |right| below(&place, confusion.experts.len(), right))?;
    }
    for (row, skill) in confusion.counts.iter().zip(&confusion.skills) {
        shape(&format!("router: confusion of {skill}"), confusion.experts.len(), "counts", row.len())?;
    }
    Ok(())
}

fn check_cost(cost: &Cost) -> Result<(), ReportError> {
    for stage in &cost.stages {
        finite(&format!("cost of {}", stage.stage), Some(stage.seconds))?;
    }
    for found in &cost.throughput {
        finite(&format!("items per second of {}", found.name), Some(found.items_per_second))?;
    }
    cost.strategies.iter().try_for_each(|cost| {
        finite(&format!("cost of {} in cluster {}", cost.strategy, cost.cluster), Some(cost.seconds))
    })
}

fn check_scores(place: &str, scores: &[TaskScore]) -> Result<(), ReportError> {
    unique_beside_average(place, scores.iter().map(|score| score.task.as_str()))?;
    scores.iter().try_for_each(|entry| score(&format!("{place}, {}", entry.task), Some(entry.score)))
}

fn score(place: &str, score: Option<Score>) -> Result<(), ReportError> {
    let Some(score) = score else { return Ok(()) };
    finite(place, Some(score.value))?;
    finite(&format!("{place}, standard error"), score.stderr)
}

pub(crate) fn finite(place: &str, number: Option<f64>) -> Result<(), ReportError> {
    match number {
        Some(found) if !found.is_finite() => Err(ReportError::NotFinite { place: place.to_string(), found }),
        _ => Ok(()),
    }
}

fn shape(place: &str, expected: usize, what: &str, found: usize) -> Result<(), ReportError> {
    if expected == found {
        return Ok(());
    }
    Err(ReportError::Shape { place: place.to_string(), expected: format!("{expected} {what}"), found })
}

/// Refuses a number of something of which there are `n`, counted from 0.
fn below(place: &str, n: usize, found: usize) -> Result<(), ReportError> {
    if found < n {
        return Ok(());
    }
    Err(ReportError::Shape { place: place.to_string(), expected: format!("a number below {n}"), found })
}

/// Names of what stands beside the average in the objects of `report.json`, which one of that name would hide.
fn unique_beside_average<'a>(place: &str, names: impl Iterator<Item = &'a str> + Clone) -> Result<(), ReportError> {
    if names.clone().any(|name| name == "average") {
        let (place, name) = (place.to_string(), "average".to_string());
        return Err(ReportError::Name { place, name, problem: "is kept for the average" });
    }
    unique(place, names)
}

fn unique<'a>(place: &str, names: impl Iterator<Item = &'a str>) -> Result<(), ReportError> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        let problem = match name {
            "" => "is empty",
            _ if !seen.insert(name) => "stands twice",
            _ => continue,
        };
        return Err(ReportError::Name { place: place.to_string(), name: name.to_string(), problem });
    }
    Ok(())
}
