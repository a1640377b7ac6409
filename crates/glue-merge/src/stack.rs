//! Stacks of matrices, merged one after the other: the fused experts of a layer, a tensor of shape \[experts, rows,
//! columns\], for operators to which rows and columns matter.
//!
//! Each matrix is a tensor of its own to the operator, as it would be in a checkpoint with one tensor for each expert.
//! No more than one of a tensor is held at once.

use crate::contract::{Operand, TensorSpec};
use crate::def::Operator;
use crate::driver::{Done, Driver, Sink, Source};
use crate::error::{BoxError, MergeError};
use crate::params::Params;
use crate::statistic::StatisticShape;
use std::ops::Range;

impl Driver<'_> {
    /// Merges a tensor by an operator: as a whole, or [unit](Operator::unit) by unit.
    ///
    /// # Errors
    /// As [`Operator::plan`] and [`Driver::run`]. A failure in one matrix of a stack names it `TENSOR[INDEX]`.
    pub fn merge(
        &self,
        operator: &Operator,
        params: &Params,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        sink: &dyn Sink,
    ) -> Result<Done, MergeError> {
        let unit = operator.unit(tensor);
        if unit.shape == tensor.shape {
            return self.run(operator.plan(tensor, params)?, tensor, source, sink);
        }
        for index in 0..tensor.shape[0] {
            let name = format!("{}[{index}]", tensor.name);
            let mut matrix = unit;
            matrix.name = &name;
            let statistic = match matrix.statistic {
                Some(statistic) if statistic.shape != StatisticShape::Same => {
                    statistic.shape.of(matrix.shape).iter().product()
                }
                _ => matrix.len(),
            };
            let part = Part { source, sink, start: index * matrix.len(), statistic: index * statistic };
            match self.run(operator.plan(&matrix, params)?, &matrix, &part, &part)? {
                Done::Merged => {}
                Done::Copy(operand) => self.copy(operand, matrix.len(), &part).map_err(MergeError::Io)?,
            }
        }
        Ok(Done::Merged)
    }

    /// Copies the values of an operand.
    fn copy(&self, operand: Operand, len: usize, part: &Part<'_>) -> Result<(), BoxError> {
        let mut buffer = vec![0.0; len.min(Self::SPAN)];
        for start in (0..len).step_by(Self::SPAN) {
            let range = start..(start + Self::SPAN).min(len);
            let values = part.read(operand, range.clone(), &mut buffer[..range.len()])?;
            part.write(start, values)?;
        }
        Ok(())
    }
}

/// One matrix of a stack.
struct Part<'a> {
    source: &'a dyn Source,
    sink: &'a dyn Sink,
    /// Index in the stack of its first element.
    start: usize,
    /// The same for its statistics.
    statistic: usize,
}

impl Source for Part<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let start = match operand {
            Operand::Statistic(_) => self.statistic,
            Operand::Base | Operand::Input(_) => self.start,
        };
        self.source.read(operand, start + range.start..start + range.end, buffer)
    }
}

impl Sink for Part<'_> {
    fn write(&self, offset: usize, values: &[f32]) -> Result<(), BoxError> {
        self.sink.write(self.start + offset, values)
    }
}

#[cfg(test)]
mod tests {
    //! A stack merges to the merges of its matrices.
    use super::*;
    use crate::contract::{Block, Map, Plan};
    use crate::def::{BaseRule, OperatorDef};
    use crate::merge::{SliceSource, VecSink};
    use crate::operators::aim;
    use crate::registry::Registry;
    use crate::{StatisticOf, StatisticSpec};

    /// θ1 over its largest element, plus the largest statistic, so that the result depends on where a matrix ends.
    const SCALED: OperatorDef = OperatorDef {
        name: "scaled",
        base: BaseRule::Unused,
        matrices: true,
        statistic: Some(StatisticSpec { name: "gram", doc: "", shape: StatisticShape::Gram, of: StatisticOf::Inputs }),
        plan: |tensor, _| match tensor.shape {
            [_, _] => Ok(Plan::map(Scaled)),
            _ => Ok(Plan::Copy(Operand::Input(0))),
        },
        ..OperatorDef::DEFAULT
    };

    struct Scaled;

    impl Map for Scaled {
        fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
            let largest = |values: &[f32]| values.iter().copied().fold(f32::MIN, f32::max);
            let scale = largest(block.inputs[0]);
            let added = block.statistics.first().map_or(0.0, |statistic| largest(statistic));
            out.iter_mut().zip(block.inputs[0]).for_each(|(out, x)| *out = x / scale + added);
        }
    }

    #[test]
    fn each_matrix_is_merged_by_itself() {
        let operator = Operator::new(&SCALED);
        let params = operator.params(1).check().unwrap();
        let input = [1.0, 2.0, 4.0, 4.0, 10.0, 5.0, 5.0, 5.0];
        let merged = |stacked, statistics: &[f32]| {
            let tensor = TensorSpec::new("experts", &[2, 2, 2]).with_operands(false, 1).with_stacked(stacked);
            let tensor = tensor.with_statistic(operator.statistic().filter(|_| !statistics.is_empty()));
            let source = SliceSource::new([&input]);
            let source = if statistics.is_empty() { source } else { source.with_statistics([statistics]) };
            let sink = VecSink::new(8);
            let done = Driver::default().merge(&operator, &params, &tensor, &source, &sink).unwrap();
            (done, sink.into_vec())
        };
        let (done, found) = merged(true, &[]);
        assert_eq!((done, &*found), (Done::Merged, &[0.25, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5][..]));
        // Each with its own statistic.
        let (_, found) = merged(true, &[1.0, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 3.0]);
        assert_eq!(found, [1.25, 1.5, 2.0, 2.0, 4.0, 3.5, 3.5, 3.5]);
        assert_eq!(merged(false, &[]).0, Done::Copy(Operand::Input(0)), "three axes that are no stack");
    }

    #[test]
    fn copies_are_copies_of_each_matrix() {
        const FIRST: OperatorDef =
            OperatorDef { matrices: true, plan: |_, _| Ok(Plan::Copy(Operand::Input(1))), ..OperatorDef::DEFAULT };
        let operator = Operator::new(&FIRST);
        let params = operator.params(2).check().unwrap();
        let tensor = TensorSpec::new("experts", &[2, 1, 2]).with_operands(true, 2).with_stacked(true);
        let (inputs, base) = ([[1.0; 4], [1.0, 2.0, 3.0, 4.0]], [0.0; 4]);
        let (source, sink) = (SliceSource::new(&inputs).with_base(&base), VecSink::new(4));
        Driver::default().merge(&operator, &params, &tensor, &source, &sink).unwrap();
        assert_eq!(sink.into_vec(), [1.0, 2.0, 3.0, 4.0]);
    }

    /// `aim` reads statistics of columns; each expert has its own.
    #[test]
    fn statistics_of_columns_make_units_of_matrices() {
        let operator = Registry::builtin().operator("aim", Some("task_arithmetic")).unwrap();
        assert_eq!(operator.def().name, aim::DEF.name);
        let params = operator.params(1).set("omega", 0.0).each("weight", [1.0]).check().unwrap();
        let base = [0.0; 8];
        let input = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        let statistics = [1.0, 0.0, 0.0, 1.0];
        let tensor = TensorSpec::new("experts", &[2, 2, 2]).with_operands(true, 1).with_stacked(true);
        let tensor = tensor.with_statistic(operator.statistic());
        assert_eq!(tensor.statistic_shape(), Some(vec![2, 2]));
        let source = SliceSource::new([&input]).with_base(&base).with_statistics([&statistics]);
        let sink = VecSink::new(8);
        Driver::default().merge(&operator, &params, &tensor, &source, &sink).unwrap();
        assert_eq!(sink.into_vec(), [0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    }
}
