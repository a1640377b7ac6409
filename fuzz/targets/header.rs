#![no_main]
//! Headers of safetensors files: any bytes are refused or give ranges that partition the data.
//!
//! The input is read twice: as a whole file, and as the beginning of a file whose length is in the last 8 bytes of the
//! input, so that headers of large files can be tried without their data.

use glue_tensor::header::{Header, encode_header, parse_header};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    check(input, input.len() as u64);
    if let Some((prefix, length)) = input.split_last_chunk::<8>() {
        check(prefix, u64::from_le_bytes(*length));
    }
});

fn check(prefix: &[u8], file_len: u64) {
    match parse_header(prefix, file_len) {
        Ok(header) => check_header(&header, file_len),
        Err(error) => assert!(!error.to_string().is_empty()),
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
    let Some(length) = end.checked_add(written.len() as u64) else { return };
    let again = parse_header(&written, length).expect("a header that was written is read");
    assert_eq!((&again.tensors, &again.metadata), (&header.tensors, &header.metadata));
}
