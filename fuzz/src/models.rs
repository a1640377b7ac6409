//! What a model directory says about weights: headers, indexes, configurations of models, adapters and mixtures; and
//! GGUF files.

use super::folder::{Folder, write};
use super::says_why;
use glue_gguf::container::GgufFile;
use glue_gguf::{ImportOptions, ImportPlan};
use glue_lm::Architecture;
use glue_mixture::{Mixture, Sites, read_gates};
use glue_progress::NoProgress;
use glue_tensor::adapter::AdapterConfig;
use glue_tensor::header::{Header, encode_header, parse_header};
use glue_tensor::{Adapter, Checkpoint, Config, Dtype, ModelDir, Names};
use std::collections::BTreeMap;
use std::path::Path;

/// The header of a safetensors file: refused, or ranges that partition the data, and what is written from it reads
/// back.
///
/// The input is read twice: as a whole file, and as the beginning of a file whose length is in the last 8 bytes of the
/// input, so that headers of large files can be tried without their data.
pub fn header(input: &[u8]) {
    check_prefix(input, input.len() as u64);
    if let Some((prefix, length)) = input.split_last_chunk::<8>() {
        check_prefix(prefix, u64::from_le_bytes(*length));
    }
}

fn check_prefix(prefix: &[u8], file_len: u64) {
    match parse_header(prefix, file_len) {
        Ok(header) => check_header(&header, file_len),
        Err(error) => says_why(&error),
    }
}

fn check_header(header: &Header, file_len: u64) {
    let mut end = 0;
    for tensor in &header.tensors {
        assert_eq!(tensor.range.start, end, "{} begins where the one before it ends", tensor.name);
        assert!(tensor.range.start <= tensor.range.end, "{}", tensor.name);
        let elements = tensor.shape.iter().try_fold(1u64, |n, &extent| n.checked_mul(extent as u64));
        let bytes = elements.and_then(|n| n.checked_mul(tensor.dtype.size() as u64));
        // A size that is 0 may have extents whose product alone overflows.
        let bytes = if tensor.shape.contains(&0) { Some(0) } else { bytes };
        assert_eq!(bytes, Some(tensor.range.end - tensor.range.start), "{}", tensor.name);
        end = tensor.range.end;
    }
    assert_eq!(header.data_start.checked_add(end), Some(file_len), "the data ends where the file does");

    // What is written from it reads back as the same.
    let entries = header.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.as_slice(), t.range.clone()));
    let written = encode_header(entries, &header.metadata);
    if let Some(length) = end.checked_add(written.len() as u64) {
        let again = parse_header(&written, length).expect("a header that was written is read");
        assert_eq!((&again.tensors, &again.metadata), (&header.tensors, &header.metadata));
    }

    // Layers and roles are guessed from any names.
    let names = Names::infer(header.tensors.iter().map(|tensor| tensor.name.as_str()));
    for tensor in &header.tensors {
        let _ = names.parse(&tensor.name).rename_layer(7);
    }
}

/// A GGUF file: refused, or tensors that are read within its bounds, and an import that is refused or a model directory
/// that opens.
///
/// The input is read twice: as a whole file, and as the beginning of a file whose length is in the last 8 bytes of the
/// input, so that headers of large files can be tried without their data.
pub fn gguf(input: &[u8]) {
    /// What a file system holds of a sparse file.
    const MAX_SPARSE: u64 = 1 << 42;
    thread_local! {
        static FOLDER: Folder = Folder::new(|_| {});
    }
    FOLDER.with(|folder| {
        let path = folder.with("x.gguf", input).join("x.gguf");
        match GgufFile::open(&path) {
            Ok(file) => {
                let mut values = Vec::new();
                for tensor in file.tensors() {
                    file.read(tensor, 0, tensor.n_elements(), &mut values).expect("values within the file");
                    assert_eq!(values.len(), tensor.n_elements(), "{}", tensor.name);
                }
            }
            Err(error) => says_why(&error),
        }
        let out = folder.path().join("out");
        let imported = ImportPlan::new(&path, &ImportOptions::default()).and_then(|plan| plan.write(&out, &NoProgress));
        match imported {
            Ok(report) => {
                let model = ModelDir::open(&out).expect("a model that was imported opens");
                assert_eq!(model.checkpoint().tensors().len(), report.n_tensors);
                assert_eq!(model.checkpoint().total_bytes(), report.n_bytes);
            }
            Err(error) => says_why(&error),
        }
        let _ = std::fs::remove_dir_all(&out);
        let Some((prefix, length)) = input.split_last_chunk::<8>() else { return };
        let length = u64::from_le_bytes(*length).clamp(prefix.len() as u64, MAX_SPARSE);
        write(folder.path(), "x.gguf", prefix);
        let file = std::fs::File::options().write(true).open(&path).expect("a temporary file");
        if file.set_len(length).is_ok()
            && let Err(error) = ImportPlan::new(&path, &ImportOptions::default())
        {
            says_why(&error);
        }
    });
}

/// The file of tensors of f32 with these names and shapes, all of them zeros.
fn zeros(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let mut end = 0;
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape)| {
            let start = end;
            end += shape.iter().product::<usize>() as u64 * 4;
            (*name, Dtype::F32, *shape, start..end)
        })
        .collect();
    let mut file = encode_header(entries, &BTreeMap::new());
    file.resize(file.len() + end as usize, 0);
    file
}

/// `model.safetensors.index.json` beside two shards: refused, or every tensor of the shards and no other.
pub fn shard_index(input: &[u8]) {
    const FIRST: &[(&str, &[usize])] = &[("a", &[2]), ("b", &[1, 1])];
    const SECOND: &[(&str, &[usize])] = &[("c", &[])];
    thread_local! {
        static FOLDER: Folder = Folder::new(|path| {
            write(path, "one.safetensors", zeros(FIRST));
            write(path, "two.safetensors", zeros(SECOND));
        });
    }
    FOLDER.with(|folder| match Checkpoint::open(folder.with("model.safetensors.index.json", input)) {
        Ok(checkpoint) => {
            let expected: Vec<_> = FIRST.iter().chain(SECOND).collect();
            let mut files: Vec<&Path> = checkpoint.files().iter().map(|file| file.path()).collect();
            files.sort();
            files.dedup();
            assert_eq!(files.len(), checkpoint.files().len(), "no file twice");
            for tensor in checkpoint.tensors() {
                let (_, shape) = expected.iter().find(|(name, _)| *name == tensor.name).expect("a tensor of a shard");
                assert_eq!(tensor.shape, *shape, "{}", tensor.name);
            }
        }
        Err(error) => says_why(&error),
    });
}

/// `config.json`: refused by its key, or written as it was read, and what the runtime makes of it has as many layers.
pub fn model_config(input: &[u8]) {
    let Ok(value) = serde_json::from_slice(input) else { return };
    let config = match Config::from_value(value) {
        Ok(config) => config,
        Err(error) => return says_why(&error),
    };
    let again = serde_json::from_slice(&config.to_bytes()).expect("JSON is written");
    assert_eq!(Config::from_value(again).expect("a config is read again"), config);
    let _ = (config.architectures(), config.dtype(), config.head_dim(), config.rope(), config.tie_word_embeddings());
    match config.with_layers(&[0, 0]) {
        Ok(stacked) => assert_eq!(stacked.num_layers(), Some(2)),
        Err(error) => says_why(&error),
    }
    match Architecture::from_config(&config) {
        Ok(architecture) => assert_eq!(Some(architecture.num_layers()), config.num_layers()),
        Err(error) => says_why(&error),
    }
    if let Err(error) = Mixture::from_config(&config) {
        says_why(&error);
    }
}

/// `adapter_config.json`: refused by its key, or written as it was read; with weights beside it, every change is one
/// that the configuration asks for.
pub fn adapter_config(input: &[u8]) {
    const MODULE: &str = "model.layers.0.self_attn.q_proj";
    thread_local! {
        static FOLDER: Folder = Folder::new(|path| {
            let factors: &[(&str, &[usize])] = &[
                ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", &[2, 4]),
                ("base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight", &[6, 2]),
            ];
            write(path, "adapter_model.safetensors", zeros(factors));
        });
    }
    let path = Path::new("adapter_config.json");
    match AdapterConfig::from_bytes(input, path) {
        Ok(config) => {
            let again = AdapterConfig::from_bytes(&config.to_bytes(), path).expect("a config is read again");
            assert_eq!(again.to_value(), config.to_value());
            if let Err(error) = config.rank_and_alpha(MODULE) {
                says_why(&error);
            }
        }
        Err(error) => says_why(&error),
    }
    FOLDER.with(|folder| match Adapter::open(folder.with("adapter_config.json", input)) {
        Ok(adapter) => {
            for (name, change) in adapter.changes() {
                assert_eq!(name, &format!("{MODULE}.weight"));
                let low_rank = change.low_rank.as_ref().expect("the two factors");
                assert!(low_rank.scale.is_finite(), "{low_rank:?}");
            }
        }
        Err(error) => says_why(&error),
    });
}

/// `config.json` of a mixture beside the weights of its gates: refused by its key or its tensor, or gates that fit it.
pub fn mixture(input: &[u8]) {
    thread_local! {
        static FOLDER: Folder = Folder::new(|path| {
            let gates: &[(&str, &[usize])] = &[
                ("model.layers.0.block_sparse_moe.gate.weight", &[2, 4]),
                ("model.layers.0.mlp.gate.weight", &[2, 4]),
                ("model.layers.0.mlp.gate.bias", &[2]),
                ("model.layers.0.mlp.shared_expert_gate.weight", &[1, 4]),
                ("model.layers.0.gate.weight", &[2, 4]),
                ("model.gate.up.weight", &[3, 4]),
                ("model.gate.up.bias", &[3]),
                ("model.gate.down.weight", &[2, 3]),
                ("model.gate.down.bias", &[2]),
                ("gate.weight", &[2, 4]),
            ];
            write(path, "model.safetensors", zeros(gates));
            write(path, "router/config.json", r#"{"model_type": "llama", "hidden_size": 4}"#);
            write(path, "glue.json", r#"{"mixture": {"experts": ["one", "two"]}}"#);
        });
    }
    FOLDER.with(|folder| {
        let path = folder.with("config.json", input);
        match Sites::open(path) {
            Ok(sites) => match read_gates(path) {
                Ok(gates) => gates.check(&sites).expect("gates that were read fit where they stand"),
                Err(error) => says_why(&error),
            },
            Err(error) => says_why(&error),
        }
    });
}
