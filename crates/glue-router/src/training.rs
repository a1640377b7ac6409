//! Training by gradients: AdamW (Loshchilov and Hutter, arXiv 1711.05101) with warm-up, clipping, early stopping, and states
//! from which a training goes on as if it had never been ended.
//!
//! The order of items is a function of seed and epoch, so that a state is epoch, step, parameters and moments, and a resumed
//! training takes the same steps to the bit.

use crate::error::RouterError;
use crate::error::check_cancelled;
use crate::random::permutation;
use crate::state_file::{Numbers, StateFile};
use glue_progress::{Progress, Unit};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// How a training by gradients goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainSettings {
    /// The most passes over all items, at least 1.
    pub epochs: usize,
    /// Items of a step, at least 1.
    pub batch: usize,
    /// The step size after warm-up.
    pub learning_rate: f64,
    /// What each step takes off the parameters, times the learning rate.
    pub weight_decay: f64,
    /// Steps over which the learning rate grows from zero.
    pub warmup: usize,
    /// The longest gradient; longer ones are shortened to it.
    pub clip: f64,
    /// Epochs without a lower loss on the validation items after which training ends.
    pub patience: usize,
    /// What the order of items depends on, and the start where it is drawn.
    pub seed: u64,
    /// Steps between saved states, besides the one at the end of each epoch; at least 1.
    pub save_every: usize,
}

impl TrainSettings {
    /// For small networks on pooled states: 200 epochs of batches of 64 at 3e-3, decay 1e-2, warm-up 20 steps, clip 1, patience 15.
    pub const SUPERVISED: TrainSettings = TrainSettings {
        epochs: 200,
        batch: 64,
        learning_rate: 3e-3,
        weight_decay: 1e-2,
        warmup: 20,
        clip: 1.0,
        patience: 15,
        seed: 0,
        save_every: usize::MAX,
    };

    /// For gates in a frozen network: 10 epochs of batches of 32 at 1e-2, no decay, warm-up 10 steps, clip 1, patience 3, a state
    /// every 20 steps.
    pub const LANGUAGE_MODEL: TrainSettings = TrainSettings {
        epochs: 10,
        batch: 32,
        learning_rate: 1e-2,
        weight_decay: 0.0,
        warmup: 10,
        clip: 1.0,
        patience: 3,
        seed: 0,
        save_every: 20,
    };

    fn check(&self) -> Result<(), RouterError> {
        let at_least_one = [
            ("epochs", self.epochs),
            ("batch", self.batch),
            ("patience", self.patience),
            ("save_every", self.save_every),
        ];
        if let Some((name, found)) = at_least_one.into_iter().find(|(_, value)| *value == 0) {
            return Err(RouterError::Setting { name, found: found.to_string(), expected: "at least 1" });
        }
        for (name, value) in [("learning_rate", self.learning_rate), ("clip", self.clip)] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(RouterError::Setting { name, found: value.to_string(), expected: "a positive number" });
            }
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            let found = self.weight_decay.to_string();
            return Err(RouterError::Setting { name: "weight_decay", found, expected: "a number of at least 0" });
        }
        Ok(())
    }
}

/// What is minimised.
pub(crate) trait Objective {
    /// How many items there are to train with.
    fn items(&self) -> usize;

    /// The mean loss of these items, and its gradient.
    fn gradient(&self, parameters: &[f64], items: &[usize]) -> Result<(f64, Vec<f64>), RouterError>;

    /// The loss on the validation items.
    fn validate(&self, parameters: &[f64]) -> Result<f64, RouterError>;
}

/// Losses of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean over its steps, as the parameters changed.
    pub train: f64,
    /// At its end, on the validation items.
    pub validation: f64,
}

/// What a training gave.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trained {
    /// Those of the lowest loss on the validation items; the start, if no epoch was better.
    pub(crate) parameters: Vec<f64>,
    /// Losses of all epochs.
    pub(crate) history: Vec<Epoch>,
    /// The epoch whose parameters these are, counted from 1; 0 for the start.
    pub(crate) best: usize,
    /// The loss on the validation items before the first step.
    pub(crate) start: f64,
}

/// Where a training keeps its state, and what it must belong to.
pub(crate) struct Keep<'a> {
    pub(crate) path: &'a Path,
    /// Data, settings, start: whatever makes another training.
    pub(crate) about: Value,
    /// Whether to go on from a state that is there.
    pub(crate) resume: bool,
}

/// A training under way.
#[derive(Debug, Clone, PartialEq)]
struct State {
    /// Where the training began.
    initial: Vec<f64>,
    parameters: Vec<f64>,
    best_parameters: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
    /// Loss on the validation items at the start, lowest one so far, sum of losses of this epoch's steps.
    start: f64,
    lowest: f64,
    sum: f64,
    history: Vec<Epoch>,
    progress: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Counters {
    /// Epochs that are complete.
    epochs: usize,
    /// Steps of the next one that are.
    steps: usize,
    /// Steps in all.
    taken: u64,
    best: usize,
    ended: bool,
}

impl State {
    fn new(parameters: &[f64], start: f64) -> State {
        State {
            initial: parameters.to_vec(),
            parameters: parameters.to_vec(),
            best_parameters: parameters.to_vec(),
            first: vec![0.0; parameters.len()],
            second: vec![0.0; parameters.len()],
            start,
            lowest: start,
            sum: 0.0,
            history: Vec::new(),
            progress: Counters { epochs: 0, steps: 0, taken: 0, best: 0, ended: false },
        }
    }

    fn write(&self, keep: &Keep<'_>) -> Result<(), RouterError> {
        let array = |name: &str, values: &[f64]| (name.to_owned(), Numbers::F64(values.to_vec()));
        let losses: Vec<f64> = self.history.iter().flat_map(|epoch| [epoch.train, epoch.validation]).collect();
        let file = StateFile {
            about: json!({ "training": keep.about, "progress": self.progress }),
            arrays: vec![
                array("initial", &self.initial),
                array("parameters", &self.parameters),
                array("best", &self.best_parameters),
                array("first moments", &self.first),
                array("second moments", &self.second),
                array("losses", &[self.start, self.lowest, self.sum]),
                array("history", &losses),
            ],
        };
        file.write(keep.path)
    }

    fn read(keep: &Keep<'_>, len: usize) -> Result<Option<State>, RouterError> {
        let Some(file) = StateFile::read(keep.path)? else { return Ok(None) };
        if file.about.get("training") != Some(&keep.about) {
            return Err(RouterError::OtherTraining { path: keep.path.into(), what: "data or settings" });
        }
        let state = || {
            let progress = serde_json::from_value(file.about.get("progress")?.clone()).ok()?;
            let of_len = |name: &str| file.wide(name).filter(|values| values.len() == len).map(<[f64]>::to_vec);
            let &[start, lowest, sum] = file.wide("losses")? else { return None };
            let pairs = file.wide("history")?.as_chunks::<2>().0.iter();
            Some(State {
                initial: of_len("initial")?,
                parameters: of_len("parameters")?,
                best_parameters: of_len("best")?,
                first: of_len("first moments")?,
                second: of_len("second moments")?,
                start,
                lowest,
                sum,
                history: pairs.map(|&[train, validation]| Epoch { train, validation }).collect(),
                progress,
            })
        };
        let reason = || "it lacks a part of the state of a training".to_owned();
        state().map(Some).ok_or_else(|| RouterError::StateFile { path: keep.path.into(), reason: reason() })
    }

    /// One step of AdamW.
    fn step(&mut self, mut gradient: Vec<f64>, settings: &TrainSettings) {
        const BETA1: f64 = 0.9;
        const BETA2: f64 = 0.999;
        const EPSILON: f64 = 1e-8;
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        if length > settings.clip {
            gradient.iter_mut().for_each(|g| *g *= settings.clip / length);
        }
        self.progress.taken += 1;
        let taken = self.progress.taken as f64;
        let rate = settings.learning_rate * (taken / (settings.warmup + 1) as f64).min(1.0);
        let correction = [1.0 - BETA1.powf(taken), 1.0 - BETA2.powf(taken)];
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((x, g), (m, v)) in self.parameters.iter_mut().zip(gradient).zip(moments) {
            *m = BETA1 * *m + (1.0 - BETA1) * g;
            *v = BETA2 * *v + (1.0 - BETA2) * g * g;
            let step = (*m / correction[0]) / ((*v / correction[1]).sqrt() + EPSILON);
            *x -= rate * (step + settings.weight_decay * *x);
        }
    }
}

/// The parameters with which the training that is kept at `path` began, and the best it has reached; `None` when there is none.
pub(crate) fn kept_parameters(path: &Path) -> Result<Option<[Vec<f64>; 2]>, RouterError> {
    let Some(file) = StateFile::read(path)? else { return Ok(None) };
    Ok(file.wide("initial").zip(file.wide("best")).map(|(initial, best)| [initial.to_vec(), best.to_vec()]))
}

/// Trains from `start`, or from a saved state.
pub(crate) fn train(
    objective: &dyn Objective,
    start: &[f64],
    settings: &TrainSettings,
    keep: Option<&Keep<'_>>,
    progress: &dyn Progress,
) -> Result<Trained, RouterError> {
    settings.check()?;
    if objective.items() == 0 {
        return Err(RouterError::TooFewItems { purpose: "to train with", expected: 1, found: 0 });
    }
    let saved = match keep {
        Some(keep) if keep.resume => State::read(keep, start.len())?,
        _ => None,
    };
    let mut state = match saved {
        Some(state) => state,
        None => State::new(start, finite("the loss before training", objective.validate(start)?)?),
    };
    let epochs = settings.epochs.saturating_sub(state.progress.epochs);
    progress.begin("training", Unit::Epochs, Some(epochs as u64));
    while state.progress.epochs < settings.epochs && !state.progress.ended {
        let order = permutation(settings.seed, state.progress.epochs as u64, objective.items());
        let batches: Vec<&[usize]> = order.chunks(settings.batch).collect();
        for batch in &batches[state.progress.steps.min(batches.len())..] {
            check_cancelled(progress)?;
            let (loss, gradient) = objective.gradient(&state.parameters, batch)?;
            state.sum += finite("the loss of a step", loss)?;
            state.step(gradient, settings);
            state.progress.steps += 1;
            let last = state.progress.steps == batches.len();
            if let Some(keep) =
                keep.filter(|_| !last && state.progress.taken.is_multiple_of(settings.save_every as u64))
            {
                state.write(keep)?;
            }
        }
        let validation = finite("the loss on the validation items", objective.validate(&state.parameters)?)?;
        state.history.push(Epoch { train: state.sum / batches.len() as f64, validation });
        state.sum = 0.0;
        state.progress.steps = 0;
        state.progress.epochs += 1;
        if validation < state.lowest {
            state.lowest = validation;
            state.best_parameters.copy_from_slice(&state.parameters);
            state.progress.best = state.progress.epochs;
        }
        state.progress.ended = state.progress.epochs - state.progress.best >= settings.patience;
        if let Some(keep) = keep {
            state.write(keep)?;
        }
        progress.advance(1);
    }
    let State { best_parameters, history, progress, start, .. } = state;
    Ok(Trained { parameters: best_parameters, history, best: progress.best, start })
}

fn finite(what: &str, found: f64) -> Result<f64, RouterError> {
    if found.is_finite() { Ok(found) } else { Err(RouterError::NotFinite { what: what.into(), found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glue_progress::NoProgress;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Σ (x - aᵢ)² over items, whose optimum is the mean of the items.
    struct Squares(Vec<f64>);

    impl Objective for Squares {
        fn items(&self) -> usize {
            self.0.len()
        }
        fn gradient(&self, x: &[f64], items: &[usize]) -> Result<(f64, Vec<f64>), RouterError> {
            let n = items.len() as f64;
            let loss = items.iter().map(|&i| (x[0] - self.0[i]).powi(2)).sum::<f64>() / n;
            Ok((loss, vec![items.iter().map(|&i| 2.0 * (x[0] - self.0[i])).sum::<f64>() / n]))
        }
        fn validate(&self, x: &[f64]) -> Result<f64, RouterError> {
            Ok(self.0.iter().map(|a| (x[0] - a).powi(2)).sum::<f64>() / self.0.len() as f64)
        }
    }

    /// Ends the work after some questions.
    struct After(AtomicUsize);

    impl Progress for After {
        fn is_cancelled(&self) -> bool {
            self.0.fetch_sub(1, Ordering::Relaxed) == 0
        }
    }

    const SETTINGS: TrainSettings =
        TrainSettings { epochs: 30, batch: 4, save_every: 2, learning_rate: 0.05, ..TrainSettings::SUPERVISED };

    fn squares() -> Squares {
        Squares((0..22).map(f64::from).map(|i| (i * 0.7).sin() + 0.5).collect())
    }

    #[test]
    fn the_first_step_of_adamw_worked_by_hand() {
        let mut state = State::new(&[1.0, -2.0], 0.0);
        let settings = TrainSettings { warmup: 0, learning_rate: 0.1, weight_decay: 0.5, clip: 10.0, ..SETTINGS };
        state.step(vec![3.0, -4.0], &settings);
        // Corrected moments are g and g², so that the step is the sign of g; decay takes 0.1·0.5·x.
        let expected = [1.0 - 0.1 - 0.05, -2.0 + 0.1 + 0.1];
        // ε = 1e-8 in the denominator.
        assert!(state.parameters.iter().zip(expected).all(|(x, e)| (x - e).abs() < 1e-8), "{:?}", state.parameters);
        // Half way through a warm-up of one step, and a gradient of length 5 cut to 1: the sign is all that is left.
        let mut state = State::new(&[0.0, 0.0], 0.0);
        state.step(vec![3.0, -4.0], &TrainSettings { warmup: 1, weight_decay: 0.0, clip: 1.0, ..settings });
        assert!((state.parameters[0] + 0.05).abs() < 1e-8 && (state.first[0] - 0.1 * 0.6).abs() < 1e-12);
    }

    #[test]
    fn it_finds_the_optimum_and_stops_when_nothing_improves() {
        let objective = squares();
        let mean = objective.0.iter().sum::<f64>() / 22.0;
        let settings = TrainSettings { epochs: 500, weight_decay: 0.0, learning_rate: 0.01, ..SETTINGS };
        let found = train(&objective, &[4.0], &settings, None, &NoProgress).unwrap();
        // Steps of 0.01 wander about the optimum by a few of them.
        assert!((found.parameters[0] - mean).abs() < 0.03, "{} {mean}", found.parameters[0]);
        assert!(found.history.len() < 500 && found.history.len() == found.best + settings.patience);
        assert_eq!(found.history[found.best - 1].validation, objective.validate(&found.parameters).unwrap());
        assert_eq!(found.start, objective.validate(&[4.0]).unwrap());
    }

    #[test]
    fn ended_anywhere_and_resumed_it_is_the_same_to_the_bit() {
        let directory = tempfile::tempdir().unwrap();
        let objective = squares();
        let whole = train(&objective, &[4.0], &SETTINGS, None, &NoProgress).unwrap();
        for stop in [0, 1, 5, 6, 7, 40, 100] {
            let path = directory.path().join(format!("{stop}.state"));
            let keep = |resume| Keep { path: &path, about: json!({"seed": 0}), resume };
            let ended = train(&objective, &[4.0], &SETTINGS, Some(&keep(true)), &After(AtomicUsize::new(stop)));
            assert!(matches!(ended, Err(RouterError::Stopped)));
            let resumed = train(&objective, &[4.0], &SETTINGS, Some(&keep(true)), &NoProgress).unwrap();
            assert_eq!(resumed, whole, "ended after {stop} steps");
            // What is complete is not done again.
            let again = train(&objective, &[4.0], &SETTINGS, Some(&keep(true)), &After(AtomicUsize::new(0))).unwrap();
            assert_eq!(again, whole);
            // Without the wish to resume it begins anew.
            let anew = train(&objective, &[4.0], &SETTINGS, Some(&keep(false)), &After(AtomicUsize::new(0)));
            assert!(matches!(anew, Err(RouterError::Stopped)));
        }
    }

    #[test]
    fn the_state_of_another_training_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.state");
        let keep = |seed: u64| Keep { path: &path, about: json!({"seed": seed}), resume: true };
        train(&squares(), &[4.0], &SETTINGS, Some(&keep(1)), &NoProgress).unwrap();
        let other = train(&squares(), &[4.0], &SETTINGS, Some(&keep(2)), &NoProgress);
        assert!(matches!(other, Err(RouterError::OtherTraining { .. })));
    }

    #[test]
    fn settings_out_of_range_are_refused_by_name() {
        let check = |settings: TrainSettings, expected: &str| {
            let found = train(&squares(), &[0.0], &settings, None, &NoProgress);
            assert!(matches!(found, Err(RouterError::Setting { name, .. }) if name == expected), "{expected}");
        };
        check(TrainSettings { epochs: 0, ..SETTINGS }, "epochs");
        check(TrainSettings { batch: 0, ..SETTINGS }, "batch");
        check(TrainSettings { learning_rate: f64::NAN, ..SETTINGS }, "learning_rate");
        check(TrainSettings { clip: 0.0, ..SETTINGS }, "clip");
        check(TrainSettings { weight_decay: -1.0, ..SETTINGS }, "weight_decay");
        assert!(matches!(
            train(&Squares(Vec::new()), &[0.0], &SETTINGS, None, &NoProgress),
            Err(RouterError::TooFewItems { .. })
        ));
    }
}
