//! Aligns a model with a reference by weight matching and writes it: `align REFERENCE MODEL OUT_DIR`.

use glue_align::{AlignOptions, GroupKind, Method, WriteOptions, align, write_aligned};
use glue_progress::NoProgress;
use glue_tensor::ModelDir;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, model, out_dir] = arguments.as_slice() else {
        return Err("usage: align REFERENCE MODEL OUT_DIR".into());
    };
    let (reference, model) = (ModelDir::open(reference)?, ModelDir::open(model)?);
    let alignment = align(&reference, &model, Method::Weights, &AlignOptions::default(), &NoProgress)?;
    let (moved, all) = alignment.moved(GroupKind::Neurons);
    println!("{moved} of {all} neurons moved");
    println!("cosine of the weights: {:.4} before, {:.4} after", alignment.cosine_before, alignment.cosine_after);
    write_aligned(&model, &alignment, out_dir, &WriteOptions::default(), &NoProgress)?;
    Ok(())
}
