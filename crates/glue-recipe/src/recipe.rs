//! A recipe as parsed: names and values checked, no file looked at.

use crate::error::{NoEffect, RecipeError};
use crate::settings::{ParamSite, Settings, params};
use glue_merge::{Operator, ParamError, Params, Registry};
use glue_tensor::Dtype;
use glue_yaml::{At, FilePosition, Position};
use std::ops::Range;

/// One document: what is merged from what, and how.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Recipe {
    /// What the text was read from: a path, usually.
    pub origin: String,
    /// The text of this document.
    pub text: String,
    /// Where the document begins.
    pub at: Position,
    /// Its name among several stages.
    pub name: Option<At<String>>,
    /// What merges a tensor.
    pub operator: At<Operator>,
    /// The base model, as written.
    pub base: Option<At<String>>,
    /// Statistics of the base, as written.
    pub base_statistics: Option<At<String>>,
    /// The parts; one without a name unless the recipe has modules.
    pub parts: Vec<Part>,
    /// Parameters at the top level.
    pub settings: Settings,
    /// `dtype`.
    pub dtype: Option<Dtype>,
    /// `out_dtype`.
    pub out_dtype: Option<Dtype>,
    /// Whose tokenizer the output gets.
    pub tokenizer: Option<At<TokenizerSource>>,
    /// The chat template of the output.
    pub chat_template: Option<At<String>>,
    /// Seed of random operators.
    pub seed: Option<u64>,
    /// What to do when a model lacks a tensor.
    pub on_missing: OnMissing,
    /// What to do with embeddings and heads of different numbers of rows.
    pub on_vocabulary: OnVocabulary,
    /// What to do with NaN and infinities in an input.
    pub on_nonfinite: OnNonfinite,
    /// What it says without any effect, in the order of the text.
    pub warnings: Vec<NoEffect>,
    /// Where the recipe asks for experts to be matched across models, if it does.
    pub align_experts: Option<Position>,
}

/// A part of the output with inputs of its own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Part {
    /// Where it stands.
    pub at: Position,
    /// What the names of its tensors start with, before a dot; `None` for all that no other part covers.
    pub module: Option<String>,
    /// What it is made from.
    pub body: Body,
    /// Parameters of this module.
    pub settings: Settings,
}

/// What a part is made from.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Body {
    /// Models, layer by layer.
    Models(Vec<InputModel>),
    /// Runs of layers, stacked.
    Slices(Vec<Slice>),
}

/// A model that is merged whole.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct InputModel {
    /// Its path or the name of a stage, as written.
    pub model: At<String>,
    /// What its task vector is taken from, as written; `None` for the base of all.
    pub base: Option<At<String>>,
    /// Its statistics, as written.
    pub statistics: Option<At<String>>,
    /// Its parameters.
    pub settings: Settings,
}

/// A run of layers of the output.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Slice {
    /// Where it stands.
    pub at: Position,
    /// Where its layers come from.
    pub sources: Vec<Source>,
    /// A base of its own, as written.
    pub base: Option<At<String>>,
    /// Statistics of that base, as written.
    pub base_statistics: Option<At<String>>,
    /// Its parameters.
    pub settings: Settings,
}

/// A run of layers of a model.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Source {
    /// Path of the model or the name of a stage, as written.
    pub model: At<String>,
    /// The layers, by their numbers in the model.
    pub layers: At<Range<usize>>,
    /// What its task vector is taken from, the same layers, as written; `None` for the base of all.
    pub base: Option<At<String>>,
    /// Its statistics, as written.
    pub statistics: Option<At<String>>,
    /// Its parameters.
    pub settings: Settings,
}

/// Whose tokenizer the output gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenizerSource {
    /// That of the base, or of the first model.
    Base,
    /// One that has the tokens of all models; they have the same, so that of the base.
    Union,
    /// That of this model, as written.
    Model(String),
}

/// What to do when a model lacks a tensor that another has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// Refuse the merge.
    #[default]
    Error,
    /// Let the base's tensor stand in for that of the model that lacks it.
    Base,
    /// Leave the tensor out of the output.
    Skip,
}

/// What to do when embeddings and heads have different numbers of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnVocabulary {
    /// Refuse the merge.
    #[default]
    Error,
    /// Merge as many rows as all models have, and leave out the others.
    Truncate,
}

/// What to do with a NaN or an infinity in an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnNonfinite {
    /// Refuse the merge.
    #[default]
    Error,
    /// Read it as 0.
    Zero,
}

impl Recipe {
    /// Parses every document in `text`, which comes from `origin`.
    ///
    /// Everything is checked that can be without opening a file: keys, kinds and ranges of values, the operator, its
    /// parameters and whether it has the base and the fewest models it needs.
    ///
    /// # Errors
    /// [`RecipeError`] with line and column; all that is wrong, as [`RecipeError::Several`], if that is more than one
    /// thing. Never panics, whatever the text.
    pub fn parse(text: &str, origin: &str, registry: &Registry) -> Result<Vec<Recipe>, RecipeError> {
        crate::parse::recipes(text, origin, registry)
    }

    /// Every model named, as written, in order: the base first, bases of single models last.
    pub fn models(&self) -> impl Iterator<Item = &At<String>> {
        let listed = self.parts.iter().flat_map(|part| -> Vec<&At<String>> {
            match &part.body {
                Body::Models(models) => models.iter().map(|input| &input.model).collect(),
                Body::Slices(slices) => slices
                    .iter()
                    .flat_map(|slice| slice.base.iter().chain(slice.sources.iter().map(|source| &source.model)))
                    .collect(),
            }
        });
        self.base.iter().chain(listed).chain(self.own_bases())
    }

    /// The bases of single models.
    pub(crate) fn own_bases(&self) -> impl Iterator<Item = &At<String>> {
        self.parts.iter().flat_map(|part| -> Vec<&At<String>> {
            match &part.body {
                Body::Models(models) => models.iter().filter_map(|input| input.base.as_ref()).collect(),
                Body::Slices(slices) => {
                    slices.iter().flat_map(|slice| &slice.sources).filter_map(|source| source.base.as_ref()).collect()
                }
            }
        })
    }

    /// The statistics that are given: a model, as written, and the path of its statistics.
    pub fn statistics(&self) -> impl Iterator<Item = (&At<String>, &At<String>)> {
        let listed = self.parts.iter().flat_map(|part| -> Vec<(&At<String>, &At<String>)> {
            match &part.body {
                Body::Models(models) => {
                    models.iter().filter_map(|input| Some((&input.model, input.statistics.as_ref()?))).collect()
                }
                Body::Slices(slices) => slices
                    .iter()
                    .flat_map(|slice| {
                        let base = slice.base.as_ref().zip(slice.base_statistics.as_ref());
                        let sources = slice.sources.iter();
                        base.into_iter().chain(sources.filter_map(|s| Some((&s.model, s.statistics.as_ref()?))))
                    })
                    .collect(),
            }
        });
        self.base.as_ref().zip(self.base_statistics.as_ref()).into_iter().chain(listed)
    }

    /// The parameters of the operator at the tensor called `tensor`, for the models of the first part in their order;
    /// the base is not among them. `t` is its position among the layers: 0 before the layers and in the first layer, 1
    /// in the last layer and after the layers. For a merge whose tensors are not those of model directories; a
    /// [plan](crate::plan()) finds its parameters by itself.
    ///
    /// # Errors
    /// [`ParamError`] where the operator refuses them. A part that is made of slices has no models.
    pub fn params_at(&self, tensor: &str, t: f64) -> Result<Params, ParamError> {
        let part = self.parts.first();
        let models: &[InputModel] = match part.map(|part| &part.body) {
            Some(Body::Models(models)) => models,
            _ => &[],
        };
        let is_base = |input: &&InputModel| self.base.as_ref().is_some_and(|base| base.value == input.model.value);
        let models = models.iter().filter(|input| !is_base(input));
        let shared: Vec<&Settings> = part.iter().map(|part| &part.settings).chain([&self.settings]).collect();
        let levels: Vec<Vec<&Settings>> =
            models.map(|input| [&input.settings].into_iter().chain(shared.iter().copied()).collect()).collect();
        let site = ParamSite { tensor, t };
        params(&self.operator.value, &shared, site, levels.iter().map(|levels| (levels.as_slice(), site)))
    }

    pub(crate) fn place(&self, at: Position) -> FilePosition {
        at.of(&self.origin)
    }
}
