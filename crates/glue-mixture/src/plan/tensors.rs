//! The tensors of a mixture, each with where it comes from.

use super::Inputs;
use super::fit::unfit;
use crate::config::Expert;
use crate::error::MixError;
use crate::sites::MixtureFormat;
use crate::spec::{Level, MixtureSpec};
use glue_tensor::{Dtype, ModelDir, TensorInfo, TensorSpec};
use serde_json::Value;

/// Where the values of a tensor come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Source {
    /// A tensor of a model of the plan.
    Tensor { model: usize, name: String },
    /// Zeros.
    Zeros,
}

/// A tensor of the output.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) source: Source,
    /// Whether it is one of several experts', of which a token meets some.
    pub(crate) of_expert: bool,
    /// Deviation of the noise to add; 0 for none.
    pub(crate) noise: f64,
    /// Whose noise it is: the name of the expert.
    pub(crate) noise_of: String,
    /// Factor, after the noise.
    pub(crate) scale: f64,
}

impl Planned {
    pub(crate) fn n_elements(&self) -> u64 {
        self.shape.iter().map(|&extent| extent as u64).product()
    }

    /// Whether its values are not just copied or converted.
    pub(crate) fn changes(&self) -> bool {
        self.noise != 0.0 || self.scale != 1.0
    }

    /// Whether it is the gate of a layer that is not mixed, in Mixtral's format.
    pub(crate) fn is_dense_gate(&self) -> bool {
        matches!(self.source, Source::Zeros) && self.name.ends_with(".block_sparse_moe.gate.weight")
    }

    pub(crate) fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), dtype: self.dtype, shape: self.shape.clone() }
    }

    fn of(self, expert: &Expert) -> Planned {
        let ends_mlp = self.name.ends_with("down_proj.weight")
            || self.name.ends_with("down_proj.bias")
            || self.name.ends_with(".w2.weight");
        let scale = if ends_mlp { expert.residual_scale } else { 1.0 };
        Planned { of_expert: true, noise: expert.noise_scale, noise_of: expert.name.clone(), scale, ..self }
    }
}

/// Names of the projections in Mixtral's format.
const MIXTRAL: [(&str, &str); 3] =
    [("gate_proj.weight", "w1.weight"), ("down_proj.weight", "w2.weight"), ("up_proj.weight", "w3.weight")];
const ATTENTION_BIASES: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// The tensors of a mixture whose experts share what is not mixed.
pub(super) fn shared_trunk(
    inputs: &Inputs<'_>,
    spec: &MixtureSpec,
    format: MixtureFormat,
    dtype: Option<Dtype>,
) -> Result<Vec<Planned>, MixError> {
    let base = inputs.base();
    let layers = base.config().num_layers().unwrap_or(0);
    let unit = if spec.level == Level::Ffn { "mlp." } else { "" };
    let prefix = |layer: usize| format!("model.layers.{layer}.{unit}");
    for layer in 0..layers {
        check_unit(inputs, &prefix(layer), spec.mixed_layers.contains(&layer))?;
        if format != MixtureFormat::Native {
            check_projections(base, &prefix(layer), format)?;
        }
    }
    let mut tensors = Vec::new();
    for info in base.checkpoint().tensors() {
        let mixed = (0..layers).find_map(|layer| Some((layer, info.name.strip_prefix(&prefix(layer))?)));
        match mixed {
            Some((layer, part)) => {
                let mixed = spec.mixed_layers.contains(&layer);
                unit_tensors(inputs, format, &prefix(layer), (info, part), mixed, dtype, &mut tensors);
            }
            None => tensors.push(copy(inputs.base, info, info.name.clone(), dtype)),
        }
    }
    if format != MixtureFormat::Native {
        add_tensors_of_format(inputs, spec, format, layers, dtype, &mut tensors)?;
    }
    sort(&mut tensors);
    Ok(tensors)
}

/// All that stands for the tensor `part` of the unit `prefix`: the base's own, or one for each expert.
fn unit_tensors(
    inputs: &Inputs<'_>,
    format: MixtureFormat,
    prefix: &str,
    (info, part): (&TensorInfo, &str),
    mixed: bool,
    dtype: Option<Dtype>,
    out: &mut Vec<Planned>,
) {
    if !mixed && format != MixtureFormat::Mixtral {
        out.push(copy(inputs.base, info, info.name.clone(), dtype));
        return;
    }
    for (e, (expert, &model)) in inputs.config.experts.iter().zip(inputs.experts).enumerate() {
        let name = match format {
            MixtureFormat::Mixtral => {
                let layer = prefix.trim_end_matches("mlp.");
                let part = MIXTRAL.iter().find(|(dense, _)| *dense == part).map_or(part, |(_, classic)| classic);
                format!("{layer}block_sparse_moe.experts.{e}.{part}")
            }
            _ => format!("{prefix}experts.{e}.{part}"),
        };
        // Its shape is the base's, but its type may be its own.
        let stored = inputs.models[model].checkpoint().info(&info.name).unwrap_or(info);
        match mixed {
            true => out.push(copy(model, stored, name, dtype).of(expert)),
            false => out.push(Planned { of_expert: true, ..copy(inputs.base, info, name, dtype) }),
        }
    }
    if let (Some(model), true) = (inputs.shared, mixed) {
        let stored = inputs.models[model].checkpoint().info(&info.name).unwrap_or(info);
        let tensor = copy(model, stored, format!("{prefix}shared_expert.{part}"), dtype);
        if let Some(expert) = inputs.config.shared_experts.first() {
            out.push(Planned { of_expert: false, ..tensor.of(expert) });
        }
    }
}

/// What the format has and the base has not: gates of zeros in dense layers of Mixtral's, biases of zeros in
/// Qwen2-MoE's.
fn add_tensors_of_format(
    inputs: &Inputs<'_>,
    spec: &MixtureSpec,
    format: MixtureFormat,
    layers: usize,
    dtype: Option<Dtype>,
    out: &mut Vec<Planned>,
) -> Result<(), MixError> {
    let base = inputs.base();
    let hidden = base.config().hidden_size().unwrap_or(0);
    for layer in 0..layers {
        if format == MixtureFormat::Mixtral {
            if !spec.mixed_layers.contains(&layer) {
                let name = format!("model.layers.{layer}.block_sparse_moe.gate.weight");
                out.push(zeros(name, vec![spec.experts.len(), hidden], dtype.unwrap_or(Dtype::F32)));
            }
            continue;
        }
        for part in ATTENTION_BIASES {
            let stem = format!("model.layers.{layer}.self_attn.{part}");
            let (bias, weight) = (format!("{stem}.bias"), format!("{stem}.weight"));
            if base.checkpoint().info(&bias).is_some() {
                continue;
            }
            let Some(info) = base.checkpoint().info(&weight) else {
                return Err(MixError::NoTensors { path: base.path().to_path_buf(), prefix: weight });
            };
            let rows = info.shape.first().copied().unwrap_or(0);
            out.push(zeros(bias, vec![rows], dtype.unwrap_or(info.dtype)));
        }
    }
    Ok(())
}

/// Checks that each expert has exactly the base's tensors below `prefix`, in the base's shapes.
fn check_unit(inputs: &Inputs<'_>, prefix: &str, mixed: bool) -> Result<(), MixError> {
    let base = inputs.base();
    let below = |dir: &ModelDir| -> Vec<TensorInfo> {
        dir.checkpoint().tensors().iter().filter(|info| info.name.starts_with(prefix)).cloned().collect()
    };
    let ours = below(base);
    if ours.is_empty() {
        return Err(MixError::NoTensors { path: base.path().to_path_buf(), prefix: prefix.to_string() });
    }
    if !mixed {
        return Ok(());
    }
    for &model in inputs.experts.iter().chain(&inputs.shared) {
        let dir = &inputs.models[model];
        let (base, expert) = (base.path().to_path_buf(), dir.path().to_path_buf());
        for info in &ours {
            let tensor = info.name.clone();
            let Some(found) = dir.checkpoint().info(&tensor) else {
                return Err(MixError::TensorMissing { tensor, base, expert });
            };
            if found.shape != info.shape {
                let (expected, found) = (info.shape.clone().into(), found.shape.clone().into());
                return Err(MixError::Shape { tensor, base, expected, expert, found });
            }
            if !found.dtype.is_float() {
                return Err(MixError::NotFloat { tensor, path: expert, dtype: found.dtype });
            }
        }
        if let Some(extra) = below(dir).into_iter().find(|info| inputs.base().checkpoint().info(&info.name).is_none()) {
            return Err(MixError::TensorExtra { tensor: extra.name, base, expert });
        }
    }
    Ok(())
}

/// Checks that the MLP is the three projections that the forms of others know.
fn check_projections(base: &ModelDir, prefix: &str, format: MixtureFormat) -> Result<(), MixError> {
    let known = |name: &str| MIXTRAL.iter().any(|(part, _)| name.strip_prefix(prefix) == Some(*part));
    let mlp = base.checkpoint().tensors().iter().filter(|info| info.name.starts_with(prefix));
    match mlp.map(|info| &info.name).find(|name| !known(name)) {
        Some(name) => {
            Err(MixError::Format { format: format.name(), why: format!("it has no place for tensor `{name}`") })
        }
        None => Ok(()),
    }
}

/// All tensors of a model, as expert `expert` of a mixture of whole models or as the model that reads the prompt.
pub(super) fn whole(
    inputs: &Inputs<'_>,
    model: usize,
    expert: Option<usize>,
    dtype: Option<Dtype>,
) -> Result<Vec<Planned>, MixError> {
    let dir = &inputs.models[model];
    if dir.checkpoint().tensors().is_empty() {
        return Err(unfit(dir, "weights", Value::Null, "there is no tensor"));
    }
    let expert = expert.map(|e| &inputs.config.experts[e]);
    let tensors = dir.checkpoint().tensors().iter().map(|info| {
        let tensor = copy(model, info, info.name.clone(), dtype);
        match expert {
            Some(expert) if info.dtype.is_float() => tensor.of(expert),
            Some(_) => Planned { of_expert: true, ..tensor },
            None => tensor,
        }
    });
    let mut tensors: Vec<Planned> = tensors.collect();
    sort(&mut tensors);
    Ok(tensors)
}

/// What dense layers cost in Mixtral's format.
pub(super) fn dense_copies(tensors: &[Planned], spec: &MixtureSpec) -> String {
    let dense = |tensor: &&Planned| {
        let layer = tensor.name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        tensor.of_expert && layer.is_some_and(|layer: usize| !spec.mixed_layers.contains(&layer))
    };
    let bytes: u64 = tensors.iter().filter(dense).map(|tensor| tensor.n_elements() * tensor.dtype.size() as u64).sum();
    let experts = spec.experts.len() as u64;
    format!(
        "Mixtral's format has no dense layers: each of the {experts} experts of a layer that is not mixed is the base's MLP, \
         which takes {} bytes more than `format: native`",
        bytes - bytes / experts.max(1)
    )
}

fn copy(model: usize, info: &TensorInfo, name: String, dtype: Option<Dtype>) -> Planned {
    Planned {
        name,
        dtype: dtype.filter(|_| info.dtype.is_float()).unwrap_or(info.dtype),
        shape: info.shape.clone(),
        source: Source::Tensor { model, name: info.name.clone() },
        of_expert: false,
        noise: 0.0,
        noise_of: String::new(),
        scale: 1.0,
    }
}

fn zeros(name: String, shape: Vec<usize>, dtype: Dtype) -> Planned {
    Planned {
        name,
        dtype,
        shape,
        source: Source::Zeros,
        of_expert: false,
        noise: 0.0,
        noise_of: String::new(),
        scale: 1.0,
    }
}

/// By layer, then by name, with what stands outside layers first: the order in which a reader goes through a model.
fn sort(tensors: &mut [Planned]) {
    tensors.sort_by(|a, b| {
        let layer = |tensor: &Planned| -> Option<usize> {
            tensor.name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
        };
        (layer(a), &a.name).cmp(&(layer(b), &b.name))
    });
}
