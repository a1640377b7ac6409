//! Checkpoints: safetensors files and shards, memory-mapped reading, crash-safe streaming writing, model directories.
//!
//! The way in is [`ModelDir::open`] for a whole model (configuration, tokenizer files, weights) or [`Checkpoint::open`]
//! for the weights alone; the way out is [`Staging`], which makes a directory appear complete or not at all, with a
//! [`CheckpointWriter`] that fills tensors in any order from any thread.
//!
//! | module | holds |
//! |---|---|
//! | [`dtype`] | the element types and their names |
//! | [`convert`] | widening to f32 and narrowing back |
//! | [`header`] | the safetensors header, read strictly and written |
//! | [`checkpoint`] | one file, or an index and its shards, memory-mapped |
//! | [`mapped`] | memory maps, and an error message when a mapped file is truncated |
//! | [`files`] | reading files from untrusted sources; finding out whether they changed |
//! | [`writer`] | shard layout, staging directory, positional writes, single files |
//! | [`config`] | `config.json` in both of its forms |
//! | [`tokenizer_files`] | which files a tokenizer is, its vocabulary, its chat template |
//! | [`side_files`] | files that are copied to an output, and where links may lead |
//! | [`hub`] | identifier and licence of a model |
//! | [`model_dir`] | the three of them together |
//! | [`adapter`] | LoRA adapters in the layout of PEFT, read and written |
//! | [`names`] | layers and roles, inferred from tensor names |
//! | [`state`] | files that are read back, with checksums |
//! | [`abort`] | points at which tests end the process |
//!
//! ```
//! use glue_tensor::{Checkpoint, CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow, widen};
//! use std::collections::BTreeMap;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let root = tempfile::tempdir()?;
//! # let out_dir = root.path().join("out");
//! let spec = TensorSpec { name: "w".to_string(), dtype: Dtype::Bf16, shape: vec![2, 2] };
//! let layout = Layout::new(vec![spec], 5_000_000_000, "model")?;
//! let staging = Staging::create(&out_dir)?;
//! let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new())?;
//! let mut bytes = [0; 8];
//! narrow(Dtype::Bf16, &[1.0, -2.0, 0.5, 3.0], &mut bytes)?;
//! writer.write_at(0, 0, &bytes)?;
//! writer.finish()?;
//! staging.commit()?;
//!
//! let checkpoint = Checkpoint::open(&out_dir)?;
//! let view = checkpoint.get("w").ok_or("it was written above")?;
//! let mut values = [0.0; 4];
//! let all_finite = widen(view.dtype(), view.data(), &mut values)?;
//! assert!(all_finite);
//! assert_eq!(values, [1.0, -2.0, 0.5, 3.0]);
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** nothing here knows arithmetic on weights beyond changing their number format, and no architecture
//! needs code of its own.

pub mod abort;
pub mod adapter;
pub mod checkpoint;
pub mod config;
pub mod convert;
pub mod dtype;
pub mod files;
pub mod header;
pub mod hub;
pub mod mapped;
pub mod model_dir;
pub mod names;
pub mod random;
pub mod side_files;
pub mod state;
pub mod tokenizer_files;
pub mod writer;

pub use abort::{abort_midway, abort_point};
pub use adapter::{Adapter, AdapterError};
pub use checkpoint::{Checkpoint, CheckpointError, ContentHash, TensorInfo, TensorView};
pub use config::{Config, ConfigError};
pub use convert::{ConvertError, first_nonfinite, narrow, widen};
pub use dtype::Dtype;
pub use files::{FileChanged, FileVersion};
pub use model_dir::{ModelDir, ModelDirError};
pub use names::{Names, Role, TensorName};
pub use side_files::{Links, SideFileError};
pub use writer::{CheckpointWriter, Layout, OutputFile, Staging, TensorSpec, WriteError, write_atomic};
