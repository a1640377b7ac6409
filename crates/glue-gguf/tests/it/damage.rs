//! Files with damaged headers: an error or a model, never a panic, a hang or much memory.

use crate::{data, model};
use glue_gguf::container::{GgufFile, Value};
use glue_gguf::{ExportOptions, FileType, ImportOptions, ImportPlan, export};
use glue_progress::NoProgress;
use std::fs;
use std::path::Path;

/// Numbers that headers lie with.
const EXTREMES: [u64; 12] =
    [0, 1, 2, 3, 255, 1 << 16, (1 << 31) - 1, u32::MAX as u64, 1 << 39, (1 << 40) - 1, 1 << 63, u64::MAX];

/// Random numbers, the same in each run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// A file with the length of its header, and where the values of its numeric keys are.
struct Original {
    bytes: Vec<u8>,
    header: usize,
    numbers: Vec<usize>,
}

impl Original {
    fn of(path: &Path) -> Original {
        let (bytes, file) = (fs::read(path).unwrap(), GgufFile::open(path).unwrap());
        let end = file.tensors().iter().map(|tensor| tensor.offset + tensor.n_bytes()).max().unwrap_or(0);
        let header = bytes.len() - end as usize;
        let mut numbers = Vec::new();
        for (key, value) in file.metadata().iter() {
            if matches!(value, Value::U32(_) | Value::F32(_)) {
                let at = bytes[..header].windows(key.len()).position(|window| window == key.as_bytes());
                numbers.push(at.expect("a key") + key.len() + 4);
            }
        }
        Original { bytes, header, numbers }
    }

    fn damaged(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        for _ in 0..1 + random.below(3) {
            let extreme = EXTREMES[random.below(EXTREMES.len())];
            match random.below(5) {
                0 => bytes[random.below(self.header)] ^= 1 << random.below(8),
                1 => {
                    let at = random.below(self.header - 8);
                    bytes[at..at + 8].copy_from_slice(&extreme.to_le_bytes());
                }
                2 => {
                    let at = random.below(self.header - 4);
                    bytes[at..at + 4].copy_from_slice(&(extreme as u32).to_le_bytes());
                }
                _ => {
                    let at = self.numbers[random.below(self.numbers.len())];
                    bytes[at..at + 4].copy_from_slice(&(extreme as u32).to_le_bytes());
                }
            }
        }
        if random.below(8) == 0 {
            bytes.truncate(random.below(bytes.len()));
        }
        bytes
    }
}

/// The largest size that the memory of this process has had, in bytes: also what was asked for and never touched.
fn peak() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmPeak:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kilobytes| kilobytes << 10)
}

#[test]
fn damaged_headers_are_errors_or_models() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    let models = [
        ("zoo/base-a", FileType::Q4KM),
        ("archs/llama3-scaled-tied", FileType::F32),
        ("archs/mixtral", FileType::Q8_0),
        ("archs/olmo2", FileType::F16),
        ("archs-extra/phi3-longrope-short", FileType::F32),
        ("archs-extra/deepseek-v3", FileType::Bf16),
    ];
    let mut originals = vec![Original::of(&data("deepseek-v3-older.gguf"))];
    for (name, file_type) in models {
        let file = directory.path().join("original.gguf");
        let exported = export(model(name), &file, &ExportOptions::new(file_type), &NoProgress);
        exported.unwrap_or_else(|error| panic!("{name}: {error}"));
        originals.push(Original::of(&file));
        fs::remove_file(file).unwrap();
    }
    let (before, mut random) = (peak(), Random(7));
    let (mut opened, mut imported) = (0, 0);
    for run in 0..4000 {
        let original = &originals[run % originals.len()];
        fs::write(&path, original.damaged(&mut random)).unwrap();
        opened += usize::from(GgufFile::open(&path).is_ok());
        let Ok(plan) = ImportPlan::new(&path, &ImportOptions::default()) else { continue };
        // Writing waits for the disk.
        if run % 4 != 0 {
            continue;
        }
        let out = directory.path().join("out");
        imported += usize::from(plan.write(&out, &NoProgress).is_ok());
        let _ = fs::remove_dir_all(out);
    }
    assert!(opened > 1000 && imported > 100, "{opened} opened, {imported} imported: the damage is too great");
    let grown = peak() - before;
    assert!(grown < 1 << 30, "memory grew by {grown} bytes");
}

/// Sizes that a sparse file makes plausible: the data need not be there for a header to claim it.
#[test]
fn sizes_beyond_all_models_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.gguf");
    for (key, expected) in [
        ("deepseek2.attention.head_count", "attention.head_count"),
        ("deepseek2.expert_count", "expert_count"),
        ("deepseek2.expert_shared_count", "expert_shared_count"),
        ("deepseek2.block_count", "block_count"),
    ] {
        let mut bytes = fs::read(data("deepseek-v3-older.gguf")).unwrap();
        let at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap() + key.len() + 4;
        bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        fs::write(&path, bytes).unwrap();
        let error = crate::words(ImportPlan::new(&path, &ImportOptions::default()));
        assert!(error.contains(expected) && error.contains("more than any model"), "{error}");
    }
}
