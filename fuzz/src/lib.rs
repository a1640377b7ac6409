//! What each fuzz target does with an input.
//!
//! The input stands for a file or a stream that a stranger wrote. A target reads it as the program does, through the
//! same public functions, and asserts what its documentation says. Whatever is read may be refused, but with an error
//! that says why; nothing may panic, hang or take much memory.
//!
//! The bodies are here, and not in `targets`, because a test of the workspace includes this file and feeds them every
//! committed seed (`crates/glue-cli/tests/it/fuzz_seeds.rs`).

use std::backtrace::Backtrace;
use std::panic::{catch_unwind, set_hook};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

pub mod configs;
pub mod folder;
pub mod models;
pub mod state;
pub mod tasks;
pub mod text;

/// That of the program: it counts the memory of templates and tokenizers.
#[global_allocator]
static ALLOCATOR: glue_cli::Allocator = glue_cli::Allocator;

/// A target: it returns, or panics where something does not hold.
pub type Target = fn(&[u8]);

/// All targets by name. Each name is that of a file in `targets` and of a folder in `seeds`.
pub const TARGETS: &[(&str, Target)] = &[
    ("adapter_config", models::adapter_config),
    ("cache", state::cache),
    ("chat_template", text::chat_template),
    ("gguf", models::gguf),
    ("header", models::header),
    ("items_csv", tasks::items_csv),
    ("items_jsonl", tasks::items_jsonl),
    ("items_parquet", tasks::items_parquet),
    ("journal", state::journal),
    ("mix_config", configs::mix_config),
    ("mixture", models::mixture),
    ("model_config", models::model_config),
    ("recipe", configs::recipe),
    ("report", state::report),
    ("search_config", configs::search_config),
    ("shard_index", models::shard_index),
    ("similarity", state::similarity),
    ("task_json", tasks::task_json),
    ("task_template", tasks::task_template),
    ("task_yaml", tasks::task_yaml),
    ("tokenizer", text::tokenizer),
    ("worker", state::worker),
    ("zoo_config", configs::zoo_config),
];

static LAST_PANIC: Mutex<String> = Mutex::new(String::new());
static EXECUTIONS: AtomicU64 = AtomicU64::new(0);

/// Prepares a fuzzer's process: a panic that the program catches itself is no finding and is not printed.
pub fn init() {
    set_hook(Box::new(|panic| {
        let message = format!("{panic}\n{}", Backtrace::force_capture());
        *LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner) = message;
    }));
}

/// Runs `target` on `input`; a panic that leaves it is printed and ends the process, as a fuzzer expects. A process
/// that has filled up over many inputs ends well, and is started again by `cargo xtask fuzz`.
pub fn check(target: Target, input: &[u8]) {
    if catch_unwind(|| target(input)).is_err() {
        eprintln!("{}", LAST_PANIC.lock().unwrap_or_else(PoisonError::into_inner));
        std::process::abort();
    }
    let executions = EXECUTIONS.fetch_add(1, Ordering::Relaxed) + 1;
    if executions.is_multiple_of(8) && is_full() {
        eprintln!("stat::number_of_executed_units: {executions}");
        leave();
    }
}

/// Whether work that was given up, whose threads keep what they hold, has added up to what a single input may not take.
fn is_full() -> bool {
    const PAGE: u64 = 4096;
    let Ok(text) = std::fs::read_to_string("/proc/self/statm") else { return false };
    let mut pages = text.split(' ').map(|pages| pages.parse::<u64>().unwrap_or(0) * PAGE);
    pages.next() > Some(8 << 30) || pages.next() > Some(1 << 30)
}

/// Ends the process with success and without libFuzzer, which takes an end by the target for a finding.
#[allow(unsafe_code)]
fn leave() -> ! {
    unsafe extern "C" {
        fn _exit(status: i32) -> !;
    }
    // SAFETY: it is the function of the C library, which takes any status.
    unsafe { _exit(0) }
}

/// An error says something.
fn says_why(error: &(impl std::error::Error + ?Sized)) {
    assert!(!error.to_string().trim().is_empty(), "an error without words: {error:?}");
}
