//! Charts that commands write, drawn by those of the report.

use crate::failure::Failure;
use glue_metrics::Matrix;
use glue_metrics::cluster::{Dendrogram, Partition};
use glue_pipeline::figures;
use glue_report::ReportError;
use glue_report::pictures::{self, Routing, RoutingRow};
use glue_router::report::RoutingTable;
use glue_tensor::{OutputFile, write_atomic};
use std::path::Path;

/// The matrix as a heatmap: similar models side by side as in `tree`, the clusters of a partition together.
pub(crate) fn heatmap(
    matrix: &Matrix,
    tree: &Dendrogram,
    partition: Option<&Partition>,
) -> Result<String, ReportError> {
    let similarity = figures::similarity(matrix);
    let clusters = partition.map_or(Vec::new(), |partition| figures::clusters(partition, matrix));
    let (order, groups) = pictures::order(&similarity, Some(&figures::dendrogram(tree)), &clusters);
    pictures::heatmap(&similarity, &order, &groups)
}

/// The tree, with the clusters of a partition at a threshold.
pub(crate) fn dendrogram(
    matrix: &Matrix,
    tree: &Dendrogram,
    partition: &Partition,
    threshold: f64,
) -> Result<String, ReportError> {
    pictures::dendrogram(&figures::dendrogram(tree), &figures::clusters(partition, matrix), Some(threshold))
}

/// How each row of `table` was routed to the experts.
pub(crate) fn routing(title: String, table: &RoutingTable) -> Result<String, ReportError> {
    let row =
        |(name, amounts): &(String, Vec<f64>)| RoutingRow { name: name.clone(), amounts: amounts.clone(), right: None };
    let rows = table.rows.iter().map(row).collect();
    pictures::routing(&Routing { title, experts: table.experts.clone(), rows })
}

/// Writes a chart into the file of an option; draws it only if there is one.
pub(crate) fn write(
    file: Option<OutputFile>,
    picture: impl FnOnce() -> Result<String, ReportError>,
) -> Result<(), Failure> {
    let Some(file) = file else { return Ok(()) };
    let picture = picture().map_err(Failure::failed)?;
    file.write_with(|out| out.write_all(picture.as_bytes())).map_err(Failure::failed)
}

/// Writes a chart into a directory.
pub(crate) fn write_in(directory: &Path, name: &str, picture: Result<String, ReportError>) -> Result<(), Failure> {
    let picture = picture.map_err(Failure::failed)?;
    write_atomic(directory.join(name), picture.as_bytes()).map_err(Failure::failed)
}
