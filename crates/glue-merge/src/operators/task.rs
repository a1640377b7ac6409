//! What the operators on task vectors share: trim each τi, weigh, optionally elect signs, add to the base.
//!
//! With τi' the trimmed task vectors and di = wi τi': θ0 + λ Σ di, or with election θ0 + λ Σ_{sign di = s} di where
//! s = sign(Σ di), 0 counting as +. Normalising divides by the weights that took part. A family is a [`Trim`].

use crate::contract::{Block, Granularity, Map, Plan, Reduction, wrong_answer};
use crate::device::{Gather, Gathered, Kernel, TaskKernel, Trimming, divisor};
use crate::error::MergeError;
use crate::params::{Interval, ParamSpec, Params};
use crate::striped_sum::StripedSum;
use crate::task_vectors::{CHUNK, subtract};
use std::sync::{Mutex, PoisonError};

/// Drops elements of task vectors by setting them to 0, and may scale the others, unless L1 norms are to be restored.
pub(crate) trait Trim: Send + Sync + 'static {
    /// Scratch that is used again from one run to the next.
    type Scratch: Default + Send;

    /// Fills `tau` with a run of the trimmed task vector of an input, `x` − `base`; `offset` is the index in the tensor
    /// of its first element.
    fn trim(&self, input: usize, offset: usize, x: &[f32], base: &[f32], tau: &mut [f32], scratch: &mut Self::Scratch);

    /// Length of the rows that must be seen whole; `None` where any run will do.
    fn row(&self) -> Option<usize> {
        None
    }

    /// The trimming as data, where it is one that a device may know.
    fn describe(&self) -> Option<Trimming<'_>> {
        None
    }
}

/// Drops nothing.
pub(crate) struct Keep;

impl Trim for Keep {
    type Scratch = ();

    fn trim(&self, _: usize, _: usize, x: &[f32], base: &[f32], tau: &mut [f32], (): &mut ()) {
        subtract(x, base, tau);
    }

    fn describe(&self) -> Option<Trimming<'_>> {
        Some(Trimming::Nothing)
    }
}

/// How trimmed task vectors become a tensor.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    weights: Vec<f32>,
    /// Weights times what rescaling asks for.
    factors: Vec<f32>,
    lambda: f32,
    normalize: bool,
    elect: bool,
    /// Whether each trimmed task vector is brought back to the L1 norm it had.
    restore: bool,
}

impl Task {
    /// From the parameters that all of these operators have.
    pub(crate) fn new(params: &Params, elect: bool, restore: bool) -> Self {
        let weights: Vec<f32> = params.input_numbers("weight").iter().map(|w| *w as f32).collect();
        Self {
            factors: weights.clone(),
            weights,
            lambda: params.number("lambda") as f32,
            normalize: params.flag("normalize"),
            elect,
            restore,
        }
    }

    /// The plan, once it is known how to trim `elements` elements of each task vector.
    pub(crate) fn plan(self, trim: impl Trim, elements: usize) -> Plan {
        if self.restore {
            let remember = elements / 32 * self.weights.len() <= REMEMBERED;
            Plan::reduce(Norms { task: self, trim: Trimmer::new(trim), remember })
        } else {
            Plan::map(TaskMap { task: self, trim: Trimmer::new(trim), kept: Kept::new() })
        }
    }

    /// The plan where nothing is trimmed, nor anything to be restored.
    pub(crate) fn plan_untrimmed(self) -> Plan {
        match self.elect {
            true => Plan::map(TaskMap { task: self, trim: Trimmer::new(Keep), kept: Kept::new() }),
            false => Plan::map(Sum(self)),
        }
    }
}

/// θ0 + scale · Σ wi τi, without a copy of any τi.
struct Sum(Task);

impl Map for Sum {
    fn granularity(&self) -> Granularity {
        Granularity::Element
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Task(self.0.kernel(Trimming::Nothing)))
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let base = block.base();
        let terms: Vec<(f32, &[f32])> = self.0.factors.iter().copied().zip(block.inputs.iter().copied()).collect();
        out.fill(0.0);
        // One pass over `out` for several terms, added in their order.
        let (fours, rest) = terms.as_chunks::<4>();
        fours.iter().for_each(|four| add_taus(*four, base, out));
        match *rest {
            [a, b, c] => add_taus([a, b, c], base, out),
            [a, b] => add_taus([a, b], base, out),
            [a] => add_taus([a], base, out),
            _ => {}
        }
        self.0.add_base(base, out);
    }
}

/// `sum = sum + f0·(x0 − base) + f1·(x1 − base) + …`.
#[inline(always)]
fn add_taus<const N: usize>(terms: [(f32, &[f32]); N], base: &[f32], sum: &mut [f32]) {
    let (terms, base) = (terms.map(|(factor, x)| (factor, &x[..sum.len()])), &base[..sum.len()]);
    for (j, sum) in sum.iter_mut().enumerate() {
        let mut total = *sum;
        for (factor, x) in &terms {
            total += factor * (x[j] - base[j]);
        }
        *sum = total;
    }
}

/// `weight`, required, for each model.
pub(crate) const WEIGHT: ParamSpec =
    ParamSpec::number("weight", "Weight of the task vector.", Interval::ANY, (0.0, 1.0)).per_input();

/// `density`, 1 unless given, for each model.
pub(crate) const DENSITY: ParamSpec =
    ParamSpec::number("density", "Fraction of the task vector that is kept.", Interval::above(0.0, 1.0), (0.1, 1.0))
        .or(1.0)
        .per_input();

/// `lambda`, 1 unless given.
pub(crate) const LAMBDA: ParamSpec =
    ParamSpec::number("lambda", "Factor on the merged task vector.", Interval::ANY, (0.1, 1.5)).or(1.0);

/// `normalize` with its default.
pub(crate) const fn normalize(default: bool) -> ParamSpec {
    ParamSpec::flag("normalize", "Divide by the sum of the weights that take part.", default)
}

/// `rescale` of the random trims.
pub(crate) const RESCALE: ParamSpec = ParamSpec::choice(
    "rescale",
    "What makes up for dropped elements: l1 restores the L1 norm of the task vector, inverse divides each kept element by its probability of being kept.",
    &["l1", "inverse", "none"],
    [Some("l1"), Some("none")],
    "l1",
);

/// A trim, and scratch that is used again from block to block.
pub(crate) struct Trimmer<T: Trim> {
    trim: T,
    spare: Mutex<Vec<(Vec<f32>, T::Scratch)>>,
}

impl<T: Trim> Trimmer<T> {
    pub(crate) fn new(trim: T) -> Self {
        Self { trim, spare: Mutex::default() }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Vec<(Vec<f32>, T::Scratch)>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls `see` with the trimmed task vectors of one chunk after the other: its place in the block, the length of
    /// the chunk, and the task vectors one after the other. With `kept`, what was kept before is kept again.
    pub(crate) fn each(&self, kept: Option<&[u32]>, block: &Block<'_>, mut see: impl FnMut(usize, usize, &mut [f32])) {
        // A whole row where the trim asks for it.
        let chunk = self.trim.row().unwrap_or(CHUNK).max(1);
        let (mut taus, mut own) = self.spare().pop().unwrap_or_default();
        taus.resize(block.inputs.len() * chunk.min(block.len()), 0.0);
        let mut kept = kept.unwrap_or_default();
        for (c, base) in block.base().chunks(chunk).enumerate() {
            let (at, len) = (c * chunk, base.len());
            let taus = &mut taus[..block.inputs.len() * len];
            for (i, (tau, input)) in taus.chunks_exact_mut(len).zip(block.inputs).enumerate() {
                let x = &input[at..at + len];
                match kept.split_at_checked(len.div_ceil(32)) {
                    Some((now, later)) => {
                        subtract_marked(x, base, now, tau);
                        kept = later;
                    }
                    None => self.trim.trim(i, block.offset + at, x, base, tau, &mut own),
                }
            }
            see(at, len, taus);
        }
        self.spare().push((taus, own));
    }

    fn granularity(&self) -> Granularity {
        if self.trim.row().is_some() { Granularity::Row } else { Granularity::Element }
    }
}

/// Appends a bit for each element, set where it is not 0, in words of 32.
fn mark(tau: &[f32], bits: &mut Vec<u32>) {
    #[inline(always)]
    fn word(few: &[f32]) -> u32 {
        few.iter().enumerate().fold(0, |word, (j, x)| word | u32::from(*x != 0.0) << j)
    }
    // Words of a length that is known become SIMD.
    let (whole, rest) = tau.as_chunks::<32>();
    bits.extend(whole.iter().map(|few| word(few)));
    bits.extend(rest.chunks(32).map(word));
}

/// `tau = x − base` where its bit is set, and 0 elsewhere.
fn subtract_marked(x: &[f32], base: &[f32], bits: &[u32], tau: &mut [f32]) {
    #[inline(always)]
    fn few(x: &[f32], base: &[f32], word: u32, tau: &mut [f32]) {
        for (j, ((tau, x), base)) in tau.iter_mut().zip(x).zip(base).enumerate() {
            *tau = f32::from_bits((x - base).to_bits() & (word >> j & 1).wrapping_neg());
        }
    }
    let ((taus, tau_rest), (xs, x_rest), (bases, base_rest)) =
        (tau.as_chunks_mut::<32>(), x.as_chunks::<32>(), base.as_chunks::<32>());
    let last = bits.get(taus.len()).copied().unwrap_or(0);
    for (((tau, x), base), word) in taus.iter_mut().zip(xs).zip(bases).zip(bits) {
        few(x, base, *word, tau);
    }
    few(x_rest, base_rest, last, tau_rest);
}

/// Maximum number of words of marks that are remembered of a tensor: 64 MiB.
const REMEMBERED: usize = 1 << 24;

/// What a reduction kept: offset and length of a block, and a bit for each element, in the order of the blocks. So
/// little memory avoids trimming at random twice. Blocks that are not found are trimmed again.
type Kept = Vec<(usize, usize, Vec<u32>)>;

/// L1 norms of the task vectors before and after they are trimmed.
struct Norms<T: Trim> {
    task: Task,
    trim: Trimmer<T>,
    remember: bool,
}

#[derive(Default)]
struct NormSums {
    norms: Vec<[StripedSum; 2]>,
    kept: Kept,
}

impl<T: Trim> Reduction for Norms<T> {
    type Accumulator = NormSums;

    fn granularity(&self) -> Granularity {
        self.trim.granularity()
    }

    fn accumulator(&self) -> NormSums {
        NormSums { norms: vec![[StripedSum::default(); 2]; self.task.weights.len()], kept: Kept::new() }
    }

    fn observe(&self, accumulator: &mut NormSums, block: &Block<'_>) {
        let size = |x: f32| f64::from(x.abs());
        for ([before, _], input) in accumulator.norms.iter_mut().zip(block.inputs) {
            before.add2(block.offset, input, block.base(), |x, base| size(x - base));
        }
        let mut bits = Vec::new();
        self.trim.each(None, block, |at, len, taus| {
            for ([_, after], tau) in accumulator.norms.iter_mut().zip(taus.chunks_exact(len)) {
                after.add(block.offset + at, tau, size);
                if self.remember {
                    mark(tau, &mut bits);
                }
            }
        });
        if self.remember {
            accumulator.kept.push((block.offset, block.len(), bits));
        }
    }

    fn combine(&self, accumulator: &mut NormSums, mut later: NormSums) {
        for ([before, after], [more_before, more_after]) in accumulator.norms.iter_mut().zip(&later.norms) {
            before.combine(more_before);
            after.combine(more_after);
        }
        accumulator.kept.append(&mut later.kept);
    }

    fn finish(self, total: NormSums) -> Result<Plan, MergeError> {
        let norms: Vec<_> = total.norms.iter().map(|n| n.each_ref().map(StripedSum::total)).collect();
        Ok(self.restored(&norms, total.kept))
    }

    fn describe(&self) -> Option<Gather<'_>> {
        Some(Gather::Norms { trim: self.trim.trim.describe()?, inputs: self.task.weights.len() })
    }

    fn conclude(self, gathered: Gathered) -> Result<Plan, MergeError> {
        match &gathered {
            Gathered::Sums(sums) if sums.len() == 2 * self.task.weights.len() => {
                Ok(self.restored(sums.as_chunks().0, Kept::new()))
            }
            other => Err(wrong_answer(other)),
        }
    }
}

impl<T: Trim> Norms<T> {
    /// The map, once the L1 norms before and after trimming are known.
    fn restored(mut self, norms: &[[f64; 2]], kept: Kept) -> Plan {
        for ((factor, weight), [before, after]) in self.task.factors.iter_mut().zip(&self.task.weights).zip(norms) {
            if *after > 0.0 {
                *factor = (f64::from(*weight) * (before / after)) as f32;
            }
        }
        Plan::map(TaskMap { task: self.task, trim: self.trim, kept })
    }
}

struct TaskMap<T: Trim> {
    task: Task,
    trim: Trimmer<T>,
    kept: Kept,
}

impl<T: Trim> Map for TaskMap<T> {
    fn granularity(&self) -> Granularity {
        self.trim.granularity()
    }

    fn kernel(&self) -> Option<Kernel<'_>> {
        Some(Kernel::Task(self.task.kernel(self.trim.trim.describe()?)))
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        let found = self.kept.binary_search_by_key(&block.offset, |(offset, ..)| *offset).ok().map(|at| &self.kept[at]);
        let kept = found.filter(|(_, len, _)| *len == block.len()).map(|(.., bits)| &**bits);
        self.trim.each(kept, block, |at, len, taus| {
            let (out, base) = (&mut out[at..at + len], &block.base()[at..at + len]);
            if self.task.elect {
                self.task.elected(taus, base, out);
            } else {
                self.task.summed(taus, base, out);
            }
        });
    }
}

impl Task {
    fn kernel<'a>(&'a self, trim: Trimming<'a>) -> TaskKernel<'a> {
        let Self { weights, factors, lambda, normalize, elect, .. } = self;
        TaskKernel { trim, factors, weights, lambda: *lambda, normalize: *normalize, elect: *elect }
    }

    fn summed(&self, taus: &[f32], base: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (factor, tau) in self.factors.iter().zip(taus.chunks_exact(base.len())) {
            out.iter_mut().zip(tau).for_each(|(sum, tau)| *sum += factor * tau);
        }
        self.add_base(base, out);
    }

    /// `out = base + scale · out`.
    fn add_base(&self, base: &[f32], out: &mut [f32]) {
        let scale = self.kernel(Trimming::Nothing).scale();
        out.iter_mut().zip(base).for_each(|(out, base)| *out = base + scale * *out);
    }

    fn elected(&self, taus: &mut [f32], base: &[f32], out: &mut [f32]) {
        let len = base.len();
        out.fill(0.0);
        for (factor, tau) in self.factors.iter().zip(taus.chunks_exact_mut(len)) {
            weigh(tau, *factor, out);
        }
        let mut scratch = [[0.0_f32; CHUNK]; 2];
        for (start, out) in (0..len).step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let [merged, weight] = scratch.each_mut().map(|r| &mut r[..out.len()]);
            merged.fill(0.0);
            weight.fill(0.0);
            for (w, d) in self.weights.iter().zip(taus.chunks_exact(len)) {
                gather_agreeing(&d[start..start + out.len()], *w, out, merged, weight);
            }
            if self.normalize {
                merged.iter_mut().zip(&*weight).for_each(|(merged, weight)| *merged /= divisor(*weight));
            }
            let base = &base[start..start + out.len()];
            for ((out, base), merged) in out.iter_mut().zip(base).zip(&*merged) {
                *out = base + self.lambda * merged;
            }
        }
    }
}

/// `tau *= factor; sum += tau`.
fn weigh(tau: &mut [f32], factor: f32, sum: &mut [f32]) {
    for (tau, sum) in tau.iter_mut().zip(sum) {
        *tau *= factor;
        *sum += *tau;
    }
}

/// Adds to `merged` the elements of `d` that have the sign of `sum` and are not 0, and to `weight` their weight.
/// Signs are compared as bits and the choice is made by masks: a branch would be taken at random.
pub(super) fn gather_agreeing(d: &[f32], w: f32, sum: &[f32], merged: &mut [f32], weight: &mut [f32]) {
    for (((d, sum), merged), weight) in d.iter().zip(sum).zip(merged).zip(weight) {
        // Adding 0 makes -0 positive.
        let differs = ((sum + 0.0).to_bits() ^ d.to_bits()) >> 31 != 0;
        let mask = if differs || *d == 0.0 { 0 } else { u32::MAX };
        *merged += f32::from_bits(d.to_bits() & mask);
        *weight += f32::from_bits(w.to_bits() & mask);
    }
}
