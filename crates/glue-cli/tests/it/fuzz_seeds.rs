//! Every committed seed of the fuzz targets, fed to what reads it: what the fuzzer found stays mended.
//!
//! The targets' bodies are those of `fuzz/`, which is outside the workspace. They are included here because this package
//! depends on every crate that they need.

#[path = "../../../../fuzz/src/lib.rs"]
#[allow(dead_code, missing_docs, unreachable_pub)]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz")
}

/// File names in a folder of `fuzz`, without extensions.
fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(fuzz().join(folder)).expect("a folder of fuzz");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.filter_map(|path| path.file_stem().map(|stem| stem.to_string_lossy().into_owned())).collect()
}

#[test]
fn every_target_has_a_binary_and_seeds() {
    let bodies: BTreeSet<String> = bodies::TARGETS.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(bodies.len(), bodies::TARGETS.len(), "a name comes twice");
    assert_eq!(names("targets"), bodies);
    assert_eq!(names("seeds"), bodies);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("the manifest");
    for name in &bodies {
        let binary = format!("name = \"{name}\"\npath = \"targets/{name}.rs\"\n");
        assert!(manifest.contains(&binary), "fuzz/Cargo.toml does not list the target `{name}`");
        let source = fs::read_to_string(fuzz().join(format!("targets/{name}.rs"))).expect("a target");
        assert!(source.contains(&format!("::{name}, input)")), "targets/{name}.rs runs another target");
    }
}

#[test]
fn seeds_are_read_or_refused() {
    for (name, target) in bodies::TARGETS {
        let mut seeds: Vec<PathBuf> = fs::read_dir(fuzz().join("seeds").join(name))
            .expect("seeds")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        seeds.sort();
        for seed in seeds {
            println!("{}", seed.display());
            target(&fs::read(seed).expect("a seed"));
        }
    }
}
