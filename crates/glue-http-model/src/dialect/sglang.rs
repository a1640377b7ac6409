//! SGLang: its own interface, with log-probabilities from a place in the prompt on.

use super::{Answer, Ask, Flaw, TokenScore, count, list, logprob, text};
use serde_json::{Value, json};

const PATH: &str = "/generate";

pub(super) fn score_request(tokens: &[u32], start: usize) -> (&'static str, Value) {
    let body = json!({
        "input_ids": tokens,
        "sampling_params": { "max_new_tokens": 0, "temperature": 0 },
        "return_logprob": true,
        // The first entry has no log-probability.
        "logprob_start_len": start.saturating_sub(1),
        "top_logprobs_num": 1,
    });
    (PATH, body)
}

/// The entries of a list in `meta_info` for the `n_tokens` of a continuation, before which there is one for the token
/// that it follows.
fn entries<'a>(value: &'a Value, name: &str, n_tokens: usize) -> Result<&'a [Value], Flaw> {
    Ok(&list(&value["meta_info"][name], &format!("meta_info.{name}"), n_tokens + 1)?[1..])
}

pub(super) fn scores(value: &Value, tokens: &[u32], start: usize) -> Result<Vec<TokenScore>, Flaw> {
    let tokens = &tokens[start..];
    let own = entries(value, "input_token_logprobs", tokens.len())?;
    let tops = entries(value, "input_top_logprobs", tokens.len())?;
    let score = |at: usize| {
        let place = format!("meta_info.input_token_logprobs[{}]", at + 1);
        let id = own[at][1].as_u64();
        // The ids of the last tokens of a vocabulary are written as 0.
        if id != Some(tokens[at].into()) && id != Some(0) {
            let found = id.map_or("nothing".to_string(), |id| id.to_string());
            return Err(Flaw::new(format!("expected token {} in {place}, found {found}", tokens[at])));
        }
        let logprob = logprob(&own[at][0], &place)?;
        let top = tops[at][0][1].as_u64();
        let top = top.ok_or_else(|| Flaw::new(format!("meta_info.input_top_logprobs[{}] names no token", at + 1)))?;
        Ok(TokenScore { logprob, greedy: top == u64::from(tokens[at]) })
    };
    (0..tokens.len()).map(score).collect()
}

pub(super) fn generate_request(ask: &Ask<'_>) -> (&'static str, Value) {
    let mut sampling = json!({
        "max_new_tokens": ask.max_new_tokens,
        "temperature": 0,
        "top_k": -1,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "stop_token_ids": ask.end_ids,
        "skip_special_tokens": true,
    });
    if !ask.stop.is_empty() {
        sampling["stop"] = json!(ask.stop);
    }
    (PATH, json!({ "input_ids": ask.tokens, "sampling_params": sampling }))
}

pub(super) fn answer(value: &Value) -> Result<Answer, Flaw> {
    Ok(Answer {
        text: text(&value["text"], "text")?,
        n_tokens: count(&value["meta_info"]["completion_tokens"], "meta_info.completion_tokens")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_counted_and_checked_by_their_token() {
        let value = json!({ "meta_info": {
            "input_token_logprobs": [[null, 1, null], [-0.5, 7, null], [-2.0, 8, null]],
            "input_top_logprobs": [null, [[-0.5, 7, null]], [[-0.1, 9, null]]],
        }});
        let found = scores(&value, &[3, 1, 7, 8], 2).unwrap();
        assert_eq!(
            found.iter().map(|score| (score.logprob, score.greedy)).collect::<Vec<_>>(),
            [(-0.5, true), (-2.0, false)]
        );
        // The server writes 0 where it was sent the last token of its vocabulary.
        let mut clipped = value.clone();
        clipped["meta_info"]["input_token_logprobs"][2][1] = json!(0);
        assert_eq!(scores(&clipped, &[3, 1, 7, 8], 2).unwrap(), found);
        let error = scores(&value, &[3, 1, 5, 8], 2).unwrap_err();
        assert_eq!(error, Flaw::new("expected token 5 in meta_info.input_token_logprobs[1], found 7"));
        let error = scores(&value, &[1, 1, 1, 7, 8], 1).unwrap_err();
        assert_eq!(error, Flaw::new("expected 5 entries in meta_info.input_token_logprobs, found 3"));
    }
}
