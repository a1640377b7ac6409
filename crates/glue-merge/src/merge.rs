//! Merging of tensors in memory.

use crate::contract::{Operand, TensorSpec};
use crate::def::Operator;
use crate::driver::{Done, Driver, Sink, Source};
use crate::error::{BoxError, MergeError};
use crate::params::Params;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// The merge of one tensor whose operands are slices in memory.
///
/// ```
/// use glue_merge::{Merge, Registry};
///
/// let ties = Registry::builtin().operator("ties", None)?;
/// let params = ties.params(2).set("density", 0.5).each("weight", [0.5, 0.5]).check()?;
/// let merged = Merge::new(&ties, &params)
///     .tensor("model.layers.0.mlp.up_proj.weight")
///     .base(&[0.0; 4])
///     .inputs([&[4.0, -3.0, 1.0, 0.5], &[2.0, 5.0, -1.0, 0.1]])
///     .run()?;
/// assert_eq!(merged, [3.0, 5.0, 0.0, 0.0]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Random operators draw their numbers by seed, tensor name and input. Give every tensor its own name, or all tensors
/// of a model lose the same elements:
///
/// ```
/// use glue_merge::{Merge, Registry};
///
/// let dare = Registry::builtin().operator("dare_linear", None)?;
/// let params = dare.params(1).set("weight", 1.0).set("density", 0.5).set("rescale", "none").check()?;
/// let kept = |name: &str, seed: u64| {
///     let merge = Merge::new(&dare, &params).tensor(name).seed(seed);
///     merge.base(&[0.0; 1000]).inputs([&[1.0; 1000]]).run()
/// };
/// let up = kept("model.layers.0.mlp.up_proj.weight", 7)?;
/// assert_eq!(up, kept("model.layers.0.mlp.up_proj.weight", 7)?);
/// assert_ne!(up, kept("model.layers.0.mlp.gate_proj.weight", 7)?);
/// assert_ne!(up, kept("model.layers.0.mlp.up_proj.weight", 8)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is merged before `run`"]
pub struct Merge<'a> {
    operator: &'a Operator,
    params: &'a Params,
    tensor: &'a str,
    shape: Option<&'a [usize]>,
    stacked: bool,
    layer: Option<(usize, usize)>,
    seed: u64,
    operands: SliceSource<'a>,
}

impl<'a> Merge<'a> {
    /// A merge by this operator with these parameters, so far without operands.
    pub fn new(operator: &'a Operator, params: &'a Params) -> Self {
        let operands = SliceSource::default();
        Self { operator, params, tensor: "unnamed", shape: None, stacked: false, layer: None, seed: 0, operands }
    }

    /// Name of the tensor, by which random operators draw and errors speak. Default: `unnamed`.
    pub fn tensor(self, name: &'a str) -> Self {
        Self { tensor: name, ..self }
    }

    /// Shape of every operand. Default: a vector as long as the operands.
    pub fn shape(self, shape: &'a [usize]) -> Self {
        Self { shape: Some(shape), ..self }
    }

    /// That the first of three axes counts matrices, such as those of a layer's experts, which operators on matrices
    /// merge one by one.
    pub fn stacked(self) -> Self {
        Self { stacked: true, ..self }
    }

    /// Layer of the tensor: its position, from 0, and the number of layers. Default: outside the layers.
    pub fn layer(self, position: usize, layers: usize) -> Self {
        Self { layer: Some((position, layers)), ..self }
    }

    /// Seed of the random operators. Default: 0.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// The base. Default: none.
    pub fn base(self, base: &'a [f32]) -> Self {
        Self { operands: self.operands.with_base(base), ..self }
    }

    /// The inputs, in the order of their parameters.
    pub fn inputs<T: AsRef<[f32]> + ?Sized + 'a>(self, inputs: impl IntoIterator<Item = &'a T>) -> Self {
        let inputs = inputs.into_iter().map(T::as_ref).collect();
        Self { operands: SliceSource { inputs, ..self.operands }, ..self }
    }

    /// The statistics that the operator [declares](crate::OperatorDef::statistic): one for each input or one for the
    /// base, each of the shape that belongs to the tensor's. Default: none.
    pub fn statistics<T: AsRef<[f32]> + ?Sized + 'a>(self, statistics: impl IntoIterator<Item = &'a T>) -> Self {
        Self { operands: self.operands.with_statistics(statistics), ..self }
    }

    /// Merges the tensor on the calling thread.
    ///
    /// # Errors
    /// An operand whose length does not fit the shape; statistics whose number or length does not fit, or that hold a
    /// number that is not finite or is negative where it must not be; or what the operator refuses.
    pub fn run(&self) -> Result<Vec<f32>, MergeError> {
        self.run_on(&Driver::default())
    }

    /// Merges the tensor by a driver, such as one with threads of the caller. The result has the same bits.
    ///
    /// # Errors
    /// As [`Merge::run`].
    pub fn run_on(&self, driver: &Driver<'_>) -> Result<Vec<f32>, MergeError> {
        let operands = &self.operands;
        let flat = [operands.inputs.first().copied().or(operands.base).map_or(0, <[f32]>::len)];
        let tensor = TensorSpec {
            name: self.tensor,
            shape: self.shape.unwrap_or(&flat),
            stacked: self.stacked,
            has_base: operands.base.is_some(),
            n_inputs: operands.inputs.len(),
            layer: self.layer,
            seed: self.seed,
            statistic: self.operator.statistic().filter(|_| !operands.statistics.is_empty()),
        };
        merge_with(driver, self.operator, self.params, &tensor, operands)
    }
}

/// Merges slices as a tensor that is described already.
pub(crate) fn merge_with(
    driver: &Driver<'_>,
    operator: &Operator,
    params: &Params,
    tensor: &TensorSpec<'_>,
    operands: &SliceSource<'_>,
) -> Result<Vec<f32>, MergeError> {
    operands.check(tensor)?;
    let sink = VecSink::new(tensor.len());
    match driver.merge(operator, params, tensor, operands, &sink)? {
        Done::Merged => Ok(sink.into_vec()),
        Done::Copy(operand) => Ok(operands.operand(operand).unwrap_or_default().to_vec()),
    }
}

/// Slices in memory as the operands of a merge.
#[derive(Debug, Clone, Default)]
pub struct SliceSource<'a> {
    pub(crate) base: Option<&'a [f32]>,
    pub(crate) inputs: Vec<&'a [f32]>,
    pub(crate) statistics: Vec<&'a [f32]>,
}

impl<'a> SliceSource<'a> {
    /// These inputs, without a base and without statistics.
    pub fn new<T: AsRef<[f32]> + ?Sized + 'a>(inputs: impl IntoIterator<Item = &'a T>) -> Self {
        Self { inputs: inputs.into_iter().map(T::as_ref).collect(), ..Self::default() }
    }

    /// The same with this base.
    #[must_use]
    pub fn with_base(self, base: &'a [f32]) -> Self {
        Self { base: Some(base), ..self }
    }

    /// The same with these statistics, in the order of the operands they belong to.
    #[must_use]
    pub fn with_statistics<T: AsRef<[f32]> + ?Sized + 'a>(self, statistics: impl IntoIterator<Item = &'a T>) -> Self {
        Self { statistics: statistics.into_iter().map(T::as_ref).collect(), ..self }
    }

    /// All elements of an operand, if there is one.
    pub fn operand(&self, operand: Operand) -> Option<&'a [f32]> {
        match operand {
            Operand::Base => self.base,
            Operand::Input(i) => self.inputs.get(i).copied(),
            Operand::Statistic(i) => self.statistics.get(i).copied(),
        }
    }

    /// Checks that every slice is as long as the tensor requires.
    fn check(&self, tensor: &TensorSpec<'_>) -> Result<(), MergeError> {
        let expected = tensor.len();
        for found in self.base.iter().chain(&self.inputs).map(|x| x.len()) {
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
        let shape = statistic.shape_for(tensor.shape, tensor.stacked);
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

impl Source for SliceSource<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, _: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let elements = self.operand(operand).ok_or_else(|| format!("there is no {operand:?}"))?;
        elements.get(range.clone()).ok_or_else(|| {
            format!("{operand:?} has {} elements; elements {range:?} were asked for", elements.len()).into()
        })
    }
}

/// A vector in memory as the result of a merge.
#[derive(Debug, Default)]
pub struct VecSink(Mutex<Vec<f32>>);

impl VecSink {
    /// Space for so many elements, all 0 until they are written.
    pub fn new(len: usize) -> Self {
        Self::from(vec![0.0; len])
    }

    /// The elements.
    pub fn into_vec(self) -> Vec<f32> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<Vec<f32>> for VecSink {
    /// Space for as many elements as the vector has, which are replaced as they are written.
    fn from(elements: Vec<f32>) -> Self {
        Self(Mutex::new(elements))
    }
}

impl Sink for VecSink {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        let mut elements = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let len = elements.len();
        let end = offset.saturating_add(values.len());
        let to = elements
            .get_mut(offset..end)
            .ok_or_else(|| format!("the result has {len} elements; elements {offset}..{end} were written"))?;
        to.copy_from_slice(values);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::Plan;
    use crate::def::OperatorDef;
    use crate::device::{Executor, Gathered};
    use crate::operators::{linear, lines, slerp, ties};

    #[test]
    fn without_a_shape_the_operands_are_a_vector() {
        let operator = Operator::new(&linear::DEF);
        let params = operator.params(2).set("weight", 0.5).check().unwrap();
        let inputs = vec![vec![1.0, 2.0], vec![3.0, 4.0]];
        assert_eq!(Merge::new(&operator, &params).inputs(&inputs).run().unwrap(), [2.0, 3.0]);
        let refused = |merge: Merge<'_>| merge.run().unwrap_err().to_string();
        let merge = || Merge::new(&operator, &params).tensor("w").inputs(&inputs);
        assert_eq!(refused(merge().shape(&[3])), "an input of tensor w has 2 elements, expected 3");
        assert_eq!(refused(merge().statistics([&[1.0]])), "statistics of tensor w: expected 0 of them, found 1");
    }

    #[test]
    fn the_layer_reaches_the_operator() {
        let operator = Operator::wrapping(&lines::DEF, &ties::DEF).unwrap();
        let params = operator.params(1).set("weight", 1.0).set("alpha", 0.0).set("beta", 1.0).check().unwrap();
        let merged = |position| {
            let merge = Merge::new(&operator, &params).layer(position, 3).base(&[0.0]).inputs([&[2.0]]);
            merge.run().unwrap()
        };
        assert_eq!([merged(0), merged(1), merged(2)], [[0.0], [1.0], [2.0]]);
    }

    #[test]
    fn an_operator_that_breaks_the_contract_is_told_from_a_failed_read() {
        static STATISTIC: OperatorDef =
            OperatorDef { plan: |_, _| Ok(Plan::Copy(Operand::Statistic(0))), ..OperatorDef::DEFAULT };
        static UNPLANNED: OperatorDef = OperatorDef::DEFAULT;
        let check = |def, expected: &str| {
            let operator = Operator::new(def);
            let params = operator.params(1).check().unwrap();
            let error = Merge::new(&operator, &params).tensor("w").base(&[0.0]).inputs([&[1.0]]).run().unwrap_err();
            assert!(matches!(error, MergeError::Contract { .. }), "{error:?}");
            assert_eq!(error.to_string(), expected);
        };
        check(&STATISTIC, "internal error: an operator returned Statistic(0) as the result of tensor w");
        check(&UNPLANNED, "internal error: the operator has no plan function");
    }

    /// Answers every reduction with a number too few.
    struct Short;

    impl Executor for Short {
        fn advance(
            &self,
            plan: Plan,
            _: &TensorSpec<'_>,
            _: &dyn Source,
            _: &dyn Sink,
        ) -> Result<Option<Plan>, MergeError> {
            match plan {
                Plan::Reduce(reduction) => reduction.conclude(Gathered::Sums(vec![1.0; 2])).map(Some),
                other => Ok(Some(other)),
            }
        }
    }

    #[test]
    fn an_executor_that_gathers_something_else_breaks_the_contract() {
        let operator = Operator::new(&slerp::DEF);
        let params = operator.params(1).set("t", 0.5).check().unwrap();
        let merge = Merge::new(&operator, &params).base(&[1.0, 0.0]).inputs([&[0.0, 1.0]]);
        let error = merge.run_on(&Driver::default().executor(&Short)).unwrap_err();
        let expected = "internal error: an executor answered a reduction with 2 sums, which it did not ask for";
        assert_eq!(error.to_string(), expected);
    }

    /// A request to stop is heard between two spans, in a reduction as in a map; what is left is not counted as done.
    #[test]
    fn a_stopped_merge_is_an_error() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let operator = Operator::new(&slerp::DEF);
        let params = operator.params(1).set("t", 0.5).check().unwrap();
        let (a, b) = (vec![1.0; 3 * Driver::SPAN], vec![2.0; 3 * Driver::SPAN]);
        let merge = Merge::new(&operator, &params).base(&a).inputs([&b]);
        for spans in 0..6 {
            let asked = AtomicUsize::new(0);
            let stop = || asked.fetch_add(1, Ordering::Relaxed) >= spans;
            let error = merge.run_on(&Driver::default().stop(&stop)).unwrap_err();
            assert!(matches!(error, MergeError::Stopped), "{error:?}");
            assert_eq!(asked.into_inner(), spans + 1);
        }
    }

    #[test]
    fn what_is_not_there_is_not_read_or_written() {
        let source = SliceSource::new([&[1.0, 2.0]]);
        let read =
            |operand, range| source.read(operand, range, &mut []).map(<[f32]>::to_vec).map_err(|e| e.to_string());
        assert_eq!(read(Operand::Input(0), 1..2).unwrap(), [2.0]);
        assert_eq!(read(Operand::Base, 0..1).unwrap_err(), "there is no Base");
        assert_eq!(read(Operand::Input(1), 0..1).unwrap_err(), "there is no Input(1)");
        assert_eq!(read(Operand::Input(0), 1..3).unwrap_err(), "Input(0) has 2 elements; elements 1..3 were asked for");
        let sink = VecSink::new(2);
        sink.write(1, &[5.0]).unwrap();
        let refused = sink.write(1, &[6.0, 7.0]).unwrap_err().to_string();
        assert_eq!(refused, "the result has 2 elements; elements 1..3 were written");
        assert_eq!(sink.into_vec(), [0.0, 5.0]);
    }
}
