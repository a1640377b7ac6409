//! Short ways of merging, for the tests of this crate.

use glue_linalg::svd;
use glue_merge::random::ElementRng;
use glue_merge::{
    BaseRule, Done, Driver, MergeError, Operator, OperatorDef, Setting, SliceSource, TensorSpec, VecSink,
};
use ndarray::Array2;

/// Elements of the base throughout.
const BASE: f32 = 10.0;

/// Task vectors to be merged.
pub(crate) struct Case<'a> {
    pub(crate) def: &'static OperatorDef,
    pub(crate) shape: &'a [usize],
    /// Whether the first of three axes counts matrices.
    pub(crate) stacked: bool,
    /// Whether the tensor belongs to a layer.
    pub(crate) layer: bool,
    pub(crate) settings: Vec<(&'static str, Setting)>,
    /// Settings of each model; none when empty.
    pub(crate) own: Vec<Vec<(&'static str, Setting)>>,
    pub(crate) taus: &'a [&'a [f32]],
}

impl<'a> Case<'a> {
    pub(crate) fn of(def: &'static OperatorDef, taus: &'a [&'a [f32]]) -> Self {
        Self { def, shape: &[], stacked: false, layer: true, settings: Vec::new(), own: Vec::new(), taus }
    }

    /// The merged tensor, on a base of tens.
    pub(crate) fn run(&self) -> Result<Vec<f32>, MergeError> {
        self.on(BASE)
    }

    /// The merged task vector, on a base of zeros, where it is not rounded to the digits of a sum.
    pub(crate) fn change(&self) -> Vec<f32> {
        self.on(0.0).unwrap()
    }

    fn on(&self, base: f32) -> Result<Vec<f32>, MergeError> {
        let operator = Operator::new(self.def);
        let all = operator.params(self.taus.len()).set_all(self.settings.clone());
        let params = self.own.iter().enumerate().fold(all, |params, (i, own)| params.input(i, own.clone())).check()?;
        let tensor = TensorSpec::new("model.layers.1.mlp.up_proj.weight", self.shape)
            .with_operands(self.def.base != BaseRule::Unused, self.taus.len())
            .with_stacked(self.stacked)
            .with_layer(self.layer.then_some((1, 4)))
            .with_seed(7);
        let inputs = self.taus.iter().map(|tau| tau.iter().map(|x| x + base).collect());
        let (base, inputs): (_, Vec<Vec<f32>>) = (vec![base; tensor.len()], inputs.collect());
        let (operands, sink) =
            (SliceSource::new(&inputs).with_base(&base), VecSink::from(vec![f32::NAN; tensor.len()]));
        let done = Driver::default().merge(&operator, &params, &tensor, &operands, &sink)?;
        assert_eq!(done, Done::Merged);
        Ok(sink.into_vec())
    }
}

/// Elements between −1 and 1.
pub(crate) fn matrix(rows: usize, columns: usize, seed: u64) -> Array2<f64> {
    let mut words = vec![0; rows * columns];
    ElementRng::new(seed, "matrix", 0).fill(0, &mut words);
    Array2::from_shape_fn((rows, columns), |(r, c)| f64::from(words[r * columns + c]) / f64::from(1_u32 << 31) - 1.0)
}

/// U·Vᵀ of a matrix of full rank, from an exact decomposition.
pub(crate) fn polar_factor(a: &Array2<f64>) -> Array2<f64> {
    let parts = svd(a.view()).unwrap();
    parts.u.dot(&parts.vt)
}

/// One task vector of any shape is restored where nothing of it is cut off.
#[track_caller]
pub(crate) fn check_one_task_is_restored(def: &'static OperatorDef, settings: &[(&'static str, Setting)]) {
    for (m, n) in [(9, 5), (5, 9), (6, 6)] {
        let tau = values(&matrix(m, n, 1));
        let taus: [&[f32]; 1] = [&tau];
        near(&Case { shape: &[m, n], settings: settings.to_vec(), ..Case::of(def, &taus) }.change(), &tau, 1e-6);
    }
}

/// In `f32`, by rows.
pub(crate) fn values(a: &Array2<f64>) -> Vec<f32> {
    a.iter().map(|x| *x as f32).collect()
}

/// No element differs by more than `tolerance`: a few roundings of `f32`, unless the caller says more.
#[track_caller]
pub(crate) fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    let off = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(off <= tolerance, "off by {off:e}:\n{found:?}\n{expected:?}");
}
