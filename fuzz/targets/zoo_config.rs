#![no_main]
//! See `configs::zoo_config` in the library of this package.

libfuzzer_sys::fuzz_target!(init: glue_fuzz::init(), |input: &[u8]| glue_fuzz::check(glue_fuzz::configs::zoo_config, input));
