//! Merges the task vectors of two small matrices with each operator that needs no statistics.

use glue_merge::{Merge, Operator};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let base = [0.0; 6];
    let (first, second) = ([2.0, 0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0, 1.0, 0.0]);
    for def in glue_spectral::DEFS.iter().filter(|def| def.statistic.is_none()) {
        let operator = Operator::new(def);
        // In memory, a tensor belongs to no layer.
        let params = operator.params(2).set("outside_layers", "matrix").check()?;
        let merged = Merge::new(&operator, &params).shape(&[2, 3]).base(&base).inputs([&first, &second]).run()?;
        println!("{:8} {merged:.3?}", def.name);
    }
    Ok(())
}
