//! A permutation for every group of a model: composing, inverting, and what they do to the axes of a tensor.

use crate::error::AlignError;
use crate::permutation::Permutation;
use crate::symmetry::{Carrier, GroupId, GroupKind, Level, Segment, Symmetry};

/// One permutation for each group of a [`Symmetry`], in the order of its groups.
///
/// Applied to a model, they give a model with the same function: see [`Symmetry`] for how nested groups are read.
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

    /// The permutations that change nothing.
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

    /// Whether they change nothing.
    pub fn is_identity(&self) -> bool {
        self.by_group.iter().all(Permutation::is_identity)
    }

    pub(crate) fn set(&mut self, group: GroupId, permutation: Permutation) {
        self.by_group[group.0] = permutation;
    }

    /// The permutations that undo these.
    ///
    /// A nested group is undone in the slot that its units came from.
    pub fn inverse(&self, symmetry: &Symmetry) -> Permutations {
        let mut inverse = Permutations::identity(symmetry);
        for (i, group) in symmetry.groups().iter().enumerate() {
            let target = match group.parent {
                None => GroupId(i),
                Some((parent, slot)) => sibling(symmetry, parent, group.kind, self.get(parent).source(slot)),
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
                Some((parent, slot)) => sibling(symmetry, parent, group.kind, self.get(parent).source(slot)),
            };
            if let Some(permutation) = self.by_group[i].after(first.get(source)) {
                both.set(GroupId(i), permutation);
            }
        }
        both
    }

    /// Where each index along axis `axis` of the tensor `carrier` comes from; `None` when the order stays.
    pub fn of_axis(&self, symmetry: &Symmetry, carrier: &Carrier, axis: usize) -> Option<Vec<u32>> {
        carrier.axes.get(axis).and_then(|axis| self.axis(symmetry, axis))
    }

    /// Where each index along an axis comes from; `None` when the order stays.
    pub(crate) fn axis(&self, symmetry: &Symmetry, axis: &[Segment]) -> Option<Vec<u32>> {
        let mut sources = Vec::new();
        for segment in axis {
            let mut run: Vec<u32> = Vec::new();
            self.levels(symmetry, &segment.levels, None, segment.start as u32, &mut run);
            sources.extend(run);
        }
        let moves = sources.iter().enumerate().any(|(i, &source)| i != source as usize);
        moves.then_some(sources)
    }

    fn levels(&self, symmetry: &Symmetry, levels: &[Level], block: Option<usize>, base: u32, out: &mut Vec<u32>) {
        let Some((level, inner)) = levels.split_first() else {
            out.push(base);
            return;
        };
        let stride: usize = inner.iter().map(|level| symmetry.extent(level)).product();
        let permutation = match level {
            Level::Fixed(_) => None,
            Level::Group(id) => Some(self.get(*id)),
            Level::PerBlock(ids) => Some(self.get(ids[block.unwrap_or(0)])),
        };
        for i in 0..symmetry.extent(level) {
            let source = permutation.map_or(i, |permutation| permutation.source(i));
            self.levels(symmetry, inner, block.or(Some(i)), base + (source * stride) as u32, out);
        }
    }

    /// The name of the tensor that takes the place of `carrier`: another expert's, or its own.
    pub(crate) fn source_name<'a>(&self, carrier: &'a Carrier) -> &'a str {
        match &carrier.expert {
            Some((group, slot, names)) => &names[self.get(*group).source(*slot)],
            None => &carrier.name,
        }
    }
}

/// The group of kind `kind` in slot `slot` of `parent`. Its like in another slot exists, so that it does too.
fn sibling(symmetry: &Symmetry, parent: GroupId, kind: GroupKind, slot: usize) -> GroupId {
    let is_it = |group: &crate::symmetry::Group| group.kind == kind && group.parent == Some((parent, slot));
    GroupId(symmetry.groups().iter().position(is_it).unwrap_or(parent.0))
}
