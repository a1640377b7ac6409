//! One case on the device and on the CPU.

use super::cases::Case;
use super::data::{Captured, Data, Threads, element};
use crate::backend::Backend;
use crate::engine::Engine;
use glue_merge::device::{Executor, Float};
use glue_merge::{Done, Driver, MergeError, Operand, Plan};

/// How a case went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Checked {
    /// Elements.
    pub len: usize,
    /// Elements whose bits differ.
    pub differ: usize,
    /// The largest difference, in units of the last place of the result's type at the size of the largest operand.
    pub worst: f64,
    /// Elements that are the base's on one side and not on the other, where they were to be equal: a mask differs.
    pub masks: usize,
}

impl Checked {
    /// Whether the result is what was promised: the same bits; or, where coefficients follow from sums that the device
    /// adds in another order, which moves them by a unit in the last place of `f32` at most, one rounding of the result
    /// (four of `f32`, in which each of up to eight coefficients may be off).
    pub fn passes(&self, case: &Case, to: Float) -> bool {
        let allowed = if to == Float::F32 { 4.0 } else { 1.0 };
        self.masks == 0 && if case.sums { self.worst <= allowed } else { self.differ == 0 }
    }
}

/// Runs a case on both. `shift` moves operands, and the result, off the beginning of their memory, in elements.
///
/// # Errors
/// What the device refuses, or that it left the case to the CPU.
pub fn check<B: Backend>(
    engine: &mut Engine<B>,
    case: &Case,
    [from, to]: [Float; 2],
    len: usize,
    shift: [usize; 2],
    threads: Threads,
) -> Result<Checked, MergeError> {
    let shape = case.shape(len);
    let tensor = case.tensor(&shape);
    let data = Data::new(from, tensor.len(), case.inputs, &threads);
    let options = engine.options;
    (engine.options.smallest, engine.options.shift) = (0, shift);
    let found = Captured::new(to, tensor.len());
    let left = engine.advance(case.plan(&tensor)?, &tensor, &data, &found);
    engine.options = options;
    let copied = match left? {
        None => None,
        // Of few elements none may be selected.
        Some(Plan::Copy(operand)) => Some(operand),
        Some(plan) => {
            return Err(MergeError::Io(format!("{}: the device left {plan:?} to the CPU", case.name).into()));
        }
    };
    let expected = Captured::new(to, tensor.len());
    let driver = Driver::default().pool(&threads);
    match (driver.run(case.plan(&tensor)?, &tensor, &data, &expected)?, copied) {
        (Done::Merged, None) => {}
        (Done::Copy(expected), Some(found)) if expected == found => {
            return Ok(Checked { len: tensor.len(), differ: 0, worst: 0.0, masks: 0 });
        }
        (expected, found) => {
            let text = format!("{}: {expected:?} on the CPU, a copy of {found:?} on the device", case.name);
            return Err(MergeError::Io(text.into()));
        }
    }
    Ok(compare(&data, to, &found.into_bytes(), &expected.into_bytes(), case))
}

fn compare(data: &Data, to: Float, found: &[u8], expected: &[u8], case: &Case) -> Checked {
    let size = to.size();
    let mut checked = Checked { len: expected.len() / size, differ: 0, worst: 0.0, masks: 0 };
    for (e, (a, b)) in found.chunks_exact(size).zip(expected.chunks_exact(size)).enumerate() {
        if a == b {
            continue;
        }
        checked.differ += 1;
        let (a, b) = (element(to, found, e), element(to, expected, e));
        let operands = (0..data.inputs.len()).map(Operand::Input).chain([Operand::Base]);
        let sizes = operands.map(|o| element(data.float, data.bytes(o), e).abs());
        let largest = sizes.fold(a.abs().max(b.abs()), f32::max);
        let off = f64::from((a - b).abs()) / unit(to, largest);
        checked.worst = checked.worst.max(if off.is_nan() { f64::INFINITY } else { off });
        if case.base && to == data.float {
            let base = element(data.float, &data.base, e);
            checked.masks += usize::from((a == base) != (b == base) && off > 4.0);
        }
    }
    checked
}

/// The unit in the last place of a type at a size.
fn unit(float: Float, size: f32) -> f64 {
    let (digits, least) = match float {
        Float::F32 => (23, -126),
        Float::F16 => (10, -14),
        Float::Bf16 => (7, -126),
    };
    let exponent = if size > 0.0 { f64::from(size).log2().floor() as i32 } else { least };
    2.0_f64.powi(exponent.max(least) - digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_in_the_last_place() {
        assert_eq!(unit(Float::F32, 1.0), f64::from(f32::EPSILON));
        assert_eq!(unit(Float::Bf16, 3.0), 2.0 / 128.0);
        assert_eq!(unit(Float::F16, 1e-7), 2.0_f64.powi(-24));
    }
}
