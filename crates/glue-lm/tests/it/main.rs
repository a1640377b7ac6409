//! The integration tests of `glue-lm`, one program: it links once.

mod archs;
mod cache;
mod chat;
mod generation;
mod layouts;
mod mixture_generation;
mod mixtures;
mod padding;
mod refusals;
mod routed;
mod score;
mod support;
mod text;
mod zoo;
