//! vLLM: OpenAI's completions, with log-probabilities of the tokens of a prompt by their ids.

use super::{Ask, Flaw, TokenScore, choice, is_largest, kind, list, logprob};
use serde_json::{Value, json};

const PATH: &str = "/v1/completions";

pub(super) fn score_request(model: &str, tokens: &[u32]) -> (&'static str, Value) {
    // The engine generates at least one token.
    let body = json!({ "model": model, "prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 1 });
    (PATH, body)
}

pub(super) fn scores(value: &Value, tokens: &[u32], start: usize) -> Result<Vec<TokenScore>, Flaw> {
    let place = "choices[0].prompt_logprobs";
    let entries = list(&choice(value)?["prompt_logprobs"], place, tokens.len())?;
    let score = |at: usize| {
        let entry = entries[at].as_object();
        let entry = entry
            .ok_or_else(|| Flaw::new(format!("expected an object in {place}[{at}], found {}", kind(&entries[at]))))?;
        let key = tokens[at].to_string();
        let own = entry.get(&key);
        let own = own.ok_or_else(|| Flaw::new(format!("{place}[{at}] lacks token {key}, which was sent")))?;
        let logprob = logprob(&own["logprob"], &format!("{place}[{at}][\"{key}\"].logprob"))?;
        Ok(TokenScore { logprob, greedy: is_largest(entry, &key, logprob) })
    };
    (start..tokens.len()).map(score).collect()
}

pub(super) fn generate_request(ask: &Ask<'_>) -> (&'static str, Value) {
    let sampling = ask.sampling;
    // All that the server could have other defaults for, which it takes from the model's generation_config.json.
    let mut body = json!({
        "model": ask.model,
        "prompt": ask.tokens,
        "max_tokens": ask.max_new_tokens,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k.map_or(-1, |k| k as i64),
        "top_p": sampling.top_p.unwrap_or(1.0),
        "min_p": sampling.min_p.unwrap_or(0.0),
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "seed": ask.seed,
        "stop_token_ids": ask.end_ids,
        "skip_special_tokens": true,
    });
    if !ask.stop.is_empty() {
        body["stop"] = json!(ask.stop);
    }
    (PATH, body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_greedy_if_the_server_names_no_likelier_one() {
        let entries = json!([
            null,
            { "7": { "logprob": -0.5, "rank": 1, "decoded_token": "a" } },
            { "8": { "logprob": -2.0, "rank": 3 }, "9": { "logprob": -0.1, "rank": 1 } },
            { "9": { "logprob": -1.0, "rank": 2 }, "8": { "logprob": -1.0, "rank": 2 } },
        ]);
        let value = json!({ "choices": [{ "prompt_logprobs": entries }] });
        let found = scores(&value, &[1, 7, 8, 9], 1).unwrap();
        let expected = [(-0.5, true), (-2.0, false), (-1.0, false)];
        assert_eq!(found.iter().map(|score| (score.logprob, score.greedy)).collect::<Vec<_>>(), expected);
        assert_eq!(
            scores(&value, &[1, 7, 5, 9], 1),
            Err(Flaw::new("choices[0].prompt_logprobs[2] lacks token 5, which was sent"))
        );
    }
}
