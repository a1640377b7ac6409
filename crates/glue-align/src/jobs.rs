//! The assignment problems of a symmetry: groups that are solved together.

use crate::heads::{Free, HeadShape, Heads};
use crate::permutation::Permutation;
use crate::permutations::Permutations;
use crate::symmetry::{Dim, GroupId, GroupKind, Symmetry};
use std::collections::BTreeMap;

/// Groups that are assigned together.
#[derive(Debug, Clone)]
pub(crate) enum Job {
    /// A group by itself.
    Flat(GroupId),
    /// The heads of a layer.
    Heads(HeadsJob),
    /// The experts of a layer, and the group of neurons of each expert where neurons are free.
    Experts(GroupId, Vec<GroupId>),
}

/// The groups of a layer's attention.
#[derive(Debug, Clone)]
pub(crate) struct HeadsJob {
    pub(crate) layer: usize,
    pub(crate) shape: HeadShape,
    pub(crate) kv_heads: Option<GroupId>,
    /// One for each KV head; empty where they are fixed.
    pub(crate) queries: Vec<GroupId>,
    /// One for each KV head; empty where they are fixed.
    pub(crate) values: Vec<GroupId>,
}

impl HeadsJob {
    pub(crate) fn free(&self) -> Free {
        Free { kv_heads: self.kv_heads.is_some(), queries: !self.queries.is_empty(), values: !self.values.is_empty() }
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.kv_heads.iter().chain(&self.queries).chain(&self.values).copied()
    }

    pub(crate) fn current(&self, permutations: &Permutations) -> Heads {
        let mut heads = Heads::identity(self.shape);
        let all = |ids: &[GroupId], target: &mut Vec<Permutation>| {
            for (target, &id) in target.iter_mut().zip(ids) {
                *target = permutations.get(id).clone();
            }
        };
        if let Some(id) = self.kv_heads {
            heads.kv_heads = permutations.get(id).clone();
        }
        all(&self.queries, &mut heads.queries);
        all(&self.values, &mut heads.values);
        heads
    }

    pub(crate) fn assigned(&self, heads: Heads) -> Vec<(GroupId, Permutation)> {
        let kv_heads = self.kv_heads.map(|id| (id, heads.kv_heads));
        let queries = self.queries.iter().copied().zip(heads.queries);
        let values = self.values.iter().copied().zip(heads.values);
        kv_heads.into_iter().chain(queries).chain(values).collect()
    }
}

/// The group of the residual stream, which binds all layers together, and the jobs of the layers, in their order.
pub(crate) fn jobs(symmetry: &Symmetry) -> (Option<GroupId>, Vec<Job>) {
    let groups = symmetry.groups();
    let residual = groups.iter().position(|group| group.kind == GroupKind::Residual).map(GroupId);
    let mut by_layer: BTreeMap<usize, Vec<Job>> = BTreeMap::new();
    for job in heads(symmetry) {
        by_layer.entry(job.layer).or_default().push(Job::Heads(job));
    }
    for (i, group) in groups.iter().enumerate() {
        let id = GroupId(i);
        let job = match group.kind {
            GroupKind::Experts => Job::Experts(id, symmetry.children(id, GroupKind::Neurons)),
            GroupKind::Neurons if group.parent.is_none() => Job::Flat(id),
            _ => continue,
        };
        by_layer.entry(group.layer.unwrap_or(0)).or_default().push(job);
    }
    (residual, by_layer.into_values().flatten().collect())
}

fn heads(symmetry: &Symmetry) -> Vec<HeadsJob> {
    let mut found: BTreeMap<usize, HeadsJob> = BTreeMap::new();
    for range in symmetry.tensors().iter().flat_map(|tensor| &tensor.axes).flatten() {
        // Queries and outputs have these three; only outputs have free value dimensions.
        let [kv_head, query, value] = range.dims.as_slice() else { continue };
        let first = |dim: &Dim| match dim {
            Dim::Fixed(_) => None,
            Dim::Group(id) => Some(*id),
            Dim::PerHead(ids) => ids.first().copied(),
        };
        let Some(any) = [kv_head, query, value].into_iter().find_map(first) else { continue };
        let layer = symmetry.groups()[any.0].layer.unwrap_or(0);
        let job = found.entry(layer).or_insert_with(|| HeadsJob {
            layer,
            shape: HeadShape {
                kv_heads: symmetry.extent(kv_head),
                queries: symmetry.extent(query),
                values: symmetry.extent(value),
            },
            kv_heads: None,
            queries: Vec::new(),
            values: Vec::new(),
        });
        if let Dim::Group(id) = kv_head {
            job.kv_heads = Some(*id);
        }
        if let Dim::PerHead(ids) = query {
            job.queries.clone_from(ids);
        }
        if let Dim::PerHead(ids) = value {
            job.values.clone_from(ids);
        }
    }
    found.into_values().collect()
}
