//! Ways of running a plan that a contract allows and a plain driver never takes.

use crate::contract::{AnyReduction, Block, Granularity, Map, Plan, TensorSpec};
use crate::device::Kernel;
use crate::driver::{Driver, Pool};
use crate::error::MergeError;
use crate::merge::SliceSource;
use crate::random::ElementRng;
use crate::statistic::StatisticShape;
use std::ops::Range;

/// Runs tasks one by one, in an order of its own, and says that it runs several at once.
pub(super) enum Order {
    /// From last to first.
    Reversed,
    /// In no order.
    Shuffled,
}

impl Pool for Order {
    fn width(&self) -> usize {
        3
    }

    fn run(&self, n: usize, task: &(dyn Fn(usize) + Sync)) {
        match self {
            Self::Reversed => (0..n).rev().for_each(task),
            Self::Shuffled => Rng::new(0).shuffled((0..n).collect()).into_iter().for_each(task),
        }
    }
}

/// Random numbers, one after the other.
struct Rng {
    rng: ElementRng,
    drawn: usize,
}

impl Rng {
    fn new(seed: u64) -> Self {
        Self { rng: ElementRng::new(seed, "chance", 0), drawn: 0 }
    }

    fn below(&mut self, n: usize) -> usize {
        let mut word = [0];
        self.rng.fill(self.drawn, &mut word);
        self.drawn += 1;
        word[0] as usize % n.max(1)
    }

    fn shuffled<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
        items
    }
}

/// Why a plan did not come to its end.
pub(super) enum Failure {
    /// A reduction refused.
    Refused(MergeError),
    /// [`Map::kernel`] says something else than [`Map::merge`] does.
    OtherKernel(String),
}

/// Runs a plan with blocks of uneven lengths and spans in no order; where a reduction allows any order and grouping,
/// its accumulators take whatever comes and are combined in any order. Every output block holds NaN beforehand.
pub(super) fn run(mut plan: Plan, tensor: &TensorSpec<'_>, operands: &SliceSource<'_>) -> Result<Vec<f32>, Failure> {
    let mut rng = Rng::new(1);
    loop {
        plan = match plan {
            Plan::Copy(operand) => return Ok(operands.operand(operand).unwrap_or_default().to_vec()),
            Plan::Map(map) => return fill(&*map, tensor, operands, &mut rng),
            Plan::Reduce(reduction) => gather(reduction, tensor, operands, &mut rng).map_err(Failure::Refused)?,
        }
    }
}

fn fill(
    map: &dyn Map,
    tensor: &TensorSpec<'_>,
    operands: &SliceSource<'_>,
    rng: &mut Rng,
) -> Result<Vec<f32>, Failure> {
    let unit = unit(map.granularity(), tensor);
    let mut merged = vec![f32::NAN; tensor.len()];
    let mut blocks = Vec::new();
    for span in spans(unit, tensor, None) {
        blocks.append(&mut uneven(span, unit, rng));
    }
    for range in rng.shuffled(blocks) {
        see(tensor, operands, &range, |block| {
            map.merge(block, &mut merged[range.clone()]);
        });
    }
    if let Some(Kernel::Linear { base, inputs }) = map.kernel() {
        linear(base, inputs, operands, &merged)?;
    }
    Ok(merged)
}

/// Whether `merged` is what the kernel says, but for rounding.
fn linear(base: f32, inputs: &[f32], operands: &SliceSource<'_>, merged: &[f32]) -> Result<(), Failure> {
    if inputs.len() != operands.inputs.len() {
        return Err(Failure::OtherKernel(format!(
            "{} coefficients for {} inputs",
            inputs.len(),
            operands.inputs.len()
        )));
    }
    for (j, found) in merged.iter().enumerate() {
        let terms = operands
            .base
            .iter()
            .map(|x| (base, x[j]))
            .chain(inputs.iter().zip(&operands.inputs).map(|(c, x)| (*c, x[j])));
        let (mut sum, mut size) = (0.0, 0.0);
        for (c, x) in terms {
            let term = f64::from(c) * f64::from(x);
            sum += term;
            size += term.abs();
        }
        // Two roundings of f32 for each term.
        if (f64::from(*found) - sum).abs() > 1e-6 * size {
            return Err(Failure::OtherKernel(format!("element {j} is {found} by the map and {sum} by the kernel")));
        }
    }
    Ok(())
}

fn gather(
    reduction: Box<dyn AnyReduction>,
    tensor: &TensorSpec<'_>,
    operands: &SliceSource<'_>,
    rng: &mut Rng,
) -> Result<Plan, MergeError> {
    let unit = unit(reduction.granularity(), tensor);
    let spans = spans(unit, tensor, reduction.ranges());
    let order = rng.shuffled((0..spans.len()).collect());
    let free = reduction.order_free();
    let mut accumulators: Vec<_> = (0..if free { 3 } else { spans.len() }).map(|_| reduction.accumulator()).collect();
    for s in order {
        let at = if free { rng.below(3) } else { s };
        for range in uneven(spans[s].clone(), unit, rng) {
            see(tensor, operands, &range, |block| {
                reduction.observe(&mut accumulators[at], block);
            });
        }
    }
    if free {
        accumulators = rng.shuffled(accumulators);
    }
    let mut total = reduction.accumulator();
    for accumulator in accumulators {
        reduction.combine(&mut total, accumulator);
    }
    reduction.finish(total)
}

/// Elements that must not be cut apart.
fn unit(granularity: Granularity, tensor: &TensorSpec<'_>) -> usize {
    match granularity {
        Granularity::Element => 1,
        Granularity::Row => tensor.row_len(),
        Granularity::Tensor => tensor.len(),
    }
    .max(1)
}

/// The spans that results are defined by.
fn spans(unit: usize, tensor: &TensorSpec<'_>, within: Option<Vec<Range<usize>>>) -> Vec<Range<usize>> {
    let whole = 0..tensor.len();
    let within = within.unwrap_or_else(|| Vec::from([whole]));
    let length = (Driver::SPAN / unit).max(1) * unit;
    let cut = |r: Range<usize>| (r.start..r.end).step_by(length).map(move |at| at..(at + length).min(r.end));
    within.into_iter().flat_map(cut).collect()
}

/// Blocks of many lengths.
fn uneven(span: Range<usize>, unit: usize, rng: &mut Rng) -> Vec<Range<usize>> {
    let max = (span.len() / unit / 5).clamp(1, 3000);
    let mut blocks = Vec::new();
    let mut at = span.start;
    while at < span.end {
        let end = (at + (1 + rng.below(max)) * unit).min(span.end);
        blocks.push(at..end);
        at = end;
    }
    blocks
}

fn see(tensor: &TensorSpec<'_>, operands: &SliceSource<'_>, range: &Range<usize>, see: impl FnOnce(&Block<'_>)) {
    let base = operands.base.map(|x| &x[range.clone()]);
    let inputs: Vec<&[f32]> = operands.inputs.iter().map(|x| &x[range.clone()]).collect();
    let in_parts = tensor.statistic.is_some_and(|statistic| statistic.shape == StatisticShape::Same);
    let part = |x: &[f32]| if in_parts { range.clone() } else { 0..x.len() };
    let statistics: Vec<&[f32]> = operands.statistics.iter().map(|x| &x[part(x)]).collect();
    see(&Block { offset: range.start, base, inputs: &inputs, statistics: &statistics });
}
