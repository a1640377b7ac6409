//! Statistics: numbers about a tensor that were measured on data beforehand, and that an operator wants besides the
//! tensors themselves.

/// The one kind of statistic that an operator declares.
///
/// Whoever runs the operator hands it the statistic of every tensor that has one, as
/// [`Block::statistics`](crate::Block::statistics); [`TensorSpec::statistic`](crate::TensorSpec::statistic) says
/// whether a tensor has. In a checkpoint of statistics the one of tensor `T` is called `T.name`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatisticSpec {
    /// Its name: a word, which ends the name of the tensor that holds it.
    pub name: &'static str,
    /// What it is, in one sentence.
    pub doc: &'static str,
    /// How many numbers there are for a tensor.
    pub shape: StatisticShape,
    /// Of which operands.
    pub of: StatisticOf,
}

impl StatisticSpec {
    /// Its shape for a tensor of this shape: that of the statistic of one matrix for each matrix of a stack.
    pub fn shape_for(&self, tensor: &[usize], stacked: bool) -> Vec<usize> {
        match (self.shape, tensor) {
            (StatisticShape::Columns | StatisticShape::Gram, [n, matrix @ ..]) if stacked => {
                [&[*n], &*self.shape.of(matrix)].concat()
            }
            (shape, tensor) => shape.of(tensor),
        }
    }
}

/// The names of the statistics that `glue-calibrate` writes.
impl StatisticSpec {
    /// Mean magnitude of the inputs of a matrix, for each column.
    pub const ACTIVATION: &'static str = "activation";
    /// Mean of the products of the inputs of a matrix, for each pair of columns.
    pub const GRAM: &'static str = "gram";
    /// Diagonal of the Fisher information, for each element.
    pub const FISHER: &'static str = "fisher";
}

/// The numbers that a statistic has for a tensor. All of them are finite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticShape {
    /// One for every element, not negative. A block has those of its own elements.
    Same,
    /// One for every column, that is for every index of the last axis, not negative. Every block has all of them.
    Columns,
    /// A symmetric, positive semi-definite matrix over the columns, row-major. Every block has all of it.
    Gram,
}

/// Of which operands a statistic is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatisticOf {
    /// One of each input, in their order.
    Inputs,
    /// One, of the base.
    Base,
}

impl StatisticShape {
    /// The shape of the statistic of a tensor of this shape; a scalar has one column.
    pub fn of(self, tensor: &[usize]) -> Vec<usize> {
        let columns = tensor.last().copied().unwrap_or(1);
        match self {
            Self::Same => tensor.to_vec(),
            Self::Columns => vec![columns],
            Self::Gram => vec![columns, columns],
        }
    }

    /// Index of the first number that the statistic of a tensor with so many columns cannot hold at that place: one
    /// that is not finite, or negative where it must not be. `values` begin at `offset`.
    ///
    /// The statistics of a stack of matrices follow each other. A matrix is checked along its diagonal only: whether it
    /// is positive semi-definite takes a factorisation.
    pub fn first_refused(self, columns: usize, offset: usize, values: &[f32]) -> Option<usize> {
        let allowed = |i: usize, x: f32| {
            let signed = self == Self::Gram && !((offset + i) % (columns * columns)).is_multiple_of(columns + 1);
            x.is_finite() && (signed || x >= 0.0)
        };
        values.iter().enumerate().position(|(i, x)| !allowed(i, *x)).map(|i| offset + i)
    }
}

impl StatisticOf {
    /// How many there are for a tensor with so many inputs.
    pub fn count(self, n_inputs: usize) -> usize {
        match self {
            Self::Inputs => n_inputs,
            Self::Base => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_follow_from_the_last_axis() {
        let check = |shape: StatisticShape, tensor: &[usize], expected: &[usize]| {
            assert_eq!(shape.of(tensor), expected, "{shape:?} of {tensor:?}");
        };
        check(StatisticShape::Same, &[3, 5], &[3, 5]);
        check(StatisticShape::Columns, &[3, 5], &[5]);
        check(StatisticShape::Columns, &[7], &[7]);
        check(StatisticShape::Columns, &[], &[1]);
        check(StatisticShape::Gram, &[2, 3, 5], &[5, 5]);
    }

    #[test]
    fn what_no_statistic_holds_is_found() {
        let check = |shape: StatisticShape, offset, values: &[f32], expected| {
            assert_eq!(shape.first_refused(2, offset, values), expected, "{shape:?} {values:?} at {offset}");
        };
        check(StatisticShape::Same, 4, &[0.0, 1.0, f32::NAN], Some(6));
        check(StatisticShape::Columns, 0, &[0.0, -1.0], Some(1));
        check(StatisticShape::Gram, 0, &[1.0, -0.5, -0.5, 1.0], None);
        check(StatisticShape::Gram, 0, &[1.0, -0.5, -0.5, -1.0], Some(3));
        check(StatisticShape::Gram, 2, &[-0.5, -1.0], Some(3));
        check(StatisticShape::Gram, 0, &[1.0, f32::INFINITY], Some(1));
        // The first row of the second matrix of a stack.
        check(StatisticShape::Gram, 4, &[1.0, -0.5, -0.5, 1.0], None);
        check(StatisticShape::Gram, 4, &[-1.0, -0.5], Some(4));
    }
}
