//! Lists the tensors of a checkpoint: `cargo run -p glue-tensor --example list -- MODEL`.

use glue_tensor::{Checkpoint, widen};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).ok_or("name a model directory, a .safetensors file or an index")?;
    let checkpoint = Checkpoint::open(path)?;
    for view in checkpoint.views() {
        print!("{:50} {:8} {:?}", view.name(), view.dtype(), view.shape());
        if view.dtype().is_float() {
            let mut values = vec![0.0; view.info().n_elements()];
            let is_finite = widen(view.dtype(), view.data(), &mut values)?;
            let largest = values.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
            print!(", largest magnitude {largest}{}", if is_finite { "" } else { ", not all finite" });
        }
        println!();
    }
    println!("{} tensors, {} bytes", checkpoint.tensors().len(), checkpoint.total_bytes());
    Ok(())
}
