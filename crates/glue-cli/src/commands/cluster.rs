//! `glue cluster`: which models belong together.

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
use serde_json::{Value, json};
use std::fmt::Write;
use std::io::{Error, ErrorKind};
use std::path::PathBuf;

/// Show which models belong together
///
/// By leader clustering, a model joins the first cluster whose first member it is more alike than the threshold, in the
/// order in which the models are given; else it opens a cluster of its own.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue cluster models/*
  glue cluster models/* --sweep
  glue cluster models/* --method average --threshold 0.9 --dendrogram zoo.svg
  glue similarity models/* --json > zoo.json && glue cluster --matrix zoo.json")]
pub(crate) struct Args {
    /// Directories or .safetensors files of models
    #[arg(required_unless_present = "matrix")]
    models: Vec<PathBuf>,

    #[command(flatten)]
    comparison: Comparison,

    /// Take the figures from what glue similarity --json printed, and read no weights
    #[arg(long, value_name = "FILE", conflicts_with_all = ["models", "base", "class", "layers", "tensor", "sample", "metric"])]
    matrix: Option<PathBuf>,

    /// Models more alike than this belong together; less far apart, for a distance
    #[arg(long, value_name = "T", default_value_t = DEFAULT_THRESHOLD, allow_negative_numbers = true)]
    threshold: f64,

    /// How clusters are formed
    #[arg(long, value_name = "METHOD", default_value = "leader")]
    method: Method,

    /// Show at which thresholds the clusters change
    #[arg(long)]
    sweep: bool,

    /// Write the tree of agglomerative clustering as a picture; by average linkage with the method leader
    #[arg(long, value_name = "FILE.svg")]
    dendrogram: Option<PathBuf>,

    /// Write the matrix as a picture, alike models side by side
    #[arg(long, value_name = "FILE.svg")]
    heatmap: Option<PathBuf>,
}

/// How clusters are formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Method {
    /// In order, by the first member of each cluster
    Leader,
    /// Agglomerative, by the most alike pair of two clusters
    Single,
    /// Agglomerative, by the least alike pair
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
    let named =
        |error: &dyn std::fmt::Display| Error::new(ErrorKind::InvalidData, format!("{}: {error}", path.display()));
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
