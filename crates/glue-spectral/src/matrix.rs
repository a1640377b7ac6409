//! What the operators share: which tensors are matrices to them, the task vectors of one, and its way through the
//! driver.

use glue_linalg::{LinalgError, Svd, product, svd_by_gram};
use glue_merge::operators::task_arithmetic;
use glue_merge::{
    Block, BoxError, Granularity, Interval, Map, MergeError, Operator, ParamSpec, Params, Plan, Reduction, TensorSpec,
};
use ndarray::{Array2, ArrayView2, s};

/// `weight`, 1 unless given, for each model.
pub(crate) const WEIGHT: ParamSpec =
    ParamSpec::number("weight", "Factor on the task vector of the model.", Interval::ANY, (0.5, 1.5))
        .or(1.0)
        .per_input();

/// `lambda`, 1 unless given.
pub(crate) const LAMBDA: ParamSpec =
    ParamSpec::number("lambda", "Factor on the merged task vector.", Interval::ANY, (0.1, 1.5)).or(1.0);

/// `outside_layers`, `mean` unless given.
pub(crate) const OUTSIDE_LAYERS: ParamSpec = ParamSpec::choice(
    "outside_layers",
    "Matrices outside of the layers, such as embedding and head: mean adds the mean of their task vectors, as for tensors that are no matrices; matrix treats them as those of the layers.",
    &["mean", "matrix"],
    [None, None],
    "mean",
);

/// Merges the task vectors of one matrix.
pub(crate) trait MatrixMerge: Send + Sync + 'static {
    /// The merged task vector, before λ.
    fn merge(&self, taus: &TaskVectors<'_>) -> Result<Array2<f64>, BoxError>;

    /// Elements of `f64` held at once while merging `models` matrices of these rows and columns.
    fn working(&self, dim: (usize, usize), models: usize) -> usize;
}

/// Elements of `f64` held by [`svd_by_gram`], its input and its result counted.
pub(crate) fn working_of_svd(rows: usize, columns: usize) -> usize {
    2 * rows * columns + 6 * rows.min(columns).pow(2)
}

/// The task vectors of one matrix, each made when it is asked for.
pub(crate) struct TaskVectors<'a> {
    base: &'a [f32],
    inputs: &'a [&'a [f32]],
    dim: (usize, usize),
    weights: &'a [f64],
}

impl TaskVectors<'_> {
    /// Rows and columns.
    pub(crate) fn dim(&self) -> (usize, usize) {
        self.dim
    }

    /// Number of models.
    pub(crate) fn count(&self) -> usize {
        self.inputs.len()
    }

    /// Weight of model `i`.
    pub(crate) fn weight(&self, i: usize) -> f64 {
        self.weights[i]
    }

    /// τi.
    pub(crate) fn get(&self, i: usize) -> Array2<f64> {
        let columns = self.dim.1;
        Array2::from_shape_fn(self.dim, |(r, c)| {
            let j = r * columns + c;
            f64::from(self.inputs[i][j]) - f64::from(self.base[j])
        })
    }

    /// Σ wi τi.
    pub(crate) fn sum(&self) -> Array2<f64> {
        (0..self.count()).fold(Array2::zeros(self.dim), |mut sum, i| {
            sum.scaled_add(self.weight(i), &self.get(i));
            sum
        })
    }
}

/// The plan of an operator whose parameters include [`WEIGHT`], [`LAMBDA`] and [`OUTSIDE_LAYERS`].
pub(crate) fn plan(tensor: &TensorSpec<'_>, params: &Params, merge: impl MatrixMerge) -> Result<Plan, MergeError> {
    let (weights, lambda) = (params.input_numbers("weight"), params.number("lambda"));
    let inside = tensor.layer.is_some() || params.word("outside_layers") == "matrix";
    match *tensor.shape {
        [rows, columns] if inside && !tensor.is_empty() => {
            let (tensor, dim) = (tensor.name.into(), (rows, columns));
            Ok(Plan::reduce(Whole { merge, tensor, dim, weights, lambda }))
        }
        _ => mean(tensor, &weights, lambda),
    }
}

/// θ0 + λ/N Σ wi τi.
fn mean(tensor: &TensorSpec<'_>, weights: &[f64], lambda: f64) -> Result<Plan, MergeError> {
    let operator = Operator::new(&task_arithmetic::DEF);
    let scaled = weights.iter().map(|w| w / weights.len() as f64);
    let params = operator.params(weights.len()).set("lambda", lambda).each("weight", scaled).check()?;
    operator.plan(tensor, &params)
}

/// Sees a matrix whole and merges it then, while its operands are at hand: that spares a copy of each of them. What
/// arithmetic cannot do is known when the reduction ends, which may refuse, and not in a map, which may not.
struct Whole<M> {
    merge: M,
    tensor: String,
    dim: (usize, usize),
    weights: Vec<f64>,
    lambda: f64,
}

impl<M: MatrixMerge> Reduction for Whole<M> {
    /// The result, once the matrix was seen.
    type Accumulator = Option<Result<Vec<f32>, BoxError>>;

    fn granularity(&self) -> Granularity {
        Granularity::Tensor
    }

    fn working_bytes(&self) -> u64 {
        (self.merge.working(self.dim, self.weights.len()) * size_of::<f64>()) as u64
    }

    fn accumulator(&self) -> Self::Accumulator {
        None
    }

    fn observe(&self, accumulator: &mut Self::Accumulator, block: &Block<'_>) {
        let taus = TaskVectors { base: block.base(), inputs: block.inputs, dim: self.dim, weights: &self.weights };
        *accumulator = Some(self.merge.merge(&taus).map(|tau| {
            let sum = |(base, tau): (&f32, &f64)| (f64::from(*base) + self.lambda * tau) as f32;
            block.base().iter().zip(&tau).map(sum).collect()
        }));
    }

    fn combine(&self, accumulator: &mut Self::Accumulator, later: Self::Accumulator) {
        if later.is_some() {
            *accumulator = later;
        }
    }

    fn finish(self, total: Self::Accumulator) -> Result<Plan, MergeError> {
        match total.transpose() {
            Ok(merged) => Ok(Plan::map(Finished(merged.unwrap_or_default()))),
            Err(reason) => Err(MergeError::NoResult { tensor: self.tensor, reason }),
        }
    }
}

/// Returns the blocks of a result that is computed already.
pub(crate) struct Finished(pub(crate) Vec<f32>);

impl Map for Finished {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        out.copy_from_slice(&self.0[block.offset..block.offset + out.len()]);
    }
}

/// U·Vᵀ over the numerical rank: the matrix with the singular vectors of `a` and singular values of 1, and the nearest
/// one with orthonormal columns (rows, for a wide matrix) where the rank is full. Directions that `a` does not have are
/// left out; a decomposition would complete them with whatever rounding suggests.
pub(crate) fn polar(a: ArrayView2<'_, f64>) -> Result<Array2<f64>, LinalgError> {
    let parts = svd_by_gram(a)?;
    product(parts.u.view(), parts.vt.view())
}

/// Singular triples of several matrices, side by side.
pub(crate) struct Triples {
    u: Array2<f64>,
    vt: Array2<f64>,
    values: Vec<f64>,
}

impl Triples {
    /// None yet, of matrices of these rows and columns, with capacity for `capacity`.
    pub(crate) fn new((rows, columns): (usize, usize), capacity: usize) -> Self {
        let (u, vt) = (Array2::zeros((rows, capacity)), Array2::zeros((capacity, columns)));
        Self { u, vt, values: Vec::with_capacity(capacity) }
    }

    /// Takes in the first `count` of `parts`, their values times `factor`.
    pub(crate) fn push(&mut self, parts: &Svd<f64>, count: usize, factor: f64) {
        let at = self.values.len();
        self.u.slice_mut(s![.., at..at + count]).assign(&parts.u.slice(s![.., ..count]));
        self.vt.slice_mut(s![at..at + count, ..]).assign(&parts.vt.slice(s![..count, ..]));
        self.values.extend(parts.values.iter().take(count).map(|value| value * factor));
    }

    /// The first `count` left singular vectors.
    pub(crate) fn left(&self, count: usize) -> ArrayView2<'_, f64> {
        self.u.slice(s![.., ..count])
    }

    /// The values.
    pub(crate) fn values(&self) -> &[f64] {
        &self.values
    }

    /// [`polar`] of the left and of the right vectors.
    pub(crate) fn polars(&self) -> Result<(Array2<f64>, Array2<f64>), LinalgError> {
        let count = self.values.len();
        Ok((polar(self.left(count))?, polar(self.vt.slice(s![..count, ..]))?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Case, matrix, values};
    use crate::{iso, tsv};
    use glue_merge::{Driver, SliceSource, VecSink};

    #[test]
    fn what_is_no_matrix_takes_the_mean() {
        let taus: [&[f32]; 2] = [&[1.0, 2.0, 3.0, 4.0], &[3.0, 2.0, 1.0, -4.0]];
        for (shape, layer) in [(&[4][..], true), (&[2, 1, 2], true), (&[2, 2], false)] {
            let case = Case { shape, layer, settings: vec![("lambda", 0.5.into())], ..Case::of(&iso::C, &taus) };
            assert_eq!(case.run().unwrap(), [11.0, 11.0, 11.0, 10.0], "{shape:?}");
        }
        let settings = vec![("outside_layers", "matrix".into())];
        let as_matrix = Case { shape: &[2, 2], layer: false, settings, ..Case::of(&iso::C, &taus) };
        let in_layer = Case { shape: &[2, 2], ..Case::of(&iso::C, &taus) };
        assert_eq!(as_matrix.run().unwrap(), in_layer.run().unwrap());
    }

    #[test]
    fn experts_in_one_tensor_are_merged_one_by_one() {
        for def in crate::DEFS {
            let experts: Vec<Vec<Vec<f32>>> =
                (0..3).map(|e| (0..2).map(|i| values(&matrix(4, 3, 10 * e + i))).collect()).collect();
            let alone = experts.iter().flat_map(|taus| {
                let taus: Vec<&[f32]> = taus.iter().map(Vec::as_slice).collect();
                Case { shape: &[4, 3], ..Case::of(def, &taus) }.change()
            });
            let fused: Vec<Vec<f32>> =
                (0..2).map(|i| experts.iter().flat_map(|taus| taus[i].clone()).collect()).collect();
            let fused: Vec<&[f32]> = fused.iter().map(Vec::as_slice).collect();
            let together = Case { shape: &[3, 4, 3], stacked: true, ..Case::of(def, &fused) }.change();
            assert_eq!(together, alone.collect::<Vec<_>>(), "{}", def.name);
            if def.name != "regmean" {
                let mean = Case { shape: &[3, 4, 3], ..Case::of(def, &fused) }.change();
                assert_ne!(together, mean, "{}: not the mean", def.name);
            }
        }
    }

    #[test]
    fn dependent_columns_leave_a_partial_isometry() {
        let one = matrix(6, 2, 1);
        let twice = ndarray::concatenate![ndarray::Axis(1), one, one];
        let q = polar(twice.view()).unwrap();
        let half = polar(one.view()).unwrap() / 2.0_f64.sqrt();
        for part in [q.slice(s![.., ..2]), q.slice(s![.., 2..])] {
            assert!((&part - &half).iter().all(|x| x.abs() < 1e-7), "{q}");
        }
    }

    #[test]
    fn what_has_no_result_is_refused_with_the_name_of_the_tensor() {
        let tensor = TensorSpec::new("w", &[2, 2]).with_operands(true, 1).with_layer(Some((0, 1)));
        let operator = Operator::new(&tsv::DEF);
        let plan = || operator.plan(&tensor, &operator.params(1).check().unwrap()).unwrap();
        let (sink, driver) = (VecSink::from(vec![f32::NAN; 4]), Driver::default());
        let operands = |input: &'static [f32; 4]| SliceSource::new([input]).with_base(&[0.0; 4]);
        let error = driver.run(plan(), &tensor, &operands(&[1.0, f32::INFINITY, 0.0, 0.0]), &sink).unwrap_err();
        assert_eq!(
            std::error::Error::source(&error).unwrap().to_string(),
            "svd_by_gram: element (0, 1) of a 2×2 matrix is inf, not a finite number"
        );
        assert!(sink.into_vec().iter().all(|x| x.is_nan()), "nothing is written");
        let sink = VecSink::from(vec![f32::NAN; 4]);
        driver.run(plan(), &tensor, &operands(&[1.0; 4]), &sink).unwrap();
        assert!(sink.into_vec().iter().all(|x| x.is_finite()));
    }
}
