//! Which positions each layer sees.

use super::family::Family;
use super::keys::Keys;
use crate::error::LmError;
use serde_json::Value;

/// Which layers have a sliding window, or chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Window {
    /// No layer: `sliding_window` is not read.
    None,
    /// All layers.
    All,
    /// All layers, with `use_sliding_window`.
    AllSwitchedOn,
    /// With `use_sliding_window`, the layers from `max_window_layers` on, or as `layer_types` says.
    SwitchedOn,
    /// With `use_sliding_window`, the layers 0, 2, 4, … below `max_window_layers`, or as `layer_types` says.
    EverySecondSwitchedOn,
    /// Layers 0, 2, 4, …, or as `layer_types` says.
    EverySecond,
    /// All but every layer of so many; `sliding_window_pattern`, where it is read, overrides the number, and
    /// `layer_types` says it layer by layer.
    AllButEvery(usize),
    /// With `use_sliding_window`, the layers without a rotary embedding, or as `layer_types` says.
    WithoutRopeSwitchedOn,
    /// Chunks of `attention_chunk_size` in layers with a rotary embedding, or as `layer_types` says.
    ChunksWithRope,
}

/// The positions that a query sees besides its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Sight {
    pub(super) window: Option<usize>,
    pub(super) chunk: Option<usize>,
}

/// What each layer sees. `rotated` says which have a rotary embedding, where that is known before.
pub(super) fn sights(
    keys: &Keys<'_>,
    family: &Family,
    num_layers: usize,
    rotated: Option<&[bool]>,
) -> Result<Vec<Sight>, LmError> {
    let types = layer_types(keys, family, num_layers)?;
    let rotated = |layer: usize| rotated.is_none_or(|rotated| rotated[layer]);
    if family.window == Window::ChunksWithRope {
        let chunk = match keys.is_null("attention_chunk_size") {
            true => None,
            false => Some(keys.count("attention_chunk_size")?.unwrap_or(8192)),
        };
        let local = |layer: usize| types.as_ref().map_or_else(|| rotated(layer), |types| types[layer]);
        return Ok((0..num_layers)
            .map(|layer| Sight { window: None, chunk: chunk.filter(|_| local(layer)) })
            .collect());
    }
    let switched = matches!(
        family.window,
        Window::SwitchedOn | Window::EverySecondSwitchedOn | Window::AllSwitchedOn | Window::WithoutRopeSwitchedOn
    );
    let window = match family.window {
        Window::None => None,
        _ if switched && !keys.flag("use_sliding_window")?.unwrap_or(false) => None,
        _ if keys.is_null("sliding_window") => None,
        _ => keys.count("sliding_window")?.or(family.window_default),
    };
    let first = match family.window {
        Window::SwitchedOn | Window::EverySecondSwitchedOn => {
            keys.number("max_window_layers")?.map_or(28, |layers| layers as usize)
        }
        _ => 0,
    };
    let pattern = match family.window {
        Window::AllButEvery(pattern) if family.reads("sliding_window_pattern") => {
            keys.count("sliding_window_pattern")?.unwrap_or(pattern)
        }
        Window::AllButEvery(pattern) => pattern,
        _ => 1,
    };
    let by_rule = |layer: usize| match family.window {
        Window::None | Window::ChunksWithRope => false,
        Window::All | Window::AllSwitchedOn => true,
        Window::SwitchedOn => layer >= first,
        Window::EverySecondSwitchedOn => layer < first && layer.is_multiple_of(2),
        Window::EverySecond => layer.is_multiple_of(2),
        Window::AllButEvery(_) => !(layer + 1).is_multiple_of(pattern),
        Window::WithoutRopeSwitchedOn => !rotated(layer),
    };
    let reads_types = !matches!(family.window, Window::None | Window::All | Window::AllSwitchedOn);
    let one = |layer: usize| {
        let Some(types) = &types else {
            return Ok(window.filter(|_| by_rule(layer)));
        };
        let sliding = types[layer];
        if !reads_types && sliding != (window.is_some() && by_rule(layer)) {
            return Err(LmError::Unsupported {
                key: "layer_types".to_owned(),
                value: keys.get("layer_types").map_or(Value::Null, Value::clone).to_string(),
                reason: format!("{} has the same kind of attention in all layers", family.model_type),
            });
        }
        Ok(window.filter(|_| sliding))
    };
    (0..num_layers).map(|layer| Ok(Sight { window: one(layer)?, chunk: None })).collect()
}

/// Whether each layer is local, `sliding_attention` or `chunked_attention`, where the configuration lists them.
fn layer_types(keys: &Keys<'_>, family: &Family, num_layers: usize) -> Result<Option<Vec<bool>>, LmError> {
    let Some(list) = keys.get("layer_types").and_then(Value::as_array) else {
        return Ok(None);
    };
    if list.len() != num_layers {
        return Err(keys.bad_value("layer_types", &format!("a list of {num_layers} layers"), list.len().into()));
    }
    let local = match family.window {
        Window::ChunksWithRope => "chunked_attention",
        _ => "sliding_attention",
    };
    let is_local = |value: &Value| match value.as_str() {
        Some("full_attention") => Ok(false),
        Some(name) if name == local => Ok(true),
        _ => Err(LmError::Unsupported {
            key: "layer_types".to_owned(),
            value: value.to_string(),
            reason: format!("layers are full_attention or {local}"),
        }),
    };
    list.iter().map(is_local).collect::<Result<_, _>>().map(Some)
}
