//! Text of tokens that come one after the other.
//!
//! The text of a token depends on its neighbours: a character may be spread over several tokens, and some decoders drop
//! a space at the beginning. So a token is decoded together with those of the piece before it, and what is new is the
//! difference.

use crate::tokenizer::{Tokenizer, TokenizerError};

/// What bytes that are not UTF-8, and thus the beginning of a character too, are decoded to.
const INCOMPLETE: char = char::REPLACEMENT_CHARACTER;

/// Tokens of a context that are decoded with the first id after it.
const CONTEXT: usize = 6;

/// How many there are where fewer have no text, such as special tokens, or begin within a character.
const MAX_CONTEXT: usize = 48;

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

    /// A stream that goes on after the text of `context`. What its first id adds is what the id adds to that text: a
    /// decoder that drops a space at the beginning of a text does not drop one here.
    pub(crate) fn after(
        tokenizer: &'a Tokenizer,
        context: &[u32],
        skip_special: bool,
    ) -> Result<DecodeStream<'a>, TokenizerError> {
        let mut stream = DecodeStream::new(tokenizer, skip_special);
        // The end of the context, from further ahead where that end has no text of its own.
        let mut n = CONTEXT.min(context.len());
        loop {
            let window = &context[context.len() - n..];
            let text = tokenizer.decode(window, skip_special)?;
            let begins_whole = !text.is_empty() && !text.starts_with(INCOMPLETE);
            if begins_whole || n == context.len() || n >= MAX_CONTEXT {
                stream.window = window.to_vec();
                stream.shown = n;
                // A character that the context leaves incomplete is shown when it is complete.
                stream.shown_text = text.trim_end_matches(INCOMPLETE).to_string();
                return Ok(stream);
            }
            n = (2 * n).min(context.len());
        }
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
