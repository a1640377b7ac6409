//! Permutation symmetries of decoder models: weight matching, activation matching, aligned checkpoints.
//!
//! Two models of the same shapes that were trained independently agree on no unit: neuron 5 of one computes what
//! neuron 211 of the other does, and their average computes neither. Permuting units does not change what a model
//! computes. [`align`] finds the permutations that bring one model's units into the order of another's, as in Git
//! Re-Basin (arXiv 2209.04836); [`write_aligned`] writes the permuted checkpoint.
//!
//! | module | holds |
//! |---|---|
//! | [`symmetry`] | which permutations a model has, from its configuration and the names and shapes of its tensors |
//! | [`permutation`] | one permutation |
//! | [`permutations`] | one permutation for each group of a model: composed, inverted |
//! | [`weight_matching`] | the permutations that bring weights closest |
//! | [`activation_matching`] | the permutations that pair activations by correlation |
//! | [`alignment`] | the outcome as a JSON record |
//! | [`apply`] | permutations applied in the stored type: no value changes |
//!
//! ```no_run
//! use glue_align::{AlignOptions, GroupKinds, Method, WriteOptions, align, write_aligned};
//! use glue_progress::NoProgress;
//! use glue_tensor::ModelDir;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (reference, model) = (ModelDir::open("base-a")?, ModelDir::open("base-b")?);
//! let options = AlignOptions { kinds: GroupKinds::LAYERS, ..AlignOptions::default() };
//! let alignment = align(&reference, &model, Method::Weights, &options, &NoProgress)?;
//! write_aligned(&model, &alignment, "base-b-aligned", &WriteOptions::default(), &NoProgress)?;
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** an aligned model computes the same function as before; a tensor whose role is unknown is refused.
//!
//! **Invariant:** results do not depend on the number of threads, and there is no randomness in a matching.

pub mod activation_matching;
pub mod alignment;
pub mod apply;
mod assignment;
mod axes;
mod error;
mod experts;
mod gather;
mod heads;
mod jobs;
pub mod permutation;
pub mod permutations;
mod products;
pub mod symmetry;
pub mod weight_matching;

pub use activation_matching::{ActivationSite, ActivationSource, Correlation, SiteKind, activation_sites};
pub use alignment::{AlignedGroup, Alignment, Measure};
pub use apply::{WriteOptions, permuted, write_aligned};
pub use error::AlignError;
pub use experts::ExpertProducts;
use glue_progress::{Progress, Unit};
pub use permutation::{Permutation, PermutationError};
pub use permutations::Permutations;
pub use symmetry::{AxisRange, Dim, Group, GroupId, GroupKind, GroupKinds, PermutedTensor, Symmetry};

use activation_matching::match_activations;
use glue_tensor::ModelDir;
use weight_matching::{Matched, Pair, Products, match_weights, measure};

/// What units are matched by.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub enum Method<'a> {
    /// The weights themselves: see [`weight_matching`].
    Weights,
    /// Activations on the same text: see [`activation_matching`].
    Activations(&'a dyn ActivationSource),
}

/// How to align.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlignOptions {
    /// Kinds of groups to permute. Default: [`GroupKinds::ALL`].
    pub kinds: GroupKinds,
    /// Maximum number of rounds of weight matching from one start. Default 50; few are needed in practice.
    pub max_sweeps: usize,
    /// Maximum number of units of a group. The time of an assignment grows with its cube, memory with its square.
    /// Default 16384, where the matrix of gains takes 2 GiB.
    pub max_units: usize,
    /// Maximum bytes of the matrices of gains that are held at once; a single group may take more. Default 4 GiB. No
    /// result depends on it.
    pub max_bytes: u64,
}

impl Default for AlignOptions {
    fn default() -> Self {
        Self { kinds: GroupKinds::ALL, max_sweeps: 50, max_units: 16384, max_bytes: 4 << 30 }
    }
}

/// Finds the permutations of `model` that make it most similar to `reference`. Neither is changed.
///
/// On the threads of the current rayon pool.
///
/// # Errors
/// Those of [`Symmetry::derive`] for either model; [`AlignError::Differ`] when their tensors or groups differ;
/// [`AlignError::TooManyUnits`]; [`AlignError::Convert`] and [`AlignError::NotFinite`] for weights that cannot be
/// compared; [`AlignError::Activations`]; [`AlignError::Stopped`].
pub fn align(
    reference: &ModelDir,
    model: &ModelDir,
    method: Method<'_>,
    options: &AlignOptions,
    progress: &dyn Progress,
) -> Result<Alignment, AlignError> {
    let symmetry = Symmetry::derive(model.config(), model.checkpoint(), options.kinds)?;
    check_same_structure(&Symmetry::derive(reference.config(), reference.checkpoint(), options.kinds)?, &symmetry)?;
    let pair = Pair { reference: reference.checkpoint(), model: model.checkpoint(), symmetry: &symmetry };
    progress.begin("matching", Unit::Steps, None);
    let (matched, measured) = match method {
        Method::Weights => (match_weights(&pair, options, progress)?, None),
        Method::Activations(source) => {
            let (permutations, measured) = match_activations(&symmetry, source, options, progress)?;
            (Matched { permutations, sweeps: 1, converged: true }, Some(measured))
        }
    };
    let before = measure(&pair, &Permutations::identity(&symmetry))?;
    let after = measure(&pair, &matched.permutations)?;
    let all = |products: &[Products]| {
        let mut sum = Products::default();
        products.iter().for_each(|products| sum.add(products));
        sum.cosine()
    };
    let mut alignment = Alignment::from_permutations(&symmetry, options.kinds, &matched.permutations);
    (alignment.sweeps, alignment.converged) = (matched.sweeps, matched.converged);
    (alignment.cosine_before, alignment.cosine_after) = (all(&before), all(&after));
    alignment.measure = if measured.is_some() { Measure::ActivationCorrelation } else { Measure::WeightCosine };
    for (i, group) in alignment.groups.iter_mut().enumerate() {
        (group.before, group.after) = match &measured {
            Some(measured) => measured.get(&GroupId(i)).copied().unwrap_or_default(),
            None => {
                let tensors = symmetry.tensors_of(GroupId(i));
                let cosine = |products: &[Products]| {
                    let mut sum = Products::default();
                    tensors.iter().for_each(|&tensor| sum.add(&products[tensor]));
                    sum.cosine()
                };
                (cosine(&before), cosine(&after))
            }
        };
    }
    Ok(alignment)
}

/// Reports a round of matching over all groups, of which `changed` changed.
fn swept(progress: &dyn Progress, sweep: usize, changed: usize) {
    progress.message(&format!("sweep {sweep}: {changed} groups changed"));
}

/// Both must have the same groups, acting on the same tensors of the same shapes.
fn check_same_structure(reference: &Symmetry, model: &Symmetry) -> Result<(), AlignError> {
    let differ = |what: String, reference: String, model: String| Err(AlignError::Differ { what, reference, model });
    let shape =
        |tensor: Option<&PermutedTensor>| tensor.map_or("none".to_string(), |found| format!("{:?}", found.shape));
    for tensor in reference.tensors().iter().chain(model.tensors()) {
        let (a, b) = (reference.tensor(&tensor.name), model.tensor(&tensor.name));
        if a.map(|tensor| &tensor.shape) != b.map(|tensor| &tensor.shape) {
            return differ(format!("tensor `{}`", tensor.name), shape(a), shape(b));
        }
    }
    let groups = |symmetry: &Symmetry, at: usize| {
        symmetry.groups().get(at).map_or("none".to_string(), |group| format!("`{}` of {}", group.name, group.len))
    };
    for at in 0..reference.groups().len().max(model.groups().len()) {
        if reference.groups().get(at) != model.groups().get(at) {
            return differ(format!("group {at}"), groups(reference, at), groups(model, at));
        }
    }
    Ok(())
}

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
