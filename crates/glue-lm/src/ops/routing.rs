//! What a mixture adds to a network: shares of the chosen experts, and sums of what the experts made of their rows.

use super::elements;
use candle_core::{CpuStorage, CustomOp1, CustomOp2, Device, Layout, Result, Shape, Tensor, bail};
use glue_mixture::Pool;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Which rows go to which experts. A place is a row at an expert; places are grouped by expert, rows ascend in each
/// group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Routes {
    /// The row of each place.
    pub(crate) rows: Arc<[u32]>,
    /// The places of each expert.
    pub(crate) experts: Vec<Range<usize>>,
    /// The row of scores that decides each place.
    scored: Arc<[u32]>,
    /// Rows of the scores.
    n_scored: usize,
    /// Rows in all.
    pub(crate) n_rows: usize,
}

impl Routes {
    /// Every row goes to the experts of the scores that decide it: `chosen[decider[row]]`.
    pub(crate) fn new(n_experts: usize, chosen: &[Vec<usize>], decider: &[usize]) -> Routes {
        let mut of_expert: Vec<Vec<u32>> = vec![Vec::new(); n_experts];
        for (row, &scored) in decider.iter().enumerate() {
            chosen[scored].iter().for_each(|&expert| of_expert[expert].push(row as u32));
        }
        let mut experts = Vec::with_capacity(n_experts);
        let mut at = 0;
        for rows in &of_expert {
            experts.push(at..at + rows.len());
            at += rows.len();
        }
        let rows: Arc<[u32]> = of_expert.concat().into();
        let scored = rows.iter().map(|&row| decider[row as usize] as u32).collect();
        Routes { rows, experts, scored, n_scored: chosen.len(), n_rows: decider.len() }
    }

    /// The rows of an expert, ascending.
    pub(crate) fn rows_of(&self, expert: usize) -> &[u32] {
        &self.rows[self.experts[expert].clone()]
    }

    /// The expert of each place.
    fn expert_of(&self) -> Vec<usize> {
        self.experts.iter().enumerate().flat_map(|(expert, places)| places.clone().map(move |_| expert)).collect()
    }
}

/// For each place the share of its expert: the softmax of `scores` [rows of scores, experts] over `among`, the experts
/// for each row of scores that share it. The softmax over the chosen ones is that over all, brought to sum 1. The
/// choice itself is constant.
pub(crate) fn shares(scores: &Tensor, among: &[Vec<usize>], routes: &Routes) -> Result<Tensor> {
    scores.contiguous()?.apply_op1(Shares { among: among.to_vec(), routes: routes.clone() })
}

struct Shares {
    among: Vec<Vec<usize>>,
    routes: Routes,
}

impl Shares {
    /// [rows of scores, experts], 0 for experts that are not among those that share.
    fn all(&self, scores: &[f32]) -> Vec<f32> {
        let n = self.routes.experts.len();
        let mut all = vec![0.0; scores.len()];
        for ((scores, all), among) in scores.chunks_exact(n).zip(all.chunks_exact_mut(n)).zip(&self.among) {
            let largest = among.iter().map(|&expert| scores[expert]).fold(f32::NEG_INFINITY, f32::max);
            among.iter().for_each(|&expert| all[expert] = (scores[expert] - largest).exp());
            let sum: f32 = among.iter().map(|&expert| all[expert]).sum();
            among.iter().for_each(|&expert| all[expert] /= sum);
        }
        all
    }
}

impl CustomOp1 for Shares {
    fn name(&self) -> &'static str {
        "shares-of-experts"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.routes.experts.len();
        if at.dims() != [self.routes.n_scored, n] {
            bail!("scores of shape {:?} for {} decisions among {n} experts", at.shape(), self.routes.n_scored)
        }
        let all = self.all(super::floats(scores, at)?);
        let places = self.routes.scored.iter().zip(self.routes.expert_of());
        let out: Vec<f32> = places.map(|(&scored, expert)| all[scored as usize * n + expert]).collect();
        let count = out.len();
        Ok((CpuStorage::F32(out), Shape::from(count)))
    }

    fn bwd(&self, scores: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let n = self.routes.experts.len();
        let all = self.all(&elements(scores)?);
        let mut of_share = vec![0.0; all.len()];
        let places = self.routes.scored.iter().zip(self.routes.expert_of());
        for ((&scored, expert), grad) in places.zip(elements(grad)?) {
            of_share[scored as usize * n + expert] += grad;
        }
        let mut out = vec![0.0; all.len()];
        let rows = all.chunks_exact(n).zip(of_share.chunks_exact(n)).zip(out.chunks_exact_mut(n));
        for ((all, grad), out) in rows {
            let mean: f32 = all.iter().zip(grad).map(|(p, g)| p * g).sum();
            out.iter_mut().zip(all.iter().zip(grad)).for_each(|(o, (p, g))| *o = p * (g - mean));
        }
        Tensor::from_vec(out, scores.shape(), &Device::Cpu).map(Some)
    }
}

/// For each place the sigmoid of its expert's score, over the sum of those `chosen` for its row of scores if
/// `normalised`. The choice itself is constant.
pub(crate) fn sigmoid_shares(
    scores: &Tensor,
    chosen: &[Vec<usize>],
    routes: &Routes,
    normalised: bool,
) -> Result<Tensor> {
    scores.contiguous()?.apply_op1(SigmoidShares { chosen: chosen.to_vec(), routes: routes.clone(), normalised })
}

struct SigmoidShares {
    chosen: Vec<Vec<usize>>,
    routes: Routes,
    normalised: bool,
}

impl SigmoidShares {
    /// The sigmoid of each score, and for each row of scores what shares are divided by.
    fn all(&self, scores: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let n = self.routes.experts.len();
        let all: Vec<f32> = scores.iter().map(|&score| 1.0 / (1.0 + (-score).exp())).collect();
        let sum = |(row, chosen): (&[f32], &Vec<usize>)| match self.normalised {
            true => chosen.iter().map(|&expert| row[expert]).sum::<f32>() + 1e-20,
            false => 1.0,
        };
        let sums = all.chunks_exact(n).zip(&self.chosen).map(sum).collect();
        (all, sums)
    }
}

impl CustomOp1 for SigmoidShares {
    fn name(&self) -> &'static str {
        "sigmoid-shares-of-experts"
    }

    fn cpu_fwd(&self, scores: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let n = self.routes.experts.len();
        if at.dims() != [self.routes.n_scored, n] {
            bail!("scores of shape {:?} for {} decisions among {n} experts", at.shape(), self.routes.n_scored)
        }
        let (all, sums) = self.all(super::floats(scores, at)?);
        let places = self.routes.scored.iter().zip(self.routes.expert_of());
        let share = |(&scored, expert): (&u32, usize)| all[scored as usize * n + expert] / sums[scored as usize];
        let out: Vec<f32> = places.map(share).collect();
        let count = out.len();
        Ok((CpuStorage::F32(out), Shape::from(count)))
    }

    /// With s the sigmoids and t their sum over the chosen: (g − Σ g·s/t) / t · s·(1 − s), the sum being there if
    /// shares are normalised.
    fn bwd(&self, scores: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let n = self.routes.experts.len();
        let (all, sums) = self.all(&elements(scores)?);
        let mut of_share = vec![0.0; all.len()];
        let places = self.routes.scored.iter().zip(self.routes.expert_of());
        for ((&scored, expert), grad) in places.zip(elements(grad)?) {
            of_share[scored as usize * n + expert] += grad;
        }
        let mut out = vec![0.0; all.len()];
        for (row, (chosen, sum)) in self.chosen.iter().zip(sums).enumerate() {
            let (all, grad) = (&all[row * n..][..n], &of_share[row * n..][..n]);
            let along = match self.normalised {
                true => chosen.iter().map(|&expert| grad[expert] * all[expert] / sum).sum(),
                false => 0.0f32,
            };
            for &expert in chosen {
                out[row * n + expert] = (grad[expert] - along) / sum * all[expert] * (1.0 - all[expert]);
            }
        }
        Tensor::from_vec(out, scores.shape(), &Device::Cpu).map(Some)
    }
}

/// For each row the sum over its places of `y` [places, width] times the share [places]: [rows, width]. Added in the
/// order of the experts.
pub(crate) fn combine(y: &Tensor, shares: &Tensor, routes: &Routes) -> Result<Tensor> {
    y.contiguous()?.apply_op2(&shares.contiguous()?, Combine { rows: Arc::clone(&routes.rows), n_rows: routes.n_rows })
}

struct Combine {
    rows: Arc<[u32]>,
    n_rows: usize,
}

/// Columns done by one task.
const COLUMNS: usize = 64;

/// Elements from which other threads are worth it.
const PARALLEL_FROM: usize = 1 << 18;

impl CustomOp2 for Combine {
    fn name(&self) -> &'static str {
        "sum-of-experts"
    }

    fn cpu_fwd(&self, y: &CpuStorage, y_at: &Layout, shares: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (places, width) = y_at.shape().dims2()?;
        if places != self.rows.len() || at.dims() != [places] {
            bail!("outputs {:?} and shares {:?} of {} places", y_at.shape(), at.shape(), self.rows.len())
        }
        let (y, shares) = (super::floats(y, y_at)?, super::floats(shares, at)?);
        let mut places_of: Vec<Vec<usize>> = vec![Vec::new(); self.n_rows];
        self.rows.iter().enumerate().for_each(|(place, &row)| places_of[row as usize].push(place));
        let mut out = vec![0.0; self.n_rows * width];
        let row = |(out, places): (&mut [f32], &Vec<usize>)| {
            for &place in places {
                let y = &y[place * width..][..width];
                out.iter_mut().zip(y).for_each(|(o, &y)| *o += shares[place] * y);
            }
        };
        let width = width.max(1);
        if y.len() < PARALLEL_FROM {
            out.chunks_exact_mut(width).zip(&places_of).for_each(row);
        } else {
            out.par_chunks_exact_mut(width).zip(&places_of).with_min_len(COLUMNS).for_each(row);
        }
        Ok((CpuStorage::F32(out), Shape::from((self.n_rows, width))))
    }

    fn bwd(&self, y: &Tensor, shares: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (places, width) = y.dims2()?;
        let (values, factors, grad) = (elements(y)?, elements(shares)?, elements(grad)?);
        let mut of_y = vec![0.0; values.len()];
        let mut of_shares = vec![0.0; places];
        for (place, &row) in self.rows.iter().enumerate() {
            let grad = &grad[row as usize * width..][..width];
            let y = &values[place * width..][..width];
            of_shares[place] = y.iter().zip(grad).map(|(&y, &g)| f64::from(y) * f64::from(g)).sum::<f64>() as f32;
            of_y[place * width..][..width].iter_mut().zip(grad).for_each(|(o, g)| *o = factors[place] * g);
        }
        let of_y = Tensor::from_vec(of_y, y.shape(), &Device::Cpu)?;
        Ok((Some(of_y), Some(Tensor::from_vec(of_shares, places, &Device::Cpu)?)))
    }
}

/// The mean of each of these runs of rows, none of them empty: [runs, width].
pub(crate) fn mean_of_rows(x: &Tensor, runs: &[Range<usize>]) -> Result<Tensor> {
    x.contiguous()?.apply_op1(MeanOfRows(runs.to_vec()))
}

struct MeanOfRows(Vec<Range<usize>>);

impl CustomOp1 for MeanOfRows {
    fn name(&self) -> &'static str {
        "mean-of-rows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, at: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = at.shape().dims2()?;
        if let Some(run) = self.0.iter().find(|run| run.is_empty() || run.end > rows) {
            bail!("the mean of the rows {run:?} of {rows}")
        }
        let x = super::floats(x, at)?;
        let mut out = Vec::with_capacity(self.0.len() * width);
        for run in &self.0 {
            out.extend(Pool::Mean.pooled(&x[run.start * width..run.end * width], width));
        }
        Ok((CpuStorage::F32(out), Shape::from((self.0.len(), width))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = x.dims2()?;
        let mut out = vec![0.0; x.elem_count()];
        for (run, grad) in self.0.iter().zip(elements(grad)?.chunks_exact(width)) {
            for row in run.clone() {
                out[row * width..][..width].iter_mut().zip(grad).for_each(|(o, g)| *o += g / run.len() as f32);
            }
        }
        Tensor::from_vec(out, x.shape(), &Device::Cpu).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::gradients::check_gradients;

    fn routes() -> (Vec<Vec<usize>>, Routes) {
        let chosen = vec![vec![2, 0], vec![1, 2]];
        let routes = Routes::new(3, &chosen, &[0, 1, 1, 0]);
        (chosen, routes)
    }

    #[test]
    fn rows_are_grouped_by_expert() {
        let (_, routes) = routes();
        assert_eq!([0, 1, 2].map(|expert| routes.rows_of(expert).to_vec()), [vec![0, 3], vec![1, 2], vec![0, 1, 2, 3]]);
        assert_eq!(*routes.scored, [0, 0, 1, 1, 0, 1, 1, 0]);
    }

    #[test]
    fn shares_and_sums_are_their_formulas() {
        let (chosen, routes) = routes();
        let scores = [[0.5f32, 9.0, -0.5], [7.0, 1.0, 2.0]];
        let shares = shares(&Tensor::new(&scores, &Device::Cpu).unwrap(), &chosen, &routes).unwrap();
        let (a, b) = (1.0 / (1.0 + (-1.0f32).exp()), 1.0 / (1.0 + 1.0f32.exp()));
        let expected = [a, a, b, b, 1.0 - a, 1.0 - b, 1.0 - b, 1.0 - a];
        let found = elements(&shares).unwrap();
        // Rounding of f32.
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 1e-6), "{found:?}");
        let y: Vec<f32> = (0..8).map(|i| i as f32).collect();
        let sum = combine(&Tensor::from_slice(&y, (8, 1), &Device::Cpu).unwrap(), &shares, &routes).unwrap();
        let expected = [4.0 * (1.0 - a), 2.0 * b + 5.0 * (1.0 - b), 3.0 * b + 6.0 * (1.0 - b), a + 7.0 * (1.0 - a)];
        let found = elements(&sum).unwrap();
        // Sums of two numbers below 7, rounded in f32.
        assert!(found.iter().zip(expected).all(|(f, e)| (f - e).abs() < 5e-6), "{found:?} {expected:?}");
    }

    #[test]
    fn sigmoids_may_be_brought_to_sum_one() {
        let (chosen, routes) = routes();
        let scores = [[0.5f32, 9.0, -0.5], [7.0, 1.0, 2.0]];
        let scores = Tensor::new(&scores, &Device::Cpu).unwrap();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (first, second) = ([sigmoid(0.5), sigmoid(-0.5)], [sigmoid(1.0), sigmoid(2.0)]);
        for normalised in [false, true] {
            let found = elements(&sigmoid_shares(&scores, &chosen, &routes, normalised).unwrap()).unwrap();
            let over = |pair: [f64; 2]| if normalised { pair[0] + pair[1] } else { 1.0 };
            let (a, b) = (first.map(|x| x / over(first)), second.map(|x| x / over(second)));
            let expected = [a[0], a[0], b[0], b[0], a[1], b[1], b[1], a[1]];
            // Rounding of f32.
            assert!(found.iter().zip(expected).all(|(f, e)| (f64::from(*f) - e).abs() < 1e-6), "{found:?}");
        }
    }

    #[test]
    fn gradients_are_those_of_differences() {
        let (chosen, routes) = routes();
        check_gradients(&[&[2, 3]], 1.0, |x| shares(&x[0], &chosen, &routes));
        let all = vec![vec![0, 1, 2]; 2];
        check_gradients(&[&[2, 3]], 1.0, |x| shares(&x[0], &all, &routes));
        for normalised in [false, true] {
            check_gradients(&[&[2, 3]], 1.0, |x| sigmoid_shares(&x[0], &chosen, &routes, normalised));
        }
        check_gradients(&[&[6, 4]], 1.0, |x| mean_of_rows(&x[0], &[0..3, 5..6, 2..5]));
        check_gradients(&[&[8, 5], &[8]], 1.0, |x| combine(&x[0], &x[1], &routes));
    }

    #[test]
    fn long_sums_are_as_short_ones() {
        let n = 3000;
        let chosen: Vec<Vec<usize>> = (0..n).map(|row| vec![row % 3, (row + 1) % 3]).collect();
        let routes = Routes::new(3, &chosen, &(0..n).collect::<Vec<_>>());
        let y = Tensor::ones((2 * n, 100), candle_core::DType::F32, &Device::Cpu).unwrap();
        let half = (Tensor::ones(2 * n, candle_core::DType::F32, &Device::Cpu).unwrap() * 0.5).unwrap();
        assert!(elements(&combine(&y, &half, &routes).unwrap()).unwrap().iter().all(|&x| x == 1.0));
    }
}
