//! A block of one tensor of several models: read from the files side by side, and widened where it is multiplied.
//!
//! Blocks are read into memory that is used again, rather than looked at in the map: the system copies what it has in
//! its cache faster than it maps pages and takes them away again. bfloat16, which widens by a shift, stays as it is
//! until a panel is filled; every other type is widened when it is read.

use crate::error::MetricsError;
use crate::panel::{LANES, Lane};
use crate::stack::Stack;
use glue_tensor::{Dtype, widen};
use std::ops::Range;

/// Elements of every operand of a stack, and of the base.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// The operands, then the base.
    held: Vec<Held>,
    /// Bytes of a type that is widened at once.
    bytes: Vec<u8>,
    base: Vec<Lane>,
    /// Where the block begins and ends in the tensor.
    elements: Range<usize>,
}

/// What of a block goes into a panel: lane l of step s is the element at `first + s * stride + l`, or 0 from `width`
/// on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) first: usize,
    pub(crate) stride: usize,
    pub(crate) width: usize,
    pub(crate) steps: usize,
}

/// Elements of one operand.
#[derive(Debug, Default)]
struct Held {
    /// Which of the two below.
    is_half: bool,
    /// bfloat16, little-endian.
    half: Vec<u8>,
    wide: Vec<f32>,
}

impl Block {
    /// Holds `elements` from here on.
    pub(crate) fn load(&mut self, stack: &Stack<'_>, elements: Range<usize>) -> Result<(), MetricsError> {
        let length = elements.len();
        self.elements = elements.clone();
        self.load_pieces(stack, length, 1, |_| elements.clone())
    }

    /// Holds some columns of some rows from here on, row after row.
    pub(crate) fn load_rows(
        &mut self,
        stack: &Stack<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
    ) -> Result<(), MetricsError> {
        if columns.len() == stack.columns {
            return self.load(stack, rows.start * stack.columns..rows.end * stack.columns);
        }
        self.elements = rows.start * stack.columns + columns.start..(rows.end - 1) * stack.columns + columns.end;
        let piece = |row| {
            let start = (rows.start + row) * stack.columns;
            start + columns.start..start + columns.end
        };
        self.load_pieces(stack, columns.len(), rows.len(), piece)
    }

    fn load_pieces(
        &mut self,
        stack: &Stack<'_>,
        length: usize,
        pieces: usize,
        piece: impl Fn(usize) -> Range<usize>,
    ) -> Result<(), MetricsError> {
        self.held.resize_with(stack.n() + 1, Held::default);
        for (held, operand) in self.held.iter_mut().zip(stack.operands.iter().chain(&stack.base)) {
            let dtype = operand.view.dtype();
            held.is_half = dtype == Dtype::Bf16;
            if held.is_half {
                held.half.resize(pieces * length * dtype.size(), 0);
                for (at, into) in held.half.chunks_exact_mut(length * dtype.size()).enumerate() {
                    operand.read_bytes(piece(at), into)?;
                }
            } else {
                self.bytes.resize(length * dtype.size(), 0);
                held.wide.resize(pieces * length, 0.0);
                for (at, into) in held.wide.chunks_exact_mut(length).enumerate() {
                    operand.read_bytes(piece(at), &mut self.bytes)?;
                    let finite = widen(dtype, &self.bytes, into).map_err(|error| operand.no_conversion(error))?;
                    if !finite {
                        return Err(operand.not_finite(piece(at)));
                    }
                }
            }
        }
        Ok(())
    }

    /// Fills steps of a panel, less the base.
    pub(crate) fn fill(&mut self, stack: &Stack<'_>, panel: &mut [Lane], from: Piece) -> Result<(), MetricsError> {
        let (n, steps) = (stack.n(), from.steps);
        for (i, (held, operand)) in self.held.iter().zip(&stack.operands).enumerate() {
            if !held.widen(&mut panel[i..], n, from) {
                return Err(operand.not_finite(self.elements.clone()));
            }
        }
        if let (Some(base), Some(held)) = (&stack.base, self.held.get(n)) {
            self.base.resize(self.base.len().max(steps), Lane::ZERO);
            if !held.widen(&mut self.base, 1, from) {
                return Err(base.not_finite(self.elements.clone()));
            }
            for (step, base) in panel.chunks_exact_mut(n).zip(&self.base).take(steps) {
                for lane in step {
                    for (x, base) in lane.0.iter_mut().zip(base.0) {
                        *x -= base;
                    }
                }
            }
        }
        Ok(())
    }

    /// Fills a panel with neighbouring elements, from `first` of the block on; returns the number of steps.
    pub(crate) fn fill_along(
        &mut self,
        stack: &Stack<'_>,
        panel: &mut [Lane],
        first: usize,
        length: usize,
    ) -> Result<usize, MetricsError> {
        let (whole, rest) = (length / LANES, length % LANES);
        self.fill(stack, panel, Piece { first, stride: LANES, width: LANES, steps: whole })?;
        if rest > 0 {
            let from = Piece { first: first + whole * LANES, stride: LANES, width: rest, steps: 1 };
            self.fill(stack, &mut panel[whole * stack.n()..], from)?;
        }
        Ok(whole + usize::from(rest > 0))
    }
}

impl Held {
    /// Fills every `n`th of `panel`, `steps` of them; whether all is finite.
    fn widen(&self, panel: &mut [Lane], n: usize, from: Piece) -> bool {
        let Piece { first, stride, width, steps } = from;
        let slots = panel.iter_mut().step_by(n).take(steps);
        match (self.is_half, width == LANES) {
            (true, true) => widen_halves(slots, &self.half[2 * first..], 2 * stride),
            (true, false) => {
                let mut copies = vec![[0; 2 * LANES]; steps];
                for (copy, bytes) in copies.iter_mut().zip(self.half[2 * first..].chunks(2 * stride)) {
                    copy[..2 * width].copy_from_slice(&bytes[..2 * width]);
                }
                widen_halves(slots, copies.as_flattened(), 2 * LANES)
            }
            (false, _) => {
                for (slot, values) in slots.zip(self.wide[first..].chunks(stride)) {
                    *slot = Lane::ZERO;
                    slot.0[..width].copy_from_slice(&values[..width]);
                }
                // Looked at when it was widened.
                true
            }
        }
    }
}

/// Eight elements from every `stride`th byte on into each slot; whether all are finite.
fn widen_halves<'a>(slots: impl Iterator<Item = &'a mut Lane>, bytes: &[u8], stride: usize) -> bool {
    let mut largest = [0; LANES];
    for (slot, bytes) in slots.zip(bytes.chunks(stride)) {
        let Some(bytes) = bytes.first_chunk::<{ 2 * LANES }>() else { break };
        // One short loop each, which the compiler turns into one instruction each.
        let bits = halves(bytes);
        slot.0 = bits.map(|bits| f32::from_bits(u32::from(bits) << 16));
        largest = larger(largest, bits.map(|bits| bits & 0x7fff));
    }
    largest.iter().all(|&largest| largest < 0x7f80)
}

#[inline(always)]
fn halves(bytes: &[u8; 2 * LANES]) -> [u16; LANES] {
    let mut bits = [0; LANES];
    for (bits, bytes) in bits.iter_mut().zip(bytes.as_chunks::<2>().0) {
        *bits = u16::from_le_bytes(*bytes);
    }
    bits
}

#[inline(always)]
fn larger(a: [u16; LANES], b: [u16; LANES]) -> [u16; LANES] {
    let mut larger = [0; LANES];
    for (larger, (a, b)) in larger.iter_mut().zip(a.iter().zip(&b)) {
        *larger = *a.max(b);
    }
    larger
}
