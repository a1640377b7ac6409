//! Language models that an inference server holds, as [`LanguageModel`](glue_eval::LanguageModel)s.
//!
//! [`HttpModel::connect`] takes a model directory, of which weights are not needed, and the address of a server. Texts
//! become tokens here; what is sent are token ids, and what comes back are log-probabilities or text. So prompts, chat
//! templates and metrics are the same as for a model in this process.
//!
//! ```no_run
//! use glue_eval::{LanguageModel, LogLikelihoodRequest};
//! use glue_http_model::{HttpModel, ServerOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = HttpModel::connect("models/base", "http://localhost:8000", &ServerOptions::default())?;
//! println!("{} holds {}", model.server().dialect, model.server().model);
//! let request = LogLikelihoodRequest { context: "The capital of France is", continuation: " Paris" };
//! println!("{}", model.loglikelihoods(&[request], &|_| {})?[0].logprob);
//! # Ok(())
//! # }
//! ```
//!
//! | [`Dialect`] | asks | log-probabilities of |
//! |---|---|---|
//! | [`Vllm`](Dialect::Vllm) | `/v1/completions` | a continuation, by `prompt_logprobs` |
//! | [`Sglang`](Dialect::Sglang) | `/generate` | a continuation, by `logprob_start_len` |
//! | [`LlamaCpp`](Dialect::LlamaCpp) | `/completion` | one token at a time, by `n_probs`: slow |
//! | [`OpenAi`](Dialect::OpenAi) | `/v1/completions` | a continuation, by `echo`, where the server takes it |
//!
//! **Invariant:** no answer is believed: one of another length, with other tokens, or with something that is no
//! log-probability is an error that names the server and what was expected.
//!
//! **Invariant:** what is asked, and the order of the results, do not depend on how many requests are under way.

/// The example of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExamples;

mod client;
mod connect;
mod dialect;
mod error;
mod model;
mod workers;

pub use client::ServerToken;
pub use connect::ServerOptions;
pub use dialect::Dialect;
pub use error::ServerError;
pub use model::{HttpModel, ServerInfo};
