//! Models with LoRA adapters for commands that read whole model directories: each is written once, to a work directory.

use super::recipes;
use super::stage_outputs::reusable;
use crate::app::Global;
use crate::failure::Failure;
use crate::progress::CommandProgress;
use crate::shell::Shell;
use glue_merge::Registry;
use glue_recipe::{MergePlan, PlanOptions, Recipe, RunError, RunOptions, run};
use glue_tensor::{Links, ModelDir, ModelDirError};
use rayon::ThreadPool;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A model with an adapter, to be written.
pub(super) struct AdaptedModel {
    /// As written: `MODEL+ADAPTER`.
    pub(super) name: PathBuf,
    /// Where it is to be.
    pub(super) directory: PathBuf,
    /// Its name in the work directory.
    stage: String,
    plan: MergePlan,
}

impl AdaptedModel {
    /// The model without its adapter.
    pub(super) fn model(&self) -> &Path {
        self.plan.models[0].dir.path()
    }

    /// Bytes of its weights.
    pub(super) fn bytes(&self) -> u64 {
        self.plan.tensors.iter().map(glue_recipe::TensorPlan::n_bytes).sum()
    }
}

/// The models with adapters among `models`, each once. Reads headers only.
pub(super) fn find<'a>(
    models: impl Iterator<Item = &'a Path>,
    work_dir: &Path,
    links: Links,
    global: &Global,
) -> Result<Vec<AdaptedModel>, Failure> {
    let (mut seen, mut stages, mut found) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for name in models {
        if name.exists() || !seen.insert(name) {
            continue;
        }
        let Err(ModelDirError::WithAdapter { model, adapter, .. }) = ModelDir::open(name) else { continue };
        let part = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let plain = format!("{}+{}", part(&model), part(&adapter));
        let numbered = (2..).map(|n| format!("{plain}-{n}"));
        let stage = [plain.clone()].into_iter().chain(numbered).find(|stage| stages.insert(stage.clone()));
        let stage = stage.unwrap_or(plain);
        // A string of JSON is one of YAML.
        let (written, called) = (Value::from(name.display().to_string()), Value::from(stage.as_str()));
        let config = format!("name: {called}\nmerge_method: passthrough\nmodels:\n- model: {written}\n");
        let recipes = Recipe::parse(&config, "command line", &Registry::builtin()).map_err(recipes::refusal)?;
        let mut options = PlanOptions::default();
        options.links = links;
        options.seed = global.seed;
        let plan = recipes::plan(&recipes[0], &options)?;
        found.push(AdaptedModel { name: name.to_path_buf(), directory: work_dir.join(&stage), stage, plan });
    }
    Ok(found)
}

/// Writes `adapted`, unless it is there as it would be written.
pub(super) fn write(adapted: &AdaptedModel, pool: &ThreadPool, shell: &Shell<'_>) -> Result<(), Failure> {
    let AdaptedModel { name, directory, stage, plan } = adapted;
    if reusable(stage, plan, directory, &Registry::builtin(), pool, shell)? {
        return Ok(());
    }
    let progress = CommandProgress::new(shell);
    let done = pool.install(|| run(plan, directory, &RunOptions::default(), &progress));
    drop(progress);
    done.map_err(|error| match error {
        RunError::Stopped => Failure::Interrupted,
        error => Failure::failed(error).context(format!("cannot apply the adapter of {}", name.display())),
    })
}
