//! Opening checkpoints: what is found where, and what is refused.

use glue_progress::ErrorChain;
use glue_tensor::{Checkpoint, CheckpointError, ContentHash, Dtype, TensorInfo, TensorView};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model of two layers in two shards, saved by transformers 5.23 (`save_pretrained(..., max_shard_size="58KB")`).
fn sharded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ft2-sharded")
}

/// A copy of the sharded model that a test may damage.
fn copy() -> TempDir {
    let copy = TempDir::new().unwrap();
    for entry in fs::read_dir(sharded()).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join(entry.file_name())).unwrap();
    }
    copy
}

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Checks that opening `path` fails with a message that holds all of `words`.
fn refused(path: &Path, words: &[&str]) -> CheckpointError {
    let error = Checkpoint::open(path).expect_err("it should not open");
    let message = error.chain();
    for word in words {
        assert!(message.contains(word), "{message}\nlacks: {word}");
    }
    error
}

fn edit_index(directory: &Path, from: &str, to: &str) {
    let path = directory.join(INDEX);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{from}");
    fs::write(path, text.replacen(from, to, 1)).unwrap();
}

#[test]
fn shards_read_like_the_reference_reads_them() {
    let checkpoint = Checkpoint::open(sharded()).unwrap();
    let mut seen = 0;
    for (i, shard) in [FIRST, SECOND].into_iter().enumerate() {
        let bytes = fs::read(sharded().join(shard)).unwrap();
        assert_eq!(checkpoint.files()[i].path(), sharded().join(shard));
        assert_eq!(checkpoint.files()[i].n_bytes(), bytes.len() as u64);
        assert_eq!(checkpoint.files()[i].metadata()["format"], "pt");
        assert_eq!(checkpoint.files()[i].content_hash(), ContentHash::of(&bytes));
        for (name, tensor) in safetensors::SafeTensors::deserialize(&bytes).unwrap().tensors() {
            let view = checkpoint.get(&name).unwrap();
            assert_eq!((view.name(), view.shape(), view.data()), (name.as_str(), tensor.shape(), tensor.data()));
            assert_eq!((view.dtype(), view.info().file), (Dtype::F32, i));
            seen += 1;
        }
    }
    assert_eq!(checkpoint.tensors().len(), seen);
    assert!(checkpoint.tensors().is_sorted_by(|a, b| a.name < b.name));
    assert_eq!((checkpoint.total_bytes(), checkpoint.n_parameters()), (111_232, 27_808));
    assert!(checkpoint.get("model.layers.2.mlp.up_proj.weight").is_none());
}

#[test]
fn content_hash_is_xxh3_128() {
    // The hash of the empty input, from the reference implementation.
    let empty = "99aa06d3014798d86001c324468d497f";
    assert_eq!(ContentHash::of(b"").to_string(), empty);
}

#[test]
fn checkpoints_cross_threads() {
    fn check<T: Send + Sync>() {}
    check::<Checkpoint>();
    check::<glue_tensor::TensorView<'static>>();
}

#[test]
fn ways_to_name_a_checkpoint() {
    let model = copy();
    let count = |path: PathBuf| Checkpoint::open(&path).map(|checkpoint| checkpoint.tensors().len()).unwrap();
    let all = count(model.path().to_path_buf());
    assert_eq!(count(model.path().join(INDEX)), all);
    assert_eq!(count(model.path().join(FIRST)) + count(model.path().join(SECOND)), all);

    let other_index = model.path().join("weights.safetensors.index.json");
    fs::rename(model.path().join(INDEX), &other_index).unwrap();
    assert_eq!(count(model.path().to_path_buf()), all, "the only index, whatever its name");

    fs::remove_file(other_index).unwrap();
    refused(model.path(), &[FIRST, SECOND, "name one of them"]);
    fs::remove_file(model.path().join(SECOND)).unwrap();
    let first = count(model.path().to_path_buf());
    assert!(first < all, "the only safetensors file, whatever its name");
    fs::copy(model.path().join(FIRST), model.path().join("adapter.safetensors")).unwrap();
    fs::rename(model.path().join(FIRST), model.path().join("model.safetensors")).unwrap();
    assert_eq!(count(model.path().to_path_buf()), first, "the usual name before any other");
}

#[test]
fn nothing_there() {
    refused(&sharded().join("nowhere"), &["nowhere", "no such file or directory"]);
    let empty = TempDir::new().unwrap();
    refused(empty.path(), &["no safetensors file"]);
}

#[test]
fn other_formats_are_named_with_the_way_out() {
    let check = |names: &[&str], words: &[&str]| {
        let directory = TempDir::new().unwrap();
        for name in names {
            fs::write(directory.path().join(name), "").unwrap();
        }
        refused(directory.path(), words);
    };
    check(&["pytorch_model.bin", "training_args.bin"], &["(found pytorch_model.bin:", "safe_serialization=True"]);
    check(&["m.Q4_K_M.gguf"], &["m.Q4_K_M.gguf", "GGUF is not read", "gguf_file"]);
}

#[test]
fn unfinished_files_are_no_checkpoint() {
    let directory = TempDir::new().unwrap();
    fs::copy(sharded().join(FIRST), directory.path().join("model.safetensors.partial")).unwrap();
    refused(directory.path(), &["no safetensors file"]);
}

#[test]
fn a_damaged_file_is_named() {
    let model = copy();
    let path = model.path().join(SECOND);
    let length = fs::metadata(&path).unwrap().len();
    fs::File::options().write(true).open(&path).unwrap().set_len(length - 100).unwrap();
    refused(model.path(), &[SECOND, "truncated: 100 bytes are missing"]);
    fs::write(&path, "").unwrap();
    refused(model.path(), &[SECOND, "has 0 bytes"]);
}

#[test]
fn missing_shard() {
    let model = copy();
    fs::remove_file(model.path().join(SECOND)).unwrap();
    refused(model.path(), &[INDEX, SECOND, "is missing"]);
}

#[test]
fn tensor_in_the_index_but_not_in_its_shard() {
    let model = copy();
    edit_index(model.path(), r#""weight_map": {"#, &format!(r#""weight_map": {{ "ghost.weight": "{FIRST}","#));
    let error = refused(model.path(), &["ghost.weight", FIRST, "does not hold"]);
    assert!(matches!(error, CheckpointError::TensorNotInShard { .. }));
}

#[test]
fn tensor_in_a_shard_but_not_in_the_index() {
    let model = copy();
    edit_index(model.path(), "lm_head.weight", "lm_head.bias");
    let error = refused(model.path(), &["lm_head.weight", FIRST, "does not mention"]);
    assert!(matches!(error, CheckpointError::TensorNotInIndex { mapped_to: None, .. }));
}

#[test]
fn tensor_in_two_shards() {
    let model = copy();
    fs::copy(model.path().join(FIRST), model.path().join(SECOND)).unwrap();
    refused(model.path(), &["lm_head.weight", SECOND, FIRST, "maps to"]);
}

#[test]
fn shards_outside_the_directory() {
    for shard in ["../model.safetensors", "/etc/passwd", "", "a/../../b"] {
        let model = copy();
        edit_index(model.path(), FIRST, shard);
        refused(model.path(), &[INDEX, &format!("`{shard}`"), "not a file below"]);
    }
}

#[test]
fn an_index_that_is_none() {
    for text in ["", "{}", "[]", r#"{"weight_map": []}"#, r#"{"weight_map": {"a": 3}}"#] {
        let model = copy();
        fs::write(model.path().join(INDEX), text).unwrap();
        refused(model.path(), &[INDEX, "not a safetensors index"]);
    }
}

#[test]
fn tensors_in_memory_look_like_those_of_files() {
    let values: [f32; 6] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
    let info = TensorInfo::in_memory("w", Dtype::F32, vec![2, 3]);
    assert_eq!((info.n_bytes(), info.n_elements()), (24, 6));
    let view = TensorView::in_memory(&info, &bytes);
    assert_eq!((view.name(), view.dtype(), view.shape()), ("w", Dtype::F32, &[2, 3][..]));
    assert_eq!(view.data(), bytes);
    assert!(view.file().is_none());
    // Of a scalar, of nothing, and of more than memory has.
    let bytes_of = |shape: &[usize]| TensorInfo::in_memory("w", Dtype::Bf16, shape.into()).n_bytes();
    assert_eq!((bytes_of(&[]), bytes_of(&[3, 0]), bytes_of(&[usize::MAX, 2])), (2, 0, usize::MAX));
}

#[test]
#[should_panic = "tensor w of shape [2, 3] in memory"]
fn a_tensor_in_memory_has_all_of_its_bytes() {
    let info = TensorInfo::in_memory("w", Dtype::F32, vec![2, 3]);
    let _ = TensorView::in_memory(&info, &[0; 23]);
}
