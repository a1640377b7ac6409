//! The integration tests of `glue-eval`, one program: it links once.

mod external;
mod harness;
mod native;
mod sandbox;
mod sandbox_limits;
mod support;
mod zoo;
