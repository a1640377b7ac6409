//! Training of a gate on pooled states whose experts are known.
//!
//! A linear gate is a multinomial logistic regression at its exact optimum (see [`crate::linear`]), under the penalty of
//! [`PENALTIES`] whose loss on the validation items is lowest. A gate with a hidden layer is trained by AdamW until the loss on
//! the validation items falls no more, from a start drawn by the seed. Both are fitted to standardised states, and the
//! standardisation is folded into their weights.

use crate::error::RouterError;
use crate::error::check_cancelled;
use crate::gate::{Gate, silu, silu_slope};
use crate::linear::{Certificate, EXACT, Problem, Standardisation, softmax_loss};
use crate::training::{Epoch, Keep, Objective, TrainSettings, train};
use glue_mixture::RouterKind;
use glue_progress::{Progress, Unit};
use ndarray::{Array2, ArrayView2, Axis};
use serde_json::json;
use std::path::Path;

/// Penalties that are tried for a linear gate, from the strongest to the weakest.
pub const PENALTIES: [f64; 6] = [1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5];

/// States and the experts that should be chosen for them.
#[derive(Debug, Clone, Copy)]
pub struct Examples<'a> {
    /// [items, width]
    pub states: ArrayView2<'a, f32>,
    /// [items, experts], rows that sum to 1.
    pub targets: ArrayView2<'a, f64>,
}

impl Examples<'_> {
    fn check(&self, purpose: &'static str) -> Result<(), RouterError> {
        let (expected, found) = (self.states.nrows(), self.targets.nrows());
        if expected == 0 {
            return Err(RouterError::TooFewItems { purpose, expected: 1, found: 0 });
        }
        if expected != found {
            return Err(RouterError::Mismatch { what: format!("targets {purpose}"), expected, found });
        }
        Ok(())
    }

    /// The share of items whose most probable expert has the highest target; of equal targets each counts as right.
    pub fn accuracy(&self, gate: &Gate) -> f64 {
        let routes = gate.routes(self.states.mapv(f64::from).view());
        let right = routes.iter().zip(self.targets.axis_iter(Axis(0))).filter(|(route, target)| {
            let highest = target.fold(0.0f64, |a, &b| a.max(b));
            target[**route] >= highest
        });
        right.count() as f64 / routes.len().max(1) as f64
    }
}

/// How a gate was trained.
#[derive(Debug, Clone, PartialEq)]
pub enum Training {
    /// A regression.
    Linear {
        /// The penalty chosen.
        l2: f64,
        /// For each penalty the loss on the validation items, in nats.
        tried: Vec<(f64, f64)>,
        /// That the fit is the optimum under that penalty.
        certificate: Certificate,
    },
    /// Epochs of gradients.
    Mlp {
        /// Losses of each.
        history: Vec<Epoch>,
        /// The one that was kept, counted from 1; 0 for the start.
        best: usize,
    },
}

/// A trained gate.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainedGate {
    /// It reads states as they are.
    pub gate: Gate,
    /// How it was trained.
    pub training: Training,
}

/// Trains a gate of the form `kind`; a linear one without `bias` where its place has no room for it. With `state`, a gate with a hidden layer keeps its training in that file after each epoch,
/// and with `resume` goes on from there, to the bit as if it had not been ended.
///
/// # Errors
/// [`RouterError::TooFewItems`], [`RouterError::Mismatch`], [`RouterError::NotFinite`], [`RouterError::Setting`],
/// [`RouterError::OtherTraining`], [`RouterError::Stopped`].
pub fn train_gate(
    kind: RouterKind,
    bias: bool,
    examples: &Examples<'_>,
    validation: &Examples<'_>,
    settings: &TrainSettings,
    state: Option<(&Path, bool)>,
    progress: &dyn Progress,
) -> Result<TrainedGate, RouterError> {
    examples.check("to train with")?;
    validation.check("to validate with")?;
    let wide = examples.states.mapv(f64::from);
    let standardisation = match kind {
        RouterKind::Linear if !bias => Standardisation::without_mean(wide.view()),
        _ => Standardisation::of(wide.view()),
    };
    let features = standardisation.apply(wide.view());
    let held = standardisation.apply(validation.states.mapv(f64::from).view());
    match kind {
        RouterKind::Linear => {
            linear(&standardisation, bias, [features.view(), held.view()], (examples, validation), progress)
        }
        RouterKind::Mlp { hidden_size } => {
            let experts = examples.targets.ncols();
            let start = Gate::start(RouterKind::Mlp { hidden_size }, experts, features.ncols(), settings.seed, 0);
            let network =
                Network { start, features, held, targets: examples.targets, held_targets: validation.targets };
            let about = json!({
                "settings": settings,
                "shape": [network.features.nrows(), network.features.ncols(), experts, hidden_size],
                "data": fingerprint(&[network.features.view(), examples.targets, network.held.view(), validation.targets]),
            });
            let keep = state.map(|(path, resume)| Keep { path, about, resume });
            let trained = train(&network, &network.start.flat(), settings, keep.as_ref(), progress)?;
            let gate = network.start.with_flat(&trained.parameters);
            Ok(TrainedGate {
                gate: gate.unstandardised(&standardisation.mean, &standardisation.factor),
                training: Training::Mlp { history: trained.history, best: trained.best },
            })
        }
    }
}

fn linear(
    standardisation: &Standardisation,
    bias: bool,
    [features, held]: [ArrayView2<'_, f64>; 2],
    (examples, validation): (&Examples<'_>, &Examples<'_>),
    progress: &dyn Progress,
) -> Result<TrainedGate, RouterError> {
    // To choose a penalty, losses to six digits do.
    const ROUGH: f64 = 1e-5;
    let mut tried = Vec::with_capacity(PENALTIES.len());
    let mut best: Option<(f64, f64, Array2<f64>)> = None;
    let mut start: Option<Array2<f64>> = None;
    progress.begin("fitting a gate", Unit::Steps, Some(PENALTIES.len() as u64));
    for l2 in PENALTIES {
        check_cancelled(progress)?;
        let fit = Problem::new(features, examples.targets, l2, bias)?.solve(start.as_ref(), ROUGH)?;
        let last = features.ncols();
        let weight = fit.parameters.slice(ndarray::s![.., ..last]);
        let scores = held.dot(&weight.t()) + fit.parameters.column(last);
        let loss = softmax_loss(scores, validation.targets).1 / held.nrows() as f64;
        tried.push((l2, loss));
        // Of equals the stronger penalty.
        if best.as_ref().is_none_or(|(_, lowest, _)| loss < *lowest) {
            best = Some((l2, loss, fit.parameters.clone()));
        }
        start = Some(fit.parameters);
        progress.advance(1);
    }
    let (l2, _, parameters) = best.unwrap_or((PENALTIES[0], f64::INFINITY, Array2::zeros((0, 0))));
    let fit = Problem::new(features, examples.targets, l2, bias)?.solve(Some(&parameters), EXACT)?;
    Ok(TrainedGate {
        gate: fit.gate(standardisation, bias),
        training: Training::Linear { l2, tried, certificate: fit.certificate },
    })
}

/// One hidden layer on standardised states.
struct Network<'a> {
    start: Gate,
    features: Array2<f64>,
    held: Array2<f64>,
    targets: ArrayView2<'a, f64>,
    held_targets: ArrayView2<'a, f64>,
}

impl Objective for Network<'_> {
    fn items(&self) -> usize {
        self.features.nrows()
    }

    fn gradient(&self, parameters: &[f64], items: &[usize]) -> Result<(f64, Vec<f64>), RouterError> {
        let Gate::Mlp { up, up_bias, down, down_bias } = self.start.with_flat(parameters) else {
            return Ok((0.0, vec![0.0; parameters.len()]));
        };
        let n = items.len() as f64;
        let x = self.features.select(Axis(0), items);
        let targets = self.targets.select(Axis(0), items);
        let before = x.dot(&up.t()) + &up_bias;
        let inner = before.mapv(silu);
        let (probabilities, loss) = softmax_loss(inner.dot(&down.t()) + &down_bias, targets.view());
        let residual = (probabilities - &targets) / n;
        let to_inner = residual.dot(&down) * before.mapv(silu_slope);
        let gradient = Gate::Mlp {
            up: to_inner.t().dot(&x),
            up_bias: to_inner.sum_axis(Axis(0)),
            down: residual.t().dot(&inner),
            down_bias: residual.sum_axis(Axis(0)),
        };
        Ok((loss / n, gradient.flat()))
    }

    fn validate(&self, parameters: &[f64]) -> Result<f64, RouterError> {
        let scores = self.start.with_flat(parameters).scores(self.held.view());
        Ok(softmax_loss(scores, self.held_targets).1 / self.held.nrows() as f64)
    }
}

/// A hash of numbers, to the bit.
fn fingerprint(arrays: &[ArrayView2<'_, f64>]) -> String {
    let mut bytes = Vec::new();
    for array in arrays {
        bytes.extend((array.len() as u64).to_le_bytes());
        array.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    }
    format!("{:032x}", glue_tensor::ContentHash::of(&bytes).0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::normal;
    use glue_progress::NoProgress;
    use ndarray::Array1;

    /// Experts 0 and 1 by the sign of a product of two features, which no matrix tells apart.
    fn crossed(n: usize, stream: u64) -> (Array2<f32>, Array2<f64>) {
        let x = Array2::from_shape_vec((n, 3), normal(11, stream, 3 * n)).unwrap();
        let mut targets = Array2::zeros((n, 2));
        for (row, mut target) in x.axis_iter(Axis(0)).zip(targets.axis_iter_mut(Axis(0))) {
            target[usize::from(row[0] * row[1] > 0.0)] = 1.0;
        }
        (x.mapv(|x| (4.0 * x + 1.0) as f32), targets)
    }

    #[test]
    fn the_gradient_of_the_network_is_its_difference_quotient() {
        let (states, targets) = crossed(20, 0);
        let features = states.mapv(f64::from);
        let start = Gate::start(RouterKind::Mlp { hidden_size: 4 }, 2, 3, 1, 0);
        let (targets, held_targets) = (targets.view(), targets.view());
        let network = Network { start, features: features.clone(), held: features, targets, held_targets };
        let parameters: Vec<f64> = network.start.flat().iter().map(|p| p + 0.05).collect();
        let items = [3, 1, 7, 7];
        let (_, gradient) = network.gradient(&parameters, &items).unwrap();
        let h = 1e-5;
        for index in 0..parameters.len() {
            let at = |step: f64| {
                let mut moved = parameters.clone();
                moved[index] += step;
                network.gradient(&moved, &items).unwrap().0
            };
            let quotient = (at(h) - at(-h)) / (2.0 * h);
            // h² times third derivatives of some hundreds.
            assert!((quotient - gradient[index]).abs() < 1e-6, "{index}: {quotient} {}", gradient[index]);
        }
    }

    #[test]
    fn a_hidden_layer_learns_what_no_matrix_can() {
        let ((states, targets), (held, held_targets)) = (crossed(800, 0), crossed(200, 1));
        let examples = Examples { states: states.view(), targets: targets.view() };
        let validation = Examples { states: held.view(), targets: held_targets.view() };
        let train = |kind| {
            train_gate(kind, true, &examples, &validation, &TrainSettings::SUPERVISED, None, &NoProgress).unwrap().gate
        };
        let (line, network) = (train(RouterKind::Linear), train(RouterKind::Mlp { hidden_size: 16 }));
        // Half is what guessing gives, ±0.035; the border of the classes costs the network a few items.
        assert!(validation.accuracy(&line) < 0.65, "{}", validation.accuracy(&line));
        assert!(validation.accuracy(&network) > 0.93, "{}", validation.accuracy(&network));
    }

    #[test]
    fn permuted_experts_give_a_permuted_gate() {
        let ((states, _), (held, _)) = (crossed(300, 0), crossed(100, 1));
        let label = |states: &Array2<f32>, order: [usize; 3]| {
            let mut targets = Array2::zeros((states.nrows(), 3));
            for (row, mut target) in states.axis_iter(Axis(0)).zip(targets.axis_iter_mut(Axis(0))) {
                let class = if row[0] > 2.0 { 0 } else { 1 + usize::from(row[2] > 1.0) };
                target[order[class]] = 1.0;
            }
            targets
        };
        let gate = |order| {
            let (targets, held_targets) = (label(&states, order), label(&held, order));
            let examples = Examples { states: states.view(), targets: targets.view() };
            let validation = Examples { states: held.view(), targets: held_targets.view() };
            train_gate(RouterKind::Linear, true, &examples, &validation, &TrainSettings::SUPERVISED, None, &NoProgress)
        };
        let (straight, turned) = (gate([0, 1, 2]).unwrap(), gate([2, 0, 1]).unwrap());
        let Training::Linear { certificate, .. } = &straight.training else { panic!("linear") };
        assert!(certificate.gradient_norm <= EXACT);
        // Expert i of `turned` is class order⁻¹[i].
        let again = straight.gate.permuted(&[1, 2, 0]).unwrap();
        // Both are within ‖g‖/λ of the optimum, which is 1e-9/1e-5.
        assert!(again.flat().iter().zip(turned.gate.flat()).all(|(a, b)| (a - b).abs() < 2e-4));
    }

    #[test]
    fn accuracy_counts_ties_as_right() {
        let gate = Gate::Linear { weight: ndarray::array![[1.0], [-1.0]], bias: Some(Array1::zeros(2)) };
        let states = ndarray::array![[1.0f32], [-1.0], [2.0]];
        let targets = ndarray::array![[0.5, 0.5], [0.0, 1.0], [0.0, 1.0]];
        let examples = Examples { states: states.view(), targets: targets.view() };
        assert!((examples.accuracy(&gate) - 2.0 / 3.0).abs() < 1e-15);
    }
}
