//! A permutation for every group of a model: composing, inverting, and what they do to the axes of a tensor.

use crate::error::AlignError;
use crate::permutation::Permutation;
use crate::symmetry::{AxisRange, Dim, GroupId, GroupKind, PermutedTensor, Symmetry};

/// One permutation for each group of a [`Symmetry`], in the order of its groups.
///
/// Applied to a model, they leave its function unchanged; [`Symmetry`] says how nested groups are read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permutations {
    by_group: Vec<Permutation>,
}

impl Permutations {
    /// Takes `by_group` as the permutations of the groups of `symmetry`.
    ///
    /// # Errors
    /// [`AlignError::Group`] unless there is one for each group, of its length.
    pub fn new(symmetry: &Symmetry, by_group: Vec<Permutation>) -> Result<Permutations, AlignError> {
        if by_group.len() != symmetry.groups().len() {
            return Err(AlignError::Group {
                group: "all".into(),
                expected: format!("{} permutations", symmetry.groups().len()),
                found: by_group.len().to_string(),
            });
        }
        for (group, permutation) in symmetry.groups().iter().zip(&by_group) {
            if group.len != permutation.len() {
                return Err(AlignError::Group {
                    group: group.name.clone(),
                    expected: format!("{} units", group.len),
                    found: permutation.len().to_string(),
                });
            }
        }
        Ok(Permutations { by_group })
    }

    /// The identity for every group.
    pub fn identity(symmetry: &Symmetry) -> Permutations {
        Permutations { by_group: symmetry.groups().iter().map(|group| Permutation::identity(group.len)).collect() }
    }

    /// Uniform random permutations, a function of `seed` and the groups' numbers.
    pub fn random(symmetry: &Symmetry, seed: u64) -> Permutations {
        let random = |(i, group): (usize, &crate::symmetry::Group)| Permutation::random(group.len, seed, i as u64);
        Permutations { by_group: symmetry.groups().iter().enumerate().map(random).collect() }
    }

    /// The permutation of a group.
    ///
    /// # Panics
    /// When the group is not of the symmetry that these permutations are of.
    pub fn get(&self, group: GroupId) -> &Permutation {
        &self.by_group[group.0]
    }

    /// All of them, in the order of the groups.
    pub fn as_slice(&self) -> &[Permutation] {
        &self.by_group
    }

    /// Whether all of them are the identity.
    pub fn is_identity(&self) -> bool {
        self.by_group.iter().all(Permutation::is_identity)
    }

    pub(crate) fn set(&mut self, group: GroupId, permutation: Permutation) {
        self.by_group[group.0] = permutation;
    }

    /// The permutations that undo these.
    ///
    /// The inverse of a nested group belongs to the unit of the parent that its units came from.
    pub fn inverse(&self, symmetry: &Symmetry) -> Permutations {
        let mut inverse = Permutations::identity(symmetry);
        for (i, group) in symmetry.groups().iter().enumerate() {
            let target = match group.parent {
                None => GroupId(i),
                Some((parent, unit)) => sibling(symmetry, parent, group.kind, self.get(parent).source(unit)),
            };
            inverse.set(target, self.by_group[i].inverse());
        }
        inverse
    }

    /// These permutations applied after `first`, as one.
    pub fn after(&self, first: &Permutations, symmetry: &Symmetry) -> Permutations {
        let mut both = Permutations::identity(symmetry);
        for (i, group) in symmetry.groups().iter().enumerate() {
            let source = match group.parent {
                None => GroupId(i),
                Some((parent, unit)) => sibling(symmetry, parent, group.kind, self.get(parent).source(unit)),
            };
            if let Some(permutation) = self.by_group[i].after(first.get(source)) {
                both.set(GroupId(i), permutation);
            }
        }
        both
    }

    /// The source of each index along axis `axis` of `tensor`; `None` when the order does not change.
    pub fn of_axis(&self, symmetry: &Symmetry, tensor: &PermutedTensor, axis: usize) -> Option<Vec<u32>> {
        tensor.axes.get(axis).and_then(|axis| self.axis(symmetry, axis))
    }

    /// The source of each index along an axis; `None` when the order does not change.
    pub(crate) fn axis(&self, symmetry: &Symmetry, axis: &[AxisRange]) -> Option<Vec<u32>> {
        let mut sources = Vec::new();
        for range in axis {
            let mut run: Vec<u32> = Vec::new();
            self.push_sources(symmetry, &range.dims, None, range.start as u32, &mut run);
            sources.extend(run);
        }
        let moves = sources.iter().enumerate().any(|(i, &source)| i != source as usize);
        moves.then_some(sources)
    }

    fn push_sources(&self, symmetry: &Symmetry, dims: &[Dim], head: Option<usize>, base: u32, out: &mut Vec<u32>) {
        let Some((dim, inner)) = dims.split_first() else {
            out.push(base);
            return;
        };
        let stride: usize = inner.iter().map(|dim| symmetry.extent(dim)).product();
        let permutation = match dim {
            Dim::Fixed(_) => None,
            Dim::Group(id) => Some(self.get(*id)),
            Dim::PerHead(ids) => Some(self.get(ids[head.unwrap_or(0)])),
        };
        for i in 0..symmetry.extent(dim) {
            let source = permutation.map_or(i, |permutation| permutation.source(i));
            self.push_sources(symmetry, inner, head.or(Some(i)), base + (source * stride) as u32, out);
        }
    }

    /// The name of the tensor that takes the place of `tensor`: another expert's, or its own.
    pub(crate) fn source_name<'a>(&self, tensor: &'a PermutedTensor) -> &'a str {
        match &tensor.expert {
            Some((group, expert, names)) => &names[self.get(*group).source(*expert)],
            None => &tensor.name,
        }
    }
}

/// The group of kind `kind` of unit `unit` of `parent`. Every unit of `parent` has one if any has.
fn sibling(symmetry: &Symmetry, parent: GroupId, kind: GroupKind, unit: usize) -> GroupId {
    let is_it = |group: &crate::symmetry::Group| group.kind == kind && group.parent == Some((parent, unit));
    GroupId(symmetry.groups().iter().position(is_it).unwrap_or(parent.0))
}
