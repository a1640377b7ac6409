//! The gates of a mixture: their values, what is stored of them, and reading them.

use crate::error::MixError;
use crate::sites::{MixtureFormat, Sites};
use crate::spec::RouterKind;
use glue_tensor::{Checkpoint, Dtype, TensorSpec, first_nonfinite, narrow, widen};
use std::convert::Infallible;
use std::path::Path;

/// One gate: from a state of width `hidden` to a score for each expert.
///
/// Matrices are of type `M` and vectors of type `V`. In files both are row-major `f32` values, the default; a runtime
/// or a training has the same gate in its own tensors, and [`Gate::try_map`] leads from one to the other.
#[derive(Debug, Clone, PartialEq)]
pub enum Gate<M = Vec<f32>, V = M> {
    /// scores = weight · x + bias.
    Linear {
        /// [experts, hidden].
        weight: M,
        /// \[experts\]; zero when absent.
        bias: Option<V>,
    },
    /// scores = down · silu(up · x + up_bias) + down_bias.
    Mlp {
        /// [inner, hidden].
        up_weight: M,
        /// \[inner\].
        up_bias: V,
        /// [experts, inner].
        down_weight: M,
        /// \[experts\].
        down_bias: V,
    },
}

/// The gates of a mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Gates {
    /// Experts that each gate scores.
    pub experts: usize,
    /// Width of the states that the gates read.
    pub hidden_size: usize,
    /// One for each mixed layer, in their order; one alone at level `model`; none when no layer is mixed.
    pub gates: Vec<Gate>,
    /// Qwen2-MoE's format: for each mixed layer the row, of width `hidden_size`, whose product with the state says
    /// through a sigmoid how much of the shared expert is added. Empty in any other format.
    pub shared: Vec<Vec<f32>>,
}

impl<M, V> Gate<M, V> {
    /// The same gate with other matrices and vectors, made in the order of the fields. `matrix` and `vector` are given
    /// the name of a tensor below the gate's prefix, such as `up.weight`, and its value.
    ///
    /// # Errors
    /// The first error of `matrix` or `vector`.
    pub fn try_map<N, W, E>(
        &self,
        mut matrix: impl FnMut(&'static str, &M) -> Result<N, E>,
        mut vector: impl FnMut(&'static str, &V) -> Result<W, E>,
    ) -> Result<Gate<N, W>, E> {
        Ok(match self {
            Gate::Linear { weight, bias } => Gate::Linear {
                weight: matrix("weight", weight)?,
                bias: bias.as_ref().map(|bias| vector("bias", bias)).transpose()?,
            },
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => Gate::Mlp {
                up_weight: matrix("up.weight", up_weight)?,
                up_bias: vector("up.bias", up_bias)?,
                down_weight: matrix("down.weight", down_weight)?,
                down_bias: vector("down.bias", down_bias)?,
            },
        })
    }

    /// [`Gate::try_map`] by functions that cannot fail and need no name.
    pub fn map<N, W>(&self, mut matrix: impl FnMut(&M) -> N, mut vector: impl FnMut(&V) -> W) -> Gate<N, W> {
        let mapped = self.try_map(|_, m| Ok::<_, Infallible>(matrix(m)), |_, v| Ok(vector(v)));
        match mapped {
            Ok(gate) => gate,
        }
    }
}

impl<T> Gate<T> {
    /// The names of the tensors below the gate's prefix, such as `up.weight`, and their values, in the order of the
    /// fields.
    pub fn tensors(&self) -> Vec<(&'static str, &T)> {
        match self {
            Gate::Linear { weight, bias } => {
                std::iter::once(("weight", weight)).chain(bias.iter().map(|bias| ("bias", bias))).collect()
            }
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => vec![
                ("up.weight", up_weight),
                ("up.bias", up_bias),
                ("down.weight", down_weight),
                ("down.bias", down_bias),
            ],
        }
    }
}

impl Gate<Vec<usize>> {
    /// The shape of each tensor of a gate of this kind, for `experts` experts and states of width `hidden`. A linear
    /// gate may lack the bias that stands here.
    pub fn shapes(kind: RouterKind, experts: usize, hidden: usize) -> Gate<Vec<usize>> {
        match kind {
            RouterKind::Linear => Gate::Linear { weight: vec![experts, hidden], bias: Some(vec![experts]) },
            RouterKind::Mlp { hidden_size } => Gate::Mlp {
                up_weight: vec![hidden_size, hidden],
                up_bias: vec![hidden_size],
                down_weight: vec![experts, hidden_size],
                down_bias: vec![experts],
            },
        }
    }

    /// The same without the bias of a linear gate.
    #[must_use]
    pub fn without_bias(self) -> Gate<Vec<usize>> {
        match self {
            Gate::Linear { weight, .. } => Gate::Linear { weight, bias: None },
            other => other,
        }
    }
}

impl<M> Gate<M, Vec<f32>> {
    /// The kind of this gate.
    pub fn kind(&self) -> RouterKind {
        match self {
            Gate::Linear { .. } => RouterKind::Linear,
            Gate::Mlp { up_bias, .. } => RouterKind::Mlp { hidden_size: up_bias.len() },
        }
    }
}

impl Gate {
    /// A gate with one hidden layer of width `inner` that gives the same scores as this linear one: silu(z) − silu(−z)
    /// = z, so that two units carry one score; the others are zero. `None` when `inner` is less than twice the number
    /// of experts, or when this is no linear gate.
    pub fn to_mlp(&self, experts: usize, inner: usize) -> Option<Gate> {
        let Gate::Linear { weight, bias } = self else {
            return None;
        };
        if experts == 0 || inner < 2 * experts {
            return None;
        }
        let mut up_weight = vec![0.0; inner * (weight.len() / experts)];
        up_weight[..weight.len()].copy_from_slice(weight);
        for (o, w) in up_weight[weight.len()..].iter_mut().zip(weight) {
            *o = -w;
        }
        let mut down_weight = vec![0.0; experts * inner];
        for e in 0..experts {
            down_weight[e * inner + e] = 1.0;
            down_weight[e * inner + experts + e] = -1.0;
        }
        let down_bias = bias.clone().unwrap_or_else(|| vec![0.0; experts]);
        Some(Gate::Mlp { up_weight, up_bias: vec![0.0; inner], down_weight, down_bias })
    }

    /// Name below the gate's prefix, shape and values of each tensor, for `experts` experts.
    pub(crate) fn parts(&self, experts: usize, hidden: usize) -> Vec<(&'static str, Vec<usize>, &[f32])> {
        let shapes = Gate::shapes(self.kind(), experts, hidden);
        let shapes = shapes.tensors().into_iter().map(|(_, shape)| shape.clone());
        self.tensors().into_iter().zip(shapes).map(|((name, values), shape)| (name, shape, values.as_slice())).collect()
    }
}

impl Gates {
    /// The kind of all of them; `None` without gates.
    pub fn kind(&self) -> Option<RouterKind> {
        self.gates.first().map(Gate::kind)
    }

    /// Checks numbers, sizes and values, for a mixture whose gates stand at `sites`.
    ///
    /// # Errors
    /// [`MixError::Gates`] that names what does not agree; [`MixError::GateValue`] for a value that is not finite;
    /// [`MixError::Format`] for gates that the format has no place for.
    pub fn check(&self, sites: &Sites) -> Result<(), MixError> {
        let count = |what: &str, expected: usize, found: usize| match expected == found {
            true => Ok(()),
            false => {
                Err(MixError::Gates { what: what.into(), expected: expected.to_string(), found: found.to_string() })
            }
        };
        count("number of gates", sites.prefixes.len(), self.gates.len())?;
        count("number of experts that gates score", sites.experts.len(), self.experts)?;
        count("width of the states that gates read", sites.hidden_size, self.hidden_size)?;
        count("number of gates of the shared expert", sites.shared.len(), self.shared.len())?;
        for (prefix, gate) in sites.prefixes.iter().zip(&self.gates) {
            if Some(gate.kind()) != self.kind() {
                let (expected, found) = (format!("{:?}, as the first gate", self.kind()), format!("{:?}", gate.kind()));
                return Err(MixError::Gates { what: format!("kind of gate `{prefix}`"), expected, found });
            }
            if sites.format != MixtureFormat::Native && !matches!(gate, Gate::Linear { bias: None, .. }) {
                let why = "its gates are linear and have no bias".to_string();
                return Err(MixError::Format { format: sites.format.name(), why });
            }
            for (part, shape, values) in gate.parts(self.experts, self.hidden_size) {
                let name = format!("{prefix}{part}");
                count(&format!("number of values of `{name}`"), shape.iter().product(), values.len())?;
                check_finite(&name, values)?;
            }
        }
        for (name, row) in sites.shared.iter().zip(&self.shared) {
            count(&format!("number of values of `{name}`"), self.hidden_size, row.len())?;
            check_finite(name, row)?;
        }
        Ok(())
    }
}

impl Gates {
    /// The same gates as they are written to `sites`: in the native format a linear gate has a bias, of zeros where it
    /// had none, so that the names in a file follow from the kind of the gates.
    pub(crate) fn written(&self, sites: &Sites) -> Gates {
        let mut gates = self.clone();
        if sites.format == MixtureFormat::Native {
            gates.gates.iter_mut().for_each(|gate| {
                if let Gate::Linear { bias: bias @ None, .. } = gate {
                    *bias = Some(vec![0.0; self.experts]);
                }
            });
        }
        gates
    }

    /// The same gates after they were stored as `dtype`, the type of the file they go to (see [`crate::gate_dtype`]).
    ///
    /// # Errors
    /// [`MixError::GateValue`] for a value that the type does not hold.
    pub fn stored_as(&self, dtype: Dtype) -> Result<Gates, MixError> {
        let mut stored = self.clone();
        for (number, gate) in stored.gates.iter_mut().enumerate() {
            let round = |_, values: &Vec<f32>| rounded(&format!("gate {number}"), values, dtype);
            *gate = gate.try_map(round, round)?;
        }
        for (number, row) in stored.shared.iter_mut().enumerate() {
            *row = rounded(&format!("shared expert's gate {number}"), row, dtype)?;
        }
        Ok(stored)
    }
}

/// Values as they come back from a file.
fn rounded(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<f32>, MixError> {
    let bytes = store(name, values, dtype)?;
    let mut back = vec![0.0; values.len()];
    let refused = MixError::GateValue { gate: name.to_string(), value: 0.0, dtype };
    widen(dtype, &bytes, &mut back).map(|_| back).map_err(|_| refused)
}

fn check_finite(gate: &str, values: &[f32]) -> Result<(), MixError> {
    match values.iter().find(|value| !value.is_finite()) {
        Some(&value) => Err(MixError::GateValue { gate: gate.to_string(), value, dtype: Dtype::F32 }),
        None => Ok(()),
    }
}

/// Every tensor of `gates`, by name, shape and values.
fn tensors<'a>(sites: &'a Sites, gates: &'a Gates) -> impl Iterator<Item = (String, Vec<usize>, &'a [f32])> {
    let parts = sites.prefixes.iter().zip(&gates.gates).flat_map(|(prefix, gate)| {
        let parts = gate.parts(gates.experts, gates.hidden_size);
        parts.into_iter().map(move |(part, shape, values)| (format!("{prefix}{part}"), shape, values))
    });
    let shared = sites.shared.iter().zip(&gates.shared);
    parts.chain(shared.map(|(name, row)| (name.clone(), vec![1, gates.hidden_size], row.as_slice())))
}

/// What the tensors of `gates` are called and how large they are.
pub(crate) fn specs(sites: &Sites, gates: &Gates, dtype: Dtype) -> Vec<TensorSpec> {
    tensors(sites, gates).map(|(name, shape, _)| TensorSpec { name, dtype, shape }).collect()
}

/// The data of the tensors of `gates`, in the order of [`specs`].
pub(crate) fn data(sites: &Sites, gates: &Gates, dtype: Dtype) -> Result<Vec<Vec<u8>>, MixError> {
    tensors(sites, gates).map(|(name, _, values)| store(&name, values, dtype)).collect()
}

fn store(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>, MixError> {
    let refused = |value| MixError::GateValue { gate: name.to_string(), value, dtype };
    let mut bytes = vec![0; values.len() * dtype.size()];
    if !narrow(dtype, values, &mut bytes).map_err(|_| refused(0.0))? {
        let first = first_nonfinite(dtype, &bytes).ok().flatten().unwrap_or(0);
        return Err(refused(values[first]));
    }
    Ok(bytes)
}

/// Reads the gates of the mixture in the directory `dir`.
///
/// # Errors
/// [`MixError::NotAMixture`], [`MixError::GateMissing`], [`MixError::Gates`] for a tensor of another shape than the
/// configuration asks for, and those of reading a configuration or weights.
pub fn read_gates(dir: impl AsRef<Path>) -> Result<Gates, MixError> {
    let dir = dir.as_ref();
    let sites = Sites::open(dir)?;
    let checkpoint = Checkpoint::open(dir)?;
    let (n, hidden) = (sites.experts.len(), sites.hidden_size);
    let required = |name: String, shape: &[usize]| -> Result<Vec<f32>, MixError> {
        let Some(view) = checkpoint.get(&name) else {
            return Err(MixError::GateMissing { path: dir.to_path_buf(), tensor: name });
        };
        if view.shape() != shape || !view.dtype().is_float() {
            let (expected, found) = (format!("{shape:?}"), format!("{:?} of {}", view.shape(), view.dtype()));
            return Err(MixError::Gates { what: format!("shape of `{name}`"), expected, found });
        }
        let mut values = vec![0.0; view.info().n_elements()];
        let finite = widen(view.dtype(), view.data(), &mut values);
        if !matches!(finite, Ok(true)) {
            let value = values.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN);
            return Err(MixError::GateValue { gate: name, value, dtype: view.dtype() });
        }
        Ok(values)
    };
    let gate = |prefix: &String| {
        let shapes = Gate::shapes(sites.router, n, hidden);
        let has_bias = sites.format == MixtureFormat::Native && checkpoint.info(&format!("{prefix}bias")).is_some();
        let shapes = if has_bias { shapes } else { shapes.without_bias() };
        let read = |part, shape: &Vec<usize>| required(format!("{prefix}{part}"), shape);
        shapes.try_map(read, read)
    };
    let gates = sites.prefixes.iter().map(gate).collect::<Result<_, _>>()?;
    let shared = sites.shared.iter().map(|name| required(name.clone(), &[1, hidden])).collect::<Result<_, _>>()?;
    Ok(Gates { experts: n, hidden_size: hidden, gates, shared })
}
