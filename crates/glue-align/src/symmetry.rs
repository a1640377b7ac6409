//! Which permutations leave the function of a decoder unchanged: groups of units, and the axes of tensors they act on.
//!
//! | group | units | what moves together |
//! |---|---|---|
//! | neurons | of an MLP, or of an expert | rows of gate and up (and bias), columns of down |
//! | experts | of a layer | their tensors, and the router's rows |
//! | KV heads | of a layer | blocks of rows of k and v, and with each its query heads: rows of q, columns of o |
//! | query heads | that share a KV head | blocks of rows of q, of columns of o |
//! | value dimensions | of a KV head | rows of v within the head; columns of o in each of its query heads |
//! | residual | the hidden dimension | whatever reads, writes or normalises the residual stream; embedding and head |
//!
//! Dimensions inside a head of queries and keys are bound by rotary embedding and are not permuted.
//!
//! Query heads, value dimensions and neurons of experts are *nested*: a group of them belongs to a slot of its parent
//! group, and says which unit of whatever the parent puts into that slot goes where. So a row of the query projection
//! is (KV head, query head, dimension), and the row (i, a, d) of the permuted tensor is the row (p\[i\], q_i\[a\], d) of
//! the original one.
//!
//! A tensor that is not known is refused, never passed over.

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
pub struct Kinds {
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

impl Kinds {
    /// Everything.
    pub const ALL: Kinds = Kinds { neurons: true, heads: true, values: true, experts: true, residual: true };
    /// What is inside layers: all but the residual stream.
    pub const LAYERS: Kinds = Kinds { residual: false, ..Kinds::ALL };
    /// Nothing, to start from.
    pub const NONE: Kinds = Kinds { neurons: false, heads: false, values: false, experts: false, residual: false };

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

/// Units that may change places with each other.
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
    /// For a nested group, the group it hangs on, and its slot there. A slot is a place in the permuted model.
    pub parent: Option<(GroupId, usize)>,
}

/// How one level of an axis is permuted; an axis is (outermost level, …, innermost level) by row-major index.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Level {
    /// Not at all.
    Fixed(usize),
    /// By a group.
    Group(GroupId),
    /// By a group for each index of the outermost level, counted in the permuted tensor.
    PerBlock(Vec<GroupId>),
}

/// A run of indices along an axis, and its levels.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Segment {
    /// First index of the run.
    pub start: usize,
    /// Levels, outermost first.
    pub levels: Vec<Level>,
}

/// A tensor on which at least one group acts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Carrier {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// For each axis the runs that fill it.
    pub axes: Vec<Vec<Segment>>,
    /// For a tensor of an expert that may change places: the group of experts, its slot, and the names that the same
    /// tensor has in each slot.
    pub expert: Option<(GroupId, usize, Vec<String>)>,
}

/// The permutations of a model that leave its function unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symmetry {
    groups: Vec<Group>,
    carriers: Vec<Carrier>,
}

impl Symmetry {
    /// The symmetries, of the kinds asked for, of a model with this configuration and these tensors.
    ///
    /// # Errors
    /// [`AlignError::UnknownTensor`] for a tensor whose part in the model is not known (unless it has one element, to
    /// which no permutation does anything), [`AlignError::Shape`], [`AlignError::MissingTensor`],
    /// [`AlignError::MissingKey`], [`AlignError::BreaksSymmetry`], and [`AlignError::NoGroups`] when nothing is left.
    pub fn derive(config: &Config, checkpoint: &Checkpoint, kinds: Kinds) -> Result<Symmetry, AlignError> {
        let sizes = Sizes::of(config, kinds)?;
        let names = Names::infer(checkpoint.tensors().iter().map(|info| info.name.as_str()));
        let stack = names.main_stack().map(|stack| stack.prefix.clone());
        let mut layers: BTreeMap<usize, Vec<Known<'_>>> = BTreeMap::new();
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
            let known = Known { info, roles, expert: parsed.expert };
            match parsed.layer {
                Some(layer) => layers.entry(layer).or_default().push(known),
                None => outside.push(known),
            }
        }

        let mut symmetry = Symmetry { groups: Vec::new(), carriers: Vec::new() };
        let residual =
            kinds.residual.then(|| symmetry.add("residual".into(), GroupKind::Residual, None, sizes.hidden, None));
        let hidden = residual.map_or(Level::Fixed(sizes.hidden), Level::Group);
        for known in outside {
            let mut axes = Vec::new();
            for (axis, role) in known.roles.iter().enumerate() {
                let level = match role {
                    Role::Hidden => hidden.clone(),
                    _ => Level::Fixed(known.info.shape[axis]),
                };
                axes.push(known.axis(axis, "hidden_size", vec![vec![level]], &symmetry.groups)?);
            }
            symmetry.carry(known.info, axes, None);
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

    /// The groups; a nested one comes after its parent.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The tensors they act on, in the order of their names.
    pub fn carriers(&self) -> &[Carrier] {
        &self.carriers
    }

    /// The group called `name`.
    pub fn group(&self, name: &str) -> Option<GroupId> {
        self.groups.iter().position(|group| group.name == name).map(GroupId)
    }

    /// The tensor called `name`, if any group acts on it.
    pub fn carrier(&self, name: &str) -> Option<&Carrier> {
        let found = self.carriers.binary_search_by(|carrier| carrier.name.as_str().cmp(name));
        found.ok().map(|i| &self.carriers[i])
    }

    /// Units of a level.
    pub(crate) fn extent(&self, level: &Level) -> usize {
        extent(&self.groups, level)
    }

    /// Groups that hang on `parent`.
    pub(crate) fn children(&self, parent: GroupId, kind: GroupKind) -> Vec<GroupId> {
        let is_child = |group: &Group| group.kind == kind && group.parent.is_some_and(|found| found.0 == parent);
        (0..self.groups.len()).filter(|&i| is_child(&self.groups[i])).map(GroupId).collect()
    }

    /// Indices of the carriers that `group` or its parent acts on.
    pub(crate) fn acting(&self, group: GroupId) -> Vec<usize> {
        let parent = self.groups[group.0].parent.map(|parent| parent.0);
        let is_it = |id: &GroupId| *id == group || Some(*id) == parent;
        let in_level = |level: &Level| match level {
            Level::Fixed(_) => false,
            Level::Group(id) => is_it(id),
            Level::PerBlock(ids) => ids.iter().any(is_it),
        };
        let acts = |carrier: &Carrier| {
            carrier.expert.as_ref().is_some_and(|(id, ..)| is_it(id))
                || carrier.axes.iter().flatten().flat_map(|segment| &segment.levels).any(in_level)
        };
        (0..self.carriers.len()).filter(|&i| acts(&self.carriers[i])).collect()
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

    fn carry(&mut self, info: &TensorInfo, axes: Vec<Vec<Segment>>, expert: Option<(GroupId, usize, Vec<String>)>) {
        let fixed = |segment: &Segment| segment.levels.iter().all(|level| matches!(level, Level::Fixed(_)));
        if expert.is_some() || !axes.iter().flatten().all(fixed) {
            let carrier = Carrier { name: info.name.clone(), shape: info.shape.clone(), axes, expert };
            let at = self.carriers.partition_point(|other| other.name < carrier.name);
            self.carriers.insert(at, carrier);
        }
    }

    fn add_layer(
        &mut self,
        layer: usize,
        tensors: &[Known<'_>],
        sizes: &Sizes,
        kinds: Kinds,
        hidden: &Level,
    ) -> Result<(), AlignError> {
        let blocks = sizes.kv_heads;
        let per_block = sizes.heads / blocks;
        let has = |wanted: &[Role]| tensors.iter().any(|known| known.roles.iter().any(|role| wanted.contains(role)));
        let attention = has(&[Role::Queries, Role::QueriesKeysValues]);

        let mut kv = Level::Fixed(blocks);
        let mut queries = Level::Fixed(per_block);
        let mut values = Level::Fixed(sizes.head_dim);
        if attention {
            let name = format!("layers.{layer}.kv_heads");
            let nested = |symmetry: &mut Symmetry, kind, part: &str, len, parent: Option<GroupId>| {
                let add = |slot| {
                    let parent = parent.map(|parent| (parent, slot));
                    symmetry.add(format!("{name}.{slot}.{part}"), kind, Some(layer), len, parent)
                };
                Level::PerBlock((0..blocks).map(add).collect())
            };
            let mut parent = None;
            if kinds.heads {
                let id = self.add(name.clone(), GroupKind::KvHeads, Some(layer), blocks, None);
                kv = Level::Group(id);
                parent = Some(id);
                if per_block > 1 {
                    queries = nested(self, GroupKind::QueryHeads, "query_heads", per_block, parent);
                }
            }
            if kinds.values {
                values = nested(self, GroupKind::ValueDims, "value_dims", sizes.head_dim, parent);
            }
        }
        let fixed_dims = Level::Fixed(sizes.head_dim);
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
        let mut neurons: BTreeMap<(Option<usize>, bool), Level> = BTreeMap::new();
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
                let level = if kinds.neurons {
                    let parent = known.expert.and_then(|expert| Some((expert_group?, expert)));
                    Level::Group(self.add(name, GroupKind::Neurons, Some(layer), len, parent))
                } else {
                    Level::Fixed(len)
                };
                neurons.insert(key, level);
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
                    Role::Neurons => {
                        ("neurons of the layer", vec![vec![neuron(false).unwrap_or(Level::Fixed(length))]])
                    }
                    Role::SharedNeurons => {
                        ("neurons of the layer", vec![vec![neuron(true).unwrap_or(Level::Fixed(length))]])
                    }
                    Role::NeuronsTwice => {
                        let level = neuron(false).unwrap_or(Level::Fixed(length / 2));
                        ("2 · neurons of the layer", vec![vec![level.clone()], vec![level]])
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
                    Role::Experts => (
                        "experts of the layer",
                        vec![vec![expert_group.map_or(Level::Fixed(experts.len()), Level::Group)]],
                    ),
                    Role::One => ("1", vec![vec![Level::Fixed(1)]]),
                    Role::Free => ("", vec![vec![Level::Fixed(length)]]),
                };
                axes.push(known.axis(axis, what, runs, &self.groups)?);
            }
            let slots = known.expert.and_then(|expert| {
                let here = format!(".experts.{expert}.");
                let name_in = |&slot: &usize| known.info.name.replacen(&here, &format!(".experts.{slot}."), 1);
                Some((expert_group?, expert, experts.iter().map(name_in).collect()))
            });
            self.carry(known.info, axes, slots);
        }
        Ok(())
    }
}

/// A tensor with a row in the table.
struct Known<'a> {
    info: &'a TensorInfo,
    roles: &'static [Role],
    expert: Option<usize>,
}

impl Known<'_> {
    /// The runs of an axis, checked to fill it.
    fn axis(
        &self,
        axis: usize,
        what: &str,
        runs: Vec<Vec<Level>>,
        groups: &[Group],
    ) -> Result<Vec<Segment>, AlignError> {
        let mut segments = Vec::new();
        let mut start = 0;
        for levels in runs {
            let len: usize = levels.iter().map(|level| extent(groups, level)).product();
            segments.push(Segment { start, levels });
            start += len;
        }
        if start != self.info.shape[axis] {
            return Err(shape_error(self.info, format!("{start} ({what}) on axis {axis}")));
        }
        Ok(segments)
    }
}

fn extent(groups: &[Group], level: &Level) -> usize {
    match level {
        Level::Fixed(len) => *len,
        Level::Group(id) => groups[id.0].len,
        Level::PerBlock(ids) => ids.first().map_or(1, |id| groups[id.0].len),
    }
}

fn shape_error(info: &TensorInfo, expected: String) -> AlignError {
    AlignError::Shape { tensor: info.name.clone(), expected, found: info.shape.clone() }
}

/// Experts must be numbered without a gap and have the same tensors of the same shapes and types, or they could not
/// change places.
fn check_experts(tensors: &[Known<'_>], experts: &BTreeSet<usize>) -> Result<(), AlignError> {
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

/// Numbers of the configuration that structure follows from.
struct Sizes {
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

impl Sizes {
    fn of(config: &Config, kinds: Kinds) -> Result<Sizes, AlignError> {
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
            // Slopes that differ by head tell heads apart; layers that use another layer's keys bind the two.
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
