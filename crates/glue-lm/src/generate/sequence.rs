//! One sequence while it is generated: its tokens, its text, and whether it has ended.

use super::{Finish, GenerateOptions, Generated, Member, Request};
use crate::decode_stream::DecodeStream;
use crate::sampling::Sampler;
use crate::stop::StopFilter;
use crate::text::TextError;
use crate::tokenizer::Tokenizer;

/// Stop strings that are special tokens: such a token ends a sequence, whether or not its text is shown.
pub(super) struct StopTokens(Vec<(u32, usize)>);

impl StopTokens {
    /// Those of `stop`, with their indices.
    pub(super) fn new(tokenizer: &Tokenizer, stop: &[String]) -> StopTokens {
        let id = |(index, text): (usize, &String)| tokenizer.special_token_id(text).map(|id| (id, index));
        StopTokens(stop.iter().enumerate().filter_map(id).collect())
    }

    /// The index of the stop string that is this token.
    fn find(&self, token: u32) -> Option<usize> {
        self.0.iter().find(|(id, _)| *id == token).map(|(_, index)| *index)
    }
}

pub(super) struct Sequence<'a> {
    prompt: usize,
    sample: usize,
    tokenizer: &'a Tokenizer,
    max_new_tokens: usize,
    sampler: Sampler,
    decoder: DecodeStream<'a>,
    filter: StopFilter<'a>,
    stops: &'a StopTokens,
    tokens: Vec<u32>,
    text: String,
    finish: Option<Finish>,
}

impl<'a> Sequence<'a> {
    /// An empty sequence after the tokens `context`. `stream` numbers its random numbers.
    pub(super) fn new(
        tokenizer: &'a Tokenizer,
        options: &'a GenerateOptions,
        Member { prompt, sample }: Member,
        stops: &'a StopTokens,
        stream: u64,
        context: &[u32],
    ) -> Result<Sequence<'a>, TextError> {
        Ok(Sequence {
            prompt,
            sample,
            tokenizer,
            max_new_tokens: options.max_new_tokens,
            sampler: Sampler::new(&options.sampling, stream, sample as u64, context)?,
            decoder: tokenizer.decode_stream_after(context, options.skip_special)?,
            filter: StopFilter::new(&options.stop),
            stops,
            tokens: Vec::new(),
            text: String::new(),
            finish: None,
        })
    }

    /// Chooses the next token from `scores`.
    pub(super) fn advance(&mut self, scores: &[f32]) -> Result<(), TextError> {
        let step = self.tokens.len();
        let token = self.sampler.next(scores);
        let token = token.map_err(|error| TextError::Choice { prompt: self.prompt, step, error })?;
        self.tokens.push(token);
        if self.tokenizer.end_ids().contains(&token) {
            return self.end(Finish::Eos);
        }
        if let Some(index) = self.stops.find(token) {
            return self.end(Finish::Stop(index));
        }
        let piece = self.decoder.push(token)?;
        self.add(&piece);
        if self.finish.is_none() && self.tokens.len() == self.max_new_tokens {
            return self.end(Finish::Length);
        }
        Ok(())
    }

    /// Ends the sequence; text that was held back comes out, unless a stop string is in it.
    fn end(&mut self, finish: Finish) -> Result<(), TextError> {
        let piece = self.decoder.finish()?;
        self.add(&piece);
        if self.finish.is_none() {
            let held = self.filter.finish();
            self.text.push_str(&held);
            self.finish = Some(finish);
        }
        Ok(())
    }

    fn add(&mut self, piece: &str) {
        let passed = self.filter.push(piece);
        self.text.push_str(&passed.text);
        self.finish = passed.stop.map(Finish::Stop);
    }

    /// Ends the sequence from outside, unless it has ended.
    pub(super) fn cancel(&mut self) {
        self.finish.get_or_insert(Finish::Cancelled);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.finish.is_some()
    }

    /// The index of the prompt.
    pub(super) fn prompt(&self) -> usize {
        self.prompt
    }

    /// The one token that the model has not seen yet; none before the first step.
    pub(super) fn newest(&self) -> &[u32] {
        &self.tokens[self.tokens.len().saturating_sub(1)..]
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn into_generated(self, requests: &[Request]) -> Generated {
        let request = &requests[self.prompt];
        Generated {
            prompt: self.prompt,
            sample: self.sample,
            text: self.text,
            tokens: self.tokens,
            finish: self.finish.unwrap_or(Finish::Cancelled),
            prompt_tokens: request.tokens.len(),
            truncated: request.truncated,
        }
    }
}
