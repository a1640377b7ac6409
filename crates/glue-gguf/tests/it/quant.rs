//! Values, against the reference implementation in Python: `tests/interop/make_gguf.py` made the file.

use crate::data;
use glue_gguf::GgmlType;
use glue_gguf::container::GgufFile;

fn values(file: &GgufFile, name: &str) -> Vec<f32> {
    let tensor = file.tensor(name).unwrap();
    let mut values = Vec::new();
    file.read(tensor, 0, tensor.n_elements(), &mut values).unwrap();
    values
}

#[test]
fn every_type_is_decoded_as_the_reference_decodes_it() {
    let file = GgufFile::open(data("quantised.gguf")).unwrap();
    let blocks = file.tensors().iter().filter_map(|tensor| tensor.name.strip_suffix(".blocks"));
    let mut n_types = 0;
    for name in blocks {
        assert_eq!(file.tensor(&format!("{name}.blocks")).unwrap().kind.to_string(), name);
        let (found, expected) = (values(&file, &format!("{name}.blocks")), values(&file, &format!("{name}.values")));
        assert_eq!(found.len(), 512);
        let largest = expected.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Sums and products of three numbers in another order.
        assert!(worst <= 1e-6 * largest, "{name}: {worst} of {largest}");
        n_types += 1;
    }
    assert_eq!(n_types, 12);
}

#[test]
fn q8_0_has_the_bytes_of_the_reference() {
    let file = GgufFile::open(data("quantised.gguf")).unwrap();
    let expected: Vec<u8> = values(&file, "encode.bytes").into_iter().map(|byte| byte as u8).collect();
    let mut found = Vec::new();
    GgmlType::Q8_0.encode(&values(&file, "encode.values"), &mut found).unwrap();
    assert_eq!(found, expected);
}

/// `tests/interop/k_quants.py --make` has written the file with llama.cpp 0.4.0: values, then the bytes of each type.
#[test]
fn k_quants_have_the_bytes_of_the_reference() {
    let file = std::fs::read(data("k_quants.bin")).unwrap();
    let (values, mut expected) = file.split_at(2048 * 4);
    let values: Vec<f32> = values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    for kind in [GgmlType::Q4_K, GgmlType::Q5_K, GgmlType::Q6_K] {
        let mut found = Vec::new();
        kind.encode(&values, &mut found).unwrap();
        let reference;
        (reference, expected) = expected.split_at(kind.bytes(values.len()) as usize);
        let differs = |at: &usize| found[*at] != reference[*at];
        assert_eq!((0..reference.len()).find(differs), None, "{kind}: the first byte that differs");
        assert_eq!(found.len(), reference.len());
    }
    assert!(expected.is_empty());
}
