//! Rotary embeddings of a configuration, and which layers have which.

use super::family::Family;
use super::keys::Keys;
use crate::error::LmError;
use crate::rope::{Context, Rope};
use glue_tensor::{Config, config};
use serde_json::{Value, json};

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RopePairs {
    /// i and i + d/2.
    Halves,
    /// 2i and 2i + 1.
    Neighbours,
    /// Neighbours unless `rope_interleave` is false.
    AsRopeInterleave,
}

/// Which layers have a rotary embedding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RopeLayers {
    /// All.
    All,
    /// Those with a 1 in `no_rope_layers`, or all but every one in `no_rope_layer_interval`, 4 when absent.
    ButEvery,
    /// Those with a sliding window.
    WithWindow,
}

/// Factor on queries in layers without a rotary embedding, 1 + `strength` · ln(1 + ⌊(position + 1) / `floor`⌋), against
/// attention that fades in long texts (Nakanishi, arXiv 2501.19399, as in Llama 4).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Temperature {
    /// Positions up to which, and between which, nothing changes; positive.
    pub floor: f64,
    /// Strength of the change.
    pub strength: f64,
}

impl Temperature {
    /// The factor at `position`, in the f32 steps of transformers.
    pub(crate) fn at(&self, position: usize) -> f32 {
        let steps = ((position as f32 + 1.0) / self.floor as f32).floor();
        steps.ln_1p() * self.strength as f32 + 1.0
    }
}

pub(super) fn temperature(keys: &Keys<'_>, family: &Family) -> Result<Option<Temperature>, LmError> {
    // The first published configurations have the number 4 there.
    let tuned = match keys.get("attn_temperature_tuning") {
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        _ => keys.flag("attn_temperature_tuning")?.unwrap_or(true),
    };
    if !family.temperature || !tuned {
        return Ok(None);
    }
    let floor = keys.positive("floor_scale")?.unwrap_or(8192.0);
    Ok(Some(Temperature { floor, strength: keys.number("attn_scale")?.unwrap_or(0.1) }))
}

/// Whether each layer has a rotary embedding. `windowed` says which have a sliding window.
pub(super) fn rotated_layers(keys: &Keys<'_>, family: &Family, windowed: &[bool]) -> Result<Vec<bool>, LmError> {
    let num_layers = windowed.len();
    match family.rope_layers {
        RopeLayers::All => return Ok(vec![true; num_layers]),
        RopeLayers::WithWindow => return Ok(windowed.to_vec()),
        RopeLayers::ButEvery => {}
    }
    if let Some(list) = keys.get("no_rope_layers").filter(|list| list.as_array().is_none_or(|list| !list.is_empty())) {
        let flag = |value: &Value| value.as_u64().filter(|&flag| flag < 2).map(|flag| flag == 1);
        let flags = list.as_array().and_then(|list| list.iter().map(flag).collect::<Option<Vec<bool>>>());
        return match flags {
            Some(mut flags) if flags.len() >= num_layers => {
                flags.truncate(num_layers);
                Ok(flags)
            }
            _ => {
                let expected = format!("a list with 0 or 1 for each of {num_layers} layers");
                Err(keys.bad_value("no_rope_layers", &expected, list.clone()))
            }
        };
    }
    let interval = keys.count("no_rope_layer_interval")?.unwrap_or(4);
    Ok((0..num_layers).map(|layer| !(layer + 1).is_multiple_of(interval)).collect())
}

/// The rotary embeddings, and which of them layers without and with a window use.
pub(super) fn ropes(
    config: &Config,
    keys: &Keys<'_>,
    family: &Family,
    head_dim: usize,
    max_positions: usize,
) -> Result<(Vec<Rope>, [usize; 2]), LmError> {
    let prefix = if keys.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
    let original = keys.count("original_max_position_embeddings")?.or(family.original_positions);
    let interleaved = match family.rope_pairs {
        RopePairs::Halves => false,
        RopePairs::Neighbours => true,
        RopePairs::AsRopeInterleave => keys.flag("rope_interleave")?.unwrap_or(true),
    };
    let context = Context { head_dim, max_positions, original, interleaved };
    let found = match family.local_theta {
        Some(local) => by_layer_type(config, keys, family, local)?,
        None => given(config, keys, family)?,
    };
    let top_theta = keys.get("rope_theta").is_some();
    let mut ropes = Vec::with_capacity(found.len());
    let mut rope_of = [None; 2];
    for mut rope in found {
        let section = match (keys.get(prefix), &rope.layer_type) {
            (Some(section), Some(name)) => section.get(name),
            (section, _) => section,
        };
        let own_theta = section.and_then(|section| section.get("rope_theta")).is_some_and(|theta| !theta.is_null());
        if family.local_theta.is_none() && !own_theta && !top_theta {
            rope.theta = family.rope_theta;
        }
        if family.yarn_means_longrope && rope.kind == "yarn" {
            rope.kind = "longrope".to_owned();
        }
        let name = match &rope.layer_type {
            Some(layer_type) => format!("{prefix}.{layer_type}"),
            None => prefix.to_owned(),
        };
        match family.partial_rotary {
            Some(default) if !has_partial(keys, section) => rope.partial = default,
            None if rope.partial != 1.0 => {
                return Err(LmError::Unsupported {
                    key: "partial_rotary_factor".to_owned(),
                    value: rope.partial.to_string(),
                    reason: format!("{} rotates all dimensions of a head", family.model_type),
                });
            }
            _ => {}
        }
        match rope.layer_type.as_deref() {
            None => rope_of = [Some(ropes.len()); 2],
            Some("full_attention") => rope_of[0] = Some(ropes.len()),
            Some("sliding_attention") => rope_of[1] = Some(ropes.len()),
            Some(_) => {
                let value = section.map_or(Value::Null, Value::clone).to_string();
                let reason = "layers are full_attention or sliding_attention".to_owned();
                return Err(LmError::Unsupported { key: name, value, reason });
            }
        }
        ropes.push(Rope::from_config(&rope, context, &name)?);
    }
    let either = rope_of[0].or(rope_of[1]).unwrap_or(0);
    Ok((ropes, rope_of.map(|index| index.unwrap_or(either))))
}

/// Whether the share of a head that is rotated is given anywhere.
fn has_partial(keys: &Keys<'_>, section: Option<&Value>) -> bool {
    let own = section.and_then(|section| section.get("partial_rotary_factor"));
    own.is_some_and(|value| !value.is_null())
        || ["partial_rotary_factor", "rotary_pct"].iter().any(|key| keys.get(key).is_some())
}

/// The rotary embeddings as the configuration gives them, or what the family has by default.
fn given(config: &Config, keys: &Keys<'_>, family: &Family) -> Result<Vec<config::Rope>, LmError> {
    let scaled = ["rope_parameters", "rope_scaling"].iter().any(|key| keys.get(key).is_some());
    if let Some(parameters) = family.rope_scaling.filter(|_| !scaled) {
        let mut parameters: Value = serde_json::from_str(parameters).unwrap_or_default();
        parameters["rope_theta"] = match keys.get("rope_theta") {
            Some(theta) => theta.clone(),
            None => family.rope_theta.into(),
        };
        return Ok(Config::from_value(json!({ "rope_parameters": parameters }))?.ropes());
    }
    let found = config.ropes();
    if !found.is_empty() {
        return Ok(found);
    }
    Ok(Config::from_value(json!({ "rope_theta": family.rope_theta }))?.ropes())
}

/// One rotary embedding for layers without a window and one for those with: what the old keys say of the former, with
/// their scaling, and the base of the latter under its own key.
fn by_layer_type(config: &Config, keys: &Keys<'_>, family: &Family, local: f64) -> Result<Vec<config::Rope>, LmError> {
    let theta = keys.get("rope_theta").cloned().unwrap_or_else(|| family.rope_theta.into());
    // A family without a base of its own for layers with a window has one base for all.
    let local = match keys.get("rope_local_base_freq") {
        Some(local) => local.clone(),
        None if local == family.rope_theta => theta.clone(),
        None => local.into(),
    };
    let filled = |layer_type: &str, mut section: Value, theta: &Value| {
        if section["rope_theta"].is_null() {
            section["rope_theta"] = theta.clone();
        }
        (layer_type.to_owned(), section)
    };
    let (full, sliding) = match keys.get("rope_parameters") {
        Some(parameters) => {
            let section = |name: &str| match parameters.get(name) {
                None | Some(Value::Null) => Ok(json!({})),
                Some(Value::Object(section)) => Ok(Value::Object(section.clone())),
                Some(other) => Err(keys.bad_value(&format!("rope_parameters.{name}"), "an object", other.clone())),
            };
            let known = ["full_attention", "sliding_attention"];
            let keys_of = parameters.as_object().into_iter().flatten();
            if let Some((name, value)) = keys_of.into_iter().find(|(name, _)| !known.contains(&name.as_str())) {
                return Err(LmError::Unsupported {
                    key: format!("rope_parameters.{name}"),
                    value: value.to_string(),
                    reason: format!("{} has full_attention and sliding_attention there", family.model_type),
                });
            }
            (section(known[0])?, section(known[1])?)
        }
        None => (keys.get("rope_scaling").cloned().unwrap_or_else(|| json!({})), json!({})),
    };
    let sections = [filled("full_attention", full, &theta), filled("sliding_attention", sliding, &local)];
    let parameters: serde_json::Map<String, Value> = sections.into_iter().collect();
    let mut changed = json!({ "rope_parameters": parameters });
    for key in ["partial_rotary_factor", "rotary_pct"] {
        if let Some(value) = config.get(key) {
            changed[key] = value.clone();
        }
    }
    Ok(Config::from_value(changed)?.ropes())
}
