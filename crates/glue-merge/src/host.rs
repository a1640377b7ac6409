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
}

impl Slices<'_> {
    pub(crate) fn operand(&self, operand: Operand) -> &[f32] {
        match operand {
            Operand::Base => self.base.unwrap_or(&[]),
            Operand::Input(i) => self.inputs[i],
        }
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
/// threads or files, use a [`Driver`].
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
    let tensor =
        TensorSpec { name: "in memory", shape, has_base: base.is_some(), n_inputs: inputs.len(), layer: None, seed: 0 };
    merge_with(&Driver::default(), operator, params, &tensor, &Slices { base, inputs })
}

pub(crate) fn merge_with(
    driver: &Driver<'_>,
    operator: &Operator,
    params: &Params,
    tensor: &TensorSpec<'_>,
    operands: &Slices<'_>,
) -> Result<Vec<f32>, MergeError> {
    let expected = tensor.len();
    for found in operands.base.iter().chain(operands.inputs).map(|x| x.len()) {
        if found != expected {
            return Err(MergeError::Length { tensor: tensor.name.into(), expected, found });
        }
    }
    let plan = operator.plan(tensor, params)?;
    let sink = Array(Mutex::new(vec![0.0; expected]));
    match driver.run(plan, tensor, operands, &sink)? {
        Done::Merged => Ok(sink.0.into_inner().unwrap_or_else(|e| e.into_inner())),
        Done::Copy(operand) => Ok(operands.operand(operand).to_vec()),
    }
}
