//! Gates from prompts.
//!
//! The row of an expert is the mean over its positive prompts of a state, less the mean over its negative ones,
//! at unit length. Which state, the mode says: modes are those of mergekit's MoE configurations, and `router_input`, which
//! takes the state where the gate reads when the mixture runs. Special tokens that the tokenizer puts before a text belong to
//! the prompt; padding does not exist here.

use crate::error::RouterError;
use crate::gate::Gate;
use crate::states::{DenseStates, Place, TokenStates, pooled_states};
use glue_linalg::singular_values;
use glue_lm::Tokenizer;
use glue_mixture::GateMode;
use glue_mixture::GateRequest;
use glue_mixture::Gates;
use glue_mixture::{Level, MixtureSpec, Pool, RouterKind, Routing};
use glue_progress::Progress;
use ndarray::{Array1, Array2, Axis};

/// Texts that an expert is to be chosen for, and texts that it is not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExpertPrompts {
    /// The expert, for messages.
    pub expert: String,
    /// At least one.
    pub positive: Vec<String>,
    /// May be empty.
    pub negative: Vec<String>,
}

/// What each gate of a mixture is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatePlaces {
    /// For each gate the stream that enters its layer.
    pub stream: Vec<Place>,
    /// For each gate what it reads when the mixture runs.
    pub reads: Vec<Place>,
    /// How what it reads is pooled; the mean where routing is by token and nothing is pooled.
    pub pool: Pool,
}

impl GatePlaces {
    /// Those of a mixture whose experts share embeddings: a gate for each mixed layer at FFN and block level, one at model level.
    pub fn of(spec: &MixtureSpec) -> GatePlaces {
        let layers = match spec.level {
            Level::Model => vec![spec.dense_layers],
            Level::Ffn | Level::Block => spec.mixed_layers.clone(),
        };
        let stream: Vec<Place> = layers.iter().map(|&layer| Place::Stream(layer)).collect();
        let reads = match spec.level {
            Level::Ffn => layers.iter().map(|&layer| Place::MlpInput(layer)).collect(),
            Level::Block | Level::Model => stream.clone(),
        };
        let pool = match spec.routing {
            Routing::Token => Pool::Mean,
            Routing::Sample => spec.pool,
        };
        GatePlaces { stream, reads, pool }
    }

    /// That of a mixture of whole models: one gate, which reads stream `router_layer` of the router model.
    pub fn whole(router_layer: usize, pool: Pool) -> GatePlaces {
        let place = vec![Place::Stream(router_layer)];
        GatePlaces { stream: place.clone(), reads: place, pool }
    }
}

/// Gates and what is to be known about them.
#[derive(Debug, Clone, PartialEq)]
pub struct InitialGates {
    /// One for each of the places, linear and without bias.
    pub gates: Vec<Gate>,
    /// For each gate the condition number of its matrix, its largest over its smallest singular value; infinite when rows
    /// depend on each other.
    pub conditions: Vec<f64>,
    /// Sentences for people: gates whose condition number is above [`ILL_CONDITIONED`].
    pub warnings: Vec<String>,
}

/// The condition number from which on rows of a gate are too alike to tell experts apart well.
pub const ILL_CONDITIONED: f64 = 100.0;

/// Makes the gates at `places` by `mode` from the prompts of each expert, with the model and tokenizer that will read for the
/// gates. All prompts go through the model together.
///
/// # Errors
/// [`RouterError::NoPrompts`], [`RouterError::EmptyPrompt`], [`RouterError::ZeroRow`], [`RouterError::Setting`] for a mode without
/// prompts, and those of model and tokenizer.
pub fn gates_from_prompts(
    mode: GateMode,
    places: &GatePlaces,
    experts: &[ExpertPrompts],
    model: &dyn TokenStates,
    tokenizer: &Tokenizer,
    progress: &dyn Progress,
) -> Result<InitialGates, RouterError> {
    let mode_name = mode.to_string();
    if !mode.needs_prompts() {
        let expected = "a mode that takes prompts";
        return Err(RouterError::Setting { name: "gate_mode", found: mode_name, expected });
    }
    let mut sequences = Vec::new();
    let mut ranges = Vec::new();
    for expert in experts {
        if expert.positive.is_empty() {
            return Err(RouterError::NoPrompts { expert: expert.expert.clone(), mode: mode_name });
        }
        let mut range = |prompts: &[String]| -> Result<std::ops::Range<usize>, RouterError> {
            let start = sequences.len();
            for prompt in prompts {
                let tokens = tokenizer.encode(prompt, true)?;
                if tokens.is_empty() {
                    return Err(RouterError::EmptyPrompt { prompt: prompt.clone() });
                }
                sequences.push(tokens);
            }
            Ok(start..sequences.len())
        };
        ranges.push((range(&expert.positive)?, range(&expert.negative)?));
    }
    let pooled = |places: &[Place], pool| pooled_states(model, &sequences, places, pool, progress);
    let states = match mode {
        GateMode::CheapEmbed => {
            // Prompts count alike whatever the length of their sums.
            let mut one = pooled(&[Place::Stream(0)], Pool::Mean)?;
            for mut row in one.iter_mut().flat_map(|states| states.axis_iter_mut(Axis(0))) {
                let length = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
                if length > 0.0 {
                    row.mapv_inplace(|x| (f64::from(x) / length) as f32);
                }
            }
            let repeated = one.into_iter().cycle().take(places.reads.len());
            repeated.collect()
        }
        GateMode::Hidden => pooled(&places.stream, Pool::Last)?,
        GateMode::HiddenAvg => pooled(&places.stream, Pool::Mean)?,
        _ => pooled(&places.reads, places.pool)?,
    };
    let mut gates = Vec::with_capacity(states.len());
    for (gate, states) in states.iter().enumerate() {
        let mut weight = Array2::zeros((experts.len(), states.ncols()));
        for ((expert, (positive, negative)), mut row) in experts.iter().zip(&ranges).zip(weight.axis_iter_mut(Axis(0)))
        {
            let mean = |range: &std::ops::Range<usize>| -> Option<Array1<f64>> {
                states.slice(ndarray::s![range.clone(), ..]).mapv(f64::from).mean_axis(Axis(0))
            };
            let direction = match (mean(positive), mean(negative)) {
                (Some(positive), Some(negative)) => positive - negative,
                (positive, _) => positive.unwrap_or_else(|| Array1::zeros(states.ncols())),
            };
            let length = direction.dot(&direction).sqrt();
            if !length.is_finite() {
                return Err(RouterError::NotFinite {
                    what: format!("gate {gate}, expert `{}`", expert.expert),
                    found: length,
                });
            }
            if length == 0.0 {
                return Err(RouterError::ZeroRow { gate, expert: expert.expert.clone() });
            }
            row.assign(&(direction / length));
        }
        gates.push(Gate::Linear { weight, bias: None });
    }
    with_conditions(gates)
}

/// Gates as they are stored, with what is to be known about them.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeGates {
    /// The gates, in the form that the mixture asks for.
    pub gates: Gates,
    /// As [`InitialGates::conditions`].
    pub conditions: Vec<f64>,
    /// As [`InitialGates::warnings`].
    pub warnings: Vec<String>,
}

/// Makes the gates that a planned mixture asks for, reading prompts with the model it names. A router with a hidden layer is
/// given the one that scores exactly as the matrix does. The shared expert's gate of Qwen2-MoE's form is made like a row of the
/// others; without prompts it is zero, which adds half of the shared expert.
///
/// # Errors
/// As [`gates_from_prompts`]; [`RouterError::TooNarrow`] for a hidden layer that cannot hold the matrix.
pub fn gates_for(request: &GateRequest, progress: &dyn Progress) -> Result<MadeGates, RouterError> {
    let (model, tokenizer) = (DenseStates::open(&request.model)?, Tokenizer::load(&request.model)?);
    let sites = &request.sites;
    let stream: Vec<Place> = request.streams.iter().map(|&stream| Place::Stream(stream)).collect();
    let reads = match sites.level {
        Level::Ffn => request.streams.iter().map(|&layer| Place::MlpInput(layer)).collect(),
        Level::Block | Level::Model => stream.clone(),
    };
    let pool = if request.routing == Routing::Token { Pool::Mean } else { request.pool };
    let places = GatePlaces { stream, reads, pool };
    let named = |(name, prompts): (&String, &glue_mixture::Prompts)| ExpertPrompts {
        expert: name.clone(),
        positive: prompts.positive.clone(),
        negative: prompts.negative.clone(),
    };
    let mut experts: Vec<ExpertPrompts> = sites.experts.iter().zip(&request.prompts).map(named).collect();
    if experts.len() != sites.experts.len() {
        let (expected, found) = (sites.experts.len(), experts.len());
        return Err(RouterError::Mismatch { what: "lists of prompts".into(), expected, found });
    }
    let shared = request.shared.as_ref().filter(|shared| !shared.positive.is_empty());
    experts.extend(shared.map(|shared| named((&"the shared expert".to_owned(), shared))));
    let made = gates_from_prompts(request.mode, &places, &experts, &model, &tokenizer, progress)?;
    let mut gates = Gates {
        experts: sites.experts.len(),
        hidden_size: model.width(),
        gates: Vec::with_capacity(made.gates.len()),
        shared: Vec::new(),
    };
    let mut own = Vec::with_capacity(made.gates.len());
    for gate in made.gates {
        let Gate::Linear { mut weight, .. } = gate else { continue };
        if request.shared.is_some() {
            let row =
                shared.and(weight.rows().into_iter().next_back()).map(|row| row.iter().map(|&x| x as f32).collect());
            gates.shared.push(row.unwrap_or_else(|| vec![0.0; weight.ncols()]));
        }
        weight = weight.slice(ndarray::s![..gates.experts, ..]).to_owned();
        own.push(Gate::Linear { weight, bias: None });
    }
    let InitialGates { gates: own, conditions, warnings } = with_conditions(own)?;
    for gate in own {
        let stored = gate.to_stored();
        gates.gates.push(match sites.router {
            RouterKind::Linear => stored,
            RouterKind::Mlp { hidden_size: inner } => {
                stored.to_mlp(gates.experts, inner).ok_or(RouterError::TooNarrow { inner, experts: gates.experts })?
            }
        });
    }
    Ok(MadeGates { gates, conditions, warnings })
}

fn with_conditions(gates: Vec<Gate>) -> Result<InitialGates, RouterError> {
    let (mut conditions, mut warnings) = (Vec::new(), Vec::new());
    for (index, gate) in gates.iter().enumerate() {
        let Gate::Linear { weight, .. } = gate else { continue };
        let condition = condition_number(weight)?;
        if condition > ILL_CONDITIONED {
            warnings.push(format!(
                "gate {index} is ill-conditioned: its condition number is {condition:.3e}, above {ILL_CONDITIONED}; \
                 the rows of its {} experts are nearly dependent, so that it tells some of them apart badly",
                gate.experts()
            ));
        }
        conditions.push(condition);
    }
    Ok(InitialGates { gates, conditions, warnings })
}

/// The largest over the smallest singular value; infinite when the smallest is zero up to rounding, 1 for an empty matrix.
///
/// # Errors
/// [`RouterError::Linalg`] for elements that are not finite.
pub fn condition_number(weight: &Array2<f64>) -> Result<f64, RouterError> {
    let values = singular_values(weight.view())?;
    let (Some(&largest), Some(&smallest)) = (values.first(), values.last()) else { return Ok(1.0) };
    // More rows than columns are dependent whatever they are.
    let dependent = weight.nrows() > weight.ncols();
    let rounding = largest * f64::EPSILON * weight.nrows().max(weight.ncols()) as f64;
    Ok(if dependent || smallest <= rounding { f64::INFINITY } else { largest / smallest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn condition_numbers_worked_by_hand() {
        assert!((condition_number(&array![[3.0, 0.0, 0.0], [0.0, 0.5, 0.0]]).unwrap() - 6.0).abs() < 1e-12);
        assert_eq!(condition_number(&array![[1.0, 2.0], [2.0, 4.0]]).unwrap(), f64::INFINITY);
        assert_eq!(condition_number(&array![[1.0], [2.0]]).unwrap(), f64::INFINITY);
        assert!(condition_number(&array![[f64::NAN]]).is_err());
    }

    #[test]
    fn rows_that_are_nearly_alike_are_warned_of_with_the_number() {
        let weight = array![[1.0, 0.0], [1.0, 1e-3]];
        let found = with_conditions(vec![Gate::Linear { weight, bias: None }]).unwrap();
        // The singular values are √2 and 1e-3/√2, up to 1e-7.
        assert!((found.conditions[0] - 2000.0).abs() < 0.01, "{}", found.conditions[0]);
        assert!(found.warnings[0].contains("2.000e3"), "{}", found.warnings[0]);
    }
}
