//! From keys to `tokenizer.json`.
