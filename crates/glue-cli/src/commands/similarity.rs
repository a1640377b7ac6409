//! `glue similarity`: similarity of the weights of models.

use super::zoo::{self, Comparison};
use crate::app::Global;
use crate::failure::Failure;
use crate::outputs;
use crate::pictures;
use crate::shell::Shell;
use crate::table::{Align, Table};
use crate::units;
use glue_metrics::cluster::{Linkage, agglomerate};
use glue_metrics::{Breakdown, METRICS, Matrix, Similarity};
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;

/// Compare the weights of models
///
/// One pass over the files compares all pairs. A pair whose tensors differ in name or shape has no value.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue similarity models/*
  glue similarity models/* --base models/base --metric delta_cosine_flat
  glue similarity models/* --class mlp --layers 8-15 --per-layer
  glue similarity models/* --sample 0.05 --heatmap zoo.svg --json")]
pub(crate) struct Args {
    /// Model directories or .safetensors files
    #[arg(required_unless_present = "list_metrics")]
    models: Vec<PathBuf>,

    #[command(flatten)]
    comparison: Comparison,

    /// Also show values per layer
    #[arg(long)]
    per_layer: bool,

    /// Also show values per tensor
    #[arg(long)]
    per_tensor: bool,

    /// Write the matrix as an SVG heatmap
    #[arg(long, value_name = "FILE.svg")]
    heatmap: Option<PathBuf>,

    /// Write the matrix as CSV
    #[arg(long, value_name = "FILE.csv")]
    csv: Option<PathBuf>,

    /// List the metrics
    #[arg(long)]
    list_metrics: bool,
}

/// Compares and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    if args.list_metrics {
        return list(shell);
    }
    let (heatmap, csv) = (outputs::create(args.heatmap.as_deref())?, outputs::create(args.csv.as_deref())?);
    let found = args.comparison.run(&args.models, global, shell)?;
    let matrix = found.matrix();
    let tree = || agglomerate(&matrix, Linkage::Average);
    pictures::write(heatmap, || pictures::heatmap(&matrix, &tree(), None))?;
    if let Some(file) = csv {
        file.write_with(|out| out.write_all(matrix.to_csv().as_bytes())).map_err(Failure::failed)?;
    }
    let layers = if args.per_layer { found.per_layer() } else { Vec::new() };
    let tensors = if args.per_tensor { found.per_tensor() } else { Vec::new() };
    if shell.json() {
        return shell.print_json(&document(args, &found, &matrix, &layers, &tensors));
    }
    let mut text = table(&matrix, shell);
    for part in layers.iter().chain(&tensors) {
        let _ = write!(text, "\n{}\n{}", shell.heading(&title(part)), table(&part.matrix, shell));
    }
    if args.comparison.sample.is_some() {
        let errors = found.standard_errors();
        let largest = errors.iter().flatten().flatten().fold(0.0, |a: f64, b| a.max(*b));
        let _ = writeln!(
            text,
            "\n{} of {} read; the largest standard error is {largest:.2e}",
            units::bytes(found.bytes_read),
            units::bytes(found.bytes_selected)
        );
    }
    shell.print(&text)
}

fn title(part: &Breakdown) -> String {
    let layer = part.layer.map(|layer| format!("layer {layer}"));
    let class = part.class.map(|class| class.name().to_owned());
    let words: Vec<String> = layer.into_iter().chain(class).chain(part.tensor.clone()).collect();
    if words.is_empty() { "outside the layers".to_owned() } else { words.join(", ") }
}

/// The matrix as a table with a column per model.
pub(super) fn table(matrix: &Matrix, shell: &Shell<'_>) -> String {
    let names = zoo::short_names(matrix.models());
    let mut columns = vec![(matrix.metric(), Align::Left)];
    columns.extend(names.iter().map(|name| (name.as_str(), Align::Right)));
    let mut table = Table::with_header(&columns);
    for (name, row) in names.iter().zip(matrix.rows()) {
        let figure = |figure: &Option<f64>| figure.map_or_else(|| "–".to_owned(), |figure| format!("{figure:.4}"));
        table.row(std::iter::once(name.clone()).chain(row.iter().map(figure)));
    }
    table.render(|line| shell.heading(line))
}

fn document(args: &Args, found: &Similarity, matrix: &Matrix, layers: &[Breakdown], tensors: &[Breakdown]) -> Value {
    let mut document = json!({
        "models": matrix.models(),
        "metric": matrix.metric(),
        "scale": matrix.scale(),
        "matrix": matrix.rows(),
        "bytes_read": found.bytes_read,
    });
    if args.comparison.sample.is_some() {
        document["standard_errors"] = json!(found.standard_errors());
        document["bytes_selected"] = json!(found.bytes_selected);
    }
    let parts = |parts: &[Breakdown]| -> Vec<Value> {
        let part = |part: &Breakdown| {
            json!({
                "layer": part.layer,
                "class": part.class.map(|class| class.name()),
                "tensor": part.tensor,
                "matrix": part.matrix.rows(),
            })
        };
        parts.iter().map(part).collect()
    };
    if args.per_layer {
        document["per_layer"] = json!(parts(layers));
    }
    if args.per_tensor {
        document["per_tensor"] = json!(parts(tensors));
    }
    document
}

fn list(shell: &mut Shell<'_>) -> Result<(), Failure> {
    if shell.json() {
        let metric = |metric: &&glue_metrics::Metric| {
            json!({
                "name": metric.name,
                "summary": metric.summary,
                "reference": metric.reference,
                "base": metric.needs_base,
                "scale": metric.scale,
            })
        };
        return shell.print_json(&json!({ "metrics": METRICS.iter().map(metric).collect::<Vec<_>>() }));
    }
    let mut table = Table::with_header(&[("METRIC", Align::Left), ("BASE", Align::Left), ("SUMMARY", Align::Left)]);
    for metric in METRICS {
        table.row([metric.name, if metric.needs_base { "required" } else { "unused" }, metric.summary]);
    }
    shell.print(&table.render(|line| shell.heading(line)))
}
