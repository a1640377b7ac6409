//! The output apart from its tensors: its configuration, its tokenizer and its chat template.

use super::chat_template::chat_template;
use super::models::{Models, tied_to};
use super::tensors::Assembled;
use super::{Action, MergePlan, PlanOptions};
use crate::error::RecipeError;
use crate::experts::{self, ExpertLayer};
use crate::recipe::{Recipe, TokenizerSource};
use glue_tensor::tokenizer_files::TokenizerComparison;
use glue_tensor::{Config, Dtype};
use std::collections::BTreeSet;

pub(super) fn finish(
    recipe: &Recipe,
    options: &PlanOptions,
    models: Models,
    mut assembled: Assembled,
) -> Result<MergePlan, RecipeError> {
    let tokenizer_from = tokenizer(recipe, options, &models, &mut assembled)?;
    compare_configurations(&models, &mut assembled);
    note_tied_embeddings(&models, &mut assembled);
    for model in [assembled.config_from, tokenizer_from] {
        models.dir(model).check_links(options.links)?;
    }
    let chat_template = chat_template(recipe, options, &models)?;
    let config = config(recipe, options, &models, &assembled)
        .map_err(|error| RecipeError::Config { model: models.name(assembled.config_from).into(), error })?;
    let experts = experts(recipe, &models, &assembled)?;
    Ok(MergePlan {
        experts,
        recipe: recipe.clone(),
        operator: recipe.operator.value,
        models: models.list,
        tensors: assembled.tensors,
        config_from: assembled.config_from,
        config,
        tokenizer_from,
        links: options.links,
        legal_files: Vec::new(),
        chat_template,
        dtype: options.dtype.or(recipe.out_dtype).or(recipe.dtype),
        seed: options.seed.or(recipe.seed).unwrap_or(0),
        on_nonfinite: recipe.on_nonfinite,
        matches: options.opened.expert_matches().clone(),
        dropped: assembled.dropped,
        notes: assembled.notes,
    })
}

/// The layers whose experts are matched.
fn experts(recipe: &Recipe, models: &Models, assembled: &Assembled) -> Result<Vec<ExpertLayer>, RecipeError> {
    let Some(at) = recipe.align_experts else { return Ok(Vec::new()) };
    let refused = |reason| RecipeError::AlignExperts { place: recipe.place(at), reason };
    if recipe.own_bases().next().is_some() {
        return Err(refused("a model with a `base_model` of its own cannot have its experts permuted".into()));
    }
    for model in &models.list {
        let config = model.dir.config();
        let groups = config.get("n_group").and_then(serde_json::Value::as_u64).unwrap_or(1);
        if groups > 1 {
            let reason =
                format!("`{}` routes its experts in {groups} groups (`n_group`), which no order may mix", model.name);
            return Err(refused(reason));
        }
    }
    let layers = experts::layers(&assembled.tensors).map_err(refused)?;
    if layers.is_empty() {
        return Err(refused("no layer has experts".into()));
    }
    Ok(layers)
}

fn config(
    recipe: &Recipe,
    options: &PlanOptions,
    models: &Models,
    assembled: &Assembled,
) -> Result<Config, glue_tensor::ConfigError> {
    let mut config = models.dir(assembled.config_from).config().clone();
    if let Some(layers) = &assembled.layers {
        config = config.with_layers(layers)?;
    }
    if let Some(dtype) = options.dtype.or(recipe.out_dtype).or(recipe.dtype).or_else(|| common_dtype(assembled)) {
        config = config.with_dtype(dtype);
    }
    if let Some(rows) = assembled.vocabulary {
        config.set("vocab_size", rows.into())?;
    }
    if let Some(separate) = assembled.separate_head
        && config.tie_word_embeddings() != Some(!separate)
    {
        config.set("tie_word_embeddings", (!separate).into())?;
    }
    Ok(config)
}

/// Notes where models with tensors of the same shapes compute with them in different ways.
fn compare_configurations(models: &Models, assembled: &mut Assembled) {
    type Property = fn(&Config) -> String;
    let properties: [(&str, Property); 4] = [
        ("model type", |config| config.model_type().unwrap_or("not given").into()),
        ("attention heads", |config| format!("{:?}", config.num_heads().unwrap_or(0))),
        ("heads of keys and values", |config| format!("{:?}", config.num_kv_heads().unwrap_or(0))),
        ("rotary embedding", |config| {
            let rope = |rope: glue_tensor::config::Rope| format!("{} with base {}", rope.kind, rope.theta);
            let ropes: Vec<_> = config.ropes().into_iter().map(rope).collect();
            if ropes.is_empty() { "not given".into() } else { ropes.join(" and ") }
        }),
    ];
    let from = assembled.config_from;
    let own = models.dir(from).config();
    for model in (0..models.list.len()).filter(|&model| model != from) {
        for (what, property) in properties {
            let (expected, found) = (property(own), property(models.dir(model).config()));
            if expected != found {
                assembled.notes.push(format!(
                    "{what}: {found} in `{}`, but {expected} in `{}`, whose configuration the output gets",
                    models.name(model),
                    models.name(from)
                ));
            }
        }
    }
}

/// Notes where an adapter changes an embedding that is the head as well: PEFT keeps the two apart while it is active.
fn note_tied_embeddings(models: &Models, assembled: &mut Assembled) {
    for model in &models.list {
        let Some(adapter) = &model.adapter else { continue };
        let tied = tied_to(&model.dir).filter(|_| model.own_head.is_none());
        if tied.is_some_and(|embedding| adapter.dir.change(&embedding).is_some()) {
            assembled.notes.push(format!(
                "the adapter of `{}` changes the embedding, which is the head too; here both change, with PEFT the \
                 embedding alone",
                model.name
            ));
        }
    }
}

/// The type of all merged tensors, when they have the same.
fn common_dtype(assembled: &Assembled) -> Option<Dtype> {
    let merged = assembled.tensors.iter().filter(|tensor| matches!(tensor.action, Action::Merge { .. }));
    let dtypes: BTreeSet<Dtype> = merged.map(|tensor| tensor.dtype).collect();
    dtypes.first().copied().filter(|_| dtypes.len() == 1)
}

/// The model whose tokenizer the output gets.
fn tokenizer(
    recipe: &Recipe,
    options: &PlanOptions,
    models: &Models,
    assembled: &mut Assembled,
) -> Result<usize, RecipeError> {
    let own = assembled.config_from;
    let from = match recipe.tokenizer.as_ref().map(|source| &source.value) {
        Some(TokenizerSource::Model(name)) => models.index(name),
        _ => own,
    };
    let files = |model: usize| models.dir(model).tokenizer();
    if let Some(source) = &recipe.tokenizer
        && files(from).names().is_empty()
    {
        let place = recipe.place(source.at);
        return Err(RecipeError::NoTokenizer { place, model: models.name(from).into() });
    }
    if let Some(rows) = assembled.vocabulary {
        let highest = files(from).vocabulary()?.and_then(|vocabulary| vocabulary.into_values().max());
        if let Some(id) = highest.filter(|id| *id as usize >= rows) {
            let at = recipe.tokenizer.as_ref().map_or(recipe.at, |source| source.at);
            return Err(RecipeError::TokenCut { place: recipe.place(at), model: models.name(from).into(), id, rows });
        }
        assembled.notes.push(format!("embeddings are cut to {rows} rows, those that all models have"));
    }
    for other in (0..models.list.len()).filter(|&other| other != from) {
        let comparison = options.opened.compare(models.dir(from), models.dir(other))?;
        let (first, second) = (models.name(from), models.name(other));
        match (comparison, &recipe.tokenizer) {
            (TokenizerComparison::Different { why }, Some(source)) => {
                return Err(RecipeError::Vocabularies {
                    place: recipe.place(source.at),
                    first: first.into(),
                    second: second.into(),
                    why: Box::new(why),
                });
            }
            (TokenizerComparison::Different { why }, None) => assembled.notes.push(format!(
                "the vocabularies of `{first}` and `{second}` differ: {why}; the output gets that of `{first}`, and \
                 rows of embeddings are merged by number"
            )),
            (TokenizerComparison::SameVocabulary, _) => assembled.notes.push(format!(
                "`{first}` and `{second}` have the same tokens but may split text differently; the output gets the \
                 tokenizer of `{first}`"
            )),
            _ => {}
        }
    }
    Ok(from)
}
