//! Gathers input magnitudes of a model from a few sequences of token ids: `calibrate MODEL OUT_DIR`.

use glue_calibrate::{CalibrateOptions, CalibratePlan, Sequence, Statistic, calibrate};
use glue_lm::Model;
use glue_progress::NoProgress;
use glue_tensor::ModelDir;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, out_dir] = arguments.as_slice() else {
        return Err("usage: calibrate MODEL OUT_DIR".into());
    };
    let dir = ModelDir::open(path)?;
    let model = Model::open(path)?;
    let mut options = CalibrateOptions::default();
    options.statistics = [Statistic::Activation].into();
    let plan = CalibratePlan::new(&model, &options)?;
    let ids = |start: u32| (0..32).map(|i| (start + 7 * i) % model.vocab_size() as u32).collect();
    let sequences: Vec<Sequence> = (0..8).map(|start| Sequence::text(ids(start))).collect();
    let summary = calibrate(&model, &dir, &plan, &sequences, &"arithmetic series".into(), out_dir, &NoProgress)?;
    println!("{} sequences, {} tokens", summary.sequences, summary.tokens);
    Ok(())
}
