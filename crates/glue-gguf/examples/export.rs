//! `cargo run --example export MODEL FILE.gguf TYPE` writes a model as a GGUF file.

use glue_gguf::{ExportOptions, export};
use glue_progress::NoProgress;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, file, file_type] = args.as_slice() else { return Err("export MODEL FILE.gguf TYPE".into()) };
    let report = export(model, file, &ExportOptions::new(file_type.parse()?), &NoProgress)?;
    println!("{} tensors, {} bytes of the architecture {}", report.n_tensors, report.n_bytes, report.architecture);
    report.notes.iter().for_each(|note| println!("note: {note}"));
    Ok(())
}
