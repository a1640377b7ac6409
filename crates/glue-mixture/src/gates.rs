//! The gates of a mixture: their values, where they stand in a directory, reading them, and replacing them in place.
//!
//! A mixture written by this crate keeps its gates in a file of their own, so that replacing them leaves the experts alone.

use crate::error::MixError;
use crate::sites::{Form, Sites};
use crate::spec::RouterKind;
use glue_tensor::checkpoint::{INDEX_FILE, SINGLE_FILE};
use glue_tensor::header::encode_header;
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, Config, ContentHash, Dtype, TensorSpec, narrow, widen, write_atomic};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// One gate: from a state of width `hidden` to a score for each expert. Matrices are row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum Gate {
    /// scores = weight · x + bias.
    Linear {
        /// [experts, hidden].
        weight: Vec<f32>,
        /// \[experts\]; zero when absent.
        bias: Option<Vec<f32>>,
    },
    /// scores = down · silu(up · x + up_bias) + down_bias.
    Mlp {
        /// [inner, hidden].
        up_weight: Vec<f32>,
        /// \[inner\].
        up_bias: Vec<f32>,
        /// [experts, inner].
        down_weight: Vec<f32>,
        /// \[experts\].
        down_bias: Vec<f32>,
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
    /// Qwen2-MoE's form: for each mixed layer the row, of width `hidden_size`, whose product with the state says through a
    /// sigmoid how much of the shared expert is added. Empty in any other form.
    pub shared: Vec<Vec<f32>>,
}

impl Gate {
    /// The form of this gate, given the width of the states.
    pub fn kind(&self) -> RouterKind {
        match self {
            Gate::Linear { .. } => RouterKind::Linear,
            Gate::Mlp { up_bias, .. } => RouterKind::Mlp { hidden_size: up_bias.len() },
        }
    }

    /// A gate with one hidden layer of width `inner` that gives the same scores as this linear one: silu(z) − silu(−z) = z,
    /// so that two units carry one score; the others are zero. `None` when `inner` is less than twice the number of experts,
    /// or when this is no linear gate.
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
        match self {
            Gate::Linear { weight, bias } => {
                let weight = ("weight", vec![experts, hidden], weight.as_slice());
                let bias = bias.iter().map(|bias| ("bias", vec![experts], bias.as_slice()));
                std::iter::once(weight).chain(bias).collect()
            }
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => vec![
                ("up.weight", vec![up_bias.len(), hidden], up_weight),
                ("up.bias", vec![up_bias.len()], up_bias),
                ("down.weight", vec![experts, up_bias.len()], down_weight),
                ("down.bias", vec![experts], down_bias),
            ],
        }
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
    /// [`MixError::Form`] for gates that the form has no place for.
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
            if sites.form != Form::Native && !matches!(gate, Gate::Linear { bias: None, .. }) {
                let why = "its gates are linear and have no bias".to_string();
                return Err(MixError::Form { form: sites.form.name(), why });
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
    narrow(dtype, values, &mut bytes).map_err(|_| refused(0.0))?;
    let mut back = vec![0.0; values.len()];
    if !widen(dtype, &bytes, &mut back).map_err(|_| refused(0.0))? {
        let first = back.iter().position(|value| !value.is_finite()).unwrap_or(0);
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
    let optional = |name: &str, shape: &[usize]| -> Result<Option<Vec<f32>>, MixError> {
        let Some(view) = checkpoint.get(name) else {
            return Ok(None);
        };
        if view.shape() != shape || !view.dtype().is_float() {
            let (expected, found) = (format!("{shape:?}"), format!("{:?} of {}", view.shape(), view.dtype()));
            return Err(MixError::Gates { what: format!("shape of `{name}`"), expected, found });
        }
        let mut values = vec![0.0; view.info().n_elements()];
        let finite = widen(view.dtype(), view.data(), &mut values);
        if !matches!(finite, Ok(true)) {
            let value = values.iter().copied().find(|value| !value.is_finite()).unwrap_or(f32::NAN);
            return Err(MixError::GateValue { gate: name.to_string(), value, dtype: view.dtype() });
        }
        Ok(Some(values))
    };
    let required = |name: String, shape: &[usize]| {
        let missing = |name| MixError::GateMissing { path: dir.to_path_buf(), tensor: name };
        optional(&name, shape)?.ok_or_else(|| missing(name))
    };
    let gate = |prefix: &String| match sites.router {
        RouterKind::Linear => Ok(Gate::Linear {
            weight: required(format!("{prefix}weight"), &[n, hidden])?,
            bias: if sites.form == Form::Native { optional(&format!("{prefix}bias"), &[n])? } else { None },
        }),
        RouterKind::Mlp { hidden_size } => Ok::<_, MixError>(Gate::Mlp {
            up_weight: required(format!("{prefix}up.weight"), &[hidden_size, hidden])?,
            up_bias: required(format!("{prefix}up.bias"), &[hidden_size])?,
            down_weight: required(format!("{prefix}down.weight"), &[n, hidden_size])?,
            down_bias: required(format!("{prefix}down.bias"), &[n])?,
        }),
    };
    let gates = sites.prefixes.iter().map(gate).collect::<Result<_, _>>()?;
    let shared = sites.shared.iter().map(|name| required(name.clone(), &[1, hidden])).collect::<Result<_, _>>()?;
    Ok(Gates { experts: n, hidden_size: hidden, gates, shared })
}

/// Replaces the gates of the mixture in the directory `dir`, and nothing else: in its own form gates may change their kind, and
/// then the index and `router` in `config.json` follow.
///
/// A crash leaves the old gates or the new ones. When the kind changes, several files do, one after the other: a crash between
/// them leaves a directory that is refused when it is opened, and that another call mends.
///
/// # Errors
/// Those of [`Gates::check`]; [`MixError::GatesNotApart`] for a mixture of another program that keeps gates and experts in one
/// file; and those of reading and writing files.
pub fn write_gates(dir: impl AsRef<Path>, gates: &Gates) -> Result<(), MixError> {
    let dir = dir.as_ref();
    let sites = Sites::open(dir)?;
    gates.check(&sites)?;
    let Some(kind) = gates.kind() else {
        return Ok(());
    };
    let place = Place::find(dir, &sites)?;
    let specs = specs(&sites, gates, place.dtype);
    let bytes = encode(&specs, &data(&sites, gates, place.dtype)?);
    if place.index.is_none() || specs.len() == place.names.len() && specs.iter().all(|s| place.names.contains(&s.name))
    {
        write_atomic(&place.file, &bytes)?;
    } else {
        place.move_to(dir, &specs, &bytes)?;
    }
    if kind != sites.router {
        let mut config = Config::open(dir.join(CONFIG_FILE))?;
        config.set("router", serde_json::json!(kind))?;
        write_atomic(dir.join(CONFIG_FILE), &config.to_bytes())?;
    }
    Ok(())
}

/// The bytes of a safetensors file.
fn encode(specs: &[TensorSpec], data: &[Vec<u8>]) -> Vec<u8> {
    let mut end = 0;
    let entries = specs.iter().zip(data).map(|(spec, data)| {
        let start = end;
        end += data.len() as u64;
        (spec.name.as_str(), spec.dtype, spec.shape.as_slice(), start..end)
    });
    let entries: Vec<_> = entries.collect();
    let metadata = BTreeMap::from([("format".to_string(), "pt".to_string())]);
    let mut bytes = encode_header(entries, &metadata);
    bytes.extend(data.iter().flatten());
    bytes
}

/// Where the gates of a directory are.
struct Place {
    file: PathBuf,
    dtype: Dtype,
    /// Names of the tensors in the file.
    names: Vec<String>,
    /// The index, where there is one.
    index: Option<(PathBuf, Value)>,
}

impl Place {
    fn find(dir: &Path, sites: &Sites) -> Result<Place, MixError> {
        let index = dir.join(INDEX_FILE);
        let index = match index.is_file() {
            true => Some(read_json(&index).map(|value| (index, value))?),
            false => None,
        };
        // After a crash between two files the whole does not open as a checkpoint; its files do.
        let files: Vec<PathBuf> = match &index {
            Some((_, value)) => {
                let names: BTreeSet<&str> = value["weight_map"]
                    .as_object()
                    .into_iter()
                    .flatten()
                    .filter_map(|(_, file)| file.as_str())
                    .collect();
                names.into_iter().map(|name| dir.join(name)).collect()
            }
            None => vec![dir.join(SINGLE_FILE)],
        };
        for file in files {
            let checkpoint = Checkpoint::open(&file)?;
            let Some(gate) = checkpoint.tensors().iter().find(|info| sites.is_gate(&info.name)) else {
                continue;
            };
            if let Some(other) = checkpoint.tensors().iter().find(|info| !sites.is_gate(&info.name)) {
                return Err(MixError::GatesNotApart { file, tensor: other.name.clone() });
            }
            let names = checkpoint.tensors().iter().map(|info| info.name.clone()).collect();
            return Ok(Place { dtype: gate.dtype, names, index, file });
        }
        let tensor = sites.prefixes.first().map_or(String::new(), |prefix| format!("{prefix}weight"));
        Err(MixError::GateMissing { path: dir.to_path_buf(), tensor })
    }

    /// Puts the gates into another file, of a name that follows from its content, and then lets the index name it.
    fn move_to(&self, dir: &Path, specs: &[TensorSpec], bytes: &[u8]) -> Result<(), MixError> {
        let Some((index_path, index)) = &self.index else {
            return Ok(());
        };
        let name = format!("model-gates-{}.safetensors", &ContentHash::of(bytes).to_string()[..12]);
        let path = dir.join(&name);
        write_atomic(&path, bytes)?;
        let mut index = index.clone();
        let size = |specs: &[TensorSpec]| -> u64 {
            specs.iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum()
        };
        let before: u64 = Checkpoint::open(&self.file)?.tensors().iter().map(|info| info.n_elements() as u64).sum();
        for (key, width) in [("total_parameters", 1), ("total_size", self.dtype.size() as u64)] {
            if let Some(total) = index["metadata"][key].as_u64() {
                index["metadata"][key] = (total + size(specs) * width - (before * width).min(total)).into();
            }
        }
        if let Some(map) = index["weight_map"].as_object_mut() {
            map.retain(|tensor, _| !self.names.contains(tensor));
            map.extend(specs.iter().map(|spec| (spec.name.clone(), Value::from(name.as_str()))));
            map.sort_keys();
        }
        write_atomic(index_path, format!("{index:#}\n").as_bytes())?;
        if path != self.file {
            std::fs::remove_file(&self.file).map_err(|source| MixError::Read { path: self.file.clone(), source })?;
        }
        Ok(())
    }
}

fn read_json(path: &Path) -> Result<Value, MixError> {
    let read = std::fs::read(path);
    let parsed = read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(std::io::Error::from));
    parsed.map_err(|source| MixError::Read { path: path.to_path_buf(), source })
}
