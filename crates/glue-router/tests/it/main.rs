//! The integration tests of `glue-router`, one program: it links once.

mod lm_loss;
mod reference_gates;
mod regression;
mod router_input;
mod zoo;
