//! The server of llama.cpp, which gives log-probabilities of tokens that it generates and of no others.
//!
//! So each token of a continuation is a request of its own. The token is forced by a bias, since the probabilities that
//! come with it are those of the model, before biases and sampling. Some tokens come without probabilities: those that
//! end a text, and those that end within a character. Then a harmless token is forced, and the wanted one is looked up
//! in the probabilities of the whole vocabulary.

use super::{Answer, Ask, Dialect, Flaw, TokenScore, count, flawed, kind, list, logprob, text};
use crate::client::Client;
use crate::error::ServerError;
use serde_json::{Value, json};

const PATH: &str = "/completion";
/// Above all logits of any model.
const CERTAIN: f64 = 1e6;

/// What is needed to ask for the probability of a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vocabulary {
    /// How many tokens there are.
    pub(crate) size: usize,
    /// A token that is a letter.
    pub(crate) harmless: Option<u32>,
}

/// The score of `token` after `prompt`.
pub(crate) fn score(
    client: &Client,
    vocabulary: Vocabulary,
    prompt: &[u32],
    token: u32,
) -> Result<TokenScore, ServerError> {
    let found = client.post(PATH, &score_request(prompt, Some(token), 1))?;
    let flaw = |flaw| flawed(client, Dialect::LlamaCpp, PATH, flaw);
    if let Some(score) = forced(&found, token).map_err(flaw)? {
        return Ok(score);
    }
    let found = client.post(PATH, &score_request(prompt, vocabulary.harmless, vocabulary.size))?;
    among_all(&found, token).map_err(flaw)
}

fn score_request(prompt: &[u32], force: Option<u32>, n_probs: usize) -> Value {
    let mut body = json!({
        "prompt": prompt,
        "n_predict": 1,
        "n_probs": n_probs,
        "temperature": 0,
        "samplers": ["temperature"],
        "post_sampling_probs": false,
        "cache_prompt": true,
        "stream": false,
    });
    if let Some(token) = force {
        body["logit_bias"] = json!([[token, CERTAIN]]);
    }
    body
}

/// What came for the one token that was generated; `None` if nothing did.
fn entry(value: &Value) -> Result<Option<&Value>, Flaw> {
    match &value["completion_probabilities"] {
        Value::Null => Ok(None),
        Value::Array(empty) if empty.is_empty() => Ok(None),
        entries => Ok(Some(&list(entries, "completion_probabilities", 1)?[0])),
    }
}

/// The score of `token`, if it is the one that was generated.
fn forced(value: &Value, token: u32) -> Result<Option<TokenScore>, Flaw> {
    let Some(entry) = entry(value)?.filter(|entry| entry["id"].as_u64() == Some(token.into())) else {
        return Ok(None);
    };
    let logprob = logprob(&entry["logprob"], "completion_probabilities[0].logprob")?;
    let top = top(entry)?;
    Ok(Some(TokenScore { logprob, greedy: top.first().is_some_and(|top| top["id"].as_u64() == Some(token.into())) }))
}

/// The score of `token` among those of all tokens.
fn among_all(value: &Value, token: u32) -> Result<TokenScore, Flaw> {
    let entry = entry(value)?.ok_or_else(|| Flaw::new("expected an entry in completion_probabilities, found none"))?;
    let top = top(entry)?;
    let at = top.iter().position(|entry| entry["id"].as_u64() == Some(token.into()));
    let at = at.ok_or_else(|| {
        Flaw::new(format!("token {token} is not among the {} in completion_probabilities[0].top_logprobs", top.len()))
    })?;
    let place = format!("completion_probabilities[0].top_logprobs[{at}].logprob");
    Ok(TokenScore { logprob: logprob(&top[at]["logprob"], &place)?, greedy: at == 0 })
}

fn top(entry: &Value) -> Result<&[Value], Flaw> {
    let top = entry["top_logprobs"].as_array().filter(|top| !top.is_empty());
    let found = kind(&entry["top_logprobs"]);
    let place = "completion_probabilities[0].top_logprobs";
    top.map(Vec::as_slice).ok_or_else(|| Flaw::new(format!("expected a list of tokens in {place}, found {found}")))
}

pub(super) fn generate_request(ask: &Ask<'_>) -> (&'static str, Value) {
    let sampling = ask.sampling;
    let body = json!({
        "prompt": ask.tokens,
        "n_predict": ask.max_new_tokens,
        "temperature": sampling.temperature,
        // What is not among them does not happen, whatever the defaults of the server are.
        "samplers": ["temperature", "top_k", "top_p", "min_p"],
        "top_k": sampling.top_k.unwrap_or(0),
        "top_p": sampling.top_p.unwrap_or(1.0),
        "min_p": sampling.min_p.unwrap_or(0.0),
        "seed": ask.seed,
        "stop": ask.stop,
        "cache_prompt": true,
        "stream": false,
    });
    (PATH, body)
}

pub(super) fn answer(value: &Value) -> Result<Answer, Flaw> {
    Ok(Answer {
        text: text(&value["content"], "content")?,
        n_tokens: count(&value["tokens_predicted"], "tokens_predicted")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_was_not_generated_is_looked_up() {
        let top = json!([{ "id": 9, "logprob": -0.1 }, { "id": 7, "logprob": -0.5 }]);
        let value = json!({ "completion_probabilities": [{ "id": 7, "logprob": -0.5, "top_logprobs": top }] });
        let expected = TokenScore { logprob: -0.5, greedy: false };
        assert_eq!(forced(&value, 7), Ok(Some(expected)));
        assert_eq!((forced(&value, 9), forced(&json!({}), 9)), (Ok(None), Ok(None)));
        assert_eq!(among_all(&value, 7), Ok(expected));
        assert_eq!(among_all(&value, 9), Ok(TokenScore { logprob: -0.1, greedy: true }));
        let error = among_all(&value, 5).unwrap_err();
        assert_eq!(error, Flaw::new("token 5 is not among the 2 in completion_probabilities[0].top_logprobs"));
        assert!(among_all(&json!({ "completion_probabilities": [] }), 7).is_err());
    }
}
