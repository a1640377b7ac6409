//! Opens the device that `--device` names, and says what would merge:
//! `cargo run -p glue-cuda --example choose -- auto`.

use glue_cuda::{DeviceChoice, DeviceUse, executor};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let choice: DeviceChoice = std::env::args().nth(1).as_deref().unwrap_or("auto").parse()?;
    let chosen = executor(choice, DeviceUse::Merge)?;
    match (chosen.executor, chosen.fallback) {
        (Some(_), _) => println!("{choice}: tensors are merged on the CUDA device"),
        (None, Some(reason)) => println!("{choice}: tensors are merged on the CPU, because {reason}"),
        (None, None) => println!("{choice}: tensors are merged on the CPU"),
    }
    Ok(())
}
