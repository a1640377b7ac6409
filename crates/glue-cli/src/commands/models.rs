//! Opening a model to run it.

use super::recipes;
use crate::failure::Failure;
use crate::shell::Shell;
use glue_calibrate::ModelFiles;
use glue_eval::LocalModel;
use glue_lm::{AnyTextModel, LmError, Model, TextError, TextModel, Tokenizer};
use glue_merge::Registry;
use glue_progress::NoProgress;
use glue_recipe::{MergePlan, PlanOptions, PlannedModel, Recipe, RunOptions};
use glue_select::local::{InMemoryError, merged_model};
use glue_tensor::model_dir::ModelDirError;
use glue_tensor::{Adapter, CheckpointError, ModelDir};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// Says which tensors of the model at `path` are left aside, if there are any.
pub(crate) fn note_left_aside(path: &Path, model: &Model, shell: &Shell<'_>) {
    if let [first, rest @ ..] = model.left_aside() {
        let others = match rest.len() {
            0 => String::new(),
            1 => " and 1 other tensor".to_owned(),
            count => format!(" and {count} other tensors"),
        };
        let name = path.display();
        shell.note(&format!("only the language model of {name} is run: `{first}`{others} of other parts left aside"));
    }
}

/// The model at `path`: a directory, or one and an adapter for it, written `MODEL+ADAPTER`.
pub(crate) fn open(path: &Path) -> Result<Model, Failure> {
    match Model::open(path) {
        Err(LmError::ModelDir(ModelDirError::WithAdapter { .. })) => adapted(path).map(|(model, _)| model),
        opened => opened.map_err(|error| cannot_run(path, error)),
    }
}

/// The model at `path` with its tokenizer.
pub(crate) fn open_with_tokenizer(path: &Path) -> Result<TextModel, Failure> {
    match TextModel::open(path) {
        Err(error) if has_adapter(&error) => adapted_text(path).map(|(text, _)| text),
        opened => opened.map_err(|error| cannot_read(path, error)),
    }
}

/// A model with its tokenizer, and the files that it was read from.
pub(crate) struct TextModelOfFiles {
    pub(crate) text: TextModel,
    dir: Arc<ModelDir>,
    adapter: Option<Arc<Adapter>>,
}

impl TextModelOfFiles {
    /// The model at `path`. Its files are opened before it: if they are unchanged at the end, they are those that it
    /// was read from.
    pub(crate) fn open(path: &Path) -> Result<TextModelOfFiles, Failure> {
        let dir = ModelDir::open(path);
        match TextModel::open(path) {
            Err(error) if has_adapter(&error) => {
                let (text, mut plan) = adapted_text(path)?;
                let PlannedModel { dir, adapter, .. } = plan.models.swap_remove(0);
                Ok(TextModelOfFiles { text, dir, adapter: adapter.map(|adapter| adapter.dir) })
            }
            opened => {
                let text = opened.map_err(|error| cannot_read(path, error))?;
                Ok(TextModelOfFiles { text, dir: Arc::new(dir.map_err(Failure::failed)?), adapter: None })
            }
        }
    }

    /// The files.
    pub(crate) fn files(&self) -> ModelFiles<'_> {
        ModelFiles { dir: &self.dir, adapter: self.adapter.as_deref() }
    }
}

/// The model at `path` with its tokenizer, or the whole models that are mixed there.
pub(crate) fn open_any(path: &Path) -> Result<AnyTextModel, Failure> {
    match AnyTextModel::open(path) {
        Err(error) if has_adapter(&error) => Ok(AnyTextModel::One(Box::new(adapted_text(path)?.0))),
        opened => opened.map_err(|error| cannot_read(path, error)),
    }
}

/// The content hash of the model at `path` if that is `MODEL+ADAPTER`; `None` for a directory.
pub(crate) fn adapted_hash(path: &Path) -> Result<Option<String>, Failure> {
    if path.exists() {
        return Ok(None);
    }
    let plan = adapted_plan(path)?;
    let planned = &plan.models[0];
    let model = LocalModel::hash_files(&planned.dir).map_err(Failure::failed)?;
    Ok(planned.adapter.as_ref().map(|adapter| format!("{model}+{}", adapter.dir.content_hash())))
}

fn has_adapter(error: &TextError) -> bool {
    matches!(error, TextError::Model(LmError::ModelDir(ModelDirError::WithAdapter { .. })))
}

fn adapted_text(path: &Path) -> Result<(TextModel, MergePlan), Failure> {
    let (model, plan) = adapted(path)?;
    let tokenizer = Tokenizer::load(plan.models[0].dir.path()).map_err(TextError::from);
    let text = tokenizer.and_then(|tokenizer| TextModel::new(model, tokenizer));
    Ok((text.map_err(|error| cannot_read(path, error))?, plan))
}

/// The model that the config of one adapter makes, in memory: to the bit the one that `glue merge` would write.
fn adapted(path: &Path) -> Result<(Model, MergePlan), Failure> {
    let plan = adapted_plan(path)?;
    let model = merged_model(&plan, &RunOptions::default(), &NoProgress).map_err(|error| match error {
        InMemoryError::Model(error) => cannot_run(path, error),
        error => Failure::failed(error).context(format!("cannot run {}", path.display())),
    })?;
    Ok((model, plan))
}

fn adapted_plan(path: &Path) -> Result<MergePlan, Failure> {
    let name = path.display().to_string();
    // A string of JSON is one of YAML.
    let config = format!("merge_method: passthrough\nmodels:\n- model: {}\n", Value::from(name));
    let recipes = Recipe::parse(&config, "command line", &Registry::builtin()).map_err(recipes::refusal)?;
    recipes::plan(&recipes[0], &PlanOptions::default())
}

fn cannot_read(path: &Path, error: TextError) -> Failure {
    match error {
        TextError::Model(error) => cannot_run(path, error),
        error => Failure::failed(error).context(format!("cannot run {}", path.display())),
    }
}

/// A path that does not exist is wrong usage; a broken model is a failure.
fn cannot_run(path: &Path, error: LmError) -> Failure {
    let absent = matches!(
        error,
        LmError::ModelDir(ModelDirError::NotFound { .. } | ModelDirError::Checkpoint(CheckpointError::NotFound { .. }))
    );
    let hint = match &error {
        LmError::Unsupported { key, .. } if key == "whole" => Some("use glue generate or glue eval, which can run it"),
        LmError::Unsupported { .. } => Some("a model that cannot be run can still be merged"),
        LmError::MissingTensor { .. } | LmError::Shape { .. } | LmError::UnexpectedTensor { .. } => {
            Some("glue inspect shows the tensors of the checkpoint and the values in config.json")
        }
        _ => None,
    };
    let failure = if absent { Failure::refused(error) } else { Failure::failed(error) };
    failure.context(format!("cannot run {}", path.display())).hint(hint)
}
