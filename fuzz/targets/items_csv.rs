#![no_main]
//! See `tasks::items_csv` in the library of this package.

libfuzzer_sys::fuzz_target!(init: glue_fuzz::init(), |input: &[u8]| glue_fuzz::check(glue_fuzz::tasks::items_csv, input));
