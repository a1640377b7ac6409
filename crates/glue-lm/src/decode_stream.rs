//! Text of tokens that come one after the other.
//!
//! The text of a token depends on its neighbours: a character may be spread over several tokens, and some decoders drop
//! a space at the beginning. So a token is decoded together with those of the piece before it, and what is new is the
//! difference.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// What bytes that are not UTF-8, and thus the beginning of a character too, are decoded to.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// Decodes ids one by one. Bytes that do not yet make a character are held back. All pieces together, with that of
/// [`DecodeStream::finish`], are the text of the ids.
#[derive(Debug, Clone)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    skip_special: bool,
    /// The tokens of the piece before, then those not yet shown.
    window: Vec<u32>,
    shown: usize,
    /// The text of `window[..shown]`.
    shown_text: String,
}

impl<'a> DecodeStream<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, skip_special: bool) -> DecodeStream<'a> {
        DecodeStream { tokenizer, skip_special, window: Vec::new(), shown: 0, shown_text: String::new() }
    }

    /// The text that `id` adds: empty while a character is incomplete, and for a special token that is left out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<String, TokenizerError> {
        self.window.push(id);
        let piece = self.unseen()?;
        if piece.is_empty() || piece.ends_with(INCOMPLETE) {
            return Ok(String::new());
        }
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        self.shown_text = self.tokenizer.decode(&self.window, self.skip_special)?;
        Ok(piece)
    }

    /// What was held back, with U+FFFD for an incomplete character. The next id begins a new text.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String, TokenizerError> {
        let piece = self.unseen()?;
        *self = DecodeStream::new(self.tokenizer, self.skip_special);
        Ok(piece)
    }

    fn unseen(&mut self) -> Result<String, TokenizerError> {
        let mut text = self.tokenizer.decode(&self.window, self.skip_special)?;
        if text.starts_with(&self.shown_text) {
            return Ok(text.split_off(self.shown_text.len()));
        }
        // A later byte has spoilt characters that were already shown; they cannot be taken back.
        self.window.drain(..self.shown);
        self.shown = 0;
        self.shown_text.clear();
        self.tokenizer.decode(&self.window, self.skip_special)
    }
}
