//! Extracts a LoRA adapter of rank 16: `extract BASE FINE OUT_DIR`.

use glue_lora::{ExtractOptions, RankRule, extract, plan};
use glue_progress::NoProgress;
use glue_tensor::ModelDir;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [base, fine, out_dir] = arguments.as_slice() else {
        return Err("usage: extract BASE FINE OUT_DIR".into());
    };
    let (base, fine) = (ModelDir::open(base)?, ModelDir::open(fine)?);
    let options = ExtractOptions { rank: RankRule::Fixed(16), ..ExtractOptions::default() };
    let report = extract(&plan(&base, &fine, &options)?, out_dir, &NoProgress)?;
    for module in &report.modules {
        println!("{}: rank {}, energy {:.3}", module.module, module.rank, module.energy);
    }
    println!("{} parameters, relative error {:.3}", report.parameters, report.relative_error);
    Ok(())
}
