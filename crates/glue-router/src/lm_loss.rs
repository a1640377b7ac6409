//! Training of all gates of a mixture by the loss of answers, through the frozen network.
//!
//! Minimised is the cross-entropy of the tokens of the items' answers, plus a coefficient times the mean over gates of the
//! load-balancing term of Switch Transformers (see [`crate::through::LmLoss`]). Which experts are chosen counts as constant,
//! their shares do not. With one expert per token whose share is brought to 1, the cross-entropy says nothing about the gates,
//! and only the balance moves them: use two experts per token or more. A gate that nothing moves is an error, not a result.

use crate::error::RouterError;
use crate::gate::Gate;
use crate::items::Encoded;
use crate::through::Through;
use crate::training::{Epoch, Keep, Objective, TrainSettings, train};
use glue_progress::Progress;
use serde_json::json;
use std::path::Path;

/// The usual coefficient of the balance.
pub const BALANCE: f64 = 1e-2;

/// Items that are validated with at a time.
const HELD_BATCH: usize = 32;

/// How gates were trained.
#[derive(Debug, Clone, PartialEq)]
pub struct LmTrained {
    /// Those of the lowest loss on the validation items.
    pub gates: Vec<Gate>,
    /// Losses of each epoch, balance included.
    pub history: Vec<Epoch>,
    /// The epoch that was kept, counted from 1; 0 for the gates at the start.
    pub best: usize,
    /// The loss on the validation items before the first step.
    pub start: f64,
}

/// Gates and the items they are trained with.
#[derive(Debug, Clone, Copy)]
pub struct LmExamples<'a> {
    /// Items to train with; each needs an answer.
    pub train: &'a [Encoded],
    /// Items to validate with; each needs an answer.
    pub validation: &'a [Encoded],
    /// Which gates are trained, by number; the others stay as they are.
    pub trained: &'a [usize],
    /// The weight of the load-balancing term, at least 0; [`BALANCE`] is usual.
    pub balance: f64,
    /// What the model is, such as a hash of its files: a saved state of another model is refused.
    pub model: &'a str,
}

/// Trains `gates` of the mixture from where they are. With `state` the training is kept in that file, and with `resume` goes on
/// from there, to the bit as if it had not been ended.
///
/// # Errors
/// [`RouterError::TooFewItems`], [`RouterError::Setting`], [`RouterError::NoGradient`] that names a gate which the loss does not
/// say how to change, [`RouterError::OtherTraining`], [`RouterError::Stopped`], and those of the model.
pub fn train_by_loss(
    mixture: &Through<'_>,
    gates: &[Gate],
    examples: &LmExamples<'_>,
    settings: &TrainSettings,
    state: Option<(&Path, bool)>,
    progress: &dyn Progress,
) -> Result<LmTrained, RouterError> {
    if !(examples.balance >= 0.0 && examples.balance.is_finite()) {
        let found = examples.balance.to_string();
        return Err(RouterError::Setting { name: "balance", found, expected: "a number of at least 0" });
    }
    for (list, purpose) in [(examples.train, "to train with"), (examples.validation, "to validate with")] {
        let found = list.iter().filter(|item| !item.answer.is_empty()).count();
        if found == 0 || found < list.len() {
            return Err(RouterError::TooFewItems { purpose, expected: list.len().max(1), found });
        }
    }
    if let Some(&gate) = examples.trained.iter().find(|&&gate| gate >= gates.len()) {
        return Err(RouterError::Mismatch { what: format!("gate {gate}"), expected: gates.len(), found: gate });
    }
    let start: Vec<f64> = examples.trained.iter().flat_map(|&gate| gates[gate].flat()).collect();
    let objective = Answers { mixture, gates, examples, start: &start };
    let about = json!({
        "settings": settings,
        "model": examples.model,
        "gates": examples.trained,
        "balance": examples.balance,
        "start": hash(start.iter().flat_map(|x| x.to_le_bytes())),
        "items": hash(examples.train.iter().chain(examples.validation).flat_map(bytes)),
    });
    let keep = state.map(|(path, resume)| Keep { path, about, resume });
    let trained = train(&objective, &start, settings, keep.as_ref(), progress)?;
    let gates = with_parameters(gates, examples.trained, &trained.parameters);
    Ok(LmTrained { gates, history: trained.history, best: trained.best, start: trained.start })
}

fn bytes(item: &Encoded) -> Vec<u8> {
    let lengths = [item.prompt.len() as u32, item.answer.len() as u32];
    lengths.iter().chain(&item.prompt).chain(&item.answer).flat_map(|token| token.to_le_bytes()).collect()
}

fn hash(bytes: impl Iterator<Item = u8>) -> String {
    format!("{:032x}", glue_tensor::ContentHash::of(&bytes.collect::<Vec<u8>>()).0)
}

/// All gates, those of the numbers `trained` with these parameters, one after the other.
pub(crate) fn with_parameters(gates: &[Gate], trained: &[usize], parameters: &[f64]) -> Vec<Gate> {
    let mut gates = gates.to_vec();
    let mut rest = parameters;
    for &gate in trained {
        let (own, after) = rest.split_at(gates[gate].flat().len().min(rest.len()));
        gates[gate] = gates[gate].with_flat(own);
        rest = after;
    }
    gates
}

struct Answers<'a> {
    mixture: &'a Through<'a>,
    gates: &'a [Gate],
    examples: &'a LmExamples<'a>,
    start: &'a [f64],
}

impl Answers<'_> {
    fn with(&self, parameters: &[f64]) -> Vec<Gate> {
        with_parameters(self.gates, self.examples.trained, parameters)
    }

    /// Refuses a gate whose gradient is zero in the first step: it would come out as it went in.
    fn check_first_step(&self, gradients: &[Gate]) -> Result<(), RouterError> {
        let still = |gradient: &Gate| gradient.flat().iter().all(|&slope| slope == 0.0);
        let Some((&gate, _)) = self.examples.trained.iter().zip(gradients).find(|(_, gradient)| still(gradient)) else {
            return Ok(());
        };
        let info = &self.mixture.infos()[gate];
        let reason = match (info.experts, info.experts_per_token) {
            (1, _) => "it has one expert and nothing to choose",
            (_, 1) => {
                "its gradient is zero, since the share of one expert per token is 1 whatever its score; use two experts per \
                 token or more, or a balance above 0"
            }
            _ => "its gradient is zero: it is so sure of its choices that no small change of it matters",
        };
        Err(RouterError::NoGradient { gate: info.name.trim_end_matches('.').to_owned(), reason: reason.to_owned() })
    }
}

impl Objective for Answers<'_> {
    fn items(&self) -> usize {
        self.examples.train.len()
    }

    fn gradient(&self, parameters: &[f64], items: &[usize]) -> Result<(f64, Vec<f64>), RouterError> {
        let items: Vec<&Encoded> = items.iter().map(|&item| &self.examples.train[item]).collect();
        let balance = self.examples.balance;
        let found = self.mixture.lm_loss(&self.with(parameters), &items, balance, self.examples.trained)?;
        if parameters == self.start {
            self.check_first_step(&found.gradients)?;
        }
        let gradient = found.gradients.iter().flat_map(Gate::flat).collect();
        Ok((found.cross_entropy + balance * mean(&found.balance), gradient))
    }

    fn validate(&self, parameters: &[f64]) -> Result<f64, RouterError> {
        let gates = self.with(parameters);
        let (mut sum, mut tokens, mut balance, mut batches) = (0.0, 0, 0.0, 0.0);
        for items in self.examples.validation.chunks(HELD_BATCH) {
            let items: Vec<&Encoded> = items.iter().collect();
            let found = self.mixture.lm_loss(&gates, &items, self.examples.balance, &[])?;
            sum += found.cross_entropy * found.tokens as f64;
            tokens += found.tokens;
            balance += mean(&found.balance);
            batches += 1.0;
        }
        Ok(sum / tokens as f64 + self.examples.balance * balance / batches)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}
