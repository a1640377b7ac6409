//! Merges two models, of one tensor each, by TIES.

use glue_merge::{Merge, Registry};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let ties = Registry::builtin().operator("ties", None)?;
    let params = ties.params(2).set("density", 0.5).each("weight", [0.5, 0.5]).check()?;
    let base = [0.0, 0.0, 0.0, 0.0];
    let (math, code) = ([4.0, -3.0, 1.0, 0.5], [2.0, 5.0, -1.0, 0.1]);
    let merge = Merge::new(&ties, &params).tensor("model.layers.0.mlp.up_proj.weight").seed(7);
    let merged = merge.base(&base).inputs([&math, &code]).run()?;
    assert_eq!(merged, [3.0, 5.0, 0.0, 0.0]);
    Ok(())
}
