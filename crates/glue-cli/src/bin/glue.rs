//! The binary `glue`.
fn main() {}
