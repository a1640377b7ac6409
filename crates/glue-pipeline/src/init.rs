//! `zoo.yml` for a folder of checkpoints.

use crate::error::PipelineError;
use glue_metrics::{Metric, NamedCheckpoint, SimilarityOptions, Unwatched, similarity};
use glue_tensor::{ModelDir, write_atomic};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the config that is written.
pub const CONFIG: &str = "zoo.yml";

/// What was found in a folder.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Found {
    /// The config that was written.
    pub path: PathBuf,
    /// Names of the models.
    pub models: Vec<String>,
    /// Those of them that the others were tuned from, by their weights.
    pub bases: Vec<String>,
}

/// Writes a commented `zoo.yml` into `directory` for the checkpoints in its subdirectories and the tasks in `tasks/`.
///
/// A model is taken for a base when, of models of its shape, the differences of all others from it are nearly at right
/// angles: fine-tunes of one model go their own ways from it, while seen from one of them the others share the way back.
///
/// # Errors
/// [`PipelineError`]: there is a config already, no model, or a model that cannot be read. All weights are read.
pub fn init(directory: &Path) -> Result<Found, PipelineError> {
    let path = directory.join(CONFIG);
    if path.exists() {
        let found = format!("`{CONFIG}`");
        return Err(PipelineError::Occupied { path, found });
    }
    let at = |error| PipelineError::io(directory, error);
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(directory).map_err(at)? {
        let entry = entry.map_err(at)?;
        if entry.path().join("config.json").is_file() {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    if names.is_empty() {
        let expected = "a folder with a directory for each model (config.json and *.safetensors)";
        return Err(PipelineError::Unsuitable(format!("{}: expected {expected}, found none", directory.display())));
    }
    let open = |name: &String| {
        ModelDir::open(directory.join(name))
            .map_err(|error| PipelineError::Model { model: name.clone(), error: Box::new(error) })
    };
    let dirs = names.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let bases = bases(&names, &dirs)?;
    let tasks = directory.join("tasks").is_dir();
    let models: Vec<String> = names.iter().filter(|name| !bases.contains(name)).cloned().collect();
    write_atomic(&path, text(&models, &bases, tasks).as_bytes())?;
    Ok(Found { path, models: names, bases })
}

/// Cosine of two differences, above which they do not count as at right angles: half way between that of fine-tunes seen
/// from their base, 0, and that of fine-tunes seen from another one, about a half.
const RIGHT_ANGLE: f64 = 0.25;

fn bases(names: &[String], dirs: &[ModelDir]) -> Result<Vec<String>, PipelineError> {
    let models: Vec<NamedCheckpoint<'_>> = names
        .iter()
        .zip(dirs)
        .map(|(name, dir)| NamedCheckpoint { name: name.clone(), checkpoint: dir.checkpoint() })
        .collect();
    let near =
        similarity(&models, None, Metric::find("cosine_per_column")?, &SimilarityOptions::default(), &Unwatched)?
            .matrix();
    let far =
        similarity(&models, None, Metric::find("l2_distance")?, &SimilarityOptions::default(), &Unwatched)?.matrix();
    let clusters = glue_metrics::cluster::leader(&near, glue_metrics::cluster::DEFAULT_THRESHOLD)?;
    let mut bases = Vec::new();
    for cluster in clusters.members() {
        // Of two models nobody can say which was first.
        if cluster.len() < 3 {
            continue;
        }
        let mean_cosine = |base: usize| -> Option<f64> {
            let others: Vec<usize> = cluster.iter().copied().filter(|&i| i != base).collect();
            let mut cosines = Vec::new();
            for (at, &i) in others.iter().enumerate() {
                for &j in &others[at + 1..] {
                    let (a, b, c) = (far.get(base, i)?, far.get(base, j)?, far.get(i, j)?);
                    cosines.push((a * a + b * b - c * c) / (2.0 * a * b));
                }
            }
            Some(cosines.iter().sum::<f64>() / cosines.len() as f64)
        };
        let best = cluster.iter().filter_map(|&base| mean_cosine(base).map(|cosine| (cosine, base)));
        let best = best.filter(|(cosine, _)| cosine.is_finite()).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((cosine, base)) = best
            && cosine < RIGHT_ANGLE
        {
            bases.push(names[base].clone());
        }
    }
    Ok(bases)
}

/// A word as YAML needs it.
fn word(word: &str) -> String {
    serde_json::Value::from(word).to_string()
}

fn text(models: &[String], bases: &[String], tasks: bool) -> String {
    let mut text =
        String::from("# What `glue run` makes one model of. Paths start at this file's directory.\n\nmodels:\n");
    for model in models {
        let _ = writeln!(text, "  - {}", word(model));
    }
    match bases.len() {
        0 => text.push_str(
            "\n# Models that the others were fine-tuned from; merges of task vectors need them.\n# base: PATH\n",
        ),
        _ => {
            text.push_str("\n# By their weights, the others were fine-tuned from these: seen from them, they went their own ways.\nbase:\n");
            for base in bases {
                let _ = writeln!(text, "  - {}", word(base));
            }
        }
    }
    text.push_str(if tasks {
        "\ntasks:\n  path: tasks\n"
    } else {
        "\ntasks:\n  path: tasks          # there is no such folder yet\n"
    });
    text.push_str(
        "  # Decisions are made by `proxy`, routers are trained on `router`, and `test` is looked at once, at the end.
  proxy: proxy
  router: train
  test: test
  # limit: 200           # items of each task and split

# Everything below shows the defaults.

cluster:
  metric: cosine_per_column
  threshold: 0.95
  method: leader         # or single, complete, average

select:
  strategies: [average, coefficient, evolutionary]   # also similarity, dissimilarity
  filter: true           # find harmful models first
  validation: 0.2        # share of the proxy items that chooses between strategies
  budget: {}             # {evaluations: 200, seconds: 3600}; evolutionary ends by itself after 500
  racing: true
  # space: {methods: [task_arithmetic], layer_groups: 4}

stack: true              # try layers of two models in a row

mixture:
  levels: [model, block, ffn]
  dense: [0.0, 0.25, 0.5, 0.75]   # shares of the layers that stay dense
  experts: 8             # the most
  routing: sample        # or token
  pool: mean             # or first, last
  router: {kind: linear} # or {kind: mlp, hidden_size: 64}

limits: {}               # {seconds: 3600, memory: 8GiB, parameters: 30e9}

# dtype: bfloat16
seed: 0
",
    );
    text
}
