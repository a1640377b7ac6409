//! Merging of arrays that are in memory.

use crate::contract::{Operand, TensorSpec};
use crate::def::Operator;
use crate::driver::{Done, Driver, Sink, Source};
use crate::error::{BoxError, MergeError};
use crate::params::Params;
use std::ops::Range;
use std::sync::Mutex;

/// Arrays in memory as the operands of a merge.
pub(crate) struct Slices<'a> {
    pub(crate) base: Option<&'a [f32]>,
    pub(crate) inputs: &'a [&'a [f32]],
    pub(crate) statistics: &'a [&'a [f32]],
}

impl Slices<'_> {
    pub(crate) fn operand(&self, operand: Operand) -> &[f32] {
        match operand {
            Operand::Base => self.base.unwrap_or(&[]),
            Operand::Input(i) => self.inputs[i],
            Operand::Statistic(i) => self.statistics[i],
        }
    }

    /// Checks that every array is as long as the tensor says.
    fn check(&self, tensor: &TensorSpec<'_>) -> Result<(), MergeError> {
        let expected = tensor.len();
        for found in self.base.iter().chain(self.inputs).map(|x| x.len()) {
            if found != expected {
                return Err(MergeError::Length { tensor: tensor.name.into(), expected, found });
            }
        }
        let refuse = |expected, found| Err(MergeError::Statistics { tensor: tensor.name.into(), expected, found });
        let (expected, found) = (tensor.n_statistics(), self.statistics.len());
        if expected != found {
            return refuse(format!("{expected} of them"), found.to_string());
        }
        let Some(statistic) = tensor.statistic else { return Ok(()) };
        let shape = statistic.shape.of(tensor.shape);
        let len: usize = shape.iter().product();
        for (i, values) in self.statistics.iter().enumerate() {
            if values.len() != len {
                let expected = format!("{len} numbers of shape {shape:?} in each `{}`", statistic.name);
                return refuse(expected, format!("{} in statistic {}", values.len(), i + 1));
            }
            if let Some(at) = statistic.shape.first_refused(tensor.row_len(), 0, values) {
                let expected = "finite numbers, none negative where it must not be".into();
                return refuse(expected, format!("{} at index {at} of `{}` {}", values[at], statistic.name, i + 1));
            }
        }
        Ok(())
    }
}

impl Source for Slices<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, _: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        Ok(&self.operand(operand)[range])
    }
}

pub(crate) struct Array(pub(crate) Mutex<Vec<f32>>);

impl Sink for Array {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        let mut array = self.0.lock().unwrap_or_else(|e| e.into_inner());
        array[offset..offset + values.len()].copy_from_slice(values);
        Ok(())
    }
}

/// Merges one tensor that is in memory, on the calling thread.
///
/// `shape` is the shape of every operand; seed 0 and the name `in memory` key the random operators. For names, seeds,
/// threads or files, use a [`Driver`]. For an operator that wants statistics, the tensor has none.
///
/// # Errors
/// An operand of another length than the shape has elements, or what the operator refuses.
pub fn merge_slices(
    operator: &Operator,
    params: &Params,
    shape: &[usize],
    base: Option<&[f32]>,
    inputs: &[&[f32]],
) -> Result<Vec<f32>, MergeError> {
    merge_slices_with_statistics(operator, params, shape, base, inputs, &[])
}

/// As [`merge_slices`], with the statistics that the operator [declares](crate::OperatorDef::statistic): one of each
/// input or one of the base, each of the shape that goes with the tensor's; an empty list where the tensor has none.
///
/// # Errors
/// Those of [`merge_slices`]; statistics of another number or length, or with a number that is not finite, or negative
/// where none may be.
pub fn merge_slices_with_statistics(
    operator: &Operator,
    params: &Params,
    shape: &[usize],
    base: Option<&[f32]>,
    inputs: &[&[f32]],
    statistics: &[&[f32]],
) -> Result<Vec<f32>, MergeError> {
    let tensor = TensorSpec {
        name: "in memory",
        shape,
        has_base: base.is_some(),
        n_inputs: inputs.len(),
        layer: None,
        seed: 0,
        statistic: operator.statistic().filter(|_| !statistics.is_empty()),
    };
    merge_with(&Driver::default(), operator, params, &tensor, &Slices { base, inputs, statistics })
}

pub(crate) fn merge_with(
    driver: &Driver<'_>,
    operator: &Operator,
    params: &Params,
    tensor: &TensorSpec<'_>,
    operands: &Slices<'_>,
) -> Result<Vec<f32>, MergeError> {
    operands.check(tensor)?;
    let plan = operator.plan(tensor, params)?;
    let sink = Array(Mutex::new(vec![0.0; tensor.len()]));
    match driver.run(plan, tensor, operands, &sink)? {
        Done::Merged => Ok(sink.0.into_inner().unwrap_or_else(|e| e.into_inner())),
        Done::Copy(operand) => Ok(operands.operand(operand).to_vec()),
    }
}
