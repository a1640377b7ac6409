//! `zoo.yml` for a folder of checkpoints.

use crate::error::PipelineError;
use glue_metrics::{Metric, NamedCheckpoint, SimilarityOptions, similarity};
use glue_progress::NoProgress;
use glue_tensor::{ModelDir, write_atomic};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// Name of the config that is written.
pub const CONFIG: &str = "zoo.yml";

/// What was found in a folder.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct InitResult {
    /// The config that was written.
    pub path: PathBuf,
    /// Names of the models.
    pub models: Vec<String>,
    /// Those that the others were fine-tuned from, judging by the weights.
    pub bases: Vec<String>,
}

/// Writes a commented `zoo.yml` into `directory` for the checkpoints in its subdirectories and the tasks in `tasks/`.
///
/// A model counts as a base if the task vectors of all other models of its shape from it are nearly orthogonal.
/// Independent fine-tunes diverge from their base in unrelated directions; seen from one fine-tune, the others share
/// the direction back to the base.
///
/// # Errors
/// [`PipelineError`]: there is a config already, no model, or a model that cannot be read. All weights are read.
pub fn init(directory: &Path) -> Result<InitResult, PipelineError> {
    let path = directory.join(CONFIG);
    if path.exists() {
        return Err(PipelineError::Exists { path });
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
    Ok(InitResult { path, models: names, bases })
}

/// The cosine of two task vectors up to which they count as orthogonal: half way between that of fine-tunes seen from
/// their base, 0, and that of fine-tunes seen from another fine-tune, about a half.
const ORTHOGONAL: f64 = 0.25;

fn bases(names: &[String], dirs: &[ModelDir]) -> Result<Vec<String>, PipelineError> {
    let models: Vec<NamedCheckpoint<'_>> = names
        .iter()
        .zip(dirs)
        .map(|(name, dir)| NamedCheckpoint { name: name.clone(), checkpoint: dir.checkpoint() })
        .collect();
    let near =
        similarity(&models, None, Metric::find("cosine_per_column")?, &SimilarityOptions::default(), &NoProgress)?
            .matrix();
    let far =
        similarity(&models, None, Metric::find("l2_distance")?, &SimilarityOptions::default(), &NoProgress)?.matrix();
    let clusters = glue_metrics::cluster::leader(&near, glue_metrics::cluster::DEFAULT_THRESHOLD)?;
    let mut bases = Vec::new();
    for cluster in clusters.members() {
        // With two models there is no telling which is the base.
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
            && cosine < ORTHOGONAL
        {
            bases.push(names[base].clone());
        }
    }
    Ok(bases)
}

/// A word, quoted for YAML.
fn word(word: &str) -> String {
    serde_json::Value::from(word).to_string()
}

fn text(models: &[String], bases: &[String], tasks: bool) -> String {
    let mut text = String::from("# Config of `glue run`. Paths are relative to this file.\n\nmodels:\n");
    for model in models {
        let _ = writeln!(text, "  - {}", word(model));
    }
    match bases.len() {
        0 => text.push_str(
            "\n# The models that the others were fine-tuned from; methods that use task vectors need them.\n# base: PATH\n",
        ),
        _ => {
            text.push_str("\n# Detected base models: the task vectors of the others from them are nearly orthogonal.\nbase:\n");
            for base in bases {
                let _ = writeln!(text, "  - {}", word(base));
            }
        }
    }
    text.push_str(if tasks {
        "\ntasks:\n  path: tasks\n"
    } else {
        "\ntasks:\n  path: tasks          # does not exist yet\n"
    });
    text.push_str(
        "  # Every item has one role. `proxy[:50%]` is a share of a split, by a hash of each item: any split can serve all roles.
  search: proxy[:50%]        # merges are searched on these items
  validation: proxy[50%:]    # finished candidates are compared on these
  router: train              # routers are trained on these
  test: test                 # used once, at the end
  # per_task: {humaneval: {search: test[:25%], validation: test[25%:50%], router: test[50%:60%], test: test[60%:]}}
  # limit: 200           # maximum number of items of each task and split

# The values below are the defaults.

cluster:
  metric: cosine_per_column
  threshold: 0.95
  method: leader         # or single, complete, average

select:
  strategies: [average, coefficient, evolutionary]   # also similarity, dissimilarity, soce, gradient, soce, gradient
  filter: true           # find and exclude harmful models first
  budget: {}             # {evaluations: 200, seconds: 3600}; evolutionary ends after 500 evaluations
  racing: {confidence: 0.99}   # or exact, or off: when candidates are dropped before all items are scored
  item_fraction: 1.0     # fraction of the search items that candidates are scored on; below 1, scores are estimates
  # space: {methods: [task_arithmetic, ties], layer_groups: 4}   # default: methods that headers show to be affordable

frontier: {evaluations: 100}   # merges scored to find what to merge and what to keep apart

stack: true              # try stacking layers of the two best models (frankenmerge)

mixture:
  candidates: both       # or merged (the paper's: one merge per cluster), or members
  levels: [model, block, ffn]
  dense: [0.0, 0.5]      # fractions of the layers that stay dense
  experts: 8             # maximum number
  routing: sample        # or token
  pool: mean             # or first, last
  router: {kind: linear} # or {kind: mlp, hidden_size: 64}

limits: {}               # {seconds: 3600, memory: 8GiB, size: 2}; size: multiple of the largest model

# dtype: bfloat16
seed: 0
",
    );
    text
}
