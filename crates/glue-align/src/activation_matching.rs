//! Activation matching: units are paired by how their activations on the same text correlate.
//!
//! After Ainsworth et al., arXiv 2209.04836 (2022), section 3.1, with correlations for inner products as in Li et al.,
//! "Convergent Learning", arXiv 1511.07543 (2015), and in the matching between models of ZipIt! (Stoica et al., arXiv
//! 2305.03053, 2023; what it merges within one model is not done here). The gain of pairing unit i with unit j is
//! corr(x_i, y_j) = cov(x_i, y_j) / (σ(x_i) σ(y_j)), 0 for a unit that is constant; the best pairing is an assignment.
//!
//! This crate runs no model. The caller asks for the [`activation_sites`], records the activations of both models
//! there on the same tokens, and adds them to a [`Correlation`], whose memory is units², however many tokens there
//! are.

use crate::AlignOptions;
use crate::assignment::{improve, total};
use crate::error::AlignError;
use crate::heads::{self, HeadGains, Heads};
use crate::jobs::{HeadsJob, Job, jobs};
use crate::permutation::Permutation;
use crate::permutations::Permutations;
use crate::products::{Units, add_products};
use crate::swept;
use crate::symmetry::{GroupId, GroupKind, Symmetry};
use glue_progress::Progress;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Which activations of a model are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SiteKind {
    /// The residual stream: the embeddings and the output of each layer, all as samples of the same units.
    Residual,
    /// The input of the output projection of attention: (KV head, query head, value dimension).
    AttentionOutput,
    /// The input of the down projection of the MLP, or of an expert. An expert must then see the same tokens in both
    /// models.
    Neurons,
}

/// A place in the model whose activations are needed to match some groups.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ActivationSite {
    /// Name, unique in the model: that of its group, or `layers.N.heads` for attention.
    pub name: String,
    /// Which activations are recorded.
    pub kind: SiteKind,
    /// Number of the layer; `None` for the residual stream.
    pub layer: Option<usize>,
    /// Number of units: values for each token.
    pub units: usize,
}

/// The sites that matching all groups of `symmetry` needs.
///
/// # Errors
/// [`AlignError::Activations`] when experts are free, for which no activations are compared.
pub fn activation_sites(symmetry: &Symmetry) -> Result<Vec<ActivationSite>, AlignError> {
    let (residual, jobs) = jobs(symmetry);
    residual.map(Job::Flat).iter().chain(&jobs).map(|job| site(symmetry, job)).collect()
}

fn site(symmetry: &Symmetry, job: &Job) -> Result<ActivationSite, AlignError> {
    match job {
        Job::Flat(id) => {
            let group = &symmetry.groups()[id.0];
            let kind = if group.kind == GroupKind::Residual { SiteKind::Residual } else { SiteKind::Neurons };
            Ok(ActivationSite { name: group.name.clone(), kind, layer: group.layer, units: group.len })
        }
        Job::Heads(HeadsJob { layer, shape, .. }) => Ok(ActivationSite {
            name: format!("layers.{layer}.heads"),
            kind: SiteKind::AttentionOutput,
            layer: Some(*layer),
            units: shape.kv_heads * shape.queries * shape.values,
        }),
        Job::Experts(id, _) => Err(AlignError::Activations {
            group: symmetry.groups()[id.0].name.clone(),
            expected: "fixed experts, or weight matching".into(),
            found: "experts that are free to be permuted".into(),
        }),
    }
}

/// Means, variances and covariances of two sets of units over the same samples, updated as samples arrive (Chan,
/// Golub and LeVeque, 1979), in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Correlation {
    units: usize,
    samples: u64,
    mean: [Vec<f64>; 2],
    square: [Vec<f64>; 2],
    cross: Vec<f64>,
}

impl Correlation {
    /// No samples yet, of `units` units on each side.
    pub fn new(units: usize) -> Correlation {
        let zeros = || [vec![0.0; units], vec![0.0; units]];
        Correlation { units, samples: 0, mean: zeros(), square: zeros(), cross: vec![0.0; units * units] }
    }

    /// Number of units on each side.
    pub fn units(&self) -> usize {
        self.units
    }

    /// Number of samples so far.
    pub fn samples(&self) -> u64 {
        self.samples
    }

    /// Adds samples: `reference` and `model` are \[samples, units\], row by row, of the same tokens.
    ///
    /// How samples are split into calls changes nothing but rounding.
    ///
    /// # Errors
    /// [`AlignError::Activations`] unless both hold the same number of whole samples, [`AlignError::NotFinite`]; the
    /// statistics are as before then.
    pub fn add(&mut self, reference: &[f32], model: &[f32]) -> Result<(), AlignError> {
        let units = self.units;
        let name = "activations";
        if units == 0 || reference.len() != model.len() || !reference.len().is_multiple_of(units) {
            return Err(AlignError::Activations {
                group: name.into(),
                expected: format!("samples of {units} units, as many of both models"),
                found: format!("{} and {} numbers", reference.len(), model.len()),
            });
        }
        if !reference.iter().chain(model).all(|x| x.is_finite()) {
            return Err(AlignError::NotFinite { tensor: name.into(), of: "activations" });
        }
        let count = reference.len() / units;
        if count == 0 {
            return Ok(());
        }
        // Around the mean of the batch, transposed: a row for each unit, as products are taken.
        let centred = |values: &[f32]| {
            // By the distance from the first sample, which is exactly zero for a constant unit.
            let mut mean = vec![0.0; units];
            for sample in values.chunks_exact(units) {
                for ((mean, &x), &first) in mean.iter_mut().zip(sample).zip(values) {
                    *mean += f64::from(x) - f64::from(first);
                }
            }
            for (mean, &first) in mean.iter_mut().zip(values) {
                *mean = f64::from(first) + *mean / count as f64;
            }
            let mut rows = vec![0.0f32; values.len()];
            let mut square = vec![0.0; units];
            for (s, sample) in values.chunks_exact(units).enumerate() {
                for (unit, &x) in sample.iter().enumerate() {
                    let centred = f64::from(x) - mean[unit];
                    rows[unit * count + s] = centred as f32;
                    square[unit] += centred * centred;
                }
            }
            (mean, square, rows)
        };
        let (mean_a, square_a, rows_a) = centred(reference);
        let (mean_b, square_b, rows_b) = centred(model);
        let mut batch = Correlation {
            units,
            samples: count as u64,
            mean: [mean_a, mean_b],
            square: [square_a, square_b],
            cross: vec![0.0; units * units],
        };
        let a = Units::of_floats(&rows_a, units, count, name);
        let b = Units::of_floats(&rows_b, units, count, name);
        add_products(&a, &b, &mut batch.cross)?;
        self.combine(&batch);
        Ok(())
    }

    /// Adds the samples of `other`.
    ///
    /// # Errors
    /// [`AlignError::Activations`] when the numbers of units differ.
    pub fn merge(&mut self, other: &Correlation) -> Result<(), AlignError> {
        if other.units != self.units {
            return Err(AlignError::Activations {
                group: "activations".into(),
                expected: format!("{} units", self.units),
                found: other.units.to_string(),
            });
        }
        self.combine(other);
        Ok(())
    }

    fn combine(&mut self, other: &Correlation) {
        let (n, m) = (self.samples as f64, other.samples as f64);
        if m == 0.0 {
            return;
        }
        let weight = n * m / (n + m);
        let shift = [0, 1].map(|side| -> Vec<f64> {
            other.mean[side].iter().zip(&self.mean[side]).map(|(new, old)| new - old).collect()
        });
        for (row, (sums, more)) in
            self.cross.chunks_exact_mut(self.units).zip(other.cross.chunks_exact(self.units)).enumerate()
        {
            let by = shift[0][row] * weight;
            for ((sum, more), shift) in sums.iter_mut().zip(more).zip(&shift[1]) {
                *sum += more + by * shift;
            }
        }
        for side in [0, 1] {
            for unit in 0..self.units {
                let shift = shift[side][unit];
                self.square[side][unit] += other.square[side][unit] + shift * shift * weight;
                self.mean[side][unit] += shift * m / (n + m);
            }
        }
        self.samples += other.samples;
    }

    /// Correlation of unit i of the reference and unit j of the model at \[i, j\], row by row, from -1 to 1; 0 where
    /// one of them is constant.
    pub fn correlations(&self) -> Vec<f64> {
        let deviation = |side: usize| -> Vec<f64> { self.square[side].iter().map(|square| square.sqrt()).collect() };
        let (a, b) = (deviation(0), deviation(1));
        let mut out = self.cross.clone();
        for (row, &a) in out.chunks_exact_mut(self.units.max(1)).zip(&a) {
            for (value, &b) in row.iter_mut().zip(&b) {
                let norm = a * b;
                *value = if norm > 0.0 { (*value / norm).clamp(-1.0, 1.0) } else { 0.0 };
            }
        }
        out
    }
}

/// Provides the statistics of every site.
pub trait ActivationSource: Sync {
    /// The statistics at `site`. Sites are asked for one after another; an implementation need not keep all of them.
    ///
    /// # Errors
    /// Any reason why they are not available.
    fn correlation(&self, site: &ActivationSite) -> Result<Cow<'_, Correlation>, AlignError>;
}

/// Statistics by the names of sites, all in memory.
impl ActivationSource for BTreeMap<String, Correlation> {
    fn correlation(&self, site: &ActivationSite) -> Result<Cow<'_, Correlation>, AlignError> {
        self.get(&site.name).map(Cow::Borrowed).ok_or_else(|| AlignError::Activations {
            group: site.name.clone(),
            expected: format!("statistics of {} units", site.units),
            found: "none".into(),
        })
    }
}

/// Mean correlation of paired units, before and after, by group.
pub(crate) type Measured = BTreeMap<GroupId, (f64, f64)>;

/// Pairs the units of every group by their correlations.
pub(crate) fn match_activations(
    symmetry: &Symmetry,
    source: &dyn ActivationSource,
    options: &AlignOptions,
    progress: &dyn Progress,
) -> Result<(Permutations, Measured), AlignError> {
    let (residual, jobs) = jobs(symmetry);
    let mut permutations = Permutations::identity(symmetry);
    let mut measured = Measured::new();
    let mut changed = 0;
    for job in residual.map(Job::Flat).iter().chain(&jobs) {
        let site = site(symmetry, job)?;
        if progress.is_cancelled() {
            return Err(AlignError::Stopped);
        }
        progress.item(&site.name);
        let bytes = (site.units as u128) * (site.units as u128) * 8;
        if site.units > options.max_units {
            let (group, units) = (site.name, site.units);
            return Err(AlignError::TooManyUnits { group, units, limit: options.max_units, bytes });
        }
        let found = source.correlation(&site)?;
        if found.units != site.units || found.samples < 2 {
            return Err(AlignError::Activations {
                group: site.name,
                expected: format!("{} units and two samples or more", site.units),
                found: format!("{} units and {} samples", found.units, found.samples),
            });
        }
        let gains = found.correlations();
        let mean = |sum: f64| sum / site.units as f64;
        let identity = mean(total(&gains, site.units, &Permutation::identity(site.units)));
        match job {
            Job::Flat(id) => {
                let (best, gain, moved) = improve(gains, site.units, permutations.get(*id))?;
                changed += usize::from(moved);
                permutations.set(*id, best);
                measured.insert(*id, (identity, mean(gain)));
            }
            Job::Heads(job) => {
                let gains = HeadGains { o: gains, ..HeadGains::default() };
                let (best, gain, moved) = heads::solve(&gains, job.shape, job.free(), &Heads::identity(job.shape))?;
                changed += usize::from(moved);
                measured.extend(job.groups().map(|id| (id, (identity, mean(gain)))));
                for (id, permutation) in job.assigned(best) {
                    permutations.set(id, permutation);
                }
            }
            // `site` has refused it.
            Job::Experts(..) => {}
        }
    }
    swept(progress, 1, changed);
    Ok((permutations, measured))
}
