//! A stand-in for inference servers, whose answers follow from token ids by a rule, with faults on demand.
//!
//! The rule is [`logprob`]. A generated token is the likeliest one; the text of token 17 is ` 17`.

use crate::hub::{Reply, Request, read_request};
use serde_json::{Value, json};
use std::io;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{sleep, spawn};
use std::time::Duration;

/// Tokens of the models of the shipped zoo.
pub const VOCABULARY: u32 = 512;
/// The token that ends a text.
pub const END: u32 = 2;

/// Which server it looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kind {
    /// vLLM.
    #[default]
    Vllm,
    /// SGLang.
    Sglang,
    /// The server of llama.cpp.
    LlamaCpp,
    /// One that has OpenAI's completions only.
    OpenAi,
}

/// What is wrong with answers about prompts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// They are no JSON.
    Malformed,
    /// They have a log-probability too few.
    Short,
    /// They have a log-probability too many, or more new tokens than were asked for.
    Long,
    /// Log-probabilities are null.
    Null,
    /// Log-probabilities are NaN, as Python writes it.
    Nan,
    /// Log-probabilities are above 0.
    Positive,
    /// They do not come.
    Hang,
    /// They are somewhere else.
    Moved(String),
    /// They have this status.
    Status(u16),
}

/// What it says, and what goes wrong.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// What is wrong with all answers about prompts.
    pub fault: Option<Fault>,
    /// Requests about prompts that are answered with status 500 first.
    pub busy: usize,
    /// Whether the list of models does not say what kind of server this is.
    pub anonymous: bool,
    /// The names of its models, where there is not only `rule`.
    pub models: Option<Vec<String>>,
    /// The maximum length that it states.
    pub max_length: Option<usize>,
    /// The size of the vocabulary that llama.cpp states.
    pub vocabulary: Option<u32>,
    /// What `/tokenize` answers to any text; without it, there is no such address.
    pub tokens: Option<Vec<u32>>,
    /// The token without which everything is refused.
    pub token: Option<String>,
    /// How long each answer about a prompt takes.
    pub delay: Duration,
}

#[derive(Debug, Default)]
struct State {
    behaviour: Behaviour,
    requests: Vec<Request>,
    /// Requests about prompts under way, and the most there were.
    under_way: (usize, usize),
}

/// A server that is running. Its threads end with the process.
#[derive(Debug, Clone)]
pub struct FakeServer {
    kind: Kind,
    port: u16,
    state: Arc<Mutex<State>>,
}

/// The log-probability of `token` after `prefix`.
pub fn logprob(prefix: &[u32], token: u32) -> f64 {
    let start = hash(prefix);
    let sum: f64 = (0..VOCABULARY).map(|other| logit(start, other).exp()).sum();
    logit(start, token) - sum.ln()
}

/// The likeliest token after `prefix`.
pub fn likeliest(prefix: &[u32]) -> u32 {
    let start = hash(prefix);
    (0..VOCABULARY).max_by(|a, b| logit(start, *a).total_cmp(&logit(start, *b))).expect("a vocabulary")
}

/// What is generated after `prompt`: the tokens before the end of the text, at most `count`.
pub fn continued(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut tokens = prompt.to_vec();
    for _ in 0..count {
        match likeliest(&tokens) {
            END => break,
            token => tokens.push(token),
        }
    }
    tokens.split_off(prompt.len())
}

/// The text of tokens.
pub fn text(tokens: &[u32]) -> String {
    tokens.iter().map(|token| format!(" {token}")).collect()
}

fn hash(tokens: &[u32]) -> u64 {
    tokens.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &token| mixed(hash ^ u64::from(token)))
}

fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

/// From 0 to 8.
fn logit(start: u64, token: u32) -> f64 {
    (mixed(start ^ (u64::from(token) << 32)) >> 11) as f64 / (1_u64 << 53) as f64 * 8.0
}

/// Whether llama.cpp gives no probabilities where this token was generated: it ends the text, or ends within a
/// character. No token of one letter does.
fn is_silent(token: u32) -> bool {
    token == END || token > 256 && token.is_multiple_of(3)
}

impl FakeServer {
    /// Starts one.
    ///
    /// # Errors
    /// No port can be opened.
    pub fn start(kind: Kind) -> io::Result<FakeServer> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let server = FakeServer { kind, port: listener.local_addr()?.port(), state: Arc::default() };
        let answering = server.clone();
        spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = answering.clone();
                // A client that goes away is none of the stand-in's business.
                spawn(move || server.answer(&stream));
            }
        });
        Ok(server)
    }

    /// Its address.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Changes what it says and what goes wrong.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.lock().behaviour);
    }

    /// The requests so far, which are forgotten with this.
    pub fn take_requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.lock().requests)
    }

    /// The most requests about prompts that were under way at the same time.
    pub fn most_at_once(&self) -> usize {
        self.lock().under_way.1
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    fn answer(&self, stream: &TcpStream) -> io::Result<()> {
        let request = read_request(stream)?;
        self.lock().requests.push(request.clone());
        let token = self.lock().behaviour.token.clone();
        if token.is_some_and(|token| request.authorization.as_deref() != Some(&format!("Bearer {token}"))) {
            return Reply::json(401, &json!({ "error": { "message": "who are you?" } })).send(stream, false);
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match (self.kind, request.path.as_str()) {
            (Kind::Vllm | Kind::OpenAi, "/v1/completions")
            | (Kind::Sglang, "/generate")
            | (Kind::LlamaCpp, "/completion") => self.answer_prompt(stream, &body),
            (_, path) => self.describe(path).send(stream, false),
        }
    }

    /// What it says of itself.
    fn describe(&self, path: &str) -> Reply {
        let Behaviour { anonymous, models, max_length, vocabulary, tokens, .. } = &self.lock().behaviour;
        let owner = match self.kind {
            Kind::Vllm => "vllm",
            Kind::Sglang => "sglang",
            Kind::LlamaCpp => "llamacpp",
            Kind::OpenAi => "somebody",
        };
        let owner = if *anonymous { "nobody" } else { owner };
        let length = max_length.unwrap_or(256);
        match (self.kind, path) {
            (kind, "/v1/models") => {
                let card = |name: &String| {
                    let mut card = json!({ "id": name, "object": "model", "owned_by": owner });
                    match kind {
                        Kind::Vllm | Kind::Sglang => card["max_model_len"] = length.into(),
                        Kind::LlamaCpp => {
                            let size = vocabulary.unwrap_or(VOCABULARY);
                            card["meta"] = json!({ "n_vocab": size, "n_ctx_train": 256 });
                        }
                        Kind::OpenAi => {}
                    }
                    card
                };
                let names = models.clone().unwrap_or_else(|| vec!["rule".to_string()]);
                Reply::json(200, &json!({ "object": "list", "data": names.iter().map(card).collect::<Vec<_>>() }))
            }
            (Kind::LlamaCpp, "/props") => {
                let settings = json!({ "n_ctx": length });
                Reply::json(200, &json!({ "default_generation_settings": settings, "total_slots": 3 }))
            }
            (Kind::Sglang, "/get_model_info") => Reply::json(200, &json!({ "model_path": "rule" })),
            (_, "/tokenize") if tokens.is_some() => Reply::json(200, &json!({ "tokens": tokens })),
            _ => Reply::json(404, &json!({ "error": "not found" })),
        }
    }

    fn answer_prompt(&self, stream: &TcpStream, body: &Value) -> io::Result<()> {
        let (fault, busy, delay) = {
            let state = &mut *self.lock();
            state.under_way.0 += 1;
            state.under_way.1 = state.under_way.1.max(state.under_way.0);
            let busy = state.behaviour.busy > 0;
            state.behaviour.busy = state.behaviour.busy.saturating_sub(1);
            (state.behaviour.fault.clone(), busy, state.behaviour.delay)
        };
        sleep(delay);
        let reply = match fault {
            _ if busy => Reply::json(500, &json!({ "error": { "message": "out of memory" } })),
            Some(Fault::Malformed) => Reply::new(200).body(b"{\"choices\": [".to_vec()),
            Some(Fault::Moved(target)) => Reply::new(307).header("Location", &target),
            Some(Fault::Status(status)) => Reply::json(status, &json!({ "error": { "message": "no" } })),
            Some(Fault::Hang) => {
                sleep(Duration::from_secs(60));
                Reply::new(200)
            }
            fault => {
                let value = match self.kind {
                    Kind::Vllm => vllm(body, fault.as_ref()),
                    Kind::Sglang => sglang(body, fault.as_ref()),
                    Kind::LlamaCpp => llama_cpp(body, fault.as_ref()),
                    Kind::OpenAi => openai(body, fault.as_ref()),
                };
                match fault {
                    Some(Fault::Nan) => Reply::new(200).body(value.to_string().replace("\"NaN\"", "NaN").into_bytes()),
                    _ => Reply::json(200, &value),
                }
            }
        };
        self.lock().under_way.0 -= 1;
        reply.send(stream, false)
    }
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().expect("an id") as u32;
    value.as_array().expect("a prompt of ids").iter().map(id).collect()
}

/// The log-probability of a token, or what is in its place.
fn score(prefix: &[u32], token: u32, fault: Option<&Fault>) -> Value {
    match fault {
        Some(Fault::Null) => Value::Null,
        Some(Fault::Nan) => "NaN".into(),
        Some(Fault::Positive) => json!(0.5),
        _ => json!(logprob(prefix, token)),
    }
}

/// Makes a list too short or too long, if that is the fault.
fn resized(mut list: Vec<Value>, fault: Option<&Fault>) -> Vec<Value> {
    match fault {
        Some(Fault::Short) => drop(list.pop()),
        Some(Fault::Long) => list.extend(list.last().cloned()),
        _ => {}
    }
    list
}

/// Text and number of tokens of what is generated, cut at the first stop string.
fn generated(prompt: &[u32], count: &Value, stop: &Value, fault: Option<&Fault>) -> (String, usize) {
    let count = count.as_u64().expect("a number of tokens") as usize;
    let tokens = continued(prompt, count);
    let whole = text(&tokens);
    let stops = stop.as_array().into_iter().flatten().filter_map(Value::as_str);
    let end = stops.filter_map(|stop| whole.find(stop)).min().unwrap_or(whole.len());
    let n_tokens = if fault == Some(&Fault::Long) { count + 1 } else { tokens.len() };
    (whole[..end].to_string(), n_tokens)
}

fn vllm(body: &Value, fault: Option<&Fault>) -> Value {
    let prompt = ids(&body["prompt"]);
    let entry = |at: usize| {
        let (prefix, token) = (&prompt[..at], prompt[at]);
        let top = likeliest(prefix);
        let mut entry = json!({ top.to_string(): { "logprob": score(prefix, top, fault), "rank": 1 } });
        entry[token.to_string()] = json!({ "logprob": score(prefix, token, fault) });
        entry
    };
    let scored = body["prompt_logprobs"].is_number();
    let entries = scored.then(|| {
        let entries = (0..prompt.len()).map(|at| if at == 0 { Value::Null } else { entry(at) });
        resized(entries.collect(), fault)
    });
    let (text, count) = generated(&prompt, &body["max_tokens"], &body["stop"], fault);
    json!({ "choices": [{ "text": text, "prompt_logprobs": entries }], "usage": { "completion_tokens": count } })
}

fn openai(body: &Value, fault: Option<&Fault>) -> Value {
    let prompt = ids(&body["prompt"]);
    let (text, count) = generated(&prompt, &body["max_tokens"], &body["stop"], fault);
    let mut choice = json!({ "text": text, "logprobs": null });
    if body["echo"] == true {
        let name = |token: u32| format!("<{token}>");
        let (mut logprobs, mut tops) = (vec![Value::Null], vec![Value::Null]);
        for at in 1..prompt.len() {
            let (prefix, top) = (&prompt[..at], likeliest(&prompt[..at]));
            logprobs.push(score(prefix, prompt[at], fault));
            tops.push(json!({ name(top): score(prefix, top, fault) }));
        }
        let texts: Vec<Value> = prompt.iter().map(|&token| name(token).into()).collect();
        choice["logprobs"] =
            json!({ "tokens": texts, "token_logprobs": resized(logprobs, fault), "top_logprobs": tops });
    }
    json!({ "choices": [choice], "usage": { "completion_tokens": count } })
}

fn sglang(body: &Value, fault: Option<&Fault>) -> Value {
    let prompt = ids(&body["input_ids"]);
    let sampling = &body["sampling_params"];
    let (text, count) = generated(&prompt, &sampling["max_new_tokens"], &sampling["stop"], fault);
    let mut meta = json!({ "completion_tokens": count });
    if body["return_logprob"] == true {
        let start = body["logprob_start_len"].as_u64().expect("a start") as usize;
        let (mut own, mut tops) = (vec![json!([null, prompt[start], null])], vec![Value::Null]);
        for at in start + 1..prompt.len() {
            let (prefix, top) = (&prompt[..at], likeliest(&prompt[..at]));
            own.push(json!([score(prefix, prompt[at], fault), prompt[at], null]));
            tops.push(json!([[score(prefix, top, fault), top, null]]));
        }
        meta["input_token_logprobs"] = json!(resized(own, fault));
        meta["input_top_logprobs"] = json!(tops);
    }
    json!({ "text": text, "meta_info": meta })
}

fn llama_cpp(body: &Value, fault: Option<&Fault>) -> Value {
    let prompt = ids(&body["prompt"]);
    let (text, count) = generated(&prompt, &body["n_predict"], &body["stop"], fault);
    let mut value = json!({ "content": text, "tokens_predicted": count });
    let n_probs = body["n_probs"].as_u64().unwrap_or(0) as usize;
    let drawn = body["logit_bias"][0][0].as_u64().map_or(likeliest(&prompt), |token| token as u32);
    if n_probs > 0 && !is_silent(drawn) {
        let mut all: Vec<(u32, f64)> = (0..VOCABULARY).map(|token| (token, logit(hash(&prompt), token))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1));
        let entry = |token: u32| json!({ "id": token, "logprob": score(&prompt, token, fault) });
        let top: Vec<Value> = all.iter().take(n_probs).map(|(token, _)| entry(*token)).collect();
        let mut own = entry(drawn);
        own["top_logprobs"] = if fault == Some(&Fault::Short) { json!([]) } else { json!(top) };
        value["completion_probabilities"] = json!(resized(vec![own], fault.filter(|fault| **fault == Fault::Long)));
    }
    value
}
