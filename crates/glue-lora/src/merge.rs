//! Merging of LoRA adapters in Core Space, module by module, without the matrices that they
//! change: neither the base nor any difference of its size is read or made.
//!
//! An operator merges task vectors, the changes of the adapters: with a base of zeros where it needs a base, and
//! without one where it does not. An adapter that does not change a tensor has a task vector of zeros there.
//!
//! | of an adapter | happens to it |
//! |---|---|
//! | rank, `rank_pattern`, `lora_alpha`, `alpha_pattern`, `use_rslora` | they may differ; the scale is part of the change |
//! | modules | all that any adapter has; those of each expert of `target_parameters` by themselves |
//! | whole tensors: `modules_to_save`, biases | refused: without the base nobody knows what they change |
//! | DoRA | refused: its change depends on the weights of the base |
//!
//! A core has the rows and columns of its tensor as the model stores it, except that those of experts are outputs and
//! inputs. The merged adapter has α = r in each module.

mod report;
mod run;

pub use report::{LoraMerge, MergedModule};
pub use run::run;

use crate::error::LoraError;
use crate::plan::REPORTED;
use glue_merge::{BaseRule, Operator, ParamError, Params, TensorSpec};
use glue_tensor::adapter::{Adapter, LowRank, ModuleKind};
use glue_tensor::names::Position;
use glue_tensor::{Dtype, Names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// How to merge.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MergeOptions {
    /// Maximum rank of a module's factors, 1 or more. Default: `None`, the rank of the merged change.
    pub rank: Option<usize>,
    /// Type of the factors. Default: `None`, that of all factors of all adapters if it is the same, else `F32`.
    pub dtype: Option<Dtype>,
    /// Seed of random operators. Default: 0.
    pub seed: u64,
    /// What was asked for, in words of the user; recorded in `glue.json`. Default: empty.
    pub recipe: String,
}

/// A tensor for which the parameters of the operator are asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ModuleSite<'a> {
    /// Name of the tensor in the model.
    pub tensor: &'a str,
    /// Position among the layers that any adapter changes: 0 before the layers and in the first layer, 1 in the last
    /// layer and after the layers.
    pub t: f64,
}

/// A tensor that at least one adapter changes.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PlannedModule {
    /// Name of the tensor in the model.
    pub tensor: String,
    /// Linear layer, embedding or experts.
    pub kind: ModuleKind,
    /// Rows of a matrix, as the model stores it; for experts, outputs.
    pub rows: usize,
    /// Columns of it.
    pub columns: usize,
    /// Whether rows are inputs.
    pub transposed: bool,
    /// Rank in each adapter; 0 where it does not change the tensor.
    pub ranks: Vec<usize>,
    /// Its layer, and how many there are; `None` outside of the layers.
    pub layer: Option<(usize, usize)>,
    /// Parameters of the operator.
    pub params: Params,
}

impl PlannedModule {
    /// Name of the module; for experts, of the parameter.
    pub fn module(&self) -> &str {
        match self.kind {
            ModuleKind::Experts(_) => &self.tensor,
            ModuleKind::Linear | ModuleKind::Embedding => self.tensor.strip_suffix(".weight").unwrap_or(&self.tensor),
        }
    }

    /// Maximum rows and columns of a core: the sum of all ranks, or the side of the matrix where that is less.
    pub fn max_core(&self) -> [usize; 2] {
        let sum: usize = self.ranks.iter().sum();
        [sum.min(self.rows), sum.min(self.columns)]
    }
}

/// Everything a merge of adapters does, decided.
#[derive(Debug)]
#[non_exhaustive]
pub struct MergePlan<'a> {
    /// The adapters, in the order of their parameters.
    pub adapters: &'a [Adapter],
    /// What merges them.
    pub operator: Operator,
    /// How.
    pub options: MergeOptions,
    /// Type of the factors.
    pub dtype: Dtype,
    /// Tensors that are changed, by name.
    pub modules: Vec<PlannedModule>,
    /// `fan_in_fan_out` of all adapters.
    pub fan_in_fan_out: bool,
    /// Notes for the user, none of which needs an action.
    pub notes: Vec<String>,
}

/// Copies of the stacked factors that are held, in `f64`, while a module is merged: the stack, what is decomposed, both
/// singular matrices, and the work of the decomposition.
const COPIES: u64 = 6;

impl MergePlan<'_> {
    /// About how many bytes of memory `threads` threads take.
    pub fn memory(&self, threads: usize) -> u64 {
        let bytes = |module: &PlannedModule| {
            let sum: u64 = module.ranks.iter().map(|rank| *rank as u64).sum();
            let cores = (module.ranks.len() as u64 + COPIES) * sum * sum;
            8 * (COPIES * sum * (module.rows + module.columns) as u64 + cores)
        };
        let mut sizes: Vec<u64> = self.modules.iter().map(bytes).collect();
        sizes.sort_unstable_by(|a, b| b.cmp(a));
        sizes.iter().take(threads.max(1)).sum()
    }

    /// Maximum rank of a module's factors.
    pub fn max_rank(&self, module: &PlannedModule) -> usize {
        let [rows, columns] = module.max_core();
        rows.min(columns).min(self.options.rank.unwrap_or(usize::MAX))
    }

    /// Maximum bytes of all factors.
    pub fn max_bytes(&self) -> u64 {
        let elements = |module: &PlannedModule| {
            (module.kind.matrices() * self.max_rank(module) * (module.rows + module.columns)) as u64
        };
        self.modules.iter().map(elements).sum::<u64>() * self.dtype.size() as u64
    }

    /// The description of a core of `module` that the operator plans with.
    fn spec<'s>(&self, name: &'s str, shape: &'s [usize], module: &PlannedModule) -> TensorSpec<'s> {
        spec(&self.operator, self.options.seed, name, shape, module)
    }
}

/// Whether the operator gets a base, which is zero.
fn has_base(operator: &Operator) -> bool {
    operator.def().base == BaseRule::Required
}

fn spec<'s>(
    operator: &Operator,
    seed: u64,
    name: &'s str,
    shape: &'s [usize],
    module: &PlannedModule,
) -> TensorSpec<'s> {
    TensorSpec::new(name, shape)
        .with_operands(has_base(operator), module.ranks.len())
        .with_layer(module.layer)
        .with_seed(seed)
}

/// Plans the merge of `adapters` by `operator`, whose parameters at each tensor `params` returns. Reads headers only.
///
/// # Errors
/// [`LoraError::Option`]; [`LoraError::StatisticNeeded`]; [`LoraError::WholeTensor`] and [`LoraError::Dora`] for what
/// has no core; [`LoraError::AdaptersDiffer`] for adapters that are not for the same model; [`LoraError::Params`] and
/// [`LoraError::Merge`] for what the operator refuses. Of several, the first, as
/// [`LoraError::Several`].
pub fn plan<'a>(
    adapters: &'a [Adapter],
    operator: Operator,
    options: &MergeOptions,
    params: &dyn Fn(ModuleSite<'_>) -> Result<Params, ParamError>,
) -> Result<MergePlan<'a>, LoraError> {
    options.check()?;
    operator
        .check_operands(adapters.len(), has_base(&operator))
        .map_err(|error| LoraError::Operands(Box::new(error)))?;
    if let Some(statistic) = operator.statistic() {
        return Err(LoraError::StatisticNeeded { operator: operator.def().name, statistic: statistic.name });
    }
    let mut errors = Vec::new();
    let mut refuse = |error: LoraError| errors.push(error);
    for (i, adapter) in adapters.iter().enumerate() {
        let known = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        if adapters[..i].iter().any(|other| known(other.path()) == known(adapter.path())) {
            refuse(LoraError::AdapterTwice { path: adapter.path().to_path_buf() });
        }
        for (tensor, change) in adapter.changes() {
            let path = || adapter.path().to_path_buf();
            if change.full.is_some() {
                refuse(LoraError::WholeTensor { adapter: path(), tensor: tensor.clone() });
            }
            if change.low_rank.as_ref().is_some_and(|low_rank| low_rank.magnitude.is_some()) {
                refuse(LoraError::Dora { adapter: path(), tensor: tensor.clone() });
            }
        }
    }
    let fan_in_fan_out = adapters.first().is_some_and(|adapter| adapter.config().fan_in_fan_out);
    if let Some(other) = adapters.iter().find(|adapter| adapter.config().fan_in_fan_out != fan_in_fan_out) {
        refuse(LoraError::AdaptersDiffer {
            what: "`fan_in_fan_out`".into(),
            first: adapters[0].path().to_path_buf(),
            found_first: fan_in_fan_out.to_string(),
            second: other.path().to_path_buf(),
            found_second: (!fan_in_fan_out).to_string(),
        });
    }
    let changed = |adapter: &'a Adapter| {
        let low_rank = adapter.changes().iter().filter_map(|(name, change)| Some((name, change.low_rank.as_ref()?)));
        low_rank.map(move |(name, low_rank)| (name.as_str(), Shape::of(adapter, name, low_rank)))
    };
    let mut shapes: BTreeMap<&str, (usize, Shape)> = BTreeMap::new();
    for (i, adapter) in adapters.iter().enumerate() {
        for (name, shape) in changed(adapter) {
            let (first, expected) = *shapes.entry(name).or_insert((i, shape));
            if expected != shape {
                refuse(LoraError::AdaptersDiffer {
                    what: format!("the change of `{name}`"),
                    first: adapters[first].path().to_path_buf(),
                    found_first: expected.to_string(),
                    second: adapter.path().to_path_buf(),
                    found_second: shape.to_string(),
                });
            }
        }
    }
    let names = Names::infer(shapes.keys().copied());
    let (mut modules, mut refused) = (Vec::with_capacity(shapes.len()), BTreeSet::new());
    for (name, (_, shape)) in &shapes {
        let parsed = names.parse(name);
        let stack = names.stacks().iter().find(|stack| stack.prefix == parsed.prefix);
        let layers = stack.and_then(|stack| stack.layers.last()).map_or(0, |last| last + 1);
        let layer = parsed.layer.map(|layer| (layer, layers));
        let t = match (layer, parsed.position) {
            (Some((layer, layers)), _) if layers > 1 => layer as f64 / (layers - 1) as f64,
            (None, Position::Before) => 0.0,
            _ => 1.0,
        };
        let params = match params(ModuleSite { tensor: name, t }) {
            Ok(params) => params,
            Err(error) => {
                let adapter = match &error {
                    ParamError::Missing { input: Some(i), .. } => adapters.get(*i).map(|a| a.path().to_path_buf()),
                    _ => None,
                };
                // What is missing at one tensor is missing at most others.
                if refused.insert(error.to_string()) {
                    refuse(LoraError::Params { tensor: name.to_string(), adapter, error: Box::new(error) });
                }
                continue;
            }
        };
        let rank = |adapter: &Adapter| {
            adapter.change(name).and_then(|change| Some(change.low_rank.as_ref()?.rank)).unwrap_or(0)
        };
        let (rows, columns) = shape.stored();
        let module = PlannedModule {
            tensor: name.to_string(),
            kind: shape.kind,
            rows,
            columns,
            transposed: shape.transposed,
            ranks: adapters.iter().map(rank).collect(),
            layer,
            params,
        };
        // What the operator refuses at all it refuses for the largest core that there can be.
        if let Err(error) =
            operator.plan(&spec(&operator, options.seed, name, &module.max_core(), &module), &module.params)
        {
            refuse(LoraError::Merge { tensor: name.to_string(), error: Box::new(error) });
        }
        modules.push(module);
    }
    errors.truncate(REPORTED);
    if let Some(error) = LoraError::all(errors) {
        return Err(error);
    }
    let dtype = options.dtype.unwrap_or_else(|| common_dtype(adapters));
    let notes = notes(adapters);
    Ok(MergePlan { adapters, operator, options: options.clone(), dtype, modules, fan_in_fan_out, notes })
}

impl MergeOptions {
    fn check(&self) -> Result<(), LoraError> {
        let option = |option, expected, found: String| Err(LoraError::Option { option, expected, found });
        match (self.rank, self.dtype) {
            (Some(0), _) => option("rank", "at least 1", "0".into()),
            (_, Some(dtype)) if !dtype.is_float() => {
                option("the type of the factors", "a floating-point type", dtype.to_string())
            }
            _ => Ok(()),
        }
    }
}

/// What the changes of one tensor must agree in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    kind: ModuleKind,
    outputs: usize,
    inputs: usize,
    transposed: bool,
}

impl Shape {
    /// Of the change `low_rank` of the tensor `name`.
    fn of(adapter: &Adapter, name: &str, low_rank: &LowRank) -> Shape {
        let parameters = &adapter.config().target_parameters;
        let ends = |parameter: &String| {
            name.strip_suffix(parameter).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        let kind = if low_rank.a.ends_with(".lora_embedding_A") {
            ModuleKind::Embedding
        } else if parameters.iter().any(ends) {
            ModuleKind::Experts(low_rank.experts)
        } else {
            ModuleKind::Linear
        };
        // How experts are stored is known from the model alone.
        let transposed = low_rank.transposed && !matches!(kind, ModuleKind::Experts(_));
        let (outputs, inputs) = (adapter.tensor(&low_rank.b).shape()[0], adapter.tensor(&low_rank.a).shape()[1]);
        Shape { kind, outputs, inputs, transposed }
    }

    /// Rows and columns of a matrix.
    fn stored(&self) -> (usize, usize) {
        if self.transposed { (self.inputs, self.outputs) } else { (self.outputs, self.inputs) }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = match self.kind {
            ModuleKind::Linear => "that of a linear layer".to_string(),
            ModuleKind::Embedding => "that of an embedding".to_string(),
            ModuleKind::Experts(experts) => format!("that of a parameter with {experts} matrices"),
        };
        write!(f, "{what} with {} outputs and {} inputs", self.outputs, self.inputs)
    }
}

/// The type of all factors; `F32` where they have several.
fn common_dtype(adapters: &[Adapter]) -> Dtype {
    let mut dtypes = adapters.iter().flat_map(|adapter| adapter.checkpoint().tensors()).map(|info| info.dtype);
    let first = dtypes.next().unwrap_or(Dtype::F32);
    if dtypes.all(|dtype| dtype == first) { first } else { Dtype::F32 }
}

/// Adapters that say that they are for different models.
fn notes(adapters: &[Adapter]) -> Vec<String> {
    let base = |adapter: &'_ Adapter| adapter.config().base_model.clone();
    let Some(first) = adapters.first() else { return Vec::new() };
    let differs = |adapter: &&Adapter| base(adapter).is_some() && base(first).is_some() && base(adapter) != base(first);
    let note = |adapter: &Adapter| {
        format!(
            "`{}` was made for `{}`, but `{}` for `{}`; adapters of different models have nothing to do with each other",
            first.path().display(),
            base(first).unwrap_or_default(),
            adapter.path().display(),
            base(adapter).unwrap_or_default()
        )
    };
    adapters.iter().skip(1).filter(differs).map(note).collect()
}
