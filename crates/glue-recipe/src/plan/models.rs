//! The models of a recipe, each opened once.

use super::{PlanOptions, PlannedAdapter, PlannedModel, PlannedStatistics};
use crate::error::RecipeError;
use crate::recipe::{Recipe, TokenizerSource};
use glue_tensor::hub::{HubFacts, locate_below};
use glue_tensor::names::Position;
use glue_tensor::{ModelDir, Names, Role, TensorInfo};
use glue_yaml::At;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The models, and how to find them by the way they are written.
pub(super) struct Models {
    pub(super) list: Vec<PlannedModel>,
    /// What the user should know of them.
    pub(super) notes: Vec<String>,
    by_name: HashMap<String, usize>,
}

impl Models {
    pub(super) fn open(recipe: &Recipe, options: &PlanOptions) -> Result<Models, RecipeError> {
        let mut models = Models { list: Vec::new(), notes: Vec::new(), by_name: HashMap::new() };
        let mut by_path: HashMap<(PathBuf, Option<PathBuf>), usize> = HashMap::new();
        let tokenizer = recipe.tokenizer.as_ref().and_then(|source| match &source.value {
            TokenizerSource::Model(name) => Some(At::new(name.clone(), source.at)),
            _ => None,
        });
        let mut errors = Vec::new();
        let mut seen = BTreeSet::new();
        for name in recipe.models().chain(&tokenizer) {
            if !seen.insert(&name.value) {
                continue;
            }
            let reference = locate(options, &name.value);
            if let Some(revision) = reference.revision {
                models.notes.push(format!(
                    "`{}`: the directory is read as it is; whether it holds the revision `{revision}` is not checked",
                    name.value
                ));
            }
            let known = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            let key = (known(&reference.path), reference.adapter.as_ref().map(|adapter| known(&adapter.path)));
            let next = models.list.len();
            let index = *by_path.entry(key).or_insert(next);
            if index == next {
                let opened = open(recipe, options, name, &reference.path).and_then(|dir| {
                    let adapter = reference.adapter.map(|adapter| open_adapter(recipe, options, name, adapter, &dir));
                    let (adapter, own_head) = adapter.transpose()?.unzip();
                    let (name, own_head) = (name.value.clone(), own_head.flatten());
                    let hub = HubFacts::of(dir.path(), dir.config());
                    Ok(PlannedModel { name, adapter, dir, statistics: None, hub, own_head })
                });
                match opened {
                    Ok(model) => models.list.push(model),
                    Err(error) => {
                        errors.push(error);
                        continue;
                    }
                }
            }
            models.by_name.insert(name.value.clone(), index);
        }
        if let Some(error) = RecipeError::all(errors) {
            return Err(error);
        }
        for (model, path) in recipe.statistics().filter(|_| !options.without_statistics) {
            models.measure(recipe, options, model, path)?;
        }
        Ok(models)
    }

    /// Opens the statistics of a model: of one and the same wherever the model is listed.
    fn measure(
        &mut self,
        recipe: &Recipe,
        options: &PlanOptions,
        model: &At<String>,
        name: &At<String>,
    ) -> Result<(), RecipeError> {
        let place = recipe.place(name.at);
        let path = options.directory.join(&name.value);
        let checkpoint = options.opened.statistics(&path).map_err(|error| RecipeError::Statistics {
            place: place.clone(),
            model: model.value.clone(),
            error: Box::new(error),
        })?;
        let index = self.index(&model.value);
        match &self.list[index].statistics {
            Some(known) if !Arc::ptr_eq(&known.checkpoint, &checkpoint) => Err(RecipeError::StatisticsTwice {
                place,
                model: model.value.clone(),
                first: known.name.clone(),
                second: name.value.clone(),
            }),
            Some(_) => Ok(()),
            None => {
                self.list[index].statistics = Some(PlannedStatistics { name: name.value.clone(), checkpoint });
                Ok(())
            }
        }
    }

    /// The model written as `name` in the recipe that was opened.
    pub(super) fn index(&self, name: &str) -> usize {
        self.by_name[name]
    }

    pub(super) fn name(&self, model: usize) -> &str {
        &self.list[model].name
    }

    pub(super) fn dir(&self, model: usize) -> &ModelDir {
        &self.list[model].dir
    }

    pub(super) fn statistics(&self, model: usize) -> Option<&PlannedStatistics> {
        self.list[model].statistics.as_ref()
    }

    pub(super) fn info(&self, model: usize, tensor: &str) -> Option<&TensorInfo> {
        self.list[model].info(tensor)
    }

    /// The names of a model's tensors.
    pub(super) fn names(&self, model: usize) -> impl Iterator<Item = &str> {
        let model = &self.list[model];
        model.dir.checkpoint().tensors().iter().map(|info| info.name.as_str()).chain(model.own_head.as_deref())
    }
}

/// Where a model is, and the adapter behind a plus sign, as mergekit writes it.
struct Reference<'a> {
    path: PathBuf,
    /// What stands behind an at sign that is no part of the path.
    revision: Option<&'a str>,
    adapter: Option<AdapterReference<'a>>,
}

struct AdapterReference<'a> {
    /// What stands before the plus sign.
    model: &'a str,
    /// What stands behind it.
    name: &'a str,
    path: PathBuf,
}

/// A plus sign is a part of a path where such a path exists. Of several, the first with something
/// on either side counts.
fn locate<'a>(options: &PlanOptions, name: &'a str) -> Reference<'a> {
    let (whole, revision) = without_revision(options, name);
    let mut parts = name.match_indices('+').map(|(at, _)| (&name[..at], &name[at + 1..]));
    let mut named = parts.clone().filter(|(model, adapter)| !model.is_empty() && !adapter.is_empty());
    let there = |(model, adapter): &(&str, &str)| {
        !model.is_empty()
            && without_revision(options, model).0.exists()
            && locate_below(&options.directory, adapter).is_dir()
    };
    match parts.find(there).or_else(|| named.next()) {
        Some((model, adapter)) if !whole.exists() => {
            let (path, revision) = without_revision(options, model);
            let adapter = AdapterReference { model, name: adapter, path: locate_below(&options.directory, adapter) };
            Reference { path, revision, adapter: Some(adapter) }
        }
        _ => Reference { path: whole, revision, adapter: None },
    }
}

/// The path of a model, and its revision as mergekit writes it: `PATH@REVISION`, where there is no such path.
fn without_revision<'a>(options: &PlanOptions, name: &'a str) -> (PathBuf, Option<&'a str>) {
    let whole = options.resolve(name);
    let before = name.rsplit_once('@').map(|(path, revision)| (options.resolve(path), Some(revision)));
    before.filter(|(path, _)| !whole.exists() && path.is_dir()).unwrap_or((whole, None))
}

/// The adapter, and the head that it gives to a model without one.
fn open_adapter(
    recipe: &Recipe,
    options: &PlanOptions,
    name: &At<String>,
    reference: AdapterReference<'_>,
    model: &ModelDir,
) -> Result<(PlannedAdapter, Option<String>), RecipeError> {
    let refused = |error| RecipeError::Adapter { place: recipe.place(name.at), error: Box::new(error) };
    let dir = options.opened.open_adapter(&reference.path).map_err(refused)?;
    let tied = tied_to(model);
    dir.fit(model.checkpoint(), tied.as_deref()).map_err(refused)?;
    let own_head = tied.and_then(|tied| dir.own_head(model.checkpoint(), &tied).map(String::from));
    Ok((PlannedAdapter { model: reference.model.into(), name: reference.name.into(), dir }, own_head))
}

fn open(recipe: &Recipe, options: &PlanOptions, name: &At<String>, path: &Path) -> Result<Arc<ModelDir>, RecipeError> {
    let place = recipe.place(name.at);
    let dir = match options.opened.open(path) {
        Ok(dir) => dir,
        Err(error) => return Err(RecipeError::Open { place, error: Box::new(error) }),
    };
    match dir.config().get("quantization_config") {
        Some(quantisation) => {
            let method = quantisation.get("quant_method").and_then(|method| method.as_str());
            let method = method.unwrap_or("method not named").to_string();
            Err(RecipeError::Quantised { place, model: name.value.clone(), method })
        }
        None => Ok(dir),
    }
}

/// The tensors of one model that one part of a recipe covers.
pub(super) struct View {
    pub(super) model: usize,
    /// Whether nothing is covered.
    pub(super) empty: bool,
    parsed: Names,
    by_layer: BTreeMap<usize, Vec<String>>,
    /// Names before the layers, and in stacks that slices do not cut.
    pub(super) before: Vec<String>,
    /// Names after the layers.
    pub(super) after: Vec<String>,
    /// What stands before the layer numbers of the stack that slices cut; empty without one.
    pub(super) prefix: String,
    /// Layers of that stack.
    pub(super) layers: usize,
    /// Name of the embedding, where it serves as the head.
    tied_to: Option<String>,
}

impl View {
    pub(super) fn new(models: &Models, model: usize, covers: &dyn Fn(&str) -> bool, whole: bool) -> View {
        let dir = models.dir(model);
        let names: Vec<String> = models.names(model).filter(|name| covers(name)).map(String::from).collect();
        let parsed = Names::infer(names.iter().map(String::as_str));
        let (prefix, counted) = parsed
            .main_stack()
            .map_or((String::new(), 0), |stack| (stack.prefix.clone(), stack.layers.last().map_or(0, |last| last + 1)));
        // Some checkpoints hold layers behind the last one that the configuration counts.
        let configured = dir.config().num_layers().filter(|_| whole && counted > 0);
        let mut by_layer: BTreeMap<usize, Vec<String>> = BTreeMap::new();
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for name in &names {
            let tensor = parsed.parse(name);
            match (tensor.layer, tensor.position) {
                (Some(layer), _) if tensor.prefix == prefix => {
                    by_layer.entry(layer).or_default().push(tensor.suffix.into())
                }
                (_, Position::After) => after.push(name.clone()),
                _ => before.push(name.clone()),
            }
        }
        let layers = configured.unwrap_or(counted);
        let tied_to = tied_to(dir).filter(|_| models.list[model].own_head.is_none());
        View { model, parsed, prefix, layers, by_layer, before, after, tied_to, empty: names.is_empty() }
    }

    /// What follows the layer number in the names of a layer's tensors.
    pub(super) fn suffixes(&self, layer: usize) -> &[String] {
        self.by_layer.get(&layer).map_or(&[], Vec::as_slice)
    }

    /// Layers of that stack in the checkpoint, which may be more.
    pub(super) fn held_layers(&self) -> usize {
        self.by_layer.last_key_value().map_or(0, |(last, _)| last + 1)
    }

    /// Layer and number of layers of a tensor in a stack that slices do not cut.
    pub(super) fn other_layer(&self, name: &str) -> Option<(usize, usize)> {
        let parsed = self.parsed.parse(name);
        let stack = self.parsed.stacks().iter().find(|stack| stack.prefix == parsed.prefix)?;
        Some((parsed.layer?, stack.layers.last()? + 1))
    }

    pub(super) fn role(&self, name: &str) -> Role {
        self.parsed.parse(name).role
    }

    /// The embedding, in a model whose head it is.
    pub(super) fn tied_to(&self) -> Option<&str> {
        self.tied_to.as_deref()
    }
}

/// The embedding of tokens, in a model whose head it is.
pub(super) fn tied_to(dir: &ModelDir) -> Option<String> {
    let names = || dir.checkpoint().tensors().iter().map(|info| info.name.as_str());
    let parsed = Names::infer(names());
    let vocabulary = dir.config().vocab_size();
    let is_embedding = |name: &&str| {
        let tensor = parsed.parse(name);
        let info = dir.checkpoint().info(name);
        tensor.role == Role::Embedding
            && tensor.layer.is_none()
            && !["position", "wpe", "token_type"].iter().any(|other| name.contains(other))
            && info.is_some_and(|info| info.shape.len() == 2 && info.dtype.is_float())
    };
    let rows = |name: &str| dir.checkpoint().info(name).map(|info| info.shape[0]);
    let found: Vec<&str> = names().filter(is_embedding).collect();
    let by_rows = found.iter().find(|name| vocabulary.is_some() && rows(name) == vocabulary);
    let embedding = by_rows.or(found.first()).map(|name| name.to_string())?;
    let shape = &dir.checkpoint().info(&embedding)?.shape;
    let has_head = || {
        names().any(|name| {
            parsed.parse(name).role == Role::Head
                && dir.checkpoint().info(name).is_some_and(|info| info.shape == *shape)
        })
    };
    // A configuration that does not say leaves it to the checkpoint.
    dir.config().tie_word_embeddings().unwrap_or_else(|| !has_head()).then_some(embedding)
}
