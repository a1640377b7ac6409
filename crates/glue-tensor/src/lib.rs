//! Checkpoints: safetensors files and shards, memory-mapped reading, crash-safe streaming writing, model directories
