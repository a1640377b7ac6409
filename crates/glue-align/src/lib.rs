//! Permutation symmetries of decoder models: weight matching, activation matching, aligned checkpoints.
//!
//! Two models of the same shapes that were trained apart have no unit in common: neuron 5 of one does what neuron 211
//! of the other does, and their average does neither. Units can change places without changing what a model computes,
//! and this crate finds the order in which one model's units stand like another's: [`align`], then [`write_aligned`].
//!
//! | module | holds |
//! |---|---|
//! | [`symmetry`] | which permutations a model has, from its configuration and the names and shapes of its tensors |
//! | [`permutation`] | one permutation |
//! | [`permutations`] | one for each group of a model: composed, inverted |
//! | [`weight_matching`] | the permutations that bring weights closest |
//! | [`activation_matching`] | the permutations that pair activations by correlation |
//! | [`alignment`] | the outcome, as a record |
//! | [`apply`] | permutations applied, in the stored type: no number changes |
//!
//! ```no_run
//! use glue_align::{AlignOptions, Kinds, Method, WriteOptions, align, write_aligned};
//! use glue_progress::NoProgress;
//! use glue_tensor::ModelDir;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (reference, model) = (ModelDir::open("base-a")?, ModelDir::open("base-b")?);
//! let options = AlignOptions { kinds: Kinds::LAYERS, ..AlignOptions::default() };
//! let alignment = align(&reference, &model, Method::Weights, &options, &NoProgress)?;
//! write_aligned(&model, &alignment, "base-b-aligned", &WriteOptions::default(), &NoProgress)?;
//! # Ok(())
//! # }
//! ```
//!
//! **Invariant:** an aligned model computes the same function as before; a tensor whose part is not known is refused.
//!
//! **Invariant:** results do not depend on the number of threads, and there is no randomness in a matching.

pub mod activation_matching;
pub mod alignment;
pub mod apply;
mod assignment;
mod axes;
mod error;
mod gather;
mod heads;
mod jobs;
pub mod permutation;
pub mod permutations;
mod products;
pub mod symmetry;
pub mod weight_matching;

pub use activation_matching::{ActivationSource, Correlation, Place, Site, sites};
pub use alignment::{AlignedGroup, Alignment, Measure};
pub use apply::{WriteOptions, permuted, write_aligned};
pub use error::AlignError;
use glue_progress::{Progress, Unit};
pub use permutation::{Permutation, PermutationError};
pub use permutations::Permutations;
pub use symmetry::{Carrier, Group, GroupId, GroupKind, Kinds, Level, Segment, Symmetry};

use activation_matching::match_activations;
use glue_tensor::ModelDir;
use weight_matching::{Matched, Pair, Products, match_weights, measure};

/// What is compared.
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
    /// Kinds of groups that are free. Default: [`Kinds::ALL`].
    pub kinds: Kinds,
    /// Most rounds of weight matching from one start. Default 50, of which models of the sizes tried need a few.
    pub max_sweeps: usize,
    /// Most units of a group. Assignment takes time that grows like the cube of it, and memory like the square.
    /// Default 16384, where the matrix takes 2 GiB.
    pub max_units: usize,
    /// Bytes of matrices of gains below which groups are solved side by side; a single group may take more. Default
    /// 4 GiB. No result depends on it.
    pub max_bytes: u64,
}

impl Default for AlignOptions {
    fn default() -> Self {
        Self { kinds: Kinds::ALL, max_sweeps: 50, max_units: 16384, max_bytes: 4 << 30 }
    }
}

/// Finds the permutations of `model` with which it is most like `reference`; both stay as they are.
///
/// On the threads of the current rayon pool.
///
/// # Errors
/// Those of [`Symmetry::derive`] for either model; [`AlignError::Differ`] when they are not made alike;
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
    check_alike(&Symmetry::derive(reference.config(), reference.checkpoint(), options.kinds)?, &symmetry)?;
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
                let carries = symmetry.acting(GroupId(i));
                let cosine = |products: &[Products]| {
                    let mut sum = Products::default();
                    carries.iter().for_each(|&carrier| sum.add(&products[carrier]));
                    sum.cosine()
                };
                (cosine(&before), cosine(&after))
            }
        };
    }
    Ok(alignment)
}

/// Tells that a round of matching over all groups ended, of which `changed` changed.
fn swept(progress: &dyn Progress, sweep: usize, changed: usize) {
    progress.message(&format!("sweep {sweep}: {changed} groups changed"));
}

/// The same groups must act on the same tensors of the same shapes.
fn check_alike(reference: &Symmetry, model: &Symmetry) -> Result<(), AlignError> {
    let differ = |what: String, reference: String, model: String| Err(AlignError::Differ { what, reference, model });
    let shape = |carrier: Option<&Carrier>| carrier.map_or("none".to_string(), |found| format!("{:?}", found.shape));
    for carrier in reference.carriers().iter().chain(model.carriers()) {
        let (a, b) = (reference.carrier(&carrier.name), model.carrier(&carrier.name));
        if a.map(|carrier| &carrier.shape) != b.map(|carrier| &carrier.shape) {
            return differ(format!("tensor `{}`", carrier.name), shape(a), shape(b));
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
