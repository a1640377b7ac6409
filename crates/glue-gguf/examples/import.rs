//! `cargo run --example import FILE.gguf DIR` writes a GGUF file as a model directory.

use glue_gguf::{ImportOptions, import};
use glue_progress::NoProgress;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, directory] = args.as_slice() else { return Err("import FILE.gguf DIR".into()) };
    let report = import(file, directory, &ImportOptions::default(), &NoProgress)?;
    println!("{} tensors, {} bytes of the family {}", report.n_tensors, report.n_bytes, report.family);
    Ok(())
}
