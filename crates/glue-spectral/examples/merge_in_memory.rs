//! Merges the task vectors of two small matrices with each operator that needs no statistics.

use glue_merge::{Operator, Setting, merge_slices};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let base = [0.0; 6];
    let (first, second) = ([2.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    for def in glue_spectral::DEFS.iter().filter(|def| def.statistic.is_none()) {
        let operator = Operator::new(def);
        // In memory, a tensor belongs to no layer.
        let settings = [("outside_layers", Setting::Text("matrix".into()))];
        let params = operator.params(&settings, &[vec![], vec![]])?;
        let merged = merge_slices(&operator, &params, &[2, 3], Some(&base), &[&first, &second])?;
        println!("{:8} {merged:.3?}", def.name);
    }
    Ok(())
}
