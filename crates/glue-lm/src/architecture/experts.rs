//! Mixtures of experts that come with a family: how many, how wide, and by which rule tokens go to them.

use super::family::Family;
use super::keys::Keys;
use crate::error::LmError;
use serde_json::Value;

/// Which keys say what experts a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpertKeys {
    /// It has none.
    None,
    /// `num_local_experts`, as wide inside as `intermediate_size`, in all layers.
    Mixtral,
    /// `num_experts`, `moe_intermediate_size`, `shared_expert_intermediate_size`, `norm_topk_prob`, `mlp_only_layers`,
    /// `decoder_sparse_step`.
    Qwen2,
    /// The same without a shared expert.
    Qwen3,
    /// `num_local_experts`, as wide inside as `intermediate_size`, in all layers; with biases and a clamped activation.
    GptOss,
    /// `num_local_experts`, as wide inside as `intermediate_size`, in `moe_layers`; dense layers have
    /// `intermediate_size_mlp`.
    Llama4,
    /// `n_routed_experts`, `n_shared_experts`, `moe_intermediate_size`, `n_group`, `topk_group`, `topk_method`,
    /// `routed_scaling_factor`, from layer `first_k_dense_replace` on; shares by softmax.
    DeepseekV2,
    /// The same with shares by sigmoid, `norm_topk_prob`, and a bias that takes part in the choice alone.
    DeepseekV3,
}

/// How the scores of a gate become shares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each expert's score.
    Sigmoid,
}

/// Experts in groups, of which a token uses a few (DeepSeek V2, arXiv 2405.04434; V3, arXiv 2412.19437).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExpertGroups {
    /// Groups, all of one size; a divisor of the number of experts.
    pub count: usize,
    /// Groups that a token may use, 1 to `count`; they hold as many experts as a token uses.
    pub kept: usize,
    /// A group is as good as the sum of so many of its best experts, 1 or 2; no more than it has.
    pub best: usize,
}

/// The gated activation of gpt-oss: (min(u, limit) clamped below too, plus 1) · g · sigmoid(`alpha` · g) with
/// g = min(gate, `limit`).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct SwigluClamp {
    /// Factor inside the sigmoid.
    pub alpha: f32,
    /// Largest gate, and largest absolute value of what it multiplies; positive.
    pub limit: f32,
}

/// A mixture of experts in place of the MLP.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Experts {
    /// Experts in a layer, at least 1.
    pub count: usize,
    /// Experts that a token goes to, 1 to `count`.
    pub per_token: usize,
    /// Width inside each expert.
    pub intermediate_size: usize,
    /// How scores become shares.
    pub scoring: Scoring,
    /// Whether the shares of the experts that a token goes to are brought to sum 1.
    pub normalised: bool,
    /// Factor on the shares.
    pub scale: f32,
    /// Groups among which a token chooses first (DeepSeek).
    pub groups: Option<ExpertGroups>,
    /// Whether a bias is added to the shares for the choice alone (DeepSeek V3).
    pub choice_bias: bool,
    /// Whether the gate has a bias (gpt-oss).
    pub gate_bias: bool,
    /// Whether experts have biases (gpt-oss).
    pub bias: bool,
    /// Whether shares multiply what experts read in place of what they make of it (Llama 4).
    pub weighs_inputs: bool,
    /// The activation, where it is not that of dense layers (gpt-oss).
    pub clamp: Option<SwigluClamp>,
    /// Width inside an expert that every token goes to.
    pub shared: Option<usize>,
    /// Whether the output of that expert is multiplied with the sigmoid of a gate of its own (Qwen2-MoE).
    pub shared_gate: bool,
}

/// Counts when the keys are absent.
struct Defaults {
    count: usize,
    per_token: usize,
}

/// The experts of a family, if it has any.
pub(super) fn experts(keys: &Keys<'_>, family: &Family, width: usize) -> Result<Option<Experts>, LmError> {
    let (names, defaults): (&[&str], _) = match family.experts {
        ExpertKeys::None => return Ok(None),
        ExpertKeys::Mixtral => (&["num_local_experts", "num_experts"], Defaults { count: 8, per_token: 2 }),
        ExpertKeys::Qwen2 => (&["num_experts", "num_local_experts"], Defaults { count: 60, per_token: 4 }),
        ExpertKeys::Qwen3 => (&["num_experts", "num_local_experts"], Defaults { count: 128, per_token: 8 }),
        ExpertKeys::GptOss => (&["num_local_experts", "num_experts"], Defaults { count: 128, per_token: 4 }),
        ExpertKeys::Llama4 => (&["num_local_experts", "num_experts"], Defaults { count: 16, per_token: 1 }),
        ExpertKeys::DeepseekV2 => (&["n_routed_experts", "num_experts"], Defaults { count: 64, per_token: 0 }),
        ExpertKeys::DeepseekV3 => (&["n_routed_experts", "num_local_experts"], Defaults { count: 256, per_token: 8 }),
    };
    let mut count = None;
    for name in names {
        count = count.or(keys.count(name)?);
    }
    let count = count.unwrap_or(defaults.count);
    let per_token = match keys.count("num_experts_per_tok")? {
        Some(per_token) => per_token,
        None if defaults.per_token == 0 => keys.required_count("num_experts_per_tok")?,
        None => defaults.per_token,
    };
    if per_token > count {
        return Err(keys.bad_value("num_experts_per_tok", &format!("at most {count} experts"), per_token.into()));
    }
    let plain = Experts {
        count,
        per_token,
        intermediate_size: width,
        scoring: Scoring::Softmax,
        normalised: true,
        scale: 1.0,
        groups: None,
        choice_bias: false,
        gate_bias: false,
        bias: false,
        weighs_inputs: false,
        clamp: None,
        shared: None,
        shared_gate: false,
    };
    let own_width = |default: usize| Ok::<_, LmError>(keys.count("moe_intermediate_size")?.unwrap_or(default));
    let normalised = |default: bool| Ok::<_, LmError>(keys.flag("norm_topk_prob")?.unwrap_or(default));
    Ok(Some(match family.experts {
        ExpertKeys::None | ExpertKeys::Mixtral => plain,
        ExpertKeys::Qwen2 => Experts {
            intermediate_size: own_width(1408)?,
            normalised: normalised(false)?,
            shared: Some(keys.count("shared_expert_intermediate_size")?.unwrap_or(5632)),
            shared_gate: true,
            ..plain
        },
        ExpertKeys::Qwen3 => Experts { intermediate_size: own_width(768)?, normalised: normalised(false)?, ..plain },
        ExpertKeys::GptOss => Experts { gate_bias: true, bias: true, clamp: clamp(keys, family)?, ..plain },
        ExpertKeys::Llama4 => {
            Experts { scoring: Scoring::Sigmoid, normalised: false, weighs_inputs: true, shared: Some(width), ..plain }
        }
        ExpertKeys::DeepseekV2 => {
            let grouped = keys.string("topk_method")?.unwrap_or("greedy") == "group_limited_greedy";
            let width = own_width(1407)?;
            let shared = keys.count("n_shared_experts")?.unwrap_or(2);
            Experts {
                intermediate_size: width,
                normalised: false,
                scale: keys.positive("routed_scaling_factor")?.unwrap_or(1.0) as f32,
                groups: if grouped { groups(keys, count, per_token, None, 1)? } else { None },
                shared: Some(product(keys, "n_shared_experts", shared, width)?),
                ..plain
            }
        }
        ExpertKeys::DeepseekV3 => {
            let width = own_width(2048)?;
            let shared = keys.count("n_shared_experts")?.unwrap_or(1);
            Experts {
                intermediate_size: width,
                scoring: Scoring::Sigmoid,
                normalised: normalised(true)?,
                scale: keys.positive("routed_scaling_factor")?.unwrap_or(2.5) as f32,
                groups: groups(keys, count, per_token, Some((8, 4)), 2)?,
                choice_bias: true,
                shared: Some(product(keys, "n_shared_experts", shared, width)?),
                ..plain
            }
        }
    }))
}

fn product(keys: &Keys<'_>, key: &str, count: usize, width: usize) -> Result<usize, LmError> {
    count.checked_mul(width).ok_or_else(|| keys.bad_value(key, "a number of experts", count.into()))
}

fn clamp(keys: &Keys<'_>, family: &Family) -> Result<Option<SwigluClamp>, LmError> {
    let Some(default) = family.clamp else {
        return Ok(None);
    };
    let or = |key: &str, default: f32| Ok::<_, LmError>(keys.positive(key)?.map_or(default, |value| value as f32));
    Ok(Some(SwigluClamp { alpha: or("swiglu_alpha", default.alpha)?, limit: or("swiglu_limit", default.limit)? }))
}

/// The groups of the experts, each as good as its `best` best; `default` are those of absent keys.
fn groups(
    keys: &Keys<'_>,
    count: usize,
    per_token: usize,
    default: Option<(usize, usize)>,
    best: usize,
) -> Result<Option<ExpertGroups>, LmError> {
    let or = |key: &str, default: Option<usize>| match (keys.count(key)?, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) if !keys.is_null(key) => Ok(default),
        _ => Err(LmError::MissingKey { key: key.to_owned() }),
    };
    let groups = or("n_group", default.map(|default| default.0))?;
    let kept = or("topk_group", default.map(|default| default.1))?;
    if !count.is_multiple_of(groups) || count / groups < best {
        let expected = format!("a divisor of {count} experts with at least {best} of them in each group");
        return Err(keys.bad_value("n_group", &expected, groups.into()));
    }
    if kept > groups || kept * (count / groups) < per_token {
        let expected = format!("at most {groups} groups, with at least {per_token} experts in them");
        return Err(keys.bad_value("topk_group", &expected, kept.into()));
    }
    Ok(Some(ExpertGroups { count: groups, kept, best }))
}

/// Whether each layer has experts.
pub(super) fn mixed_layers(keys: &Keys<'_>, family: &Family, num_layers: usize) -> Result<Vec<bool>, LmError> {
    match family.experts {
        ExpertKeys::None => Ok(vec![false; num_layers]),
        ExpertKeys::Mixtral | ExpertKeys::GptOss => Ok(vec![true; num_layers]),
        ExpertKeys::Qwen2 | ExpertKeys::Qwen3 => {
            let step = keys.count("decoder_sparse_step")?.unwrap_or(1);
            let dense = numbers(keys, "mlp_only_layers")?.unwrap_or_default();
            let mixed = |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&(layer as u64));
            Ok((0..num_layers).map(mixed).collect())
        }
        ExpertKeys::Llama4 => {
            let step = keys.count("interleave_moe_layer_step")?.unwrap_or(1);
            let mixed = numbers(keys, "moe_layers")?;
            let by_step = |layer: usize| (layer + 1).is_multiple_of(step);
            let mixed = |layer| mixed.as_ref().map_or_else(|| by_step(layer), |list| list.contains(&(layer as u64)));
            Ok((0..num_layers).map(mixed).collect())
        }
        ExpertKeys::DeepseekV2 | ExpertKeys::DeepseekV3 => {
            let default = if family.experts == ExpertKeys::DeepseekV3 { 3.0 } else { 0.0 };
            let first = keys.number("first_k_dense_replace")?.unwrap_or(default);
            Ok((0..num_layers).map(|layer| layer as f64 >= first).collect())
        }
    }
}

/// A list of layers.
fn numbers(keys: &Keys<'_>, key: &str) -> Result<Option<Vec<u64>>, LmError> {
    let read = |value: &Value| {
        let list = value.as_array().and_then(|list| list.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>());
        list.ok_or_else(|| keys.bad_value(key, "a list of layers", value.clone()))
    };
    keys.get(key).map(read).transpose()
}
