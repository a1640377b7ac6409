//! The integration tests of `glue-spectral`, one program: it links once.

mod golden;
