//! The loss of the right answers at a merge by task arithmetic, and its derivatives by the weights of the models.
//!
//! At θ = θ0 + Σ wi τi, tensor by tensor, ∂L/∂wi = ⟨∂L/∂θ, τi⟩. The merge runs once forward and once backward over a
//! few items; the gradient of a tensor exists a block at a time, and task vectors are differences of the mapped files.

use super::{LocalScorer, Reserved};
use crate::contract::{Candidate, ItemRole, LossGradient};
use crate::parallel::Failure;
use glue_eval::{ChatFormat, LocalModel, LogLikelihoodRequest, Question};
use glue_lm::{Model, ScoredTokens};
use glue_recipe::{MergePlan, TensorPlan};
use glue_tensor::{TensorView, widen};
use rayon::prelude::*;
use std::ops::Range;

/// Tokens that are read in one pass; an item is never divided.
const ROWS: usize = 512;

/// Elements of a gradient that exist at a time.
const BLOCK: usize = 1 << 18;

/// An item in tokens.
struct Term {
    /// Its share of the loss.
    share: f64,
    /// For each choice all tokens, and how many of them are the context.
    choices: Vec<(Vec<u32>, usize)>,
    gold: Vec<usize>,
}

impl Term {
    fn rows(&self) -> usize {
        self.choices.iter().map(|(tokens, _)| tokens.len() - 1).sum()
    }

    /// The loss, given the log-likelihood of each choice, and its derivatives by them.
    fn loss(&self, log_likelihoods: &[f64]) -> (f64, Vec<f64>) {
        if let ([logprob], [(tokens, context)]) = (log_likelihoods, &self.choices[..]) {
            let n = (tokens.len() - context) as f64;
            let right = (logprob / n).exp();
            return (self.share * (1.0 - right), vec![-self.share * right / n]);
        }
        let max = log_likelihoods.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let odds: Vec<f64> = log_likelihoods.iter().map(|x| (x - max).exp()).collect();
        let all: f64 = odds.iter().sum();
        let is_right = |i: usize| if self.gold.contains(&i) { 1.0 } else { 0.0 };
        let right = odds.iter().enumerate().map(|(i, odds)| is_right(i) * odds / all).sum::<f64>();
        let slope = |i: usize| -self.share * odds[i] / all * (is_right(i) - right);
        (self.share * (1.0 - right), (0..odds.len()).map(slope).collect())
    }
}

impl LocalScorer {
    /// The loss and its derivatives: see [`Scorer::loss_gradient`](crate::contract::Scorer::loss_gradient).
    pub(super) fn gradient_at(&self, candidate: &Candidate, items: &[(usize, usize)]) -> Result<LossGradient, Failure> {
        self.check_cancelled()?;
        let plan = self.plan(candidate)?;
        if plan.operator.def().name != "task_arithmetic" {
            let found = plan.operator.def().name;
            return Err(Failure::Candidate(format!("gradients are of merges by `task_arithmetic`, found `{found}`")));
        }
        if let Some(model) = plan.models.iter().find(|model| model.adapter.is_some()) {
            let message =
                format!("`{}` has a LoRA adapter: merge it into its model first to get gradients", model.name);
            return Err(Failure::Candidate(message));
        }
        let (key, tokenizers) = self.tokenizers(&plan)?;
        let chat = ChatFormat(&tokenizers.master);
        let prepared =
            self.prepared_items(ItemRole::Search, Some(&key), Some(&chat)).map_err(|error| Failure::of(&error))?;
        let question = |&(task, item): &(usize, usize)| {
            let number = prepared.items.get(task).and_then(|items| items.get(item));
            number.and_then(|&number| prepared.prepared.question(task, number))
        };
        let questions: Vec<Option<Question<'_>>> = items.iter().map(question).collect();
        let counts: Vec<usize> = (0..self.tasks.len())
            .map(|task| items.iter().zip(&questions).filter(|((t, _), asked)| *t == task && asked.is_some()).count())
            .collect();
        let asked = |task: usize| items.iter().any(|(t, _)| *t == task);
        let left_out = (0..counts.len()).filter(|&task| asked(task) && counts[task] == 0);
        let left_out: Vec<String> = left_out.map(|task| self.tasks[task].name().to_string()).collect();
        let n_tasks = counts.iter().filter(|count| **count > 0).count();
        if n_tasks == 0 {
            let message = "no task has a right continuation, whose likelihood a loss could be made of".into();
            return Err(Failure::Candidate(message));
        }
        let _reserved: Reserved<'_> = self.reserve(super::bytes_of(&plan, self.pool.current_num_threads()))?;
        let tokenizer = tokenizers.idle.lock().pop().unwrap_or_else(|| tokenizers.master.clone());
        let model = self.merge(&plan, tokenizer, &tokenizers.encoded)?;
        let mut terms = Vec::new();
        for ((task, _), question) in items.iter().zip(questions) {
            if let Some(question) = question {
                terms.push(term(&model, &question, 1.0 / (n_tasks * counts[*task]) as f64)?);
            }
        }
        let found = self.pool.install(|| differentiate(&model.text_model().model, &plan, &terms));
        if let Ok(text) = std::sync::Arc::try_unwrap(model.into_text_model()) {
            tokenizers.idle.lock().push(text.tokenizer);
        }
        let found = LossGradient { left_out, ..found? };
        self.check_cancelled()?;
        let slopes = found.tensors.iter().flat_map(|(_, slopes)| slopes);
        if !found.loss.is_finite() || slopes.copied().any(|slope: f64| !slope.is_finite()) {
            let message = format!("the loss is {}, expected a finite number with finite derivatives", found.loss);
            return Err(Failure::Candidate(message));
        }
        Ok(found)
    }
}

fn term(model: &LocalModel, question: &Question<'_>, share: f64) -> Result<Term, Failure> {
    let requests: Vec<LogLikelihoodRequest<'_>> =
        question.choices.iter().map(|(context, continuation)| LogLikelihoodRequest { context, continuation }).collect();
    let tokens = model.tokens(&requests).map_err(|error| Failure::of(&error))?;
    let joined = |[context, continuation]: [Vec<u32>; 2]| ([&context[..], &continuation].concat(), context.len());
    Ok(Term { share, choices: tokens.into_iter().map(joined).collect(), gold: question.gold.to_vec() })
}

/// Runs of terms with at most [`ROWS`] tokens to read; a longer term is a run of its own.
fn batches(terms: &[Term]) -> Vec<Range<usize>> {
    let (mut batches, mut start, mut rows) = (Vec::new(), 0, 0);
    for (index, term) in terms.iter().enumerate() {
        if index > start && rows + term.rows() > ROWS {
            batches.push(start..index);
            (start, rows) = (index, 0);
        }
        rows += term.rows();
    }
    batches.push(start..terms.len());
    batches
}

/// The loss and its derivatives, summed over batches in their order.
fn differentiate(model: &Model, plan: &MergePlan, terms: &[Term]) -> Result<LossGradient, Failure> {
    let parts: Vec<(f64, Vec<Vec<f64>>)> = batches(terms)
        .par_iter()
        .map(|batch| of_batch(model, plan, &terms[batch.clone()]))
        .collect::<Result<_, Failure>>()?;
    let none = |tensor: &TensorPlan| (tensor.name.clone(), vec![0.0; tensor.inputs().len()]);
    let tensors = plan.tensors.iter().map(none).collect();
    let mut sum = LossGradient { loss: 0.0, tensors, left_out: Vec::new() };
    for (loss, slopes) in parts {
        sum.loss += loss;
        for ((_, sums), slopes) in sum.tensors.iter_mut().zip(slopes) {
            sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope);
        }
    }
    Ok(sum)
}

fn of_batch(model: &Model, plan: &MergePlan, terms: &[Term]) -> Result<(f64, Vec<Vec<f64>>), Failure> {
    let choices = terms.iter().flat_map(|term| &term.choices);
    let sequences: Vec<ScoredTokens<'_>> =
        choices.map(|(tokens, context)| ScoredTokens { tokens, scored: *context..tokens.len() }).collect();
    let of_terms = |log_likelihoods: &[f64]| {
        let mut rest = log_likelihoods;
        let of_term = |term: &Term| {
            let (own, after) = rest.split_at(term.choices.len());
            rest = after;
            term.loss(own)
        };
        terms.iter().map(of_term).collect::<Vec<_>>()
    };
    let slopes =
        |log_likelihoods: &[f64]| of_terms(log_likelihoods).into_iter().flat_map(|(_, slopes)| slopes).collect();
    let gradients = model.gradients_through(&sequences, &slopes).map_err(|error| Failure::of(&error))?;
    let loss = of_terms(&gradients.log_likelihoods).iter().map(|(loss, _)| loss).sum();
    let slopes =
        plan.tensors.iter().map(|tensor| of_tensor(&gradients, plan, tensor)).collect::<Result<_, Failure>>()?;
    Ok((loss, slopes))
}

/// ⟨∂L/∂θ, τi⟩ of a tensor for each input.
fn of_tensor(gradients: &glue_lm::Gradients, plan: &MergePlan, tensor: &TensorPlan) -> Result<Vec<f64>, Failure> {
    let mut sums = vec![0.0; tensor.inputs().len()];
    let Some(base) = tensor.base() else { return Ok(sums) };
    let view = |from: &glue_recipe::TensorRef| plan.models[from.model].dir.checkpoint().get(&from.name);
    let missing = || Failure::Candidate(format!("the tensor `{}` is not in every model", tensor.name));
    let base = view(base).ok_or_else(missing)?;
    let inputs: Vec<TensorView<'_>> = tensor.inputs().iter().map(view).collect::<Option<_>>().ok_or_else(missing)?;
    let rows = tensor.shape.first().copied().unwrap_or(1);
    let width = tensor.shape.iter().skip(1).product::<usize>().max(1);
    let step = (BLOCK / width).max(1);
    let (mut gradient, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
    for start in (0..rows).step_by(step) {
        let end = (start + step).min(rows);
        gradient.clear();
        gradient.resize((end - start) * width, 0.0);
        if !gradients.add_rows_of_all(&tensor.name, start..end, &mut gradient) {
            continue;
        }
        let elements = start * width..end * width;
        read(&base, elements.clone(), &mut from)?;
        for (sum, input) in sums.iter_mut().zip(&inputs) {
            read(input, elements.clone(), &mut to)?;
            let along = gradient.iter().zip(&from).zip(&to);
            *sum += along.map(|((g, from), to)| f64::from(*g) * (f64::from(*to) - f64::from(*from))).sum::<f64>();
        }
    }
    Ok(sums)
}

fn read(view: &TensorView<'_>, elements: Range<usize>, out: &mut Vec<f32>) -> Result<(), Failure> {
    let size = view.dtype().size();
    out.resize(elements.len(), 0.0);
    widen(view.dtype(), &view.data()[elements.start * size..elements.end * size], out)
        .map(|_| ())
        .map_err(|error| Failure::of(&error))
}

#[cfg(test)]
mod tests {
    //! The loss of an item against differences.
    use super::*;

    #[test]
    fn derivatives_of_the_loss_are_those_of_differences() {
        let check = |choices: usize, gold: &[usize], at: &[f64]| {
            let term = Term { share: 0.25, choices: vec![(vec![1; 7], 4); choices], gold: gold.to_vec() };
            let (_, slopes) = term.loss(at);
            for i in 0..choices {
                let moved = |step: f64| {
                    let mut at = at.to_vec();
                    at[i] += step;
                    term.loss(&at).0
                };
                let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
                assert!((slopes[i] - difference).abs() < 1e-8, "{slopes:?}: {i} {difference}");
            }
        };
        check(1, &[0], &[-3.0]);
        check(3, &[1], &[-3.0, -5.0, -4.0]);
        check(3, &[0, 2], &[-300.0, -299.0, -301.0]);
        let three = Term { share: 1.0, choices: vec![(vec![1; 7], 4)], gold: vec![0] };
        let right = (-1.0_f64).exp();
        assert_eq!(three.loss(&[-3.0]), (1.0 - right, vec![-right / 3.0]));
    }

    #[test]
    fn batches_hold_every_term_once() {
        let term = |rows: usize| Term { share: 1.0, choices: vec![(vec![1; rows + 1], 1)], gold: vec![0] };
        let terms: Vec<Term> = [200, 300, 100, 900, 1].into_iter().map(term).collect();
        assert_eq!(batches(&terms), [0..2, 2..3, 3..4, 4..5]);
    }
}
