//! Every operator against another implementation: `data/golden` holds merges that mergekit made of small models.
//!
//! A case is a directory with `config.yml`, `expected.safetensors` and `expected_config.json`. Paths in the config are
//! relative to `data/golden`. `allow.json` in a case allows a number of elements to differ, and says why.

use glue_tests::checkpoint::{json_file, read};
use glue_tests::{Tensors, glue};
use std::fs;
use std::path::{Path, PathBuf};

/// Both compute in `f32` and add up in another order: a few units in the last place (6e-8) of the largest of some
/// terms, for results that are sums in which those cancel.
fn tolerance(x: f64) -> f64 {
    2e-6 + 1e-5 * x.abs()
}

#[test]
fn merges_are_those_of_the_reference() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/golden");
    let mut cases: Vec<PathBuf> = fs::read_dir(root.join("cases"))
        .expect("the golden files are part of the repository")
        .map(|entry| entry.expect("a directory entry").path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 33, "{} cases: some are gone", cases.len());
    let failed: Vec<String> = cases.iter().flat_map(|case| differences(&root, case)).collect();
    assert!(failed.is_empty(), "{} differences\n{}", failed.len(), failed.join("\n"));
}

/// The differences of a case from its expectation, one line each.
fn differences(root: &Path, case: &Path) -> Vec<String> {
    let name = case.file_name().unwrap_or_default().to_string_lossy();
    let out = tempfile::tempdir().expect("a temporary directory");
    let merged = glue(root, [Path::new("merge"), &case.join("config.yml"), out.path()]);
    if merged.status != Some(0) {
        return vec![format!("{name}: {}", merged.err)];
    }
    let allow = case.join("allow.json");
    let allowed = if allow.exists() { json_file(&allow)["elements"].as_u64() } else { None };
    let (mut found, off) = compare(&read(out.path()), &read(&case.join("expected.safetensors")));
    if off.len() as u64 > allowed.unwrap_or(0) {
        found.push(format!("{} elements are beyond the tolerance, the first {}", off.len(), off[0]));
    }
    let (config, expected) =
        (json_file(&out.path().join("config.json")), json_file(&case.join("expected_config.json")));
    if config != expected {
        found.push(format!("config.json is {config}, expected {expected}"));
    }
    found.into_iter().map(|what| format!("{name}: {what}")).collect()
}

/// Tensors that are not what they should be, and elements beyond the tolerance.
fn compare(found: &Tensors, expected: &Tensors) -> (Vec<String>, Vec<String>) {
    let names = |tensors: &Tensors| tensors.keys().cloned().collect::<Vec<_>>();
    let (mut wrong, mut off) = (Vec::new(), Vec::new());
    if names(found) != names(expected) {
        wrong.push(format!("the tensors are {:?}, expected {:?}", names(found), names(expected)));
        return (wrong, off);
    }
    for (name, tensor) in found {
        let expected = &expected[name];
        if (&tensor.shape, &tensor.dtype) != (&expected.shape, &expected.dtype) {
            wrong.push(format!("{name} is {} {:?}", tensor.dtype, tensor.shape));
            continue;
        }
        for (i, (x, y)) in tensor.values().into_iter().zip(expected.values()).enumerate() {
            // A NaN is no agreement.
            if (x - y).abs().partial_cmp(&tolerance(y)).is_none_or(|order| order.is_gt()) {
                off.push(format!("{name}[{i}], {x} instead of {y}"));
            }
        }
    }
    (wrong, off)
}
