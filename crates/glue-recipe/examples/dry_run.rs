//! Shows what a merge config would make, tensor by tensor: `cargo run -p glue-recipe --example dry_run -- CONFIG`.

use glue_merge::Registry;
use glue_recipe::{Action, PlanOptions, Recipe, check_stages, estimate, plan};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a merge config")?;
    let text = std::fs::read_to_string(&path)?;
    let stages = check_stages(Recipe::parse(&text, &path, &Registry::builtin())?)?;
    let [stage] = &stages[..] else { return Err("several stages: their inputs are not there yet".into()) };
    let plan = plan(&stage.recipe, &PlanOptions::default())?;
    for tensor in &plan.tensors {
        let how = match &tensor.action {
            Action::Merge { inputs, .. } => format!("merged from {} models", inputs.len()),
            Action::Copy(from) => format!("copied from {}", plan.models[from.model].name),
        };
        println!("{:50} {:8} {:?} {how}", tensor.name, tensor.dtype, tensor.shape);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let estimate = estimate(&plan, threads);
    println!(
        "reads {} bytes, writes {} bytes, needs {} bytes of memory on {threads} threads",
        estimate.read_bytes, estimate.write_bytes, estimate.peak_memory_bytes
    );
    Ok(())
}
