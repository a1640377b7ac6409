#![doc = include_str!("../README.md")]
//! # Modules
//!
//! A model with its tokenizer is a [`TextModel`]; [`AnyTextModel`] is that or a mixture of whole models. Below it
//! stands [`Model`], which knows tokens only: [`Model::open`] for a model directory, [`Model::new`] for tensors in
//! memory. A batch is a [`Tree`] of tokens: sequences with a common prefix share its rows, nothing is padded, and the
//! tree is also the KV cache that later passes continue from. [`Model::score`] packs continuations to be scored into
//! such trees.
//!
//! | module | holds |
//! |---|---|
//! | [`architecture`] | a configuration checked into what the runtime computes, refused by name of the key |
//! | [`weight`], [`weights`] | one tensor in its stored type; the tensors of a model by name |
//! | [`rope`] | the rotary embeddings: default, linear, dynamic, llama3, yarn, longrope |
//! | [`tree`] | sequences that share prefixes; the KV cache |
//! | [`model`] | the forward pass |
//! | [`gradients`] | gradients of log-likelihoods with respect to every stored weight |
//! | [`train`], [`routing_log`] | gates whose weights come from outside; who was routed where |
//! | [`routed`] | mixtures of whole models, routed by the text of the prompt |
//! | [`padded`] | batches as rectangles with padding, and back |
//! | [`score`] | log-probabilities of continuations |
//! | [`memory`] | what passes and caches take, and how much there is |
//! | [`tokenizer`], [`chat`] | text to ids and back, incrementally too; messages to prompts |
//! | [`sampling`], [`stop`] | the next token from scores; stop strings in text that comes in pieces |
//! | [`bounded`] | jobs that a stranger's file decides about, with limits on memory, time and stack |
//! | [`jinja`] | templates as a Python program renders them, within such limits |
//! | [`text`], [`generate`] | a model with its tokenizer; continuations of many prompts |
//!
//! # Features
//! | feature | adds | default |
//! |---|---|---|
//! | `mixtures` | mixtures in the native format and of whole models ([`routed`]), and training of their gates | yes |
//! | `gradients` | [`gradients`], which calibration needs | yes |
//!
//! Models that come with experts, such as Mixtral, run without either.
//!
//! Activations are `f32`; weights stay in the type they are stored in, memory-mapped or owned, and are widened block by
//! block where they are used. One implementation of the decoder layer runs every family: what differs is data in
//! [`Architecture`].
//!
//! **Invariant:** the number of threads changes no result.
//!
//! **Invariant:** no key of a configuration that would change the computation, and no tensor, is dropped in silence.
#![deny(missing_docs)]

pub mod architecture;
mod batches;
pub mod bounded;
mod cancel;
pub mod chat;
mod decode_stream;
pub mod error;
pub mod generate;
#[cfg(feature = "gradients")]
pub mod gradients;
pub mod jinja;
pub mod memory;
pub mod model;
mod norm;
mod ops;
pub mod padded;
pub mod rope;
#[cfg(feature = "mixtures")]
pub mod routed;
pub mod routing_log;
pub mod sampling;
pub mod score;
pub mod stop;
#[cfg_attr(not(feature = "gradients"), allow(dead_code, reason = "nothing asks for a record"))]
mod tape;
pub mod text;
pub mod tokenizer;
pub mod train;
pub mod tree;
pub mod weight;
pub mod weights;

/// The revision of how models are run, for whoever keeps results: it is raised whenever the same model and the same
/// texts may give other scores, even by rounding, or other continuations.
pub const RUNTIME_REVISION: u32 = 2;

/// What logits and hidden states come in: `f32`, contiguous, on the CPU.
pub use candle_core::Tensor;

pub use architecture::Architecture;
pub use batches::batches;
pub use chat::{ChatError, ChatOptions, ChatTemplate, ClockError, DateTime, Message};
pub use decode_stream::DecodeStream;
pub use error::LmError;
pub use generate::{Finish, GenerateOptions, Generated, GenerationEstimate, Prompt, PromptLengths};
pub use glue_mixture::Gate;
#[cfg(feature = "gradients")]
pub use gradients::{Gradients, ScoredTokens};
pub use model::{GateOutput, LinearInput, Model, Observer, Output, Parameter, RoutedInput, Rows, Want};
pub use ops::KvCacheType;
pub use padded::{PaddedBatch, PaddedOutput};
#[cfg(feature = "mixtures")]
pub use routed::{AnyTextModel, Route, RoutedTextModel};
pub use routing_log::{GateLoad, RoutingLog};
pub use sampling::{Sampler, Sampling, SamplingError};
pub use score::{Score, ScoreOptions, ScoreRequest};
pub use stop::{Passed, StopFilter};
pub use text::{TextError, TextModel};
pub use tokenizer::{Tokenizer, TokenizerError};
pub use train::GateInfo;
#[cfg(feature = "mixtures")]
pub use train::StreamBefore;
pub use tree::{Branch, Tree};
pub use weight::{Weight, WeightError};
pub use weights::Weights;
