//! A model together with its tokenizer.

use crate::chat::{ChatError, ChatOptions, Message};
use crate::error::LmError;
use crate::generate::Prompt;
use crate::model::Model;
use crate::sampling::SamplingError;
use crate::tokenizer::{Tokenizer, TokenizerError};
use glue_tensor::hub::locate;
use std::path::Path;

/// Why text did not go in or come out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model cannot be opened or run.
    #[error(transparent)]
    Model(#[from] LmError),
    /// The tokenizer cannot be read, or refused a text.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template is broken, or refused the messages.
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// The model has no chat template.
    #[error("the model has no chat template; give a prompt instead of messages")]
    NoChatTemplate,
    /// The tokenizer belongs to another model, or a text has an added token that the model was never given.
    #[error(
        "the tokenizer does not fit the embedding: token {token:?} has id {id}, and the embedding has {rows} rows, for ids \
         below {rows}"
    )]
    Misfit {
        /// The token.
        token: String,
        /// Its id.
        id: u32,
        /// Rows of the embedding.
        rows: usize,
    },
    /// An option of the generation is out of its range.
    #[error("{name} is {found}, expected {expected}")]
    Option {
        /// The option.
        name: &'static str,
        /// What it is.
        found: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A prompt has no tokens, so that there is nothing to continue from.
    #[error("prompt {prompt} has no tokens; begin it with BOS")]
    EmptyPrompt {
        /// Its index.
        prompt: usize,
    },
    /// A prompt and what is to be generated are longer than the model's context.
    #[error(
        "prompt {prompt} has {tokens} tokens; with {max_new_tokens} new ones that is more than the {max_positions} \
         positions of the model"
    )]
    PromptTooLong {
        /// Its index.
        prompt: usize,
        /// Its length.
        tokens: usize,
        /// How many are to be generated.
        max_new_tokens: usize,
        /// `max_position_embeddings` of the model.
        max_positions: usize,
    },
    /// Tokens were given to a mixture of whole models, each of which has a tokenizer of its own.
    #[error("prompt {prompt} is given in tokens; a mixture of whole models reads text")]
    NotText {
        /// Its index.
        prompt: usize,
    },
    /// The gate or the parts of a mixture of whole models do not fit together.
    #[error("{what} of the mixture: expected {expected}, found {found}")]
    Mixture {
        /// What does not fit.
        what: String,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The directory is no mixture of whole models.
    #[error("{} is no mixture of whole models", path.display())]
    NotWhole {
        /// The directory.
        path: std::path::PathBuf,
    },
    /// An expert or the router of a mixture of whole models cannot be opened.
    #[error("{part} of the mixture")]
    Part {
        /// Which: a directory within the mixture's.
        part: String,
        /// Why not.
        source: Box<TextError>,
    },
    /// The parameters of the sampling are out of range.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// The next token of a prompt cannot be chosen from the model's output.
    #[error("prompt {prompt}, token {step} of the answer")]
    Choice {
        /// The index of the prompt.
        prompt: usize,
        /// How many tokens there were before.
        step: usize,
        /// What is wrong.
        #[source]
        error: SamplingError,
    },
}

/// A model and the tokenizer that it was trained with. [`TextModel::open`] and [`TextModel::new`] make sure of what can
/// be checked: every token of the vocabulary has a row in the embedding. Tokens that were added to the vocabulary may
/// lack one, such as a padding token that no text has; a text with one is refused.
#[derive(Debug)]
#[non_exhaustive]
pub struct TextModel {
    /// The model.
    pub model: Model,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl TextModel {
    /// Opens the model and the tokenizer of a model directory.
    ///
    /// # Errors
    /// [`TextError`], among them [`TextError::Misfit`].
    pub fn open(directory: impl AsRef<Path>) -> Result<TextModel, TextError> {
        let directory = locate(directory.as_ref());
        let model = Model::open(&directory)?;
        TextModel::new(model, Tokenizer::load(&directory)?)
    }

    /// Joins a model, such as a merge that was never written, with a tokenizer.
    ///
    /// # Errors
    /// [`TextError::Misfit`] when the largest id of the vocabulary, without added tokens, has no row in the embedding.
    pub fn new(model: Model, tokenizer: Tokenizer) -> Result<TextModel, TextError> {
        let rows = model.vocab_size();
        match tokenizer.last_of_vocabulary() {
            Some((id, token)) if id as usize >= rows => Err(TextError::Misfit { token: token.to_string(), id, rows }),
            _ => Ok(TextModel { model, tokenizer }),
        }
    }

    /// The ids of `text`, as [`Tokenizer::encode`] gives them, all of which the model knows.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`]; [`TextError::Misfit`] for a text with an added token that has no row in the
    /// embedding.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let ids = self.tokenizer.encode(text, add_special)?;
        let rows = self.model.vocab_size();
        match ids.iter().find(|&&id| id as usize >= rows) {
            None => Ok(ids),
            Some(&id) => Err(TextError::Misfit { token: self.tokenizer.id_to_token(id).unwrap_or_default(), id, rows }),
        }
    }

    /// The prompt that the chat template makes of `messages`. With tools the template `tool_use` is taken if there is
    /// one.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], [`TextError::Chat`]
    pub fn chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Prompt, TextError> {
        const WITH_TOOLS: &str = "tool_use";
        let has_one = options.tools.is_some() && self.tokenizer.chat_template_names().any(|name| name == WITH_TOOLS);
        let template = self.tokenizer.chat_template(has_one.then_some(WITH_TOOLS))?;
        let text = template.ok_or(TextError::NoChatTemplate)?.render(messages, options)?;
        Ok(Prompt::rendered(text))
    }
}
