//! The integration tests of `glue-select`, one program: it links once.

mod common;
mod external;
mod local;
mod search;
mod space;
mod workers;
