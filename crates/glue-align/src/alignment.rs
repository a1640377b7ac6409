//! The outcome of a matching: a permutation for each group by name, and the similarity of the models before and after.

use crate::error::AlignError;
use crate::permutation::Permutation;
use crate::permutations::Permutations;
use crate::symmetry::{GroupKind, GroupKinds, Symmetry};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// File name of the record beside an aligned model's weights.
pub const FILE: &str = "alignment.json";

/// What `before` and `after` of a group measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Measure {
    /// Cosine between the two models' weights, over the tensors that the group and its parent group act on.
    WeightCosine,
    /// Mean correlation of the activations of units that are paired.
    ActivationCorrelation,
    /// Nothing was measured: the permutations were not found by a matching.
    None,
}

/// The permutation of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AlignedGroup {
    /// The group's name in [`Symmetry::groups`].
    pub name: String,
    /// What its units are.
    pub kind: GroupKind,
    /// Number of the layer, if it is in one.
    pub layer: Option<usize>,
    /// Where each unit of the aligned model comes from.
    pub permutation: Permutation,
    /// The measure before the permutation, from -1 to 1; 0 when nothing was measured.
    pub before: f64,
    /// The measure after the permutation, from -1 to 1; 0 when nothing was measured.
    pub after: f64,
}

/// Permutations that align one model with another, and what they did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Alignment {
    /// Version of this table, 1.
    pub format: u32,
    /// Kinds of groups that were free.
    pub kinds: GroupKinds,
    /// What `before` and `after` of the groups measure.
    pub measure: Measure,
    /// Number of rounds over all groups.
    pub sweeps: usize,
    /// Whether the last round changed no group; otherwise the limit of rounds was reached.
    pub converged: bool,
    /// Cosine between the models' weights, over all tensors that the groups act on, before the permutations.
    pub cosine_before: f64,
    /// The same cosine after the permutations.
    pub cosine_after: f64,
    /// The groups, in the order of [`Symmetry::groups`].
    pub groups: Vec<AlignedGroup>,
}

impl Alignment {
    /// A record of permutations that no matching found; nothing is measured.
    pub fn from_permutations(symmetry: &Symmetry, kinds: GroupKinds, permutations: &Permutations) -> Alignment {
        let groups = symmetry.groups().iter().zip(permutations.as_slice()).map(|(group, permutation)| AlignedGroup {
            name: group.name.clone(),
            kind: group.kind,
            layer: group.layer,
            permutation: permutation.clone(),
            before: 0.0,
            after: 0.0,
        });
        Alignment {
            format: 1,
            kinds,
            measure: Measure::None,
            sweeps: 0,
            converged: true,
            cosine_before: 0.0,
            cosine_after: 0.0,
            groups: groups.collect(),
        }
    }

    /// The permutations, for a model with the symmetry `symmetry`.
    ///
    /// # Errors
    /// [`AlignError::Group`] for a group that is missing, unknown, listed twice, or of another length.
    pub fn permutations(&self, symmetry: &Symmetry) -> Result<Permutations, AlignError> {
        let mut by_name = BTreeMap::new();
        for group in &self.groups {
            if symmetry.group(&group.name).is_none() || by_name.insert(&group.name, &group.permutation).is_some() {
                return Err(AlignError::Group {
                    group: group.name.clone(),
                    expected: "each group of the model once".into(),
                    found: "an unknown or a repeated group".into(),
                });
            }
        }
        let find = |group: &crate::symmetry::Group| {
            by_name.get(&group.name).map(|&permutation| permutation.clone()).ok_or_else(|| AlignError::Group {
                group: group.name.clone(),
                expected: format!("{} units", group.len),
                found: "none".into(),
            })
        };
        Permutations::new(symmetry, symmetry.groups().iter().map(find).collect::<Result<_, _>>()?)
    }

    /// How many units of groups of this kind are moved, and how many there are in all.
    pub fn moved(&self, kind: GroupKind) -> (usize, usize) {
        let of_kind = self.groups.iter().filter(|group| group.kind == kind);
        of_kind.fold((0, 0), |(moved, all), group| (moved + group.permutation.moved(), all + group.permutation.len()))
    }
}
