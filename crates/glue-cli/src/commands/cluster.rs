//! `glue cluster`: groups of similar models.

use super::similarity::table;
use super::zoo::{self, Comparison, refusal};
use crate::app::Global;
use crate::failure::Failure;
use crate::outputs;
use crate::pictures;
use crate::shell::Shell;
use crate::visible::one_line;
use clap::ValueEnum;
use glue_metrics::Matrix;
use glue_metrics::cluster::{DEFAULT_THRESHOLD, Linkage, Partition, ThresholdRange, agglomerate, leader, sweep};
use glue_progress::ErrorChain;
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;

/// Group similar models
///
/// The default method is leader clustering. Models are taken in the order given. Each joins the first cluster whose
/// first member is more similar to it than the threshold, or starts a new cluster.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue cluster models/*
  glue cluster models/* --sweep
  glue cluster models/* --method average --threshold 0.9 --dendrogram zoo.svg
  glue similarity models/* --json > zoo.json && glue cluster --matrix zoo.json")]
pub(crate) struct Args {
    /// Model directories or .safetensors files
    #[arg(required_unless_present = "matrix")]
    models: Vec<PathBuf>,

    #[command(flatten)]
    comparison: Comparison,

    /// Read the matrix from the output of glue similarity --json, instead of reading weights
    #[arg(long, value_name = "FILE", conflicts_with_all = ["models", "base", "class", "layers", "tensor", "sample", "metric"])]
    matrix: Option<PathBuf>,

    /// Models join a cluster if their similarity is above this; for a distance metric, if it is below
    #[arg(long, value_name = "T", default_value_t = DEFAULT_THRESHOLD, allow_negative_numbers = true)]
    threshold: f64,

    /// Clustering method
    #[arg(long, value_name = "METHOD", default_value = "leader")]
    method: Method,

    /// Show the thresholds at which clusters change
    #[arg(long)]
    sweep: bool,

    /// Write an SVG dendrogram (average linkage for the method leader)
    #[arg(long, value_name = "FILE.svg")]
    dendrogram: Option<PathBuf>,

    /// Write the matrix as an SVG heatmap, with similar models side by side
    #[arg(long, value_name = "FILE.svg")]
    heatmap: Option<PathBuf>,
}

/// Clustering methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// Leader clustering, in the order given
    Leader,
    /// Agglomerative, by the most similar pair of two clusters
    Single,
    /// Agglomerative, by the least similar pair
    Complete,
    /// Agglomerative, by the mean over all pairs
    Average,
}

impl Method {
    fn link(self) -> Option<Linkage> {
        match self {
            Method::Leader => None,
            Method::Single => Some(Linkage::Single),
            Method::Complete => Some(Linkage::Complete),
            Method::Average => Some(Linkage::Average),
        }
    }

    fn name(self) -> &'static str {
        self.link().map_or("leader", Linkage::name)
    }
}

/// Compares, groups and prints.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let (dendrogram, heatmap) =
        (outputs::create(args.dendrogram.as_deref())?, outputs::create(args.heatmap.as_deref())?);
    let matrix = match &args.matrix {
        Some(path) => read(path)?,
        None => args.comparison.run(&args.models, global, shell)?.matrix(),
    };
    let link = args.method.link();
    let partition = match link {
        None => leader(&matrix, args.threshold),
        Some(link) => agglomerate(&matrix, link).cut(args.threshold),
    };
    let partition = partition.map_err(refusal)?;
    let tree = agglomerate(&matrix, link.unwrap_or(Linkage::Average));
    pictures::write(dendrogram, || pictures::dendrogram(&matrix, &tree, &partition, args.threshold))?;
    pictures::write(heatmap, || pictures::heatmap(&matrix, &tree, Some(&partition)))?;
    let levels = if args.sweep { sweep(&matrix, link) } else { Vec::new() };
    if shell.json() {
        return shell.print_json(&document(args, &matrix, &partition, &levels));
    }
    let mut text = table(&matrix, shell);
    let names = zoo::short_names(matrix.models());
    let line =
        |members: &[usize]| members.iter().map(|&member| one_line(&names[member])).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "\n{}", shell.heading(&format!("Clusters at {}, {}", args.threshold, args.method.name())));
    for (number, members) in partition.members().iter().enumerate() {
        let _ = writeln!(text, "{}  {}", number + 1, line(members));
    }
    if args.sweep {
        let _ = writeln!(text, "\n{}", shell.heading("Thresholds"));
        for level in &levels {
            let clusters: Vec<String> = level.partition.members().iter().map(|members| line(members)).collect();
            let _ = writeln!(text, "{:>8} to {:<8} {}", bound(level.from), bound(level.to), clusters.join(" | "));
        }
    }
    shell.print(&text)
}

fn bound(bound: Option<f64>) -> String {
    bound.map_or_else(|| "any".to_owned(), |bound| format!("{bound:.4}"))
}

fn read(path: &PathBuf) -> Result<Matrix, Failure> {
    let named = |error: &dyn std::error::Error| {
        Error::new(ErrorKind::InvalidData, format!("{}: {}", path.display(), error.chain()))
    };
    let text = glue_tensor::files::read_named(path, glue_tensor::files::DATA_BYTES)
        .map_err(|error| Failure::refused(named(&error)))?;
    Matrix::from_json(&text).map_err(|error| Failure::refused(named(&error)))
}

fn document(args: &Args, matrix: &Matrix, partition: &Partition, levels: &[ThresholdRange]) -> Value {
    let mut document = json!({
        "clusters": partition.names(matrix),
        "method": args.method.name(),
        "threshold": args.threshold,
        "metric": matrix.metric(),
        "models": matrix.models(),
        "matrix": matrix.rows(),
    });
    if args.sweep {
        let level = |level: &ThresholdRange| json!({ "from": level.from, "to": level.to, "clusters": level.partition.names(matrix) });
        document["sweep"] = levels.iter().map(level).collect();
    }
    document
}
