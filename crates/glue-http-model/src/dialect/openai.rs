//! Completions as OpenAI defined them, where a prompt is scored by echoing it.

use super::{Answer, Ask, Flaw, TokenScore, choice, count, is_largest, list, logprob, text};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";
/// So many stop strings are taken; answers are cut at the others when they are here.
const MAX_STOPS: usize = 4;

pub(super) fn score_request(model: &str, tokens: &[u32]) -> (&'static str, Value) {
    let body = json!({
        "model": model, "prompt": tokens, "max_tokens": 0, "echo": true, "logprobs": 1, "temperature": 0,
    });
    (PATH, body)
}

pub(super) fn scores(value: &Value, tokens: &[u32], start: usize) -> Result<Vec<TokenScore>, Flaw> {
    let lists = &choice(value)?["logprobs"];
    let of = |name: &str| list(&lists[name], &format!("choices[0].logprobs.{name}"), tokens.len());
    let (texts, logprobs, tops) = (of("tokens")?, of("token_logprobs")?, of("top_logprobs")?);
    let score = |at: usize| {
        let logprob = logprob(&logprobs[at], &format!("choices[0].logprobs.token_logprobs[{at}]"))?;
        let own = text(&texts[at], &format!("choices[0].logprobs.tokens[{at}]"))?;
        let top = tops[at].as_object().filter(|top| !top.is_empty());
        let top = top.ok_or_else(|| Flaw::new(format!("choices[0].logprobs.top_logprobs[{at}] names no token")))?;
        Ok(TokenScore { logprob, greedy: is_largest(top, &own, logprob) })
    };
    (start..tokens.len()).map(score).collect()
}

pub(super) fn generate_request(ask: &Ask<'_>) -> (&'static str, Value) {
    let mut body = json!({
        "model": ask.model,
        "prompt": ask.tokens,
        "max_tokens": ask.max_new_tokens,
        "temperature": ask.sampling.temperature,
        "top_p": ask.sampling.top_p.unwrap_or(1.0),
        "seed": ask.seed,
    });
    if !ask.stop.is_empty() {
        body["stop"] = json!(&ask.stop[..ask.stop.len().min(MAX_STOPS)]);
    }
    (PATH, body)
}

pub(super) fn answer(value: &Value) -> Result<Answer, Flaw> {
    Ok(Answer {
        text: text(&choice(value)?["text"], "choices[0].text")?,
        n_tokens: count(&value["usage"]["completion_tokens"], "usage.completion_tokens")?,
    })
}
