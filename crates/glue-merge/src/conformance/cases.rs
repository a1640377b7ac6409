//! What operators are tried on: shapes, values, settings.

use crate::contract::TensorSpec;
use crate::def::Operator;
use crate::error::ParamError;
use crate::merge::SliceSource;
use crate::params::{Kind, ParamSpec, Params, Scope, Setting, Value};
use crate::random::ElementRng;
use crate::statistic::{StatisticShape, StatisticSpec};

/// Shapes of tensors that are merged in every way there is.
pub(super) const SHAPES: &[&[usize]] =
    &[&[], &[1], &[7], &[16], &[3, 5], &[2, 3, 4], &[64, 33], &[3001], &[0], &[0, 4]];

/// A shape of three spans, whether they are cut anywhere or at rows.
pub(super) const LARGE: &[usize] = &[513, 1025];

/// Lengths of blocks that must not be told apart by their results.
pub(super) const BLOCKS: &[usize] = &[1, 7, 53, 64, 1000];

/// What the elements are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Data {
    /// Multiples of 1/16 with many ties, exact zeros, and elements that are equal in several operands.
    Coarse,
    /// Values of which hardly two are equal.
    Smooth,
    /// Every input is the base.
    Unchanged,
    /// Every operand is 0.
    Zero,
    /// Inputs in pairs of opposite directions: the base plus and minus the same multiples of 1/16; without a base,
    /// those multiples themselves. What divides by an angle or by an agreement of signs has its pole here.
    Opposed,
    /// The same, but every other input goes half as far and is off by a little in one element.
    NearlyOpposed,
}

impl Data {
    /// All of them.
    pub(super) const ALL: [Self; 6] =
        [Self::Coarse, Self::Smooth, Self::Unchanged, Self::Zero, Self::Opposed, Self::NearlyOpposed];
}

/// The operands of one merge.
pub(super) struct Operands {
    pub(super) base: Option<Vec<f32>>,
    pub(super) inputs: Vec<Vec<f32>>,
    pub(super) statistics: Vec<Vec<f32>>,
}

/// From −1 to 1.
fn even(word: u32) -> f32 {
    (f64::from(word) / f64::from(u32::MAX) * 2.0 - 1.0) as f32
}

impl Operands {
    pub(super) fn new(data: Data, tensor: &TensorSpec<'_>) -> Self {
        let len = tensor.len();
        let words = |operand| words("conformance", operand, len);
        let base: Vec<f32> = words(0)
            .into_iter()
            .map(|word| match data {
                Data::Coarse => (word % 17) as f32 / 8.0 - 1.0,
                Data::Opposed | Data::NearlyOpposed if tensor.has_base => (word % 17) as f32 / 8.0 - 1.0,
                Data::Zero | Data::Opposed | Data::NearlyOpposed => 0.0,
                Data::Smooth | Data::Unchanged => even(word),
            })
            .collect();
        let changed = |operand: usize| {
            let opposed = matches!(data, Data::Opposed | Data::NearlyOpposed);
            let (sign, off) = match data {
                Data::NearlyOpposed if operand.is_multiple_of(2) => (-0.5, 1e-5),
                _ if operand.is_multiple_of(2) => (-1.0, 0.0),
                _ => (1.0, 0.0),
            };
            words(if opposed { operand.div_ceil(2) } else { operand })
                .into_iter()
                .zip(&base)
                .enumerate()
                .map(|(j, (word, base))| match data {
                    Data::Coarse if word % 3 == 0 => *base,
                    Data::Coarse => base + ((word >> 8) % 9) as f32 / 16.0 - 0.25,
                    Data::Smooth => base + 0.25 * even(word).powi(3),
                    Data::Unchanged | Data::Zero => *base,
                    Data::Opposed | Data::NearlyOpposed => {
                        base + sign * ((word % 8) as f32 / 16.0 + 0.0625) + if j == 0 { off } else { 0.0 }
                    }
                })
                .collect()
        };
        let statistic = |i| tensor.statistic.map_or(Vec::new(), |statistic| measured(data, tensor, statistic, i));
        Self {
            inputs: (1..=tensor.n_inputs).map(changed).collect(),
            statistics: (0..tensor.n_statistics()).map(statistic).collect(),
            base: tensor.has_base.then_some(base),
        }
    }

    /// The operands as a source.
    pub(super) fn source(&self) -> SliceSource<'_> {
        let source = SliceSource::new(&self.inputs).with_statistics(&self.statistics);
        match &self.base {
            Some(base) => source.with_base(base),
            None => source,
        }
    }
}

fn words(name: &str, operand: usize, len: usize) -> Vec<u32> {
    let mut words = vec![0; len];
    ElementRng::new(0, name, operand).fill(0, &mut words);
    words
}

/// A statistic as data could give it: not negative, with exact zeros and ties where the data is coarse; of products of
/// columns, a matrix that is positive definite but for columns of zeros.
fn measured(data: Data, tensor: &TensorSpec<'_>, statistic: &StatisticSpec, i: usize) -> Vec<f32> {
    let shape = statistic.shape.of(tensor.shape);
    let one = |word: u32| match data {
        Data::Coarse => ((word >> 16) % 5) as f32 / 4.0,
        Data::Zero => 0.0,
        Data::Smooth | Data::Unchanged | Data::Opposed | Data::NearlyOpposed => even(word).powi(2),
    };
    let name = "conformance statistics";
    if statistic.shape != StatisticShape::Gram {
        return words(name, i, shape.iter().product()).into_iter().map(one).collect();
    }
    let n = shape[0];
    let column: Vec<f32> = words(name, i, n).into_iter().map(one).collect();
    let mut products = vec![0.0; n * n];
    for (j, row) in products.chunks_exact_mut(n.max(1)).enumerate() {
        for ((k, product), other) in row.iter_mut().enumerate().zip(&column) {
            let alternating = if (j + k) % 2 == 0 { 0.5 } else { -0.5 };
            *product = column[j] * other * if j == k { 1.0 } else { alternating };
        }
    }
    products
}

/// The tensor that is merged.
pub(super) fn tensor<'a>(
    shape: &'a [usize],
    has_base: bool,
    n_inputs: usize,
    statistic: Option<&'a StatisticSpec>,
) -> TensorSpec<'a> {
    let (name, layer) = ("model.layers.1.mlp.up_proj.weight", Some((1, 4)));
    TensorSpec { name, shape, stacked: false, has_base, n_inputs, layer, seed: 7, statistic }
}

pub(super) type Given = Vec<(&'static str, Setting)>;

/// Settings under which an operator is tried.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) tensor: Given,
    pub(super) inputs: Vec<Given>,
    /// Whether the operator may refuse them: they were not asked for.
    pub(super) may_be_refused: bool,
}

impl Settings {
    /// The parameters, if the operator accepts them.
    pub(super) fn params(&self, operator: &Operator) -> Result<Params, ParamError> {
        let all = operator.params(self.inputs.len()).set_all(self.tensor.clone());
        self.inputs.iter().enumerate().fold(all, |params, (i, own)| params.input(i, own.clone())).check()
    }

    /// What is given, and what is required besides.
    pub(super) fn required(operator: &Operator, n_inputs: usize, given: &Given) -> Self {
        Self::filled(operator, n_inputs, given, |spec| spec.default.is_none())
    }

    /// What is given, and a usual value for every other number; then the same with each flag and each choice turned
    /// to where it does not stand by default.
    pub(super) fn all(operator: &Operator, n_inputs: usize, given: &Given) -> Vec<Self> {
        let mut all = vec![Self::required(operator, n_inputs, given)];
        let mut usual = Self::filled(operator, n_inputs, given, |_| true);
        usual.may_be_refused = true;
        for spec in operator.specs() {
            if given.iter().any(|(key, _)| *key == spec.name) {
                continue;
            }
            let turned: Vec<Setting> = match (spec.kind, spec.default) {
                (Kind::Flag, Some(Value::Flag(x))) => vec![(!x).into()],
                (Kind::Choice { options, .. }, Some(Value::Word(word))) => {
                    options.iter().filter(|o| **o != word).map(|o| (*o).into()).collect()
                }
                _ => Vec::new(),
            };
            for setting in turned {
                let mut other = usual.clone();
                other.tensor.push((spec.name, setting));
                all.push(other);
            }
        }
        all.push(usual);
        all
    }

    fn filled(operator: &Operator, n_inputs: usize, given: &Given, wanted: impl Fn(&ParamSpec) -> bool) -> Self {
        let mut settings = Self { tensor: given.clone(), inputs: vec![Vec::new(); n_inputs], may_be_refused: false };
        for spec in operator.specs() {
            let known = given.iter().any(|(key, _)| *key == spec.name);
            let Some(usual) = usual(spec).filter(|_| !known && wanted(spec)) else {
                continue;
            };
            match spec.scope {
                Scope::Tensor => settings.tensor.push((spec.name, usual(0))),
                Scope::Input => {
                    for (i, own) in settings.inputs.iter_mut().enumerate() {
                        own.push((spec.name, usual(i)));
                    }
                }
            }
        }
        settings
    }

    /// The same without one parameter.
    pub(super) fn without(&self, key: &str) -> Self {
        let mut less = self.clone();
        for given in less.inputs.iter_mut().chain([&mut less.tensor]) {
            given.retain(|(k, _)| *k != key);
        }
        less
    }

    /// The same with the inputs in the opposite order.
    pub(super) fn reversed(&self) -> Self {
        let mut reversed = self.clone();
        reversed.inputs.reverse();
        reversed
    }
}

/// A number from where good values of a parameter lie, another for each input.
fn usual(spec: &ParamSpec) -> Option<impl Fn(usize) -> Setting> {
    let (low, high, whole) = match spec.kind {
        Kind::Number { usual, .. } => (usual.0, usual.1, false),
        Kind::Integer { min, max } => (min as f64, max.min(min.saturating_add(2)) as f64, true),
        _ => return None,
    };
    Some(move |i: usize| {
        let x = low + (high - low) * (0.5 - 0.15 * (i % 3) as f64);
        Setting::from(if whole { x.round() } else { x })
    })
}
