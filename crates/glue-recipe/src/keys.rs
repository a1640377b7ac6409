//! The keys of the dialect: one table for reading, for errors and for the schema.

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ValueKind {
    /// The name of an operator.
    Operator,
    /// A path, or a mapping with a path in it.
    Model,
    /// A list of mappings with the keys given.
    ListOf(&'static [Key]),
    /// A mapping with the keys given.
    Mapping(&'static [Key]),
    /// A mapping from any name to mappings with the keys given.
    NamedMappings(&'static [Key]),
    /// Parameters of the operator.
    Parameters,
    /// First layer, and one beyond the last.
    Layers,
    /// A floating-point type.
    Dtype,
    /// `base`, `union` or a model.
    TokenizerSource,
    /// Any text.
    Text,
    /// A whole number, 0 or above.
    Seed,
    /// One of a few words.
    Word(&'static [&'static str]),
}

/// A key, what it holds and what it is for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) holds: ValueKind,
    pub(crate) doc: &'static str,
}

const fn key(name: &'static str, holds: ValueKind, doc: &'static str) -> Key {
    Key { name, holds, doc }
}

/// Parameters that configs for mergekit have and that cannot change a result, with what they are there.
pub(crate) const WITHOUT_EFFECT: &[(&str, &str)] =
    &[("int8_mask", "How mergekit stores masks in memory; accepted, without effect: masks here are never stored.")];

const STATISTICS: &str = "Statistics of this model, as `glue calibrate` writes them: a directory or a safetensors file. For operators that \
                          want statistics of what they merge.";

const BASE_STATISTICS: &str = "The same of the base, for operators that want statistics of the base.";

pub(crate) const TOP: &[Key] = &[
    key("name", ValueKind::Text, "Name of a stage, by which later documents use its output as a model."),
    key("merge_method", ValueKind::Operator, "The operator."),
    key("base_model", ValueKind::Model, "The base; configuration, tokenizer and tensor names are taken from it."),
    key("base_statistics", ValueKind::Text, BASE_STATISTICS),
    key("models", ValueKind::ListOf(MODEL), "Models that are merged whole."),
    key("slices", ValueKind::ListOf(SLICE), "Runs of layers, stacked in this order."),
    key(
        "modules",
        ValueKind::NamedMappings(MODULE),
        "Parts of the model with recipes of their own: a name covers the tensors that start with it and a dot, \
         `default` covers all others.",
    ),
    key("parameters", ValueKind::Parameters, "Parameters wherever none are given more closely."),
    key("dtype", ValueKind::Dtype, "Type of the output, unless `out_dtype` says otherwise."),
    key("out_dtype", ValueKind::Dtype, "Type of the output."),
    key("tokenizer_source", ValueKind::TokenizerSource, "Whose tokenizer the output gets; vocabularies must be equal."),
    key("tokenizer", ValueKind::Mapping(TOKENIZER), "The same, as a mapping."),
    key(
        "chat_template",
        ValueKind::Text,
        "`auto` for the most common of the models', `chatml`, a path to a template, or a Jinja template.",
    ),
    key("seed", ValueKind::Seed, "Seed of random operators; 0 when absent."),
    key(
        "on_missing",
        ValueKind::Word(&["error", "base", "skip"]),
        "What to do when a model lacks a tensor: refuse, take the base's, or leave the tensor out of the output.",
    ),
    key(
        "on_nonfinite",
        ValueKind::Word(&["error", "zero"]),
        "What to do with NaN and infinities in an input: refuse, or read them as 0.",
    ),
];

pub(crate) const MODEL: &[Key] = &[
    key("model", ValueKind::Model, "Path of the model."),
    key("statistics", ValueKind::Text, STATISTICS),
    key("parameters", ValueKind::Parameters, "Parameters of this model."),
];

pub(crate) const SLICE: &[Key] = &[
    key("sources", ValueKind::ListOf(SOURCE), "Where the layers come from; all sources have equally many."),
    key("base_model", ValueKind::Model, "The base of this slice."),
    key("base_statistics", ValueKind::Text, BASE_STATISTICS),
    key("parameters", ValueKind::Parameters, "Parameters of this slice."),
];

pub(crate) const SOURCE: &[Key] = &[
    key("model", ValueKind::Model, "Path of the model."),
    key("layer_range", ValueKind::Layers, "First layer, and one beyond the last; counted from 0."),
    key("statistics", ValueKind::Text, STATISTICS),
    key("parameters", ValueKind::Parameters, "Parameters of this source."),
];

pub(crate) const MODULE: &[Key] = &[
    key("models", ValueKind::ListOf(MODEL), "Models that are merged whole."),
    key("slices", ValueKind::ListOf(SLICE), "Runs of layers, stacked in this order."),
    key("parameters", ValueKind::Parameters, "Parameters of this module."),
];

pub(crate) const TOKENIZER: &[Key] =
    &[key("source", ValueKind::TokenizerSource, "Whose tokenizer the output gets; vocabularies must be equal.")];

pub(crate) const REFERENCE: &[Key] = &[
    key("model", ValueKind::Mapping(PATH), "The model."),
    key(
        "lora",
        ValueKind::Mapping(PATH),
        "A LoRA adapter, applied to the model as it is read; in short, model+adapter.",
    ),
];

pub(crate) const PATH: &[Key] = &[key("path", ValueKind::Text, "Path of the directory.")];

pub(crate) const CASE: &[Key] = &[
    key("filter", ValueKind::Text, "Part of the name of the tensors this is for; none or `*` is all."),
    key("value", ValueKind::Parameters, "A value, or a list of numbers over the layers."),
];
