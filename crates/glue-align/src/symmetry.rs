//! Which permutations leave the function of a decoder unchanged: groups of units, and the axes of tensors they act on.
//!
//! | group | units | what moves together |
//! |---|---|---|
//! | neurons | of an MLP, or of an expert | rows of gate and up (and bias), columns of down |
//! | experts | of a layer | their tensors, and the router's rows |
//! | KV heads | of a layer | blocks of rows of k and v, and with each its query heads: rows of q, columns of o |
//! | query heads | that share a KV head | blocks of rows of q, of columns of o |
//! | value dimensions | of a KV head | rows of v within the head; columns of o in each of its query heads |
//! | residual | the hidden dimension | all that reads, writes or normalises the residual stream; embedding and head |
//!
//! Dimensions inside a head of queries and keys are bound by rotary embedding and are not permuted.
//!
//! Query heads, value dimensions and neurons of experts are *nested*: each KV head, or expert, has its own group of
//! them. Heads and experts are counted in the permuted model. A row of the query projection is (KV head, query head,
//! dimension), and row (i, a, d) of the permuted tensor is row (p\[i\], q_i\[a\], d) of the original one.
//!
//! In the terms of the code of Git Re-Basin (Ainsworth et al., arXiv 2209.04836), a [`Group`] is a permutation of its
//! `PermutationSpec`, and [`PermutedTensor::axes`] is its `axes_to_perm`, with axes that several groups share.
//!
//! A tensor that is not in the table is refused, never ignored.

use crate::axes::{self, Role};
use crate::error::AlignError;
use glue_tensor::{Checkpoint, Config, Names, TensorInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What the units of a group are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GroupKind {
    /// Dimensions of the residual stream.
    Residual,
    /// KV heads of a layer, each with its query heads.
    KvHeads,
    /// Query heads that share a KV head.
    QueryHeads,
    /// Dimensions of the values of a KV head.
    ValueDims,
    /// Experts of a layer.
    Experts,
    /// Neurons of an MLP or of an expert.
    Neurons,
}

/// Kinds of groups to permute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupKinds {
    /// Neurons of MLPs and of experts.
    pub neurons: bool,
    /// KV heads, and query heads within them.
    pub heads: bool,
    /// Value dimensions within heads.
    pub values: bool,
    /// Experts of a layer among themselves.
    pub experts: bool,
    /// The residual stream.
    pub residual: bool,
}

impl GroupKinds {
    /// Everything.
    pub const ALL: GroupKinds = GroupKinds { neurons: true, heads: true, values: true, experts: true, residual: true };
    /// What is inside layers: all but the residual stream.
    pub const LAYERS: GroupKinds = GroupKinds { residual: false, ..GroupKinds::ALL };
    /// Nothing, to start from.
    pub const NONE: GroupKinds =
        GroupKinds { neurons: false, heads: false, values: false, experts: false, residual: false };

    fn names(self) -> String {
        let all = [
            (self.neurons, "neurons"),
            (self.heads, "heads"),
            (self.values, "value dimensions"),
            (self.experts, "experts"),
            (self.residual, "residual stream"),
        ];
        let names: Vec<&str> = all.iter().filter(|entry| entry.0).map(|entry| entry.1).collect();
        if names.is_empty() { "no kind at all".to_string() } else { names.join(", ") }
    }
}

/// Number of a group: its index in [`Symmetry::groups`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub usize);

/// A permutation group: units that may be permuted among themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Group {
    /// Name, unique in the model, such as `layers.3.neurons` or `layers.0.kv_heads.1.query_heads`.
    pub name: String,
    /// What the units are.
    pub kind: GroupKind,
    /// Number of the layer; `None` for the residual stream.
    pub layer: Option<usize>,
    /// Number of units.
    pub len: usize,
    /// For a nested group, its parent group and the unit of it, counted in the permuted model, that this group belongs
    /// to.
    pub parent: Option<(GroupId, usize)>,
}

/// One dimension of an axis, and how it is permuted. Along an axis, indices of several dimensions are flattened in
/// row-major order, such as (KV head, query head, dimension).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dim {
    /// Not permuted, with its length.
    Fixed(usize),
    /// Permuted by a group.
    Group(GroupId),
    /// Permuted by a group for each head: each index of the outermost dimension, counted in the permuted tensor.
    PerHead(Vec<GroupId>),
}

/// A range of indices along an axis, and its dimensions. An axis has several where projections are fused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AxisRange {
    /// First index of the range.
    pub start: usize,
    /// Dimensions, outermost first.
    pub dims: Vec<Dim>,
}

/// A tensor on which at least one group acts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PermutedTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// For each axis the ranges that fill it.
    pub axes: Vec<Vec<AxisRange>>,
    /// For a tensor of an expert that may be permuted: the group of experts, the number of the expert, and the names of
    /// the same tensor in every expert.
    pub expert: Option<(GroupId, usize, Vec<String>)>,
}

/// The permutations of a model that leave its function unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symmetry {
    groups: Vec<Group>,
    tensors: Vec<PermutedTensor>,
}

impl Symmetry {
    /// The symmetries, of the kinds asked for, of a model with this configuration and these tensors.
    ///
    /// # Errors
    /// [`AlignError::UnknownTensor`] for a tensor whose role in the model is unknown (unless it has one element,
    /// which no permutation changes), [`AlignError::Shape`], [`AlignError::MissingTensor`],
    /// [`AlignError::MissingKey`], [`AlignError::BreaksSymmetry`], and [`AlignError::NoGroups`] when nothing is left.
    pub fn derive(config: &Config, checkpoint: &Checkpoint, kinds: GroupKinds) -> Result<Symmetry, AlignError> {
        let sizes = Sizes::of(config, kinds)?;
        let names = Names::infer(checkpoint.tensors().iter().map(|info| info.name.as_str()));
        let stack = names.main_stack().map(|stack| stack.prefix.clone());
        let mut layers: BTreeMap<usize, Vec<KnownTensor<'_>>> = BTreeMap::new();
        let mut outside = Vec::new();
        for info in checkpoint.tensors() {
            let parsed = names.parse(&info.name);
            let in_stack = parsed.layer.is_some() && stack.as_deref() == Some(parsed.prefix);
            let roles = match parsed.layer {
                Some(_) if in_stack => axes::in_layer(parsed.suffix, parsed.expert),
                Some(_) => None,
                None => axes::outside(&info.name),
            };
            let Some(roles) = roles else {
                if info.n_elements() == 1 {
                    continue;
                }
                return Err(AlignError::UnknownTensor { tensor: info.name.clone(), shape: info.shape.clone() });
            };
            if roles.len() != info.shape.len() {
                return Err(shape_error(info, format!("of {} axes", roles.len())));
            }
            let known = KnownTensor { info, roles, expert: parsed.expert };
            match parsed.layer {
                Some(layer) => layers.entry(layer).or_default().push(known),
                None => outside.push(known),
            }
        }

        let mut symmetry = Symmetry { groups: Vec::new(), tensors: Vec::new() };
        let residual =
            kinds.residual.then(|| symmetry.add("residual".into(), GroupKind::Residual, None, sizes.hidden, None));
        let hidden = residual.map_or(Dim::Fixed(sizes.hidden), Dim::Group);
        for known in outside {
            let mut axes = Vec::new();
            for (axis, role) in known.roles.iter().enumerate() {
                let dim = match role {
                    Role::Hidden => hidden.clone(),
                    _ => Dim::Fixed(known.info.shape[axis]),
                };
                axes.push(known.axis(axis, "hidden_size", vec![vec![dim]], &symmetry.groups)?);
            }
            symmetry.add_tensor(known.info, axes, None);
        }
        for (layer, tensors) in layers {
            symmetry.add_layer(layer, &tensors, &sizes, kinds, &hidden)?;
        }
        let moves = symmetry.groups.iter().any(|group| group.len > 1);
        if !moves {
            return Err(AlignError::NoGroups { asked: kinds.names() });
        }
        Ok(symmetry)
    }

    /// The groups, parents before the groups nested in them.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The tensors on which any group acts, in the order of their names.
    pub fn tensors(&self) -> &[PermutedTensor] {
        &self.tensors
    }

    /// The group called `name`.
    pub fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.iter().position(|group| group.name == name).map(GroupId)
    }

    /// The tensor called `name`, if any group acts on it.
    pub fn tensor(&self, name: &str) -> Option<&PermutedTensor> {
        let found = self.tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        found.ok().map(|i| &self.tensors[i])
    }

    /// Length of a dimension.
    pub(crate) fn extent(&self, dim: &Dim) -> usize {
        extent(&self.groups, dim)
    }

    /// Groups nested in `parent`.
    pub(crate) fn children(&self, parent: GroupId, kind: GroupKind) -> Vec<GroupId> {
        let is_child = |group: &Group| group.kind == kind && group.parent.is_some_and(|found| found.0 == parent);
        (0..self.groups.len()).filter(|&i| is_child(&self.groups[i])).map(GroupId).collect()
    }

    /// Indices of the tensors that `group` or its parent acts on.
    pub(crate) fn tensors_of(&self, group: GroupId) -> Vec<usize> {
        let parent = self.groups[group.0].parent.map(|parent| parent.0);
        let is_it = |id: &GroupId| *id == group || Some(*id) == parent;
        let in_dim = |dim: &Dim| match dim {
            Dim::Fixed(_) => false,
            Dim::Group(id) => is_it(id),
            Dim::PerHead(ids) => ids.iter().any(is_it),
        };
        let acts = |tensor: &PermutedTensor| {
            tensor.expert.as_ref().is_some_and(|(id, ..)| is_it(id))
                || tensor.axes.iter().flatten().flat_map(|range| &range.dims).any(in_dim)
        };
        (0..self.tensors.len()).filter(|&i| acts(&self.tensors[i])).collect()
    }

    fn add(
        &mut self,
        name: String,
        kind: GroupKind,
        layer: Option<usize>,
        len: usize,
        parent: Option<(GroupId, usize)>,
    ) -> GroupId {
        self.groups.push(Group { name, kind, layer, len, parent });
        GroupId(self.groups.len() - 1)
    }

    fn add_tensor(
        &mut self,
        info: &TensorInfo,
        axes: Vec<Vec<AxisRange>>,
        expert: Option<(GroupId, usize, Vec<String>)>,
    ) {
        let fixed = |range: &AxisRange| range.dims.iter().all(|dim| matches!(dim, Dim::Fixed(_)));
        if expert.is_some() || !axes.iter().flatten().all(fixed) {
            let tensor = PermutedTensor { name: info.name.clone(), shape: info.shape.clone(), axes, expert };
            let at = self.tensors.partition_point(|other| other.name < tensor.name);
            self.tensors.insert(at, tensor);
        }
    }

    fn add_layer(
        &mut self,
        layer: usize,
        tensors: &[KnownTensor<'_>],
        sizes: &Sizes,
        kinds: GroupKinds,
        hidden: &Dim,
    ) -> Result<(), AlignError> {
        let kv_heads = sizes.kv_heads;
        let queries_per_kv_head = sizes.heads / kv_heads;
        let has = |roles: &[Role]| tensors.iter().any(|known| known.roles.iter().any(|role| roles.contains(role)));
        let attention = has(&[Role::Queries, Role::QueriesKeysValues]);

        let mut kv = Dim::Fixed(kv_heads);
        let mut queries = Dim::Fixed(queries_per_kv_head);
        let mut values = Dim::Fixed(sizes.head_dim);
        if attention {
            let name = format!("layers.{layer}.kv_heads");
            let nested = |symmetry: &mut Symmetry, kind, part: &str, len, parent: Option<GroupId>| {
                let add = |head| {
                    let parent = parent.map(|parent| (parent, head));
                    symmetry.add(format!("{name}.{head}.{part}"), kind, Some(layer), len, parent)
                };
                Dim::PerHead((0..kv_heads).map(add).collect())
            };
            let mut parent = None;
            if kinds.heads {
                let id = self.add(name.clone(), GroupKind::KvHeads, Some(layer), kv_heads, None);
                kv = Dim::Group(id);
                parent = Some(id);
                if queries_per_kv_head > 1 {
                    queries = nested(self, GroupKind::QueryHeads, "query_heads", queries_per_kv_head, parent);
                }
            }
            if kinds.values {
                values = nested(self, GroupKind::ValueDims, "value_dims", sizes.head_dim, parent);
            }
        }
        let fixed_dims = Dim::Fixed(sizes.head_dim);
        let q = vec![kv.clone(), queries.clone(), fixed_dims.clone()];
        let k = vec![kv.clone(), fixed_dims.clone()];
        let v = vec![kv.clone(), values.clone()];
        let o = vec![kv, queries, values];

        let experts: BTreeSet<usize> = tensors.iter().filter_map(|known| known.expert).collect();
        check_experts(tensors, &experts)?;
        let expert_group = match experts.len() {
            0 => None,
            count if kinds.experts => {
                Some(self.add(format!("layers.{layer}.experts"), GroupKind::Experts, Some(layer), count, None))
            }
            _ => None,
        };
        let mut neurons: BTreeMap<(Option<usize>, bool), Dim> = BTreeMap::new();
        for known in tensors {
            for (axis, role) in known.roles.iter().enumerate() {
                let (shared, twice) = match role {
                    Role::Neurons => (false, false),
                    Role::SharedNeurons => (true, false),
                    Role::NeuronsTwice => (false, true),
                    _ => continue,
                };
                let key = (known.expert, shared);
                if neurons.contains_key(&key) {
                    continue;
                }
                let length = known.info.shape[axis];
                if twice && !length.is_multiple_of(2) {
                    return Err(shape_error(known.info, "an even number of rows, for gates and values".into()));
                }
                let len = if twice { length / 2 } else { length };
                let name = match key {
                    (Some(expert), _) => format!("layers.{layer}.experts.{expert}.neurons"),
                    (None, true) => format!("layers.{layer}.shared_expert.neurons"),
                    (None, false) => format!("layers.{layer}.neurons"),
                };
                let dim = if kinds.neurons {
                    let parent = known.expert.and_then(|expert| Some((expert_group?, expert)));
                    Dim::Group(self.add(name, GroupKind::Neurons, Some(layer), len, parent))
                } else {
                    Dim::Fixed(len)
                };
                neurons.insert(key, dim);
            }
        }

        for known in tensors {
            let neuron = |shared| neurons.get(&(known.expert, shared)).cloned();
            let mut axes = Vec::new();
            for (axis, role) in known.roles.iter().enumerate() {
                let length = known.info.shape[axis];
                let whole_heads = |heads: usize| length == heads * sizes.head_dim;
                let (what, runs) = match role {
                    Role::Hidden => ("hidden_size", vec![vec![hidden.clone()]]),
                    Role::Neurons => ("neurons of the layer", vec![vec![neuron(false).unwrap_or(Dim::Fixed(length))]]),
                    Role::SharedNeurons => {
                        ("neurons of the layer", vec![vec![neuron(true).unwrap_or(Dim::Fixed(length))]])
                    }
                    Role::NeuronsTwice => {
                        let dim = neuron(false).unwrap_or(Dim::Fixed(length / 2));
                        ("2 · neurons of the layer", vec![vec![dim.clone()], vec![dim]])
                    }
                    Role::Queries => ("num_attention_heads · head_dim", vec![q.clone()]),
                    Role::Keys => ("num_key_value_heads · head_dim", vec![k.clone()]),
                    Role::Values => ("num_key_value_heads · head_dim", vec![v.clone()]),
                    Role::Outputs => ("num_attention_heads · head_dim", vec![o.clone()]),
                    Role::QueriesKeysValues => (
                        "(num_attention_heads + 2 · num_key_value_heads) · head_dim",
                        vec![q.clone(), k.clone(), v.clone()],
                    ),
                    // A norm of one head's dimensions is the same for every head: nothing moves in it. With one head
                    // both forms are the same.
                    Role::QueryNorm if whole_heads(sizes.heads) => ("head_dim", vec![q.clone()]),
                    Role::KeyNorm if whole_heads(sizes.kv_heads) => ("head_dim", vec![k.clone()]),
                    Role::QueryNorm => ("head_dim, or that of all query heads", vec![vec![fixed_dims.clone()]]),
                    Role::KeyNorm => ("head_dim, or that of all KV heads", vec![vec![fixed_dims.clone()]]),
                    Role::Experts => {
                        ("experts of the layer", vec![vec![expert_group.map_or(Dim::Fixed(experts.len()), Dim::Group)]])
                    }
                    Role::One => ("1", vec![vec![Dim::Fixed(1)]]),
                    Role::Free => ("", vec![vec![Dim::Fixed(length)]]),
                };
                axes.push(known.axis(axis, what, runs, &self.groups)?);
            }
            let experts = known.expert.and_then(|expert| {
                let here = format!(".experts.{expert}.");
                let name_in = |other: &usize| known.info.name.replacen(&here, &format!(".experts.{other}."), 1);
                Some((expert_group?, expert, experts.iter().map(name_in).collect()))
            });
            self.add_tensor(known.info, axes, experts);
        }
        Ok(())
    }
}

/// A tensor with a row in the table.
struct KnownTensor<'a> {
    info: &'a TensorInfo,
    roles: &'static [Role],
    expert: Option<usize>,
}

impl KnownTensor<'_> {
    /// The ranges of an axis, checked to fill it.
    fn axis(
        &self,
        axis: usize,
        what: &str,
        runs: Vec<Vec<Dim>>,
        groups: &[Group],
    ) -> Result<Vec<AxisRange>, AlignError> {
        let mut ranges = Vec::new();
        let mut start = 0;
        for dims in runs {
            let len: usize = dims.iter().map(|dim| extent(groups, dim)).product();
            ranges.push(AxisRange { start, dims });
            start += len;
        }
        if start != self.info.shape[axis] {
            return Err(shape_error(self.info, format!("{start} ({what}) on axis {axis}")));
        }
        Ok(ranges)
    }
}

fn extent(groups: &[Group], dim: &Dim) -> usize {
    match dim {
        Dim::Fixed(len) => *len,
        Dim::Group(id) => groups[id.0].len,
        Dim::PerHead(ids) => ids.first().map_or(1, |id| groups[id.0].len),
    }
}

fn shape_error(info: &TensorInfo, expected: String) -> AlignError {
    AlignError::Shape { tensor: info.name.clone(), expected, found: info.shape.clone() }
}

/// Experts must be numbered without a gap and have the same tensors of the same shapes and types; others cannot be
/// permuted.
fn check_experts(tensors: &[KnownTensor<'_>], experts: &BTreeSet<usize>) -> Result<(), AlignError> {
    let by_name: BTreeMap<&str, &TensorInfo> = tensors.iter().map(|t| (t.info.name.as_str(), t.info)).collect();
    for known in tensors {
        let Some(expert) = known.expert else { continue };
        for other in 0..experts.len() {
            let name = known.info.name.replacen(&format!(".experts.{expert}."), &format!(".experts.{other}."), 1);
            let Some(found) = by_name.get(name.as_str()) else {
                return Err(AlignError::MissingTensor { tensor: name, beside: known.info.name.clone() });
            };
            if found.shape != known.info.shape || found.dtype != known.info.dtype {
                let expected =
                    format!("{:?} and type {}, as `{}`", known.info.shape, known.info.dtype, known.info.name);
                return Err(shape_error(found, expected));
            }
        }
    }
    Ok(())
}

/// The numbers of the configuration that determine the structure.
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn of(config: &Config, kinds: GroupKinds) -> Result<Sizes, AlignError> {
        let number = |key, value: Option<usize>| value.filter(|&n| n > 0).ok_or(AlignError::MissingKey { key });
        let hidden = number("hidden_size", config.hidden_size())?;
        let heads = number("num_attention_heads", config.num_heads())?;
        let kv_heads = number("num_key_value_heads", config.num_kv_heads())?;
        let head_dim = number("head_dim", config.head_dim())?;
        let breaks =
            |key: &'static str, found: &Value, what| AlignError::BreaksSymmetry { key, found: found.to_string(), what };
        if !heads.is_multiple_of(kv_heads) {
            return Err(breaks(
                "num_key_value_heads",
                &kv_heads.into(),
                "query heads that do not divide among KV heads",
            ));
        }
        if kinds.heads || kinds.values {
            // Slopes that differ by head distinguish the heads; layers that use another layer's keys bind the two.
            for key in ["alibi", "use_alibi"] {
                if let Some(found) = config.get(key).filter(|value| value.as_bool() != Some(false)) {
                    return Err(breaks(key, found, "attention heads"));
                }
            }
            if let Some(found) = config.get("position_embedding_type").filter(|v| v.as_str() == Some("alibi")) {
                return Err(breaks("position_embedding_type", found, "attention heads"));
            }
            if let Some(found) = config.get("num_kv_shared_layers").filter(|value| value.as_u64() != Some(0)) {
                return Err(breaks("num_kv_shared_layers", found, "attention heads"));
            }
        }
        Ok(Sizes { hidden, heads, kv_heads, head_dim })
    }
}
