//! A mapped file that is truncated: an error that names it, and not a word for other faults of memory.

use glue_tensor::{Checkpoint, ContentHash};
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

/// Names the directory to work in, in the process that is to end.
const DIRECTORY: &str = "GLUE_TEST_LOST_PAGES";

/// A checkpoint with one tensor of 16 pages.
fn write(path: &Path) {
    let header = br#"{"w":{"dtype":"U8","shape":[65536],"data_offsets":[0,65536]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    bytes.resize(bytes.len() + 65536, 1);
    std::fs::write(path, bytes).unwrap();
}

/// Runs the test `child` again in a process of its own.
fn run(child: &str) -> Output {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("whole.safetensors"));
    write(&root.path().join("cut.safetensors"));
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", child, "--ignored", "--nocapture"]).env(DIRECTORY, root.path()).output().unwrap()
}

fn in_directory(name: &str) -> std::path::PathBuf {
    Path::new(&std::env::var_os(DIRECTORY).expect("set by the other process")).join(name)
}

#[test]
#[ignore = "ends its process; run by the test below"]
fn touches_a_truncated_file() {
    glue_tensor::mapped::report_lost_pages().unwrap();
    // Many maps, some of which are gone again.
    let many: Vec<Checkpoint> =
        (0..200).map(|_| Checkpoint::open(in_directory("whole.safetensors")).unwrap()).collect();
    let cut = Checkpoint::open(in_directory("cut.safetensors")).unwrap();
    drop(many);
    let _whole = Checkpoint::open(in_directory("whole.safetensors")).unwrap();
    File::options().write(true).open(in_directory("cut.safetensors")).unwrap().set_len(4096).unwrap();
    assert!(cut.check_unchanged().is_err());
    println!("{}", ContentHash::of(cut.get("w").unwrap().data()));
}

#[test]
#[ignore = "ends its process; run by the test below"]
fn touches_another_truncated_map() {
    glue_tensor::mapped::report_lost_pages().unwrap();
    let _cut = Checkpoint::open(in_directory("cut.safetensors")).unwrap();
    let file = File::options().read(true).write(true).open(in_directory("whole.safetensors")).unwrap();
    #[allow(unsafe_code)]
    // SAFETY: only read; that it is truncated is the point of the test.
    let map = unsafe { memmap2::Mmap::map(&file).unwrap() };
    file.set_len(4096).unwrap();
    println!("{}", ContentHash::of(&map));
}

#[test]
fn a_truncated_file_is_named() {
    let output = run("touches_a_truncated_file");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(err.contains("cut.safetensors: a part of the file") && err.contains("truncated"), "{err}");
    assert!(!err.contains("whole.safetensors"), "{err}");
}

#[test]
fn a_fault_elsewhere_ends_the_process_as_before() {
    let output = run("touches_another_truncated_map");
    assert!(matches!(output.status.signal(), Some(7 | 6 | 11)), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("a part of the file"), "{output:?}");
}
