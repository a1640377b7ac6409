//! Tokenizers, from `tokenizer.json` to the keys of a GGUF file and back.
//!
//! llama.cpp has two forms that models of the supported families use. `gpt2` is a BPE on bytes: words, found by a
//! pre-tokenizer with a name, are merged by a list. `llama` is what SentencePiece does: the whole text is merged, at
//! each step the two neighbours that make the token with the highest score; characters that are no token become tokens
//! of their bytes. `tokenizer.json` writes the latter as a BPE with a list of merges.

mod bytes;
mod export;
mod import;
mod merges;
pub(crate) mod pre;

pub(crate) use export::set_keys;
pub(crate) use import::{TokenizerOutput, tokenizer_files};

/// `tokenizer.ggml.token_type`.
pub(crate) mod kind {
    pub(crate) const NORMAL: i32 = 1;
    pub(crate) const UNKNOWN: i32 = 2;
    pub(crate) const CONTROL: i32 = 3;
    pub(crate) const USER_DEFINED: i32 = 4;
    pub(crate) const UNUSED: i32 = 5;
    pub(crate) const BYTE: i32 = 6;
}

/// Keys of special tokens in a GGUF file, and in `tokenizer_config.json`.
pub(crate) const SPECIAL: [(&str, &str); 4] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
];

/// What stands for a space in tokenizers in the style of SentencePiece.
pub(crate) const SPACE: &str = "\u{2581}";
