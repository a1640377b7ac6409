//! The pictures of a report as self-contained SVG files, with title and description, in the colours of the page, light
//! and dark.
//!
//! What contradicts itself is refused, as in a report. Equal data gives equal bytes.
//!
//! ```
//! use glue_report::{Similarity, pictures};
//!
//! let similarity = Similarity {
//!     metric: "cosine".into(),
//!     names: vec!["chat".into(), "math".into()],
//!     matrix: vec![vec![Some(1.0), Some(0.93)], vec![Some(0.93), Some(1.0)]],
//!     ..Similarity::default()
//! };
//! let svg = pictures::heatmap(&similarity, &[0, 1], &[])?;
//! assert!(svg.starts_with("<svg") && svg.contains(".930"));
//! # Ok::<(), glue_report::ReportError>(())
//! ```

use crate::charts::drawing::Medium;
use crate::charts::{
    convergence as search, dendrogram as tree, frontier as front, heatmap as heat, routing as router, sizes as size,
};
use crate::check::{
    check_convergence, check_dendrogram, check_frontier_points, check_order, check_routing, check_similarity,
    check_sizes, finite,
};
use crate::data::{Cluster, Dendrogram, Frontier, Similarity, SizeRow};
use crate::error::ReportError;

/// How much of what went to which expert.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Routing {
    /// Heading of the picture.
    pub title: String,
    /// Names of the experts: the columns.
    pub experts: Vec<String>,
    /// The rows.
    pub rows: Vec<RoutingRow>,
}

/// What of one task, skill or the like went to each expert.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoutingRow {
    /// What it is.
    pub name: String,
    /// How much of it went to each expert, from 0: counts, or sums of fractions.
    pub amounts: Vec<f64>,
    /// The number of the expert that is right for it; `None` where any is, or nobody knows.
    pub right: Option<usize>,
}

/// The candidates of a search, each with its score.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Convergence {
    /// Heading of the picture.
    pub title: String,
    /// What the scores are: the name of their axis. More is better.
    pub score: String,
    /// Number of evaluations, those without a score among them: the end of the other axis.
    pub evaluations: usize,
    /// The strategies, in the order in which they ran.
    pub strategies: Vec<StrategyScores>,
}

/// What one strategy tried.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StrategyScores {
    /// Its name.
    pub name: String,
    /// The number of each evaluation, from 1, and its score.
    pub points: Vec<(usize, f64)>,
}

/// The order of a heatmap, similar models side by side: that of the dendrogram if there is one, or of the names, with
/// the members of each cluster together; and the number of models in each cluster, one after another in it. Models of
/// no cluster come last.
pub fn order(
    similarity: &Similarity,
    dendrogram: Option<&Dendrogram>,
    clusters: &[Cluster],
) -> (Vec<usize>, Vec<usize>) {
    heat::order(similarity, dendrogram, clusters)
}

/// A matrix with a row and a column for each model in `order`, numbers into the names of `similarity`, and a figure in
/// each cell, or a dash. Where the models of a group, or all of them, are close to each other, the colours span only
/// their range, and a note says so. The first models of the order that belong together, as many as `groups` says, have
/// a frame, and so have the next.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`], [`ReportError::Name`] for figures that contradict themselves,
/// and for an order or groups with more than there is.
pub fn heatmap(similarity: &Similarity, order: &[usize], groups: &[usize]) -> Result<String, ReportError> {
    check_similarity(similarity)?;
    check_order(similarity, order, groups)?;
    Ok(heat::heatmap(Medium::File, similarity, order, groups).file())
}

/// The models from top to bottom, joined at their figures; what never joins is drawn apart. The names of `clusters`
/// stand beside their members, and a dashed line at the threshold, on the scale of the figures.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Join`] for figures that contradict themselves.
pub fn dendrogram(
    dendrogram: &Dendrogram,
    clusters: &[Cluster],
    threshold: Option<f64>,
) -> Result<String, ReportError> {
    check_dendrogram(dendrogram)?;
    finite("dendrogram: threshold", threshold)?;
    Ok(tree::dendrogram(Medium::File, dendrogram, clusters, threshold).file())
}

/// A matrix with a row for each of `routing` and a column for each expert: in each cell the share of its row, and what
/// it is from; in the last row the load of the experts.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Negative`], [`ReportError::Shape`] for figures that contradict
/// themselves.
pub fn routing(routing: &Routing) -> Result<String, ReportError> {
    check_routing(routing)?;
    Ok(router::routing(Medium::File, routing).file())
}

/// A mark for each model that can be used at its parameters, on a logarithmic axis, and its score with its standard
/// error; the size–score frontier as steps, and perfect routing as a dashed line.
///
/// # Errors
/// [`ReportError::NotFinite`] for scores that are no numbers.
pub fn sizes(rows: &[SizeRow]) -> Result<String, ReportError> {
    check_sizes(rows)?;
    Ok(size::sizes(Medium::File, rows).file())
}

/// The score under perfect routing over the number of models, on the search items and on the validation items, these
/// with their standard errors; a ring around the point that was chosen.
///
/// # Errors
/// [`ReportError::NotFinite`] for scores that are no numbers.
pub fn frontier(frontier: &Frontier) -> Result<String, ReportError> {
    check_frontier_points(frontier)?;
    Ok(front::frontier(Medium::File, frontier).file())
}

/// A mark for each candidate at the number of its evaluation and its score, with a form and a colour for each strategy;
/// the best score so far as steps; a legend. Of many candidates the lowest twentieth may be below the axis, which a
/// note says.
///
/// # Errors
/// [`ReportError::NotFinite`], [`ReportError::Shape`] for a score that is not a number and an evaluation beyond the
/// last.
pub fn convergence(found: &Convergence) -> Result<String, ReportError> {
    check_convergence(found)?;
    Ok(search::convergence(Medium::File, found).file())
}
