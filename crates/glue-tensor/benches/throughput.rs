//! Throughput of conversion on data that stays in the first-level cache, and of reading, hashing and copying a file.
//!
//! `cargo bench -p glue-tensor --bench throughput [-- FILE.safetensors]`: GB/s of stored bytes, on one thread but for
//! hashing. The copy goes to a temporary directory beside FILE.

use glue_tensor::{Checkpoint, CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow, widen};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const ELEMENTS: usize = 2048;
const FLOATS: [Dtype; 6] = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F8E4M3, Dtype::F8E5M2];

fn main() {
    let values: Vec<f32> = (0..ELEMENTS).map(|i| (i as f32 - 2000.0) * 1e-3).collect();
    println!("{:8} {:>12} {:>12} {:>12}", "dtype", "widen", "unaligned", "narrow");
    for dtype in FLOATS {
        let mut bytes = vec![0; ELEMENTS * dtype.size() + 1];
        let mut out = vec![0.0; ELEMENTS];
        let size = ELEMENTS * dtype.size();
        let narrowed = rate(size, || {
            black_box(narrow(dtype, black_box(&values), &mut bytes[..size]).unwrap());
        });
        let widened = rate(size, || {
            widen(dtype, black_box(&bytes[..size]), &mut out).unwrap();
        });
        let unaligned = rate(size, || {
            widen(dtype, black_box(&bytes[1..]), &mut out).unwrap();
        });
        println!("{:8} {widened:9.1} GB/s {unaligned:7.1} GB/s {narrowed:7.1} GB/s", dtype.safetensors_name());
    }
    if let Some(path) = std::env::args().skip(1).find(|arg| arg.ends_with(".safetensors")) {
        for pass in ["first pass", "again, same map"] {
            read_mapped(&path, pass);
        }
        hash_and_copy(&path);
    }
}

/// Stored bytes per nanosecond, best of 20.
fn rate(bytes: usize, mut work: impl FnMut()) -> f64 {
    let rounds = 2000;
    let timed = (0..20).map(|_| {
        let start = Instant::now();
        (0..rounds).for_each(|_| work());
        start.elapsed().as_nanos()
    });
    (bytes * rounds) as f64 / timed.min().unwrap_or(1) as f64
}

fn read_mapped(path: &str, label: &str) {
    let checkpoint = Checkpoint::open(path).expect("a safetensors file");
    let start = Instant::now();
    let mut out = vec![0.0; 16 << 10];
    for view in checkpoint.views().filter(|view| view.dtype().is_float()) {
        for bytes in view.data().chunks(out.len() * view.dtype().size()) {
            let out = &mut out[..bytes.len() / view.dtype().size()];
            black_box(widen(view.dtype(), bytes, out).unwrap());
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{label}: {:.2} GB/s", checkpoint.total_bytes() as f64 / seconds / 1e9);
}

fn hash_and_copy(path: &str) {
    let checkpoint = Checkpoint::open(path).expect("a safetensors file");
    let gb_per_s = |start: Instant| checkpoint.total_bytes() as f64 / start.elapsed().as_secs_f64() / 1e9;

    let start = Instant::now();
    checkpoint.files().iter().for_each(|file| _ = black_box(file.content_hash()));
    println!("hash: {:.2} GB/s", gb_per_s(start));

    let beside = Path::new(path).parent().expect("a file has a parent");
    let out = tempfile::tempdir_in(beside).unwrap();
    let specs = checkpoint.tensors().iter().map(|info| TensorSpec {
        name: info.name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
    });
    let layout = Layout::new(specs.collect(), u64::MAX, "model").unwrap();
    let staging = Staging::create(out.path()).unwrap();
    let start = Instant::now();
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
    for (tensor, view) in checkpoint.views().enumerate() {
        for (block, bytes) in view.data().chunks(32 << 10).enumerate() {
            writer.write_at(tensor, (block * (32 << 10)) as u64, bytes).unwrap();
        }
    }
    println!("write: {:.2} GB/s", gb_per_s(start));
    writer.finish().unwrap();
    staging.commit().unwrap();
    println!("write and make durable: {:.2} GB/s", gb_per_s(start));
}
