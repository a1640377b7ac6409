//! The configuration of a mixture in the native format: what is mixed, and what it is mixed into.

use super::Architecture;
use crate::error::LmError;
use glue_mixture::{Mixture, MixtureSpec};
use glue_tensor::Config;
use serde_json::Value;

/// The architecture of a configuration, and what is mixed where it says so.
///
/// # Errors
/// Those of [`Architecture::from_config`]; [`LmError::Mixture`], and [`LmError::Unsupported`] for a mixture of whole
/// models and one whose base has experts already.
pub(crate) fn split(config: &Config) -> Result<(Architecture, Option<MixtureSpec>), LmError> {
    let mixture = Mixture::from_config(config)?;
    if mixture.is_some() && !cfg!(feature = "mixtures") {
        return Err(LmError::Unsupported {
            key: "model_type".to_owned(),
            value: config.model_type().unwrap_or_default().to_owned(),
            reason: "it is a mixture, and this program was built without the feature `mixtures` of glue-lm".to_owned(),
        });
    }
    let (spec, base) = match mixture {
        None => return Ok((Architecture::from_config(config)?, None)),
        Some(Mixture::Shared(spec, base)) => (spec, base),
        Some(Mixture::Whole(_)) => {
            return Err(LmError::Unsupported {
                key: "whole".to_owned(),
                value: "true".to_owned(),
                reason:
                    "it is a mixture of whole models, which can be asked in words only: it is not one model over one \
                         vocabulary"
                        .to_owned(),
            });
        }
    };
    let architecture = Architecture::from_config(&base)?;
    if architecture.experts.is_some() {
        return Err(LmError::Unsupported {
            key: "base.model_type".to_owned(),
            value: Value::from(architecture.model_type).to_string(),
            reason: "the base of a mixture has no experts of its own".to_owned(),
        });
    }
    Ok((architecture, Some(spec)))
}
