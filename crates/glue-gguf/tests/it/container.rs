//! Files that are read strictly: every damage is an error with words, and none is a panic.

use crate::{data, words};
use glue_gguf::container::{GgufFile, Value};
use std::fs;

#[test]
fn a_file_of_the_reference_writer_is_read() {
    let file = GgufFile::open(data("quantised.gguf")).unwrap();
    let get = |key: &str| file.metadata().get(key).cloned().unwrap();
    assert_eq!(get("general.architecture").as_str(), Some("llama"));
    assert_eq!(get("test.number").as_u64(), Some(7));
    assert_eq!(get("test.float").as_f64(), Some(1e-6));
    assert_eq!(get("test.flag").as_bool(), Some(true));
    let list = ["a", "bé", ""].map(|text| Value::String(text.to_string()));
    assert_eq!(get("test.list").as_array(), Some(list.as_slice()));
    assert_eq!(file.tensor("encode.values").unwrap().shape, [8, 64]);
    assert!(file.check_unchanged().is_ok());
}

#[test]
fn values_are_read_in_whole_blocks_only() {
    let file = GgufFile::open(data("quantised.gguf")).unwrap();
    let tensor = file.tensor("Q4_0.blocks").unwrap();
    let (mut all, mut part) = (Vec::new(), Vec::new());
    file.read(tensor, 0, 512, &mut all).unwrap();
    file.read(tensor, 64, 96, &mut part).unwrap();
    assert_eq!(part, all[64..160]);
    for (first, n) in [(1, 32), (0, 33), (512, 32), (usize::MAX, 32)] {
        assert!(words(file.read(tensor, first, n, &mut part)).contains("Q4_0.blocks"));
    }
}

/// Writes a header of `tensors` tensors and `keys` keys, followed by `rest`, and opens it.
fn open(tensors: u64, keys: u64, rest: &[u8]) -> Result<GgufFile, glue_gguf::GgufError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes.extend(rest);
    fs::write(&path, bytes).unwrap();
    GgufFile::open(path)
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

fn tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    let sizes: Vec<u8> = shape.iter().flat_map(|n| n.to_le_bytes()).collect();
    [
        text(name),
        (shape.len() as u32).to_le_bytes().to_vec(),
        sizes,
        kind.to_le_bytes().to_vec(),
        offset.to_le_bytes().to_vec(),
    ]
    .concat()
}

#[test]
fn crafted_headers_are_refused_with_what_is_wrong() {
    let key = |name: &str, kind: u32, value: &[u8]| [text(name), kind.to_le_bytes().to_vec(), value.to_vec()].concat();
    let flag = key("a", 7, &[2]);
    let array = |kind: u32, n: u64| key("a", 9, &[&kind.to_le_bytes()[..], &n.to_le_bytes()].concat());
    let twice = [key("a", 7, &[1]), key("a", 7, &[1])].concat();
    let two = |a: Vec<u8>, b: Vec<u8>| [a, b, vec![0; 4096]].concat();
    let overlapping = two(tensor("x", &[32], 0, 0), tensor("y", &[32], 0, 64));
    let same = two(tensor("x", &[32], 0, 0), tensor("x", &[32], 0, 128));
    for (tensors, keys, rest, expected) in [
        (u64::MAX, 0, vec![], "tensors"),
        (0, u64::MAX, vec![], "keys"),
        (0, 1, vec![], "ends within"),
        (0, 1, [u64::MAX.to_le_bytes().to_vec(), vec![0; 64]].concat(), "at most 1024"),
        (0, 1, [4u64.to_le_bytes().to_vec(), vec![0xff; 64]].concat(), "not UTF-8"),
        (0, 1, key("a", 13, &[]), "type 13"),
        (0, 1, flag, "with the byte 2"),
        (0, 1, array(9, 1), "array of arrays"),
        (0, 1, array(0, u64::MAX), "more than there is room for"),
        (0, 1, array(8, 1 << 20), "more than there is room for"),
        (0, 2, twice, "comes twice"),
        (0, 1, key("general.alignment", 4, &3u32.to_le_bytes()), "power of two"),
        (1, 0, tensor("x", &[1; 5], 0, 0), "5 dimensions"),
        (1, 0, tensor("x", &[], 0, 0), "0 dimensions"),
        (1, 0, tensor("x", &[0], 0, 0), "a dimension of 0"),
        (1, 0, tensor("x", &[u64::MAX, u64::MAX], 0, 0), "too many values"),
        (1, 0, tensor("x", &[32], 4, 0), "type 4; known are F32"),
        (1, 0, tensor("x", &[33], 8, 0), "no whole blocks of 32 of Q8_0"),
        (1, 0, tensor("x", &[32], 0, 3), "not a multiple of 32"),
        (1, 0, tensor("x", &[32], 0, u64::MAX - 31), "truncated"),
        (1, 0, tensor("x", &[32], 0, 0), "truncated"),
        (2, 0, overlapping, "not a multiple"),
        (2, 0, two(tensor("x", &[32], 0, 0), tensor("y", &[32], 0, 96)), "within `x`"),
        (2, 0, same, "comes twice"),
    ] {
        let error = words(open(tensors, keys, &rest));
        let expected = if expected == "not a multiple" { "within `x`" } else { expected };
        assert!(error.contains(expected) && error.contains("model.gguf"), "expected {expected:?}, found {error}");
    }
}

#[test]
fn other_files_and_machines_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x");
    for (bytes, expected) in [
        (b"GGUF\0\0\0\x03________________".as_slice(), "big-endian"),
        (b"GGUF\x01\0\0\0________________", "version 1"),
        (b"ggjt\x03\0\0\0________________", "not a GGUF file"),
        (b"GGUF", "not a GGUF file"),
        (b"", "not a GGUF file"),
    ] {
        fs::write(&path, bytes).unwrap();
        let error = words(GgufFile::open(&path));
        assert!(error.contains(expected), "{error}");
    }
    assert!(words(GgufFile::open(directory.path())).contains("directory"));
}

#[test]
fn a_file_cut_short_or_damaged_anywhere_is_an_error_or_is_read_within_its_bounds() {
    let whole = fs::read(data("quantised.gguf")).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    for length in (0..2048).step_by(7).chain([whole.len() - 1]) {
        fs::write(&path, &whole[..length]).unwrap();
        words(GgufFile::open(&path));
    }
    let mut values = Vec::new();
    for at in 0..2048 {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x81;
        fs::write(&path, &damaged).unwrap();
        if let Ok(file) = GgufFile::open(&path) {
            for tensor in file.tensors() {
                file.read(tensor, 0, tensor.n_elements(), &mut values).unwrap();
                assert_eq!(values.len(), tensor.n_elements());
            }
        }
    }
}
