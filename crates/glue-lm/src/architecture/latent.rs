//! Keys and values made of a latent vector: multi-head latent attention of DeepSeek V2 (arXiv 2405.04434).

use super::keys::Keys;
use crate::error::LmError;
use crate::rope::yarn_magnitude;
use glue_tensor::config;

/// Widths of multi-head latent attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latent {
    /// Numbers of the vector that queries are made of; made of the residual stream directly when absent.
    pub query_rank: Option<usize>,
    /// Numbers of the vector that keys and values are made of.
    pub rank: usize,
    /// Dimensions of a head's queries and keys that are not rotated.
    pub plain_dim: usize,
    /// Dimensions that are rotated, whose key all heads share; even.
    pub rotated_dim: usize,
    /// Dimensions of a head's values.
    pub value_dim: usize,
}

impl Latent {
    /// ε of the norms of the two vectors, which is not a key of the configuration.
    pub(crate) const NORM_EPS: f32 = 1e-6;

    pub(super) fn read(keys: &Keys<'_>, heads: usize) -> Result<Latent, LmError> {
        if let Some(kv_heads) = keys.count("num_key_value_heads")?.filter(|&kv_heads| kv_heads != heads) {
            return Err(keys.bad_value("num_key_value_heads", &format!("{heads}, as many as heads"), kv_heads.into()));
        }
        let or = |key: &str, default: usize| Ok::<_, LmError>(keys.count(key)?.unwrap_or(default));
        let query_rank = match keys.is_null("q_lora_rank") {
            true => None,
            false => Some(or("q_lora_rank", 1536)?),
        };
        Ok(Latent {
            query_rank,
            rank: or("kv_lora_rank", 512)?,
            plain_dim: or("qk_nope_head_dim", 128)?,
            rotated_dim: or("qk_rope_head_dim", 64)?,
            value_dim: or("v_head_dim", 128)?,
        })
    }

    /// The factor on the products of queries and keys: 1/√d for d dimensions of a head, times the squared magnitude
    /// that YaRN gives for `mscale_all_dim`.
    pub(super) fn scale(&self, keys: &Keys<'_>, rope: Option<&config::Rope>) -> Result<f64, LmError> {
        let plain = ((self.plain_dim + self.rotated_dim) as f64).powf(-0.5);
        let Some(rope) = rope.filter(|rope| rope.kind != "default") else {
            return Ok(plain);
        };
        let number = |key: &str| rope.parameters.get(key).and_then(serde_json::Value::as_f64);
        let Some(mscale) = number("mscale_all_dim").filter(|&mscale| mscale != 0.0) else {
            return Ok(plain);
        };
        let prefix = if keys.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
        let missing = || LmError::MissingKey { key: format!("{prefix}.factor") };
        Ok(plain * yarn_magnitude(number("factor").ok_or_else(missing)?, mscale).powi(2))
    }
}
