#![no_main]
//! See `models::gguf` in the library of this package.

libfuzzer_sys::fuzz_target!(init: glue_fuzz::init(), |input: &[u8]| glue_fuzz::check(glue_fuzz::models::gguf, input));
