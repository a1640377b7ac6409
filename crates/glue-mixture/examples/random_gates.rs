//! Writes the mixture that a description asks for, with gates of random numbers: `random_gates CONFIG OUT_DIR`.

use glue_mixture::{MixConfig, MixPlan, RunOptions, run};
use glue_progress::NoProgress;
use std::error::Error;
use std::path::Path;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, config, out_dir] = arguments.as_slice() else {
        return Err("two arguments are needed: CONFIG OUT_DIR".into());
    };
    let text = std::fs::read_to_string(config)?;
    let plan = MixPlan::new(&MixConfig::parse(&text, config)?)?;
    run(&plan, &plan.random_gates(), Path::new(out_dir), &RunOptions::default(), &NoProgress)?;
    Ok(())
}
