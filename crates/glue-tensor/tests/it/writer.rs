//! Layouts, and directories that appear complete or not at all.

use glue_progress::ErrorChain;
use glue_tensor::writer::WriteError;
use glue_tensor::{Checkpoint, CheckpointWriter, Dtype, Layout, OutputFile, Staging, TensorSpec, write_atomic};
use proptest::prelude::*;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

fn spec(name: &str, dtype: Dtype, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_string(), dtype, shape: shape.to_vec() }
}

/// Tensors `0`, `1`, … of as many bytes as given.
fn layout(sizes: &[usize], limit: u64) -> Layout {
    let specs = sizes.iter().enumerate().map(|(i, &size)| spec(&i.to_string(), Dtype::U8, &[size])).collect();
    Layout::new(specs, limit, "model").unwrap()
}

fn listing(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The bytes of tensor `i`, different everywhere.
fn content(i: usize, n: usize) -> Vec<u8> {
    (0..n).map(|j| (i * 31 + j * 7 + j / 251) as u8).collect()
}

fn n_bytes(layout: &Layout, i: usize) -> usize {
    let range = &layout.placements()[i].range;
    (range.end - range.start) as usize
}

/// Writes `layout` into `out`, every tensor in pieces of `piece` bytes, tensors and pieces on several threads.
fn write(out: &Path, layout: Layout, piece: usize) {
    let staging = Staging::create(out).unwrap();
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let writer = &writer;
            scope.spawn(move || {
                for i in (0..writer.layout().tensors().len()).rev() {
                    let bytes = content(i, n_bytes(writer.layout(), i));
                    for (k, piece_bytes) in bytes.chunks(piece).enumerate().filter(|(k, _)| k % 3 == thread) {
                        writer.write_at(i, (k * piece) as u64, piece_bytes).unwrap();
                    }
                }
            });
        }
    });
    writer.finish().unwrap();
    staging.write_file("config.json", b"{}").unwrap();
    staging.commit().unwrap();
}

#[test]
fn shards_fill_in_order_up_to_the_limit() {
    let check = |sizes: &[usize], limit, expected: &[(&str, &[usize])]| {
        let layout = layout(sizes, limit);
        let found: Vec<_> = layout.shards().iter().map(|s| (s.name.as_str(), s.tensors.as_slice())).collect();
        assert_eq!(found, expected, "{sizes:?} by {limit}");
    };
    check(&[], 10, &[("model.safetensors", &[])]);
    check(&[4, 6], 10, &[("model.safetensors", &[0, 1])]);
    check(&[4, 7], 10, &[("model-00001-of-00002.safetensors", &[0]), ("model-00002-of-00002.safetensors", &[1])]);
    let three =
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    check(&[1, 99, 1, 0], 10, &[(three[0], &[0]), (three[1], &[1]), (three[2], &[2, 3])]);
    check(&[50], 10, &[("model.safetensors", &[0])]);
}

#[test]
fn wider_types_come_first_in_a_file() {
    let specs = vec![spec("a", Dtype::Bf16, &[3]), spec("b", Dtype::F32, &[1]), spec("c", Dtype::Bf16, &[1])];
    let layout = Layout::new(specs, 100, "model").unwrap();
    let ranges: Vec<_> = layout.placements().iter().map(|place| place.range.clone()).collect();
    assert_eq!(ranges, [4..10, 0..4, 10..12]);
}

#[test]
fn layouts_that_are_refused() {
    let check = |specs: Vec<TensorSpec>, base: &str, expected: &str| {
        let error = Layout::new(specs, 10, base).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(vec![spec("a", Dtype::U8, &[1]), spec("a", Dtype::U8, &[2])], "model", "tensor `a` appears twice");
    check(vec![spec("a", Dtype::F32, &[usize::MAX])], "model", "overflows 64 bits at tensor `a`");
    check(vec![spec("a", Dtype::U8, &[usize::MAX]), spec("b", Dtype::U8, &[1])], "model", "at tensor `b`");
    check(vec![spec("__metadata__", Dtype::U8, &[1])], "model", "`__metadata__`");
    check(vec![], "", "``");
    check(vec![], "../model", "`../model`");
}

#[test]
fn sharded_output_matches_its_index() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("deep/er/out");
    write(&out, layout(&[40, 30, 0, 50, 5], 60), 7);
    let shards =
        ["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"];
    let mut expected = vec!["config.json", "model.safetensors.index.json"];
    expected.splice(1..1, shards);
    assert_eq!(listing(&out), expected);
    assert_eq!(listing(&root.path().join("deep/er")), ["out"]);
    let index: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(index["metadata"], serde_json::json!({ "total_parameters": 125, "total_size": 125 }));
    assert_eq!(index["weight_map"]["3"], shards[2]);
    let checkpoint = Checkpoint::open(&out).unwrap();
    for (i, view) in checkpoint.views().enumerate() {
        assert_eq!(view.data(), content(i, view.data().len()));
    }
    assert_eq!(checkpoint.files()[0].metadata()["format"], "pt");
}

#[test]
fn nothing_shows_before_commit_and_nothing_opens_before_finish() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let staging = Staging::create(&out).unwrap();
    let writer = CheckpointWriter::create(&staging, layout(&[3, 9], 5), &BTreeMap::new()).unwrap();
    assert_eq!(listing(root.path()), [".out.partial"]);
    assert!(listing(staging.path()).iter().all(|name| name == ".lock" || name.ends_with(".partial")));
    assert!(Checkpoint::open(staging.path()).is_err());
    writer.write_at(0, 0, &[1; 3]).unwrap();
    writer.write_at(1, 0, &[2; 9]).unwrap();
    writer.finish().unwrap();
    assert!(!out.exists());
    staging.commit().unwrap();
    assert_eq!(listing(root.path()), ["out"]);
    assert_eq!(Checkpoint::open(&out).unwrap().tensors().len(), 2);
}

#[test]
fn space_is_reserved_beforehand() {
    let root = TempDir::new().unwrap();
    let staging = Staging::create(root.path().join("out")).unwrap();
    let writer = CheckpointWriter::create(&staging, layout(&[1 << 20], u64::MAX), &BTreeMap::new()).unwrap();
    let length = fs::metadata(staging.path().join("model.safetensors.partial")).unwrap().len();
    assert!(length > 1 << 20);
    drop(writer);
}

#[test]
fn a_disk_too_small_is_known_at_once() {
    let root = TempDir::new().unwrap();
    let staging = Staging::create(root.path().join("out")).unwrap();
    let needed = 1usize << 60;
    let error = CheckpointWriter::create(&staging, layout(&[needed], u64::MAX), &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, WriteError::NoSpace { needed: n, free, .. } if n > needed as u64 && free > 0), "{error}");
    assert!(error.chain().contains("bytes are needed"), "{error}");
}

#[test]
fn writes_outside_a_tensor_are_refused() {
    let root = TempDir::new().unwrap();
    let staging = Staging::create(root.path().join("out")).unwrap();
    let writer = CheckpointWriter::create(&staging, layout(&[8, 8], 99), &BTreeMap::new()).unwrap();
    for (offset, length) in [(0, 9), (8, 1), (9, 0), (u64::MAX, 2)] {
        let error = writer.write_at(0, offset, &vec![0; length]).unwrap_err();
        assert!(matches!(error, WriteError::OutOfRange { size: 8, .. }), "{error}");
    }
    writer.write_at(0, 8, &[]).unwrap();
}

#[test]
fn a_tensor_with_too_few_or_too_many_bytes_is_named() {
    let check = |lengths: &[usize], found: u64| {
        let root = TempDir::new().unwrap();
        let staging = Staging::create(root.path().join("out")).unwrap();
        let writer = CheckpointWriter::create(&staging, layout(&[8], 99), &BTreeMap::new()).unwrap();
        for &length in lengths {
            writer.write_at(0, 0, &vec![0; length]).unwrap();
        }
        let error = writer.finish().unwrap_err();
        assert!(
            matches!(&error, WriteError::WrongByteCount { tensor, expected: 8, found: f } if tensor == "0" && *f == found),
            "{error}"
        );
        assert!(Checkpoint::open(staging.path()).is_err());
    };
    check(&[], 0);
    check(&[7], 7);
    check(&[8, 1], 9);
}

#[test]
fn an_output_that_is_taken_is_refused_and_untouched() {
    let root = TempDir::new().unwrap();
    let full = root.path().join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("precious"), "x").unwrap();
    let file = root.path().join("file");
    fs::write(&file, "x").unwrap();
    let dangling = root.path().join("dangling");
    std::os::unix::fs::symlink(root.path().join("nowhere"), &dangling).unwrap();
    assert!(matches!(Staging::create(&full), Err(WriteError::NotEmpty { .. })));
    assert!(matches!(Staging::create(&file), Err(WriteError::NotADirectory { .. })));
    assert!(matches!(Staging::create(&dangling), Err(WriteError::NotADirectory { .. })));
    assert!(matches!(Staging::create("/"), Err(WriteError::NotEmpty { .. })));
    assert!(Staging::create(file.join("below")).is_err());
    assert_eq!(listing(root.path()), ["dangling", "file", "full"]);
    assert_eq!(listing(&full), ["precious"]);
}

#[test]
fn an_empty_directory_or_a_link_to_one_is_filled() {
    let root = TempDir::new().unwrap();
    let (empty, link) = (root.path().join("empty"), root.path().join("link"));
    fs::create_dir(&empty).unwrap();
    std::os::unix::fs::symlink(&empty, &link).unwrap();
    write(&link, layout(&[3], 9), 2);
    assert_eq!(listing(&empty), ["config.json", "model.safetensors"]);
    assert!(link.is_symlink());
}

#[test]
fn an_output_filled_meanwhile_is_not_overwritten() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let staging = Staging::create(&out).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(out.join("precious"), "x").unwrap();
    assert!(matches!(staging.commit(), Err(WriteError::NotEmpty { .. })));
    assert_eq!(listing(root.path()), ["out"]);
    assert_eq!(listing(&out), ["precious"]);

    let file = root.path().join("file");
    let staging = Staging::create(&file).unwrap();
    fs::write(&file, "x").unwrap();
    assert!(matches!(staging.commit(), Err(WriteError::NotADirectory { .. })));
    assert_eq!(listing(root.path()), ["file", "out"]);
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_gone() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let first = Staging::create(&out).unwrap();
    first.write_file("keep", b"x").unwrap();
    let error = Staging::create(&out).unwrap_err();
    assert!(matches!(error, WriteError::Busy { .. }), "{error}");
    assert!(error.chain().contains("another process is writing"), "{error}");
    assert_eq!(listing(first.path()), [".lock", "keep"]);
    drop(first);
    assert!(listing(root.path()).is_empty(), "dropping cleans up");
    Staging::create(&out).unwrap().commit().unwrap();
}

/// A staging directory as a killed process leaves it.
fn leave(path: &Path) {
    fs::create_dir_all(path).unwrap();
    let inode = fs::metadata(path).unwrap().ino();
    fs::write(path.join(".lock"), format!("glue: staging directory, inode {inode}\n")).unwrap();
}

#[test]
fn what_a_killed_process_left_is_cleared_away() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let stale = root.path().join(".out.partial");
    let precious = root.path().join("precious");
    fs::create_dir_all(precious.join("inner")).unwrap();
    fs::create_dir_all(stale.join("sub/dir")).unwrap();
    leave(&stale);
    fs::write(stale.join("sub/.lock"), "").unwrap();
    fs::write(stale.join("model.safetensors.partial"), "half").unwrap();
    symlink("../precious", stale.join("link")).unwrap();
    symlink("../../precious", stale.join("sub/link")).unwrap();
    write(&out, layout(&[3], 9), 2);
    assert_eq!(listing(&out), ["config.json", "model.safetensors"]);
    assert_eq!(listing(root.path()), ["out", "precious"]);
    assert_eq!(listing(&precious), ["inner"]);
}

/// Deeper than a path may be long, than a stack, and than a process may have descriptors.
#[test]
fn a_tree_of_any_depth_is_cleared_away() {
    let root = TempDir::new().unwrap();
    let stale = root.path().join(".out.partial");
    leave(&stale);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
    let mut directory = rustix::fs::open(&stale, flags, Mode::empty()).unwrap();
    for _ in 0..5000 {
        rustix::fs::mkdirat(&directory, "d", Mode::RWXU).unwrap();
        drop(rustix::fs::openat(&directory, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap());
        directory = rustix::fs::openat(&directory, "d", flags, Mode::empty()).unwrap();
    }
    Staging::create(root.path().join("out")).unwrap().commit().unwrap();
    assert_eq!(listing(root.path()), ["out"]);
}

#[test]
fn what_a_process_left_that_was_killed_at_its_start_is_taken_over() {
    let root = TempDir::new().unwrap();
    let stale = root.path().join(".out.partial");
    for content in [None, Some(""), Some("glue: stag")] {
        fs::create_dir(&stale).unwrap();
        if let Some(content) = content {
            fs::write(stale.join(".lock"), content).unwrap();
        }
        let staging = Staging::create(root.path().join("out")).unwrap();
        assert_eq!(listing(staging.path()), [".lock"]);
        drop(staging);
        assert!(listing(root.path()).is_empty());
    }
}

/// What is under the name of a staging directory and not provably one is refused and stays as it is.
#[test]
fn what_is_not_ours_is_refused_and_untouched() {
    let root = TempDir::new().unwrap();
    let stale = root.path().join(".out.partial");
    let precious = root.path().join("precious");
    let check = |expected: &str| {
        let error = Staging::create(root.path().join("out")).unwrap_err();
        assert!(matches!(error, WriteError::Foreign { .. }), "{error}");
        let words = [".out.partial", expected, "remove or rename it"];
        assert!(words.iter().all(|words| error.chain().contains(words)), "{error}");
        assert!(!root.path().join("out").exists());
    };

    leave(&precious);
    fs::write(precious.join("photo"), "x").unwrap();
    symlink("precious", &stale).unwrap();
    check("a symbolic link");
    assert_eq!(listing(&precious), [".lock", "photo"]);
    fs::remove_file(&stale).unwrap();
    symlink("nowhere", &stale).unwrap();
    check("a symbolic link");
    fs::remove_file(&stale).unwrap();
    fs::write(&stale, "x").unwrap();
    check("a regular file");
    fs::remove_file(&stale).unwrap();

    // The marker of another directory, as a clone or a copy has it; no marker; half of one.
    let theirs = fs::read(precious.join(".lock")).unwrap();
    let other = |content: &str| Some(content.as_bytes().to_vec());
    for lock in [Some(theirs), other(""), other("glue: stag"), other("locked"), None] {
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join("photo"), "x").unwrap();
        if let Some(lock) = &lock {
            fs::write(stale.join(".lock"), lock).unwrap();
        }
        check("a directory of something else");
        assert_eq!(fs::read(stale.join("photo")).unwrap(), b"x");
        assert_eq!(fs::read(stale.join(".lock")).ok(), lock);
        fs::remove_dir_all(&stale).unwrap();
    }

    // Something else under the name of the lock file.
    fs::create_dir(&stale).unwrap();
    let lock = stale.join(".lock");
    symlink("../precious/.lock", &lock).unwrap();
    check("whose `.lock` is no lock file");
    fs::remove_file(&lock).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &lock, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    check("whose `.lock` is no lock file");
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    check("whose `.lock` is no lock file");
    assert_eq!(listing(&precious), [".lock", "photo"]);

    // A directory of another user, where this one can make one.
    fs::remove_dir_all(&stale).unwrap();
    leave(&stale);
    match std::os::unix::fs::chown(&stale, Some(4711), None) {
        Ok(()) => check("a directory of another user (number 4711)"),
        Err(error) => println!("the owner was not tested: {error}"),
    }
}

#[test]
fn a_staging_directory_that_was_replaced_is_not_committed() {
    let root = TempDir::new().unwrap();
    let (out, moved) = (root.path().join("out"), root.path().join("moved"));
    let staging = Staging::create(&out).unwrap();
    staging.write_file("a", b"1").unwrap();
    fs::rename(staging.path(), &moved).unwrap();
    fs::create_dir(staging.path()).unwrap();
    fs::write(staging.path().join("precious"), "x").unwrap();
    let error = staging.commit().unwrap_err();
    assert!(matches!(error, WriteError::Moved { .. }), "{error}");
    assert_eq!(listing(root.path()), [".out.partial", "moved"]);
    assert_eq!(listing(&root.path().join(".out.partial")), ["precious"]);
}

/// Runs itself as a second process that is killed while it writes.
#[test]
fn killed_while_writing() {
    const OUT: &str = "GLUE_TENSOR_TEST_OUT";
    if let Some(out) = std::env::var_os(OUT) {
        let staging = Staging::create(out).unwrap();
        let writer = CheckpointWriter::create(&staging, layout(&[100], 999), &BTreeMap::new()).unwrap();
        writer.write_at(0, 0, &[1; 50]).unwrap();
        loop {
            std::thread::park();
        }
    }
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["writer::killed_while_writing", "--exact"])
        .env(OUT, &out)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let unfinished = root.path().join(".out.partial/model.safetensors.partial");
    while !unfinished.exists() {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended early");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(matches!(Staging::create(&out), Err(WriteError::Busy { .. })));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(unfinished.exists() && !out.exists(), "a kill leaves the hidden directory only");
    write(&out, layout(&[3], 9), 2);
    assert_eq!(listing(root.path()), ["out"]);
}

/// Of many threads that want the same output at once, exactly one gets it.
#[test]
fn one_of_many_wins() {
    let root = TempDir::new().unwrap();
    let out = root.path().join("out");
    for round in 0..20 {
        let out = &out.join(round.to_string());
        let committed = std::thread::scope(|scope| {
            let attempt =
                || Staging::create(out).is_ok_and(|s| s.write_file("f", b"x").and_then(|()| s.commit()).is_ok());
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(attempt)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).filter(|&won| won).count()
        });
        assert_eq!(committed, 1, "round {round}");
        assert_eq!(listing(out), ["f"]);
    }
    assert_eq!(listing(&out).len(), 20);
}

#[test]
fn files_beside_the_weights_have_plain_names() {
    let root = TempDir::new().unwrap();
    let staging = Staging::create(root.path().join("out")).unwrap();
    for name in ["", ".", "..", "/a", "../a", "a/..", "a/b/c", "/a/b", ".lock", "a/.lock", ".lock/a"] {
        assert!(matches!(staging.write_file(name, b""), Err(WriteError::FileName { .. })), "{name}");
    }
    staging.write_file("a", b"1").unwrap();
    staging.write_file("a", b"2").unwrap();
    assert_eq!(fs::read(staging.path().join("a")).unwrap(), b"2");
    for content in [b"1", b"2"] {
        staging.write_file("b/c", content).unwrap();
        assert_eq!(fs::read(staging.path().join("b/c")).unwrap(), content);
    }
    assert!(staging.write_file("a/b", b"").is_err(), "a file is no directory");
    std::os::unix::fs::symlink(root.path(), staging.path().join("link")).unwrap();
    assert!(matches!(staging.write_file("link/c", b""), Err(WriteError::FileName { .. })));
    assert!(!root.path().join("c").exists());
}

#[test]
fn atomic_files_replace_and_leave_nothing() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("new/report.json");
    write_atomic(&path, b"one").unwrap();
    write_atomic(&path, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    let taken: PathBuf = root.path().join("new");
    assert!(write_atomic(&taken, b"three").is_err(), "a directory is in the way");
    assert!(write_atomic("/", b"").is_err());
    assert_eq!(listing(root.path()), ["new"]);
    assert_eq!(listing(&taken), ["report.json"]);
}

/// In a directory of ours a link is replaced, and neither it nor what stands under a temporary name is written through.
#[test]
fn atomic_files_follow_no_link() {
    let root = TempDir::new().unwrap();
    let path = |name: &str| root.path().join(name);
    fs::write(path("precious"), "x").unwrap();
    symlink("precious", path("report.json")).unwrap();
    let temporary = format!(".report.json.{}-0.partial", std::process::id());
    symlink("precious", path(&temporary)).unwrap();
    symlink("precious", path(&format!(".report.json.{}.partial", std::process::id()))).unwrap();
    write_atomic(path("report.json"), b"new").unwrap();
    assert!(!path("report.json").is_symlink());
    assert_eq!(
        (fs::read(path("report.json")).unwrap(), fs::read(path("precious")).unwrap()),
        (b"new".into(), b"x".into())
    );
    assert!(path(&temporary).is_symlink());

    rustix::fs::mknodat(rustix::fs::CWD, path("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
    let error = write_atomic(path("pipe"), b"new").unwrap_err();
    assert!(error.chain().contains("expected a regular file or nothing, found a named pipe"), "{error}");
}

#[test]
fn threads_may_write_one_path() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("file");
    std::thread::scope(|scope| {
        for i in 0..8u8 {
            let path = &path;
            scope.spawn(move || (0..20).for_each(|_| write_atomic(path, &[i; 1000]).unwrap()));
        }
    });
    let found = fs::read(&path).unwrap();
    assert!(found.len() == 1000 && found.iter().all(|&byte| byte == found[0]));
    assert_eq!(listing(root.path()), ["file"]);
}

#[test]
fn an_output_file_appears_when_it_is_complete() {
    let root = TempDir::new().unwrap();
    let path = root.path().join("deep/er/file");
    let file = OutputFile::create(&path).unwrap();
    assert!(!path.exists());
    drop(file);
    assert!(listing(&root.path().join("deep/er")).is_empty(), "dropping cleans up");
    let failing = OutputFile::create(&path).unwrap().write_with(|out| {
        out.write_all(b"half")?;
        Err(std::io::Error::other("no more"))
    });
    assert!(failing.unwrap_err().chain().contains("deep/er/file: no more"));
    assert!(listing(&root.path().join("deep/er")).is_empty());
    OutputFile::create(&path).unwrap().write_with(|out| out.write_all(b"one")).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");

    let file = OutputFile::create(&path).unwrap();
    file.file().unwrap().write_all_at(b"two", 1).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    file.commit().unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"\0two");
    assert_eq!(listing(&root.path().join("deep/er")), ["file"]);
}

#[test]
fn output_files_that_are_refused() {
    let root = TempDir::new().unwrap();
    symlink("loop", root.path().join("loop")).unwrap();
    fs::write(root.path().join("file"), "x").unwrap();
    let check = |name: &str, expected: &str| {
        let error = OutputFile::create(root.path().join(name)).unwrap_err().chain();
        assert!(error.contains(expected), "{name}: {error}");
    };
    check("loop", "loop: Too many levels of symbolic links");
    check("new/", "new/: not a path that a directory or file can be created at");
    check("file/below", "Not a directory");
    check(".", "expected a regular file or nothing, found a directory");
    assert!(OutputFile::create("").is_err());
    assert_eq!(listing(root.path()), ["file", "loop"]);
}

fn any_spec() -> impl Strategy<Value = (Dtype, Vec<usize>)> {
    (prop::sample::select(Dtype::ALL.to_vec()), prop::collection::vec(0usize..9, 0..4))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// What is written reads back here and in the reference implementation, whatever the layout.
    #[test]
    fn round_trip(specs in prop::collection::vec(any_spec(), 0..12), limit in 1u64..2000, piece in 1usize..300) {
        let root = TempDir::new().unwrap();
        let out = root.path().join("out");
        let tensors: Vec<_> = specs.iter().enumerate().map(|(i, (d, s))| spec(&format!("t.{i:02}"), *d, s)).collect();
        write(&out, Layout::new(tensors.clone(), limit, "model").unwrap(), piece);
        let checkpoint = Checkpoint::open(&out).unwrap();
        prop_assert_eq!(checkpoint.tensors().len(), tensors.len());
        for (i, (spec, view)) in tensors.iter().zip(checkpoint.views()).enumerate() {
            prop_assert_eq!((view.name(), view.dtype(), view.shape()), (spec.name.as_str(), spec.dtype, &*spec.shape));
            prop_assert_eq!(view.data(), content(i, view.data().len()));
            prop_assert_eq!(view.info().range.start % spec.dtype.size(), 0, "aligned to its element");
        }
        for file in checkpoint.files() {
            let bytes = fs::read(file.path()).unwrap();
            let reference = safetensors::SafeTensors::deserialize(&bytes).unwrap();
            for (name, tensor) in reference.tensors() {
                let view = checkpoint.get(&name).unwrap();
                prop_assert_eq!((view.shape(), view.data()), (tensor.shape(), tensor.data()));
                prop_assert_eq!(view.dtype().to_string(), tensor.dtype().to_string());
            }
        }
    }

    /// What the reference implementation writes reads back here.
    #[test]
    fn the_reference_is_understood(specs in prop::collection::vec(any_spec(), 0..12)) {
        let data: Vec<Vec<u8>> = specs.iter().enumerate()
            .map(|(i, (dtype, shape))| content(i, shape.iter().product::<usize>() * dtype.size())).collect();
        let views = specs.iter().zip(&data).enumerate().map(|(i, ((dtype, shape), data))| {
            let dtype = serde_json::from_value(dtype.safetensors_name().into()).unwrap();
            (format!("t.{i:02}"), safetensors::tensor::TensorView::new(dtype, shape.clone(), data).unwrap())
        });
        let root = TempDir::new().unwrap();
        let path = root.path().join("any.safetensors");
        fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(checkpoint.tensors().len(), specs.len());
        for ((view, data), (dtype, shape)) in checkpoint.views().zip(&data).zip(&specs) {
            prop_assert_eq!((view.dtype(), view.shape(), view.data()), (*dtype, &**shape, &**data));
        }
    }
}
