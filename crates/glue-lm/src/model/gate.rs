//! Gates: scores of the experts from the states of tokens or of whole prompts, and who is chosen by them.

use super::select;
use crate::architecture::{Activation, ExpertGroups, Scoring};
use crate::error::LmError;
use crate::ops::{Routes, gated, linear, mean_of_rows, product_of, shares, sigmoid_shares};
use crate::train::GateInfo;
use crate::tree::{Pass, Sample, Tree};
use crate::weight::Weight;
use candle_core::{Device, Result, Tensor};
use glue_mixture::{Gate, Pool, RouterKind, Routing};
use std::sync::Arc;

/// A gate whose matrices stay in their stored type.
pub(crate) type StoredGate = Gate<Weight, Vec<f32>>;

/// Scores by the stored weights: [rows, hidden] to [rows, experts].
pub(crate) fn stored_scores(gate: &StoredGate, x: &Tensor) -> Result<Tensor> {
    match gate {
        Gate::Linear { weight, bias } => linear(x, weight, bias.as_deref()),
        Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
            let inner = silu(&linear(x, up_weight, Some(up_bias))?)?;
            linear(&inner, down_weight, Some(down_bias))
        }
    }
}

/// The stored weights, widened.
#[cfg(feature = "mixtures")]
pub(crate) fn widened(gate: &StoredGate) -> Result<Gate<Tensor>> {
    gate.try_map(
        |_, weight| Tensor::from_vec(weight.to_f32(), weight.shape(), &Device::Cpu),
        |_, bias| Tensor::from_slice(bias, bias.len(), &Device::Cpu),
    )
}

fn silu(x: &Tensor) -> Result<Tensor> {
    gated(x, &x.ones_like()?, Activation::Silu)
}

/// Finds a tensor by name, of this shape, if there is one.
pub(crate) type FindTensor<'a> = dyn Fn(String, &[usize]) -> std::result::Result<Option<Weight>, LmError> + 'a;

/// The gate whose tensors' names begin with `name`, for states of width `hidden`; biases may be absent.
pub(crate) fn load_gate(
    kind: RouterKind,
    name: &str,
    experts: usize,
    hidden: usize,
    tensor: &FindTensor<'_>,
) -> std::result::Result<StoredGate, LmError> {
    let found = Gate::shapes(kind, experts, hidden).try_map(
        |part, shape| {
            let name = format!("{name}{part}");
            let missing = || LmError::MissingTensor { name: name.clone(), expected: shape.clone() };
            tensor(name.clone(), shape)?.ok_or_else(missing)
        },
        |part, shape| Ok(tensor(format!("{name}{part}"), shape)?.map(|bias| bias.to_f32())),
    )?;
    let or_zeros = |bias: Option<Vec<f32>>, len: usize| bias.unwrap_or_else(|| vec![0.0; len]);
    Ok(match found {
        Gate::Linear { weight, bias } => Gate::Linear { weight, bias: bias.flatten() },
        Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
            let (up_bias, down_bias) = (or_zeros(up_bias, up_weight.shape()[0]), or_zeros(down_bias, experts));
            Gate::Mlp { up_weight, up_bias, down_weight, down_bias }
        }
    })
}

/// Scores by weights that may be trained.
fn trained_scores(gate: &Gate<Tensor>, x: &Tensor) -> Result<Tensor> {
    match gate {
        Gate::Linear { weight, bias: None } => product_of(x, weight),
        Gate::Linear { weight, bias: Some(bias) } => product_of(x, weight)?.broadcast_add(bias),
        Gate::Mlp { up_weight, up_bias, down_weight, down_bias } => {
            let inner = silu(&product_of(x, up_weight)?.broadcast_add(up_bias)?)?;
            product_of(&inner, down_weight)?.broadcast_add(down_bias)
        }
    }
}

/// A gate and how it is used.
#[derive(Debug)]
pub(crate) struct Router {
    /// Its number among the gates of the model.
    pub(super) number: usize,
    /// The layer whose states it reads.
    pub(super) layer: usize,
    /// What the names of its tensors begin with.
    pub(super) name: String,
    pub(crate) gate: StoredGate,
    pub(super) experts: usize,
    pub(super) per_token: usize,
    /// From scores to choice and shares.
    pub(super) rule: Arc<Rule>,
    /// How prompts are pooled, where they are routed as one.
    pub(super) pool: Option<Pool>,
}

/// How scores decide.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) scoring: Scoring,
    /// Whether shares are brought to sum 1.
    pub(super) normalised: bool,
    /// Factor on shares.
    pub(super) scale: f32,
    /// Groups among which a token chooses first.
    pub(super) groups: Option<ExpertGroups>,
    /// Added to the sigmoids of scores for the choice alone.
    pub(super) choice_bias: Option<Vec<f32>>,
}

impl Rule {
    /// Softmax over the scores of the chosen: the rule of mixtures in the native format.
    pub(super) fn softmax() -> Rule {
        Rule { scoring: Scoring::Softmax, normalised: true, scale: 1.0, groups: None, choice_bias: None }
    }

    /// The experts that these scores choose, the best first.
    fn choose(&self, scores: &[f32], per_token: usize) -> Vec<usize> {
        let mut merits = scores.to_vec();
        if let Some(bias) = &self.choice_bias {
            merits.iter_mut().zip(bias).for_each(|(merit, bias)| *merit = 1.0 / (1.0 + (-*merit).exp()) + bias);
        }
        if let Some(groups) = self.groups {
            let size = scores.len() / groups.count;
            let merit = |group: &[f32]| largest(group, groups.best).into_iter().map(|expert| group[expert]).sum();
            let of_groups: Vec<f32> = merits.chunks_exact(size).map(merit).collect();
            let kept = largest(&of_groups, groups.kept);
            let others = merits.chunks_exact_mut(size).enumerate().filter(|(group, _)| !kept.contains(group));
            others.for_each(|(_, group)| group.fill(f32::NEG_INFINITY));
        }
        largest(&merits, per_token)
    }
}

/// The router logits of a gate for some tokens or samples, and the experts chosen. See [`crate::Output::routing`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct GateOutput {
    /// The number of the gate in [`Model::gates`](crate::Model::gates).
    pub gate: usize,
    /// The layer whose states it read.
    pub layer: usize,
    /// Router logits, [decisions, experts]; the probabilities of the experts are their softmax, but in families that
    /// take sigmoids (Llama 4, DeepSeek V3). One decision for each
    /// token in the order of rows (in the last layer, and at level model, only for rows whose logits are wanted), or
    /// for each sample whose prompt was in the pass, in the order of roots.
    pub scores: Tensor,
    /// The experts chosen in each decision, the most probable first.
    pub chosen: Vec<Vec<usize>>,
    /// The states that the gate read, [decisions, hidden size], pooled where samples are routed; only of samples, or
    /// when [`Model::forward_train`](crate::Model::forward_train) was asked.
    pub inputs: Option<Tensor>,
}

/// What the gates of a pass are given, and their router logits.
pub(super) struct Gates<'a> {
    pub(super) pass: &'a Pass,
    pub(super) trained: Option<&'a [Gate<Tensor>]>,
    pub(super) outputs: Vec<GateOutput>,
    /// Scores of new samples, kept in the tree when the pass has succeeded.
    pub(super) kept: Vec<(Sample, usize, Arc<[f32]>)>,
    /// The sample of each row.
    sample_of: Vec<usize>,
}

impl<'a> Gates<'a> {
    pub(super) fn new(pass: &'a Pass, trained: Option<&'a [Gate<Tensor>]>) -> Gates<'a> {
        let mut sample_of = vec![0; pass.tokens.len()];
        for segment in &pass.segments {
            sample_of[segment.rows.clone()].fill(segment.sample);
        }
        Gates { pass, trained, outputs: Vec::new(), kept: Vec::new(), sample_of }
    }
}

/// Scores, and who is chosen by them.
pub(super) struct Scored {
    scores: Tensor,
    pub(super) chosen: Vec<Vec<usize>>,
    rule: Arc<Rule>,
}

impl Scored {
    /// Where rows go, each decided by the scores of this number, and the share of each place.
    pub(super) fn route(&self, decider: &[usize]) -> Result<(Routes, Tensor)> {
        let experts = self.scores.dim(1)?;
        let routes = Routes::new(experts, &self.chosen, decider);
        let Rule { scoring, normalised, scale, .. } = *self.rule;
        let shares = match (scoring, normalised) {
            (Scoring::Softmax, true) => shares(&self.scores, &self.chosen, &routes)?,
            (Scoring::Softmax, false) => {
                shares(&self.scores, &vec![(0..experts).collect(); self.chosen.len()], &routes)?
            }
            (Scoring::Sigmoid, _) => sigmoid_shares(&self.scores, &self.chosen, &routes, normalised)?,
        };
        Ok((routes, if scale == 1.0 { shares } else { (shares * f64::from(scale))? }))
    }
}

impl Router {
    /// What others may know of it.
    pub(crate) fn info(&self) -> GateInfo {
        GateInfo {
            layer: self.layer,
            name: self.name.clone(),
            experts: self.experts,
            experts_per_token: self.per_token,
            routing: if self.pool.is_some() { Routing::Sample } else { Routing::Token },
            kind: self.gate.kind(),
        }
    }

    /// The name of the stored matrix of a gate that is one matrix.
    pub(super) fn stored_matrix(&self) -> Option<String> {
        matches!(self.gate, Gate::Linear { .. }).then(|| format!("{}weight", self.name))
    }

    /// The scores of the rows of `x`.
    pub(super) fn score_tokens(&self, gates: &mut Gates<'_>, x: &Tensor) -> Result<Scored> {
        let scores = self.scores(gates, x)?;
        let chosen = self.choose(&scores)?;
        let inputs = gates.trained.map(|_| x.clone());
        gates.outputs.push(GateOutput {
            gate: self.number,
            layer: self.layer,
            scores: scores.clone(),
            chosen: chosen.clone(),
            inputs,
        });
        Ok(Scored { scores, chosen, rule: Arc::clone(&self.rule) })
    }

    /// The scores of the samples of a pass. `x` holds the rows `present`, all when absent, among them those of every
    /// new prompt that its pool needs.
    pub(super) fn score_samples(
        &self,
        pool: Pool,
        tree: &Tree,
        gates: &mut Gates<'_>,
        x: &Tensor,
        present: Option<&[usize]>,
    ) -> std::result::Result<Scored, LmError> {
        let place = |row: usize| present.map_or(row, |rows| rows.partition_point(|&other| other < row));
        let samples = &gates.pass.samples;
        let prompts = samples.iter().filter(|sample| !sample.decided).map(|sample| sample.prompt.clone());
        let pooled = match pool {
            Pool::Mean => mean_of_rows(x, &prompts.map(|rows| place(rows.start)..place(rows.end)).collect::<Vec<_>>())?,
            Pool::First | Pool::Last => {
                select(x, &prompts.map(|rows| place(pool.rows(rows).start) as u32).collect::<Vec<_>>())?
            }
        };
        let new = self.scores(gates, &pooled)?;
        let mut scores = Vec::with_capacity(samples.len());
        let mut kept = Vec::new();
        let mut next = 0;
        for sample in samples {
            if sample.decided {
                let old = tree.scores_of(sample, self.number).filter(|old| old.len() == self.experts);
                // A tree of another model.
                let old = old.ok_or(LmError::ForeignTree { expected: self.experts, found: 0 })?;
                scores.push(Tensor::from_slice(&old, (1, self.experts), &Device::Cpu)?);
            } else {
                let one = new.narrow(0, next, 1)?;
                kept.push((sample.clone(), self.number, crate::ops::elements(&one)?.into()));
                scores.push(one);
                next += 1;
            }
        }
        gates.kept.extend(kept);
        let scores = Tensor::cat(&scores, 0)?;
        let chosen = self.choose(&scores)?;
        let of_new = samples.iter().zip(&chosen).filter(|(sample, _)| !sample.decided);
        let of_new: Vec<Vec<usize>> = of_new.map(|(_, chosen)| chosen.clone()).collect();
        gates.outputs.push(GateOutput {
            gate: self.number,
            layer: self.layer,
            scores: new,
            chosen: of_new,
            inputs: Some(pooled),
        });
        Ok(Scored { scores, chosen, rule: Arc::clone(&self.rule) })
    }

    /// The samples of these rows, or of all.
    pub(super) fn samples_of(gates: &Gates<'_>, rows: Option<&[usize]>) -> Vec<usize> {
        match rows {
            None => gates.sample_of.clone(),
            Some(rows) => rows.iter().map(|&row| gates.sample_of[row]).collect(),
        }
    }

    fn scores(&self, gates: &Gates<'_>, x: &Tensor) -> Result<Tensor> {
        match gates.trained.and_then(|all| all.get(self.number)) {
            Some(weights) => trained_scores(weights, x),
            None => stored_scores(&self.gate, x),
        }
    }

    fn choose(&self, scores: &Tensor) -> Result<Vec<Vec<usize>>> {
        let scores = crate::ops::elements(scores)?;
        Ok(scores.chunks_exact(self.experts).map(|scores| self.rule.choose(scores, self.per_token)).collect())
    }
}

/// The places of the largest numbers, in descending order; of equal numbers the first counts as larger.
pub(crate) fn largest(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&a, &b| numbers[b].total_cmp(&numbers[a]));
    order.truncate(count);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_scores_choose_the_lower_numbers() {
        assert_eq!(largest(&[1.0, 1.0, 1.0], 2), [0, 1]);
        assert_eq!(largest(&[0.5, 2.0, -1.0, 1.0], 3), [1, 3, 0]);
    }

    /// Three groups of two: the best expert is in the first, the best pair in the second.
    #[test]
    fn groups_are_chosen_first() {
        let scores = [3.0, -4.0, 2.0, 2.0, 1.0, 1.5];
        let groups = |kept, best| Rule { groups: Some(ExpertGroups { count: 3, kept, best }), ..Rule::softmax() };
        assert_eq!(groups(1, 1).choose(&scores, 2), [0, 1]);
        assert_eq!(groups(1, 2).choose(&scores, 2), [2, 3]);
        assert_eq!(groups(2, 1).choose(&scores, 3), [0, 2, 3]);
        assert_eq!(groups(2, 2).choose(&scores, 3), [2, 3, 5]);
        assert_eq!(Rule::softmax().choose(&scores, 3), [0, 2, 3]);
    }

    /// Sigmoids 0.953, 0.018, 0.881, 0.881, 0.731, 0.818: a bias lifts the last and drops the first.
    #[test]
    fn a_bias_changes_the_choice() {
        let choice_bias = Some(vec![-0.5, 0.0, 0.0, 0.0, 0.0, 0.1]);
        let rule = Rule { scoring: Scoring::Sigmoid, choice_bias, ..Rule::softmax() };
        assert_eq!(rule.choose(&[3.0, -4.0, 2.0, 2.0, 1.0, 1.5], 2), [5, 2]);
    }
}
