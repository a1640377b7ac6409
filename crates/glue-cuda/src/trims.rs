//! How task vectors are trimmed, as kernels take it.

use crate::args::{self, Between, CutArg, MAX_INPUTS, Marked, Nothing, Random, Ranked};
use crate::backend::{Backend, Kernel};
use crate::operands::THREADS;
use crate::pass::{Pass, Stop};
use glue_merge::device::{RankedDrop, Trimming};
use glue_merge::random::ElementRng;
use glue_merge::select::Threshold;

/// A trim of one of the kernels.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::large_enum_variant, reason = "one exists at a time, on the stack")]
pub(crate) enum Trim {
    Nothing(Nothing),
    Between(Between),
    Random(Random),
    Marked(Marked),
}

/// Longest rows that are ranked: one block works on one row.
const LONGEST_ROW: usize = 1 << 20;

/// The round keys that all of these share.
fn keys(mut rngs: impl Iterator<Item = ElementRng>) -> Option<[[u32; 2]; 10]> {
    let first = rngs.next()?.round_keys();
    rngs.all(|rng| rng.round_keys() == first).then_some(first)
}

/// A bit for each input of which this holds.
fn bits<T>(inputs: &[T], holds: impl Fn(&T) -> bool) -> u32 {
    inputs.iter().enumerate().fold(0, |bits, (i, input)| bits | u32::from(holds(input)) << i)
}

impl<B: Backend> Pass<'_, B> {
    /// A trim as kernels take it for a tile; masks are made here where it needs them.
    pub(crate) fn trim(&mut self, trim: Trimming<'_>, tile: usize) -> Result<Trim, Stop> {
        match trim {
            Trimming::Nothing => Ok(Trim::Nothing(Nothing { unused: [0; 2] })),
            Trimming::Between(cuts) if cuts.len() == self.n_inputs => {
                let mut cut = [[CutArg::from(Threshold::NONE); 2]; MAX_INPUTS];
                for (to, from) in cut.iter_mut().zip(cuts) {
                    *to = from.map(CutArg::from);
                }
                Ok(Trim::Between(Between { cut }))
            }
            Trimming::Random(drops) if drops.len() == self.n_inputs => {
                let keys = keys(drops.iter().map(|d| d.rng)).ok_or(Stop::Unsupported)?;
                Ok(Trim::Random(Random {
                    keys,
                    stream: args::row(drops, |d| d.rng.input()),
                    kept_below: args::row(drops, |d| u32::try_from(d.kept_below).unwrap_or(u32::MAX)),
                    scale: args::row(drops, |d| d.scale),
                    whole: bits(drops, |d| d.kept_below > u64::from(u32::MAX)),
                    unused: 0,
                }))
            }
            Trimming::Ranked { inputs, row } if inputs.len() == self.n_inputs => self.marked(inputs, row, tile),
            _ => Err(Stop::Unsupported),
        }
    }

    /// The masks of a tile: made once, unless another tile's took their place.
    fn marked(&mut self, drops: &[RankedDrop], row: usize, tile: usize) -> Result<Trim, Stop> {
        if let Some((of, marks, stride)) = self.marks
            && of == tile
        {
            return Ok(Trim::Marked(Marked { marks: marks.at, stride: stride as u64 }));
        }
        if row == 0 || row > LONGEST_ROW || !self.cutting.keeps_rows(row) {
            return Err(Stop::Unsupported);
        }
        let operands = self.tile(tile)?;
        let rows = operands.len().div_ceil(row);
        let keys = keys(drops.iter().map(|d| d.rng)).ok_or(Stop::Unsupported)?;
        // A kernel reads one byte beyond the last element.
        let stride = (operands.len().div_ceil(8) + 8).next_multiple_of(64);
        // The masks of another tile are no longer needed.
        let scratch = match self.marks.take() {
            Some((_, before, _)) if before.bytes >= stride * self.n_inputs => {
                self.zero(&before)?;
                before
            }
            _ => self.scratch(stride * self.n_inputs, true)?,
        };
        let args = Ranked {
            t: operands.tile(&self.engine.backend, &[]),
            marks: scratch.at,
            stride: stride as u64,
            row: row as i64,
            keys,
            stream: args::row(drops, |d| d.rng.input()),
            start: args::row(drops, |d| d.start),
            rise: args::row(drops, |d| d.rise),
            whole: bits(drops, RankedDrop::keeps_all),
            unused: 0,
        };
        let (file, name) = ("della", "della_marks");
        let kernel = Kernel { file, name, float: Some(operands.float), threads: THREADS };
        self.count(&operands, self.n_inputs + 1, self.n_inputs.div_ceil(8));
        self.launch(kernel, [rows as u32, self.n_inputs as u32], &args)?;
        self.marks = Some((tile, scratch, stride));
        Ok(Trim::Marked(Marked { marks: scratch.at, stride: stride as u64 }))
    }
}
