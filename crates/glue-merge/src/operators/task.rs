//! What the operators on task vectors share: trim each τi, weigh, optionally elect signs, add to the base.
//!
//! With τi' the trimmed task vectors and di = wi τi': θ0 + λ Σ di, or with election θ0 + λ Σ_{sign di = s} di where
//! s = sign(Σ di), 0 counting as +. Normalising divides by the weights that took part. A family is a [`Trim`].

use crate::contract::{Block, Grain, Map, Plan, Survey};
use crate::error::MergeError;
use crate::gram::subtract;
use crate::lanes::Lanes;
use crate::params::{Interval, ParamSpec, Params};

/// Drops elements of task vectors by setting them to 0, and may scale the others.
pub(crate) trait Trim: Send + Sync + 'static {
    /// Trims a run of τ of an input; `offset` is the index in the tensor of its first element.
    fn trim(&self, input: usize, offset: usize, tau: &mut [f32]);

    /// Length of the rows that must be seen whole; `None` where any run will do.
    fn row(&self) -> Option<usize> {
        None
    }
}

/// Drops nothing.
pub(crate) struct Keep;

impl Trim for Keep {
    fn trim(&self, _: usize, _: usize, _: &mut [f32]) {}
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
        let weights: Vec<f32> = params
            .input_numbers("weight")
            .iter()
            .map(|w| *w as f32)
            .collect();
        Self {
            factors: weights.clone(),
            weights,
            lambda: params.number("lambda") as f32,
            normalize: params.flag("normalize"),
            elect,
            restore,
        }
    }

    /// The plan, once it is known how to trim.
    pub(crate) fn plan(self, trim: impl Trim) -> Plan {
        if self.restore {
            Plan::survey(Norms { task: self, trim })
        } else {
            Plan::map(TaskMap { task: self, trim })
        }
    }
}

/// `weight`, required, for each model.
pub(crate) const WEIGHT: ParamSpec = ParamSpec::number(
    "weight",
    "Weight of the task vector.",
    Interval::ANY,
    (0.0, 1.0),
)
.per_input();

/// `density`, 1 unless given, for each model.
pub(crate) const DENSITY: ParamSpec = ParamSpec::number(
    "density",
    "Share of the task vector that is kept.",
    Interval::above(0.0, 1.0),
    (0.1, 1.0),
)
.or(1.0)
.per_input();

/// `lambda`, 1 unless given.
pub(crate) const LAMBDA: ParamSpec = ParamSpec::number(
    "lambda",
    "Factor on the merged task vector.",
    Interval::ANY,
    (0.1, 1.5),
)
.or(1.0);

/// `normalize` with its default.
pub(crate) const fn normalize(default: bool) -> ParamSpec {
    ParamSpec::flag(
        "normalize",
        "Divide by the sum of the weights that take part.",
        default,
    )
}

/// `rescale` of the random trims.
pub(crate) const RESCALE: ParamSpec = ParamSpec::choice(
    "rescale",
    "What makes up for dropped elements: l1 restores the L1 norm of the task vector, inverse divides each kept element by its probability of being kept.",
    &["l1", "inverse", "none"],
    [Some("l1"), Some("none")],
    "l1",
);

/// Elements that are trimmed and combined at once.
const CHUNK: usize = 1024;

/// Calls `see` with the trimmed task vectors of one chunk after the other: its place in the block, the length of the
/// chunk, and the task vectors one after the other.
fn trimmed(trim: &impl Trim, block: &Block<'_>, mut see: impl FnMut(usize, usize, &mut [f32])) {
    let chunk = trim.row().unwrap_or(CHUNK).max(1);
    let mut room = vec![0.0; block.inputs.len() * chunk.min(block.len())];
    for (c, base) in block.base().chunks(chunk).enumerate() {
        let (at, len) = (c * chunk, base.len());
        let room = &mut room[..block.inputs.len() * len];
        for (i, (tau, input)) in room.chunks_exact_mut(len).zip(block.inputs).enumerate() {
            subtract(&input[at..at + len], base, tau);
            trim.trim(i, block.offset + at, tau);
        }
        see(at, len, room);
    }
}

fn grain(trim: &impl Trim) -> Grain {
    if trim.row().is_some() {
        Grain::Row
    } else {
        Grain::Element
    }
}

/// L1 norms of the task vectors before and after they are trimmed.
struct Norms<T> {
    task: Task,
    trim: T,
}

impl<T: Trim> Survey for Norms<T> {
    type Partial = Vec<[Lanes; 2]>;

    fn grain(&self) -> Grain {
        grain(&self.trim)
    }

    fn partial(&self) -> Self::Partial {
        vec![[Lanes::default(); 2]; self.task.weights.len()]
    }

    fn observe(&self, partial: &mut Self::Partial, block: &Block<'_>) {
        let size = |x: f32| f64::from(x.abs());
        for ([before, _], input) in partial.iter_mut().zip(block.inputs) {
            before.add2(block.offset, input, block.base(), |x, base| size(x - base));
        }
        trimmed(&self.trim, block, |at, len, taus| {
            for ([_, after], tau) in partial.iter_mut().zip(taus.chunks_exact(len)) {
                after.add(block.offset + at, tau, size);
            }
        });
    }

    fn join(&self, partial: &mut Self::Partial, later: Self::Partial) {
        for ([before, after], [more_before, more_after]) in partial.iter_mut().zip(&later) {
            before.join(more_before);
            after.join(more_after);
        }
    }

    fn finish(mut self, total: Self::Partial) -> Result<Plan, MergeError> {
        for ((factor, weight), [before, after]) in self
            .task
            .factors
            .iter_mut()
            .zip(&self.task.weights)
            .zip(&total)
        {
            let after = after.total();
            if after > 0.0 {
                *factor = (f64::from(*weight) * (before.total() / after)) as f32;
            }
        }
        Ok(Plan::map(TaskMap {
            task: self.task,
            trim: self.trim,
        }))
    }
}

struct TaskMap<T> {
    task: Task,
    trim: T,
}

impl<T: Trim> Map for TaskMap<T> {
    fn grain(&self) -> Grain {
        grain(&self.trim)
    }

    fn merge(&self, block: &Block<'_>, out: &mut [f32]) {
        trimmed(&self.trim, block, |at, len, taus| {
            let (out, base) = (&mut out[at..at + len], &block.base()[at..at + len]);
            if self.task.elect {
                self.task.elected(taus, base, out);
            } else {
                self.task.summed(taus, base, out);
            }
        });
    }
}

/// A divisor, or 1 where it is nearly 0.
#[inline]
fn divisor(x: f32) -> f32 {
    if x.abs() < 1e-8 { 1.0 } else { x }
}

impl Task {
    fn summed(&self, taus: &[f32], base: &[f32], out: &mut [f32]) {
        out.fill(0.0);
        for (factor, tau) in self.factors.iter().zip(taus.chunks_exact(base.len())) {
            out.iter_mut()
                .zip(tau)
                .for_each(|(sum, tau)| *sum += factor * tau);
        }
        let scale = if self.normalize {
            self.lambda / divisor(self.weights.iter().sum())
        } else {
            self.lambda
        };
        out.iter_mut()
            .zip(base)
            .for_each(|(out, base)| *out = base + scale * *out);
    }

    fn elected(&self, taus: &mut [f32], base: &[f32], out: &mut [f32]) {
        let len = base.len();
        out.fill(0.0);
        for (factor, tau) in self.factors.iter().zip(taus.chunks_exact_mut(len)) {
            for (tau, sum) in tau.iter_mut().zip(&mut *out) {
                *tau *= factor;
                *sum += *tau;
            }
        }
        let mut room = [[0.0_f32; CHUNK]; 2];
        for (start, out) in (0..len).step_by(CHUNK).zip(out.chunks_mut(CHUNK)) {
            let [merged, weight] = room.each_mut().map(|r| &mut r[..out.len()]);
            merged.fill(0.0);
            weight.fill(0.0);
            for (w, d) in self.weights.iter().zip(taus.chunks_exact(len)) {
                let d = &d[start..start + out.len()];
                for (((d, sum), merged), weight) in
                    d.iter().zip(&*out).zip(&mut *merged).zip(&mut *weight)
                {
                    let agrees = if *sum >= 0.0 { *d > 0.0 } else { *d < 0.0 };
                    *merged += if agrees { *d } else { 0.0 };
                    *weight += if agrees { *w } else { 0.0 };
                }
            }
            let base = &base[start..start + out.len()];
            for (((out, base), merged), weight) in
                out.iter_mut().zip(base).zip(&*merged).zip(&*weight)
            {
                let scale = if self.normalize {
                    self.lambda / divisor(*weight)
                } else {
                    self.lambda
                };
                *out = base + scale * merged;
            }
        }
    }
}
