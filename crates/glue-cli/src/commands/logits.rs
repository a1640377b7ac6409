//! `glue logits`: logits and hidden states for given tokens, to compare runtimes.

use super::{models, recipes};
use crate::app::Global;
use crate::failure::Failure;
use crate::shell::Shell;
use crate::units;
use glue_lm::{Model, PaddedBatch, PaddedOutput};
use glue_tensor::header::encode_header;
use glue_tensor::{Checkpoint, Dtype, OutputFile, TensorView};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Error, ErrorKind, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Write a model's logits for given tokens
///
/// The input is a safetensors file with a tensor input_ids [batch, length], I32 or I64. An optional tensor
/// attention_mask of the same shape marks padding with 0. The output holds `logits` [batch, length, vocabulary] in F32,
/// with zeros at padding.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  glue logits models/base --ids ids.safetensors --out logits.safetensors
  glue logits models/base --ids ids.safetensors --out states.safetensors --hidden")]
pub(crate) struct Args {
    /// Model directory
    model: PathBuf,

    /// Safetensors file with input_ids
    #[arg(long, value_name = "FILE")]
    ids: PathBuf,

    /// Safetensors file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,

    /// Also write hidden states, each [batch, length, hidden size]: hidden.0 is the embedding, hidden.N the residual
    /// stream after layer N, and the last one the state after the final norm
    #[arg(long)]
    hidden: bool,
}

#[derive(Debug, Serialize)]
struct Written {
    model: String,
    output: String,
    batch: usize,
    length: usize,
    /// Tokens that are not padding.
    tokens: usize,
    vocabulary: usize,
    hidden: usize,
}

/// Tokens per pass.
const TOKENS: usize = 4096;

/// Computes and writes.
pub(crate) fn run(args: &Args, global: &Global, shell: &mut Shell<'_>) -> Result<(), Failure> {
    let ids = Checkpoint::open(&args.ids).map_err(Failure::refused)?;
    let batch = read(&ids, &args.ids)?;
    let out = OutputFile::create(&args.out).map_err(Failure::failed)?;
    let model = models::open(&args.model)?;
    models::note_left_aside(&args.model, &model, shell);
    let states: Vec<usize> = if args.hidden { (0..model.num_layers() + 2).collect() } else { Vec::new() };
    let pool = recipes::pool(global)?;
    pool.install(|| write(&model, &batch, &states, out))?;
    let written = Written {
        model: args.model.display().to_string(),
        output: args.out.display().to_string(),
        batch: batch.sequences.len(),
        length: batch.length,
        tokens: batch.mask.iter().filter(|&&text| text).count(),
        vocabulary: model.vocab_size(),
        hidden: states.len(),
    };
    if shell.json() {
        return shell.print_json(&written);
    }
    let sequences = units::things(written.batch, "sequence", "sequences");
    let states = match written.hidden {
        0 => String::new(),
        n => format!(" and {}", units::things(n, "hidden state", "hidden states")),
    };
    shell.print(&format!(
        "logits [{}, {}, {}]{states} of {sequences} written to {}\n",
        written.batch, written.length, written.vocabulary, written.output
    ))
}

/// Token ids as in the file.
struct Batch {
    sequences: Vec<Vec<u32>>,
    mask: Vec<bool>,
    length: usize,
}

impl Batch {
    /// Some of the sequences.
    fn part(&self, sequences: std::ops::Range<usize>) -> Result<PaddedBatch, Failure> {
        let mask = &self.mask[sequences.start * self.length..sequences.end * self.length];
        let ids = self.sequences[sequences].concat();
        PaddedBatch::new(ids, self.length).and_then(|batch| batch.with_mask(mask)).map_err(Failure::refused)
    }
}

fn read(file: &Checkpoint, path: &Path) -> Result<Batch, Failure> {
    let refuse = |what: String| {
        let error = Error::new(ErrorKind::InvalidData, format!("{}: {what}", path.display()));
        Failure::refused(error)
    };
    let Some(ids) = file.get("input_ids") else {
        let names: Vec<&str> = file.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
        return Err(refuse(format!("expected a tensor input_ids, found {}", names.join(", "))));
    };
    let &[_, length] = ids.shape() else {
        return Err(refuse(format!("input_ids has shape {:?}, expected [batch, length]", ids.shape())));
    };
    let whole = |view: TensorView<'_>| {
        integers(view).ok_or_else(|| refuse(format!("{} is {}, expected I32 or I64", view.name(), view.dtype())))
    };
    let numbers = whole(ids)?;
    let mask = match file.get("attention_mask") {
        None => vec![true; numbers.len()],
        Some(mask) if mask.shape() != ids.shape() => {
            return Err(refuse(format!("attention_mask has shape {:?}, input_ids {:?}", mask.shape(), ids.shape())));
        }
        Some(mask) if mask.dtype() == Dtype::Bool || mask.dtype() == Dtype::U8 => {
            mask.data().iter().map(|&byte| byte != 0).collect()
        }
        Some(mask) => whole(mask)?.into_iter().map(|number| number != 0).collect(),
    };
    let token = |(at, (&number, &text)): (usize, (&i64, &bool))| match u32::try_from(number) {
        Ok(number) => Ok(number),
        // Some tools write -100 or -1 at padding.
        Err(_) if !text => Ok(0),
        Err(_) => Err(refuse(format!("input_ids holds {number} at [{}, {}]", at / length, at % length))),
    };
    let numbers: Vec<u32> = numbers.iter().zip(&mask).enumerate().map(token).collect::<Result<_, _>>()?;
    let sequences = if length == 0 { Vec::new() } else { numbers.chunks(length).map(<[u32]>::to_vec).collect() };
    Ok(Batch { sequences, mask, length })
}

/// The elements of a tensor of integers; `None` for another type.
fn integers(view: TensorView<'_>) -> Option<Vec<i64>> {
    Some(match view.dtype() {
        Dtype::I64 => view.data().as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
        Dtype::I32 => view.data().as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
        _ => return None,
    })
}

/// Writes the file, one pass at a time. A pass writes to many places, so a pipe gets a temporary file first.
fn write(model: &Model, batch: &Batch, states: &[usize], out: OutputFile) -> Result<(), Failure> {
    match out.file() {
        Some(file) => {
            fill(model, batch, states, file, &|error| Failure::failed(out.failed(error)))?;
            out.commit().map_err(Failure::failed)
        }
        None => {
            let at = |error| Failure::failed(error).context("cannot write a temporary file");
            let mut file = tempfile::tempfile().map_err(at)?;
            fill(model, batch, states, &file, &at)?;
            file.rewind().map_err(at)?;
            out.write_with(|out| io::copy(&mut file, out).map(drop)).map_err(Failure::failed)
        }
    }
}

fn fill(
    model: &Model,
    batch: &Batch,
    states: &[usize],
    file: &File,
    at: &dyn Fn(io::Error) -> Failure,
) -> Result<(), Failure> {
    let (count, length) = (batch.sequences.len(), batch.length);
    let mut tensors = vec![("logits".to_owned(), model.vocab_size())];
    tensors.extend(states.iter().map(|state| (format!("hidden.{state}"), model.hidden_size())));
    let mut end = 0;
    let places: Vec<(String, [usize; 3], std::ops::Range<u64>)> = tensors
        .into_iter()
        .map(|(name, width)| {
            let start = end;
            end += (count * length * width * Dtype::F32.size()) as u64;
            (name, [count, length, width], start..end)
        })
        .collect();
    let entries = places.iter().map(|(name, shape, range)| (name.as_str(), Dtype::F32, &shape[..], range.clone()));
    let header = encode_header(entries, &BTreeMap::new());

    file.write_all_at(&header, 0).map_err(at)?;
    let per_pass = (TOKENS / length.max(1)).max(1);
    for start in (0..count).step_by(per_pass) {
        let sequences = start..(start + per_pass).min(count);
        let output = model.forward_padded(&batch.part(sequences)?, states).map_err(Failure::refused)?;
        let PaddedOutput { logits, hidden, .. } = output;
        for (values, (_, shape, range)) in std::iter::once(&logits).chain(&hidden).zip(&places) {
            let before = (start * length * shape[2] * Dtype::F32.size()) as u64;
            put(file, values, header.len() as u64 + range.start + before).map_err(at)?;
        }
    }
    Ok(())
}

fn put(file: &File, values: &glue_lm::Tensor, offset: u64) -> io::Result<()> {
    let values: Vec<f32> = values.flatten_all().and_then(|v| v.to_vec1()).map_err(io::Error::other)?;
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    file.write_all_at(&bytes, offset)
}
