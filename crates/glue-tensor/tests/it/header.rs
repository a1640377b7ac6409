//! One test per way a header can lie, and agreement with the reference implementation.

use glue_tensor::Dtype;
use glue_tensor::header::{Header, HeaderError, MAX_HEADER_BYTES, encode_header, parse_header};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn file(json: &str, data: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn parse(bytes: &[u8]) -> Result<Header, HeaderError> {
    parse_header(bytes, bytes.len() as u64)
}

/// Checks that a file of this header and `data` bytes is refused with a message that holds all of `words`, and that
/// the reference implementation refuses it too.
fn refused(json: &str, data: usize, words: &[&str]) {
    let bytes = file(json, data);
    let message = parse(&bytes).expect_err(json).to_string();
    for word in words {
        assert!(message.contains(word), "{json}\nsays: {message}\nlacks: {word}");
    }
    assert!(safetensors::SafeTensors::deserialize(&bytes).is_err(), "the reference accepts {json}");
}

const A: &str = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;

#[test]
fn a_good_header() {
    let json = format!(
        r#"{{"__metadata__":{{"format":"pt"}},"b":{{"dtype":"BF16","shape":[],"data_offsets":[8,10]}},{A}}}  "#
    );
    let header = parse(&file(&json, 10)).unwrap();
    let names: Vec<_> =
        header.tensors.iter().map(|t| (t.name.as_str(), t.dtype, t.shape.clone(), t.range.clone())).collect();
    assert_eq!(names, [("a", Dtype::F32, vec![2], 0..8), ("b", Dtype::Bf16, vec![], 8..10)]);
    assert_eq!(header.metadata["format"], "pt");
    assert_eq!(header.data_start, 8 + json.len() as u64);
}

#[test]
fn empty_tensors_are_allowed_anywhere() {
    let json = format!(
        r#"{{{A},"e":{{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]}},"f":{{"dtype":"I8","shape":[0],"data_offsets":[8,8]}}}}"#
    );
    assert_eq!(parse(&file(&json, 8)).unwrap().tensors.len(), 3);
    assert_eq!(parse(&file("{}", 0)).unwrap().tensors.len(), 0);
}

#[test]
fn too_short_for_a_length() {
    for n in 0..8 {
        assert_eq!(parse(&vec![0; n]), Err(HeaderError::NoLength { found: n as u64 }));
    }
}

#[test]
fn header_beyond_the_file() {
    let mut bytes = file("{}", 0);
    bytes[0] = 3;
    assert_eq!(parse(&bytes), Err(HeaderError::BeyondFile { length: 3, available: 2 }));
}

#[test]
fn header_longer_than_any_real_one() {
    let mut bytes = file("{}", 0);
    bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert_eq!(parse(&bytes), Err(HeaderError::TooLong { length: u64::MAX }));
    bytes[..8].copy_from_slice(&(MAX_HEADER_BYTES + 1).to_le_bytes());
    assert_eq!(parse(&bytes), Err(HeaderError::TooLong { length: MAX_HEADER_BYTES + 1 }));
}

#[test]
fn prefix_and_length_of_the_file_may_disagree() {
    let bytes = file(&format!("{{{A}}}"), 8);
    assert!(parse_header(&bytes[..bytes.len() - 8], bytes.len() as u64).is_ok(), "the header is all that is read");
    assert!(matches!(parse_header(&bytes, 20), Err(HeaderError::BeyondFile { available: 12, .. })));
    assert!(matches!(parse_header(&bytes, 0), Err(HeaderError::BeyondFile { available: 0, .. })));
}

#[test]
fn not_utf8() {
    let mut bytes = file("{\"?\":1}", 0);
    bytes[8 + 2] = 0xff;
    assert_eq!(parse(&bytes), Err(HeaderError::Utf8 { at: 2 }));
}

#[test]
fn not_json() {
    for json in ["", "{", "[]", "null", "{\"a\"}", "{}{}", "{} x"] {
        refused(json, 0, &["not valid"]);
    }
    let deep = format!("{{\"a\":{}", "[".repeat(100_000));
    refused(&deep, 0, &["not valid"]);
}

#[test]
fn leading_space() {
    let message = parse(&file(" {}", 0)).unwrap_err().to_string();
    assert!(message.contains("begin with `{`"), "{message}");
}

#[test]
fn entries_of_the_wrong_form() {
    let entry = |fields: &str| format!(r#"{{"bad.name":{{{fields}}}}}"#);
    for fields in [
        r#""shape":[],"data_offsets":[0,4]"#,
        r#""dtype":"F32","data_offsets":[0,4]"#,
        r#""dtype":"F32","shape":[]"#,
        r#""dtype":3,"shape":[],"data_offsets":[0,4]"#,
        r#""dtype":"F32","shape":[-1],"data_offsets":[0,4]"#,
        r#""dtype":"F32","shape":[1.5],"data_offsets":[0,4]"#,
        r#""dtype":"F32","shape":1,"data_offsets":[0,4]"#,
        r#""dtype":"F32","shape":[],"data_offsets":[0]"#,
        r#""dtype":"F32","shape":[],"data_offsets":[0,4,8]"#,
        r#""dtype":"F32","shape":[],"data_offsets":[-4,0]"#,
        r#""dtype":"F32","dtype":"F32","shape":[],"data_offsets":[0,4]"#,
    ] {
        refused(&entry(fields), 4, &["not valid", "bad.name"]);
    }
}

#[test]
fn a_name_twice() {
    let bytes = file(&format!("{{{A},{A}}}"), 8);
    assert_eq!(parse(&bytes), Err(HeaderError::DuplicateName { tensor: "a".to_string() }));
}

#[test]
fn unknown_type() {
    refused(r#"{"w.x":{"dtype":"F31","shape":[],"data_offsets":[0,4]}}"#, 4, &["w.x", "F31"]);
}

#[test]
fn size_overflow() {
    let json = |shape: &str| format!(r#"{{"w.x":{{"dtype":"F32","shape":{shape},"data_offsets":[0,0]}}}}"#);
    for shape in ["[9223372036854775807,9223372036854775807]", "[4611686018427387904]", "[4294967296,4294967296]"] {
        refused(&json(shape), 0, &["w.x", "overflows", "F32"]);
    }
}

#[test]
fn size_unlike_the_range() {
    let json = r#"{"w.x":{"dtype":"F32","shape":[3,2],"data_offsets":[0,20]}}"#;
    refused(json, 20, &["w.x", "F32", "[3, 2]", "24 bytes", "has 20"]);
}

#[test]
fn reversed_range() {
    refused(
        r#"{"w.x":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}"#,
        8,
        &["w.x", "ends at byte 0", "begins at 8"],
    );
}

#[test]
fn overlap() {
    let json = format!(r#"{{{A},"b":{{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}}}"#);
    refused(&json, 12, &["`a`", "`b`", "overlap", "byte 8", "at 4"]);
    let same = format!(r#"{{{A},"b":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}"#);
    refused(&same, 8, &["overlap"]);
}

#[test]
fn hole() {
    let json = format!(r#"{{{A},"b":{{"dtype":"F32","shape":[],"data_offsets":[12,16]}}}}"#);
    refused(&json, 16, &["4 bytes", "`b`", "from byte 8 to 12"]);
    refused(r#"{"b":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}"#, 8, &["`b`", "from byte 0 to 4"]);
}

#[test]
fn truncated() {
    let json = format!(r#"{{{A},"b":{{"dtype":"F32","shape":[],"data_offsets":[8,12]}}}}"#);
    refused(&json, 9, &["truncated", "3 bytes are missing", "9 of 12", "`b`"]);
    refused(&json, 7, &["truncated", "5 bytes are missing", "`a`"]);
}

#[test]
fn trailing_bytes() {
    refused(&format!("{{{A}}}"), 11, &["3 bytes follow"]);
}

#[test]
fn metadata_that_is_not_strings() {
    refused(&format!(r#"{{"__metadata__":{{"n":3}},{A}}}"#), 8, &["metadata `n`"]);
    refused(&format!(r#"{{"__metadata__":["n"],{A}}}"#), 8, &["__metadata__"]);
    let twice = format!(r#"{{"__metadata__":{{"n":"1","n":"2"}},{A}}}"#);
    let message = parse(&file(&twice, 8)).unwrap_err().to_string();
    assert!(message.contains("metadata `n` appears twice"), "{message}");
    let sections = format!(r#"{{"__metadata__":{{}},"__metadata__":{{}},{A}}}"#);
    let message = parse(&file(&sections, 8)).unwrap_err().to_string();
    assert!(message.contains("`__metadata__` appears twice"), "{message}");
}

#[test]
fn what_is_written_is_aligned_and_reads_back() {
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    for name in ["a", "ab", "abc", "\"\\\u{1}ü", "model.layers.0.w"] {
        let bytes = encode_header([(name, Dtype::F16, &[2usize, 3][..], 0..12)], &metadata);
        assert_eq!(bytes.len() % 8, 0);
        let header = parse_header(&bytes, bytes.len() as u64 + 12).unwrap();
        assert_eq!((header.tensors[0].name.as_str(), header.tensors[0].range.clone()), (name, 0..12));
        assert_eq!(header.metadata, metadata);
        assert_eq!(header.data_start, bytes.len() as u64);
    }
}

proptest! {
    /// Whatever stands in the bytes, parsing returns, and what it accepts covers the data.
    #[test]
    fn bytes_of_any_kind_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), length in 0u64..80, n in 0u64..100) {
        let mut with_length = length.to_le_bytes().to_vec();
        with_length.extend(&bytes);
        let _ = parse_header(&bytes, n);
        let _ = parse_header(&with_length, n);
    }

    /// A good file with a few bytes changed is refused or accepted just as the reference does, but for the rules that
    /// only this reader has.
    #[test]
    fn damaged_files_never_panic(at in prop::collection::vec((0usize..200, any::<u8>()), 1..4)) {
        let json = format!(r#"{{"__metadata__":{{"format":"pt"}},{A},"b":{{"dtype":"BF16","shape":[2,1],"data_offsets":[8,12]}}}}"#);
        let mut bytes = file(&json, 12);
        for (i, byte) in at {
            let n = bytes.len();
            bytes[i % n] = byte;
        }
        if let Ok(header) = parse(&bytes) {
            let reference = safetensors::SafeTensors::deserialize(&bytes);
            prop_assert!(reference.is_ok(), "accepted what the reference refuses: {:?}", reference.err());
            prop_assert_eq!(header.tensors.len(), reference.unwrap().len());
        }
    }
}
