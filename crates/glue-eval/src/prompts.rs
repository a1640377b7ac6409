//! How the texts of requests become tokens, as lm-evaluation-harness does it for transformers.

use crate::error::ModelError;
use crate::model::{GenerateRequest, LogLikelihoodRequest};
use crate::python::is_space;
use glue_lm::Tokenizer;
use rayon::prelude::*;

/// Encodes the texts of requests for a model that takes sequences of a limited length, as lm-evaluation-harness does
/// for transformers:
///
/// - The tokenizer adds its special tokens as it does by default, unless the text begins with BOS already.
/// - White space at the end of a context belongs to the continuation. The continuation is the tokens of both together
///   after as many as the context alone has.
/// - An empty context is BOS, or the end-of-sequence token of a tokenizer without BOS.
/// - What is too long is cut from its left: to be scored, all but the last token must fit; to generate, the context
///   must leave room for the longest answer.
#[derive(Debug, Clone)]
pub struct PromptEncoder {
    prefix: u32,
    prefix_text: String,
    max_length: usize,
}

/// A context and its continuation in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedRequest {
    /// What comes before; at least one token.
    pub context: Vec<u32>,
    /// What is scored; at least one token.
    pub continuation: Vec<u32>,
    /// How many tokens of the context were dropped, from its left.
    pub truncated: usize,
}

/// A prompt in tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedPrompt {
    /// The tokens; at least one.
    pub tokens: Vec<u32>,
    /// How many tokens were dropped, from its left.
    pub truncated: usize,
}

/// The tokens of a text, with the special tokens that the tokenizer adds by default if the flag is set.
pub type Encode<'a> = &'a (dyn Fn(&str, bool) -> Result<Vec<u32>, ModelError> + Sync);

impl PromptEncoder {
    /// For a model with this tokenizer that takes `max_length` tokens, at least 1.
    ///
    /// # Errors
    /// [`ModelError`] for a tokenizer with neither BOS nor an end-of-sequence token.
    pub fn new(tokenizer: &Tokenizer, max_length: usize) -> Result<PromptEncoder, ModelError> {
        let prefix = tokenizer.bos().or(tokenizer.eos());
        let prefix = prefix.ok_or_else(|| {
            ModelError::new("the tokenizer has neither BOS nor an end-of-sequence token to begin with")
        })?;
        let prefix_text = tokenizer.decode(&[prefix], false).map_err(ModelError::caused_by)?;
        Ok(PromptEncoder { prefix, prefix_text, max_length: max_length.max(1) })
    }

    /// The same for a model that takes `max_length` tokens, at least 1.
    pub fn with_max_length(self, max_length: usize) -> PromptEncoder {
        PromptEncoder { max_length: max_length.max(1), ..self }
    }

    /// How many tokens the model takes.
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    fn encode(&self, text: &str, add_special: bool, encode: Encode<'_>) -> Result<Vec<u32>, ModelError> {
        let has_prefix = !self.prefix_text.is_empty() && text.starts_with(&self.prefix_text);
        encode(text, add_special && !has_prefix)
    }

    /// The tokens of requests, in order; those that stand together with the same context share its encoding.
    ///
    /// # Errors
    /// [`ModelError`]: a continuation without a token, or longer than the model takes; what `encode` says.
    pub fn pairs(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        encode: Encode<'_>,
    ) -> Result<Vec<EncodedRequest>, ModelError> {
        let groups: Vec<&[LogLikelihoodRequest<'_>]> = requests.chunk_by(|a, b| a.context == b.context).collect();
        let encode = |text: &str, add_special: bool| self.encode(text, add_special, encode);
        let pairs: Vec<Result<Vec<EncodedRequest>, ModelError>> =
            groups.par_iter().map(|group| encode_group(group, self.prefix, self.max_length, &encode)).collect();
        let mut all = Vec::with_capacity(requests.len());
        for pairs in pairs {
            let pairs = pairs
                .map_err(|error| ModelError { request: error.request.map(|request| request + all.len()), ..error })?;
            all.extend(pairs);
        }
        Ok(all)
    }

    /// The windows of each text, which do not overlap: the first is predicted from BOS, each further one from what
    /// precedes it, as much of it as fits, but for at least one token.
    ///
    /// # Errors
    /// What `encode` says.
    pub fn windows(&self, texts: &[&str], encode: Encode<'_>) -> Result<Vec<Vec<EncodedRequest>>, ModelError> {
        let of_text = |text: &&str| {
            let tokens = self.encode(text, true, encode)?;
            Ok(windows(&tokens, self.prefix, self.max_length))
        };
        texts.par_iter().map(of_text).collect()
    }

    /// The prompts of requests, each with room for its longest answer.
    ///
    /// # Errors
    /// [`ModelError`] for an answer that leaves no room for a prompt; what `encode` says.
    pub fn prompts(
        &self,
        requests: &[GenerateRequest<'_>],
        encode: Encode<'_>,
    ) -> Result<Vec<EncodedPrompt>, ModelError> {
        let of_request = |(index, request): (usize, &GenerateRequest<'_>)| {
            let room = self.max_length.checked_sub(request.max_new_tokens).filter(|&room| room > 0);
            let room = room.ok_or_else(|| {
                let message = format!(
                    "{} new tokens leave no room for a prompt, since the model takes {}",
                    request.max_new_tokens, self.max_length
                );
                ModelError::of_request(index, message)
            })?;
            let mut tokens = self.encode(request.context, true, encode)?;
            if tokens.is_empty() {
                tokens.push(self.prefix);
            }
            let truncated = tokens.len().saturating_sub(room);
            Ok(EncodedPrompt { tokens: tokens.split_off(truncated), truncated })
        };
        requests.par_iter().enumerate().map(of_request).collect()
    }
}

/// Encodes requests with the same context.
fn encode_group(
    group: &[LogLikelihoodRequest<'_>],
    prefix: u32,
    max_length: usize,
    encode: Encode<'_>,
) -> Result<Vec<EncodedRequest>, ModelError> {
    let context = group.first().map_or("", |request| request.context);
    let kept = context.trim_end_matches(is_space);
    let moved = &context[kept.len()..];
    let context_tokens = if context.is_empty() { Vec::new() } else { encode(kept, true)? };
    let pair = |(index, request): (usize, &LogLikelihoodRequest<'_>)| {
        let (context, continuation) = if context.is_empty() {
            let tokens = encode(request.continuation, false)?;
            match tokens.split_first() {
                Some((&first, rest)) if first == prefix => (vec![first], rest.to_vec()),
                _ => (vec![prefix], tokens),
            }
        } else {
            let mut whole = encode(&format!("{kept}{moved}{}", request.continuation), true)?;
            let continuation = whole.split_off(context_tokens.len().min(whole.len()));
            // A context of white space alone may have no tokens.
            let context = if context_tokens.is_empty() { vec![prefix] } else { context_tokens.clone() };
            (context, continuation)
        };
        if continuation.is_empty() {
            let message = format!("the continuation {:?} adds no token to its context", request.continuation);
            return Err(ModelError::of_request(index, message));
        }
        if continuation.len() > max_length {
            let message =
                format!("the continuation has {} tokens, but the model takes {max_length}", continuation.len());
            return Err(ModelError::of_request(index, message));
        }
        // The last token is only predicted.
        let truncated = (context.len() + continuation.len()).saturating_sub(max_length.saturating_add(1));
        Ok(EncodedRequest { context: context[truncated..].to_vec(), continuation, truncated })
    };
    group.iter().enumerate().map(pair).collect()
}

/// The windows of a text: the first is predicted from `prefix`, each further one from what comes before it, as much of
/// it as fits, but for at least one token.
fn windows(tokens: &[u32], prefix: u32, max_length: usize) -> Vec<EncodedRequest> {
    let mut windows = Vec::new();
    let mut done = 0;
    while done < tokens.len() {
        let length = (tokens.len() - done).min(max_length);
        let end = done + length;
        let context = if done == 0 { vec![prefix] } else { tokens[end - max_length - 1..done].to_vec() };
        windows.push(EncodedRequest { context, continuation: tokens[done..end].to_vec(), truncated: 0 });
        done = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOS: u32 = 1;

    /// A token for each letter, its code; one for each run of spaces with the letter after it.
    fn encode(text: &str, add_special: bool) -> Result<Vec<u32>, ModelError> {
        let mut tokens = if add_special { vec![BOS] } else { Vec::new() };
        let mut spaces = 0;
        for c in text.chars() {
            match c {
                '^' => tokens.push(BOS),
                ' ' => spaces += 1,
                c => tokens.push(c as u32 + 1000 * std::mem::take(&mut spaces)),
            }
        }
        Ok(tokens)
    }

    fn check(context: &str, continuation: &str, max_length: usize, expected: (&[u32], &[u32], usize)) {
        let request = LogLikelihoodRequest { context, continuation };
        let pair = encode_group(&[request], BOS, max_length, &encode).unwrap().remove(0);
        assert_eq!(
            (&pair.context[..], &pair.continuation[..], pair.truncated),
            expected,
            "{context:?} {continuation:?}"
        );
    }

    #[test]
    fn contexts_and_continuations_are_split_as_the_harness_does() {
        let (a, b, c) = ('a' as u32, 'b' as u32, 'c' as u32);
        check("ab", " c", 9, (&[BOS, a, b], &[c + 1000], 0));
        check("ab ", "c", 9, (&[BOS, a, b], &[c + 1000], 0));
        check("ab ", " c", 9, (&[BOS, a, b], &[c + 2000], 0));
        check("", "bc", 9, (&[BOS], &[b, c], 0));
        check("", "^bc", 9, (&[BOS], &[b, c], 0));
        check(" ", "c", 9, (&[BOS], &[c + 1000], 0));
    }

    #[test]
    fn what_is_too_long_is_cut_from_the_left() {
        let (a, b, c) = ('a' as u32, 'b' as u32, 'c' as u32);
        check("aab", "c", 4, (&[BOS, a, a, b], &[c], 0));
        check("aab", "c", 3, (&[a, a, b], &[c], 1));
        check("aab", "cc", 2, (&[b], &[c, c], 3));
        let request = LogLikelihoodRequest { context: "a", continuation: "ccc" };
        let error = encode_group(&[request, request], BOS, 2, &encode).unwrap_err();
        assert_eq!(
            (error.request, error.to_string().as_str()),
            (Some(0), "the continuation has 3 tokens, but the model takes 2")
        );
        let empty = LogLikelihoodRequest { context: "a", continuation: " " };
        let error = encode_group(&[empty], BOS, 2, &encode).unwrap_err();
        assert_eq!(error.to_string(), "the continuation \" \" adds no token to its context");
    }

    #[test]
    fn windows_are_those_of_the_harness() {
        // lm_eval 0.4.13: make_disjoint_window of get_rolling_token_windows(list(range(10, 20)), 1, MAX, 1)
        let check = |max_length: usize, expected: &[(&[u32], &[u32])]| {
            let tokens: Vec<u32> = (10..20).collect();
            let windows = windows(&tokens, 1, max_length);
            let windows: Vec<(&[u32], &[u32])> =
                windows.iter().map(|pair| (&pair.context[..], &pair.continuation[..])).collect();
            assert_eq!(windows, expected);
        };
        check(12, &[(&[1], &[10, 11, 12, 13, 14, 15, 16, 17, 18, 19])]);
        check(5, &[(&[1], &[10, 11, 12, 13, 14]), (&[14], &[15, 16, 17, 18, 19])]);
        check(4, &[(&[1], &[10, 11, 12, 13]), (&[13], &[14, 15, 16, 17]), (&[15, 16, 17], &[18, 19])]);
        assert_eq!(windows(&[], 1, 4), []);
    }
}
