//! Merges one matrix and prints how long that took, for `cargo xtask bench svd`.
//!
//! `merge_matrix FOLDER OPERATOR ROWS COLUMNS MODELS [KEY=WORD …]` reads `base.f32` and `model-0.f32` on,
//! little-endian by rows, writes `merged.f32`, and prints a JSON object with the back end of the linear algebra and
//! the seconds of the merge.

use glue_merge::{Merge, Registry};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::Instant;

fn read(path: &Path) -> Result<Vec<f32>, Box<dyn Error>> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [folder, name, rows, columns, models, settings @ ..] = words.as_slice() else {
        return Err("usage: merge_matrix FOLDER OPERATOR ROWS COLUMNS MODELS [KEY=WORD …]".into());
    };
    let (folder, shape, models) = (Path::new(folder), [rows.parse()?, columns.parse()?], models.parse()?);
    let base = read(&folder.join("base.f32"))?;
    let inputs: Vec<Vec<f32>> =
        (0..models).map(|i: usize| read(&folder.join(format!("model-{i}.f32")))).collect::<Result<_, _>>()?;
    let operator = Registry::builtin().with(glue_spectral::DEFS).operator(name, None)?;
    let mut params = operator.params(models).set("outside_layers", "matrix");
    for setting in settings {
        let (key, word) = setting.split_once('=').ok_or("a setting is KEY=WORD")?;
        params = params.set(key, word);
    }
    let params = params.check()?;
    let start = Instant::now();
    let merged = Merge::new(&operator, &params).shape(&shape).base(&base).inputs(&inputs).run()?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes: Vec<u8> = merged.iter().flat_map(|x| x.to_le_bytes()).collect();
    fs::write(folder.join("merged.f32"), bytes)?;
    println!("{{\"runtime\": \"{}\", \"seconds\": {seconds}}}", glue_linalg::BACKEND);
    Ok(())
}
