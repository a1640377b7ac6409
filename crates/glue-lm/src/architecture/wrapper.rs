//! Multimodal models whose language part is run: their configuration has it under `text_config`.
//!
//! What belongs to images and sound is left aside: keys outside of `text_config` are not read but for those that speak
//! of the language model too, and tensors of the other parts are counted, not used.

use super::family::Family;
use super::keys::{Keys, refuse_outside_of_text};
use crate::error::LmError;
use glue_tensor::Config;
use serde_json::Value;

/// A multimodal model.
#[derive(Debug)]
struct Wrapper {
    model_type: &'static str,
    architecture: &'static str,
    /// `model_type` of the language part when absent.
    text: &'static str,
    /// Other values of it that are run.
    texts: &'static [&'static str],
}

static WRAPPERS: [Wrapper; 3] = [
    Wrapper {
        model_type: "gemma3",
        architecture: "Gemma3ForConditionalGeneration",
        text: "gemma3_text",
        texts: &["gemma3_text"],
    },
    Wrapper {
        model_type: "mistral3",
        architecture: "Mistral3ForConditionalGeneration",
        text: "mistral",
        texts: &["mistral"],
    },
    Wrapper {
        model_type: "llama4",
        architecture: "Llama4ForConditionalGeneration",
        text: "llama4_text",
        texts: &["llama4_text"],
    },
];

/// All values of `model_type` that are run as what they wrap.
pub(super) fn model_types() -> impl Iterator<Item = &'static str> {
    WRAPPERS.iter().map(|wrapper| wrapper.model_type)
}

/// The configuration of the language part alone and its family, if `config` is that of a multimodal model.
///
/// # Errors
/// [`LmError::Unsupported`], [`LmError::MissingKey`].
pub(super) fn unwrapped(config: &Config) -> Result<Option<(Config, &'static Family)>, LmError> {
    let architectures = config.architectures();
    let wrapper = match (config.model_type(), architectures.as_slice()) {
        (Some(model_type), _) => WRAPPERS.iter().find(|wrapper| wrapper.model_type == model_type),
        (None, [name]) => WRAPPERS.iter().find(|wrapper| wrapper.architecture == *name),
        (None, _) => None,
    };
    let Some(wrapper) = wrapper else {
        return Ok(None);
    };
    if let Some(other) = architectures.iter().find(|name| **name != wrapper.architecture) {
        return Err(LmError::Unsupported {
            key: "architectures".to_owned(),
            value: Value::from(*other).to_string(),
            reason: format!("a model of type {} is run as {}", wrapper.model_type, wrapper.architecture),
        });
    }
    let root = config.to_value();
    refuse_outside_of_text(&root, wrapper.model_type)?;
    let Some(text) = root.get("text_config").and_then(Value::as_object) else {
        return Err(LmError::MissingKey { key: "text_config".to_owned() });
    };
    let mut text = text.clone();
    let text_type = match text.get("model_type").and_then(Value::as_str) {
        Some(name) => name.to_owned(),
        None => wrapper.text.to_owned(),
    };
    let Some(family) = Family::named(&text_type).filter(|_| wrapper.texts.contains(&text_type.as_str())) else {
        return Err(LmError::Unsupported {
            key: "text_config.model_type".to_owned(),
            value: Value::from(text_type).to_string(),
            reason: format!("in a model of type {}, {} is", wrapper.model_type, wrapper.texts.join(", ")),
        });
    };
    // Whether the head is the embedding is said above the language part in some versions, where true is the default
    // of the class and says nothing: a head in the checkpoint decides then.
    let tied = match (text.get("tie_word_embeddings"), root.get("tie_word_embeddings")) {
        (Some(Value::Bool(tied)), _) => Some(*tied),
        (_, Some(Value::Bool(false))) => Some(false),
        _ => None,
    };
    text.shift_remove("tie_word_embeddings");
    text.shift_remove("architectures");
    if let Some(tied) = tied {
        text.insert("tie_word_embeddings".to_owned(), tied.into());
    }
    text.insert("model_type".to_owned(), family.model_type.into());
    Ok(Some((Config::from_value(Value::Object(text))?, family)))
}

/// What the names of the tensors of other parts begin with, in the two layouts there are.
pub(crate) const OTHER_PARTS: [&str; 6] = [
    "vision_tower.",
    "model.vision_tower.",
    "vision_model.",
    "model.vision_model.",
    "multi_modal_projector.",
    "model.multi_modal_projector.",
];

impl Keys<'_> {
    /// Whether the head is the embedding, as [`Architecture::tied`](super::Architecture::tied) says it. `wrapped` is a
    /// part of a multimodal model, whose checkpoint decides where no key does.
    pub(super) fn tied(&self, family: &Family, wrapped: bool) -> Result<Option<bool>, LmError> {
        Ok(match self.flag("tie_word_embeddings")? {
            Some(tied) => Some(tied),
            None if family.tied && !wrapped => Some(true),
            None => None,
        })
    }
}
