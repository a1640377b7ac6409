//! The keys of the dialect: one table for reading, for errors and for the schema.

/// What kind of value a key takes.
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
    /// First layer, and one past the last.
    Layers,
    /// A floating-point type.
    Dtype,
    /// `base`, `union` or a model.
    TokenizerSource,
    /// Any text.
    Text,
    /// A whole number, 0 or above.
    Seed,
    /// Refused wherever it is given.
    Unavailable,
    /// `true` or `false`.
    Flag,
    /// One of a few words.
    Word(&'static [&'static str]),
}

/// A key, the kind of its value, and its description.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) kind: ValueKind,
    pub(crate) doc: &'static str,
}

const fn key(name: &'static str, kind: ValueKind, doc: &'static str) -> Key {
    Key { name, kind, doc }
}

/// Parameters of published configs that no operator has, and why they have no effect.
pub(crate) const WITHOUT_EFFECT: &[(&str, &str)] = &[
    ("int8_mask", "masks are never stored, so their type does not matter"),
    ("int_space", "no operator has it, here or in mergekit"),
];

/// Keys of mergekit's dialect or of published configs that change nothing, and why.
pub(crate) const IGNORED: &[(&str, &str)] = &[
    ("revision", "the directory is read as it is, and nothing is downloaded"),
    ("override_architecture", "the architecture follows from the names of the tensors"),
    ("residual_weight", "mergekit reads it and does nothing with it either"),
];

const STATISTICS: &str = "Statistics of this model, as `glue calibrate` writes them: a directory or a safetensors \
                          file. For operators that use statistics of the models.";

const BASE_STATISTICS: &str = "Statistics of the base, for operators that use them.";

const OWN_BASE: &str = "A base of this model alone, such as the model it was trained from: its task vector is the difference \
                        from this one. For operators that need a base.";

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
        "Parts of the model with their own recipes: a name covers the tensors that start with it and a dot, \
         `default` covers all others.",
    ),
    key("parameters", ValueKind::Parameters, "Parameters where nothing more specific is given."),
    key("dtype", ValueKind::Dtype, "Type of the output, unless `out_dtype` says otherwise."),
    key("out_dtype", ValueKind::Dtype, "Type of the output."),
    key(
        "tokenizer_source",
        ValueKind::TokenizerSource,
        "Model that the tokenizer comes from; all vocabularies must be equal.",
    ),
    key("tokenizer", ValueKind::Mapping(TOKENIZER), "`tokenizer_source` as a mapping."),
    key(
        "chat_template",
        ValueKind::Text,
        "`auto` for the most common of the models', `alpaca`, `chatml`, `exaone`, `llama3`, `mistral`, a path to a \
         template, or a Jinja template.",
    ),
    key("seed", ValueKind::Seed, "Seed of random operators; 0 when absent."),
    key(
        "on_missing",
        ValueKind::Word(&["error", "base", "skip"]),
        "What to do when a model lacks a tensor: refuse, take the base's, or leave the tensor out of the output.",
    ),
    key(
        "on_vocabulary",
        ValueKind::Word(&["error", "truncate"]),
        "What to do when embeddings and heads have different numbers of rows: refuse, or cut all to the fewest, which is \
         right only where equal ids are equal tokens.",
    ),
    key(
        "on_nonfinite",
        ValueKind::Word(&["error", "zero"]),
        "What to do with NaN and infinities in an input: refuse, or read them as 0.",
    ),
    key(
        "align_experts",
        ValueKind::Flag,
        "Whether the experts of each layer are brought into the order of the base's, or of the first model's, before \
         they are merged. Default: false.",
    ),
];

pub(crate) const MODEL: &[Key] = &[
    key("model", ValueKind::Model, "Path of the model."),
    key("base_model", ValueKind::Model, OWN_BASE),
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
    key("layer_range", ValueKind::Layers, "First layer and one past the last; counted from 0."),
    key("base_model", ValueKind::Model, OWN_BASE),
    key("statistics", ValueKind::Text, STATISTICS),
    key("parameters", ValueKind::Parameters, "Parameters of this source."),
];

pub(crate) const MODULE: &[Key] = &[
    key("models", ValueKind::ListOf(MODEL), "Models that are merged whole."),
    key("slices", ValueKind::ListOf(SLICE), "Runs of layers, stacked in this order."),
    key("parameters", ValueKind::Parameters, "Parameters of this module."),
];

pub(crate) const TOKENIZER: &[Key] = &[
    key("source", ValueKind::TokenizerSource, "Model that the tokenizer comes from; all vocabularies must be equal."),
    key("tokens", ValueKind::Unavailable, "Sources of single tokens; not available yet."),
    key("pad_to_multiple_of", ValueKind::Unavailable, "Padding of the vocabulary; not available yet."),
];

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
