//! From a recipe to a plan: headers and configurations are read, everything that can be refused is refused, and no
//! weight is touched.

mod chat_template;
mod models;
mod opened;
mod output;
mod tensors;

pub use opened::OpenModels;

use crate::card::license_note;
use crate::error::RecipeError;
use crate::experts::{ExpertLayer, ExpertMatches};
use crate::recipe::{OnNonfinite, Recipe};
use glue_merge::{MergeError, Operator, Params};
use glue_tensor::adapter::Change;
use glue_tensor::hub::{HubFacts, LegalFiles, locate_below};
use glue_tensor::names::is_fused_experts;
use glue_tensor::{Adapter, Checkpoint, Config, Dtype, FileChanged, Links, ModelDir, TensorInfo};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a plan depends on, apart from the recipe.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct PlanOptions {
    /// Where relative paths start; empty is the working directory.
    pub directory: PathBuf,
    /// Outputs of earlier stages, by name.
    pub stages: BTreeMap<String, PathBuf>,
    /// Seed of random operators, instead of the recipe's.
    pub seed: Option<u64>,
    /// Type of the output, instead of the recipe's.
    pub dtype: Option<Dtype>,
    /// Where links in a model directory may lead to that the output gets a copy of. Default: not out of it.
    pub links: Links,
    /// Models that are open already; new ones join them. None by default: a plan opens its own.
    pub opened: OpenModels,
    /// Whether every tensor is merged as one without statistics, whatever the recipe gives, even if the operator needs
    /// them: for merges of what has none, and for checks before they are measured. Default: false.
    pub without_statistics: bool,
}

impl PlanOptions {
    /// Where the model written as `name` is: a stage of that name, or else a path, or a name on the Hugging Face hub
    /// whose files are in its cache.
    pub fn resolve(&self, name: &str) -> PathBuf {
        self.stages.get(name).cloned().unwrap_or_else(|| locate_below(&self.directory, name))
    }
}

/// A model of a plan.
#[derive(Debug)]
pub struct PlannedModel {
    /// As written in the recipe where it comes first.
    pub name: String,
    /// The opened directory.
    pub dir: Arc<ModelDir>,
    /// The adapter that is applied while the model is read.
    pub adapter: Option<PlannedAdapter>,
    /// Its statistics, where the recipe gives some.
    pub statistics: Option<PlannedStatistics>,
    /// Its identifier on a hub and its licence, as far as its directory tells.
    pub hub: HubFacts,
    /// The head that the adapter gives to a model whose head is its embedding.
    own_head: Option<String>,
}

impl PlannedModel {
    /// The tensor `name`, also where the adapter adds it.
    fn info(&self, name: &str) -> Option<&TensorInfo> {
        let adapter = self.adapter.as_ref().filter(|_| self.own_head.as_deref() == Some(name));
        let added = adapter.and_then(|adapter| {
            let full = adapter.dir.change(name)?.full.as_ref()?;
            adapter.dir.checkpoint().info(full)
        });
        self.dir.checkpoint().info(name).or(added)
    }
}

/// An adapter of a plan.
#[derive(Debug)]
pub struct PlannedAdapter {
    /// The model without the adapter, as written.
    pub model: String,
    /// The adapter, as written.
    pub name: String,
    /// The opened directory.
    pub dir: Arc<Adapter>,
}

/// The statistics of a model: numbers that were measured on data. The one called `S` of tensor `T` is the tensor `T.S`.
#[derive(Debug, Clone)]
pub struct PlannedStatistics {
    /// As written in the recipe.
    pub name: String,
    /// The opened files.
    pub checkpoint: Arc<Checkpoint>,
}

/// A tensor of a model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TensorRef {
    /// Index into [`MergePlan::models`].
    pub model: usize,
    /// Its name there.
    pub name: String,
}

/// A tensor of the output.
#[derive(Debug, Clone)]
pub struct TensorPlan {
    /// Its name.
    pub name: String,
    /// Its shape; that of every operand too, but for rows of embeddings that are cut.
    pub shape: Vec<usize>,
    /// Its element type.
    pub dtype: Dtype,
    /// Its layer in the output, and how many layers there are; `None` outside of the layers.
    pub layer: Option<(usize, usize)>,
    /// How it is made.
    pub action: Action,
}

/// How a tensor of the output is made.
#[derive(Debug, Clone)]
pub enum Action {
    /// By the operator.
    Merge {
        /// Its parameters here.
        params: Params,
        /// The base.
        base: Option<TensorRef>,
        /// The inputs, the base not among them.
        inputs: Vec<TensorRef>,
        /// For each input, what its task vector is taken from where that is not the base.
        own_bases: Vec<Option<TensorRef>>,
        /// The statistics that the operator uses, in the statistics of their models; empty if this tensor has none.
        statistics: Vec<TensorRef>,
    },
    /// Copied unchanged, because its elements cannot be merged.
    Copy(TensorRef),
}

/// Everything a merge does, decided.
#[derive(Debug)]
#[non_exhaustive]
pub struct MergePlan {
    /// The recipe.
    pub recipe: Recipe,
    /// What merges a tensor.
    pub operator: Operator,
    /// The models, each once, in the order of the recipe: the base first.
    pub models: Vec<PlannedModel>,
    /// The tensors of the output: those before the layers, each layer, those after; by name within.
    pub tensors: Vec<TensorPlan>,
    /// The model that configuration and generation defaults come from.
    pub config_from: usize,
    /// `config.json` of the output.
    pub config: Config,
    /// The model that tokenizer files are copied from.
    pub tokenizer_from: usize,
    /// Where links may lead to the files that are copied.
    pub links: Links,
    /// Texts of licences and notices that all models have, by name and content: the output gets them.
    pub legal_files: Vec<(String, Vec<u8>)>,
    /// The chat template to put into the tokenizer files; `None` leaves them as they are.
    pub chat_template: Option<String>,
    /// Type of all merged tensors; `None` leaves each that of its base or first input.
    pub dtype: Option<Dtype>,
    /// Seed of random operators.
    pub seed: u64,
    /// What to do with NaN and infinities in an input.
    pub on_nonfinite: OnNonfinite,
    /// Layers whose experts are matched before they are merged; none unless the recipe asks for it.
    pub experts: Vec<ExpertLayer>,
    /// Matches that are known, of this and other plans.
    pub(crate) matches: ExpertMatches,
    /// Tensors left out of the output, by name, and why.
    pub dropped: Vec<(String, String)>,
    /// Notes for the user, none of which needs an action.
    pub notes: Vec<String>,
}

/// Plans the merge of `recipe`.
///
/// Opens every model named that is not [open](PlanOptions::opened) yet, which reads headers, configurations and, to
/// compare vocabularies, tokenizer files.
///
/// # Errors
/// [`RecipeError`]: a model that cannot be opened, models that do not fit together, or parameters that the operator
/// refuses for some tensor.
pub fn plan(recipe: &Recipe, options: &PlanOptions) -> Result<MergePlan, RecipeError> {
    let models = models::Models::open(recipe, options)?;
    let assembled = tensors::assemble(recipe, options, &models)?;
    let mut plan = output::finish(recipe, options, models, assembled)?;
    plan.notes.extend(license_note(&plan));
    let directories = plan.models.iter().map(|model| (model.name.as_str(), model.dir.path()));
    let LegalFiles { common, notes, .. } = LegalFiles::of(directories, plan.links)?;
    plan.legal_files = common;
    plan.notes.extend(notes);
    Ok(plan)
}

impl MergePlan {
    /// The description of a tensor that the operator plans with.
    pub fn spec<'a>(&self, tensor: &'a TensorPlan) -> glue_merge::TensorSpec<'a> {
        spec(tensor, &self.operator, self.seed)
    }

    /// The operator's plan for a tensor, or for each [unit](Operator::unit) of it; `None` for one that is copied.
    ///
    /// # Errors
    /// None that planning would not have reported already.
    pub fn operation(&self, tensor: &TensorPlan) -> Result<Option<glue_merge::Plan>, MergeError> {
        match &tensor.action {
            Action::Merge { params, .. } => {
                self.operator.plan(&self.operator.unit(&self.spec(tensor)), params).map(Some)
            }
            Action::Copy(_) => Ok(None),
        }
    }

    /// The model that `tensor` is of, and what its header says.
    ///
    /// # Panics
    /// On a reference that is not from this plan.
    pub fn info(&self, tensor: &TensorRef) -> &TensorInfo {
        self.models[tensor.model].info(&tensor.name).expect("a plan refers to tensors that are there")
    }

    /// What an adapter does to `tensor` before it is merged; `None` when it is merged as the checkpoint has it.
    ///
    /// # Panics
    /// On a reference that is not from this plan.
    pub fn change(&self, tensor: &TensorRef) -> Option<(&Adapter, &Change)> {
        let adapter = &*self.models[tensor.model].adapter.as_ref()?.dir;
        Some((adapter, adapter.change(&tensor.name)?))
    }

    /// Bytes of files that `tensor` is read from: its own, unless an adapter replaces it, and those of the adapter.
    fn operand_bytes(&self, tensor: &TensorRef) -> u64 {
        let own = self.info(tensor).n_bytes() as u64;
        match self.change(tensor) {
            Some((adapter, change)) => adapter.n_bytes(change) + if change.full.is_some() { 0 } else { own },
            None => own,
        }
    }

    /// A [statistic](TensorPlan::statistics), in the statistics of its model.
    ///
    /// # Panics
    /// On a reference that is not from this plan, or not to a statistic.
    pub fn statistic(&self, statistic: &TensorRef) -> glue_tensor::TensorView<'_> {
        let statistics = self.models[statistic.model].statistics.as_ref();
        let view = statistics.and_then(|statistics| statistics.checkpoint.get(&statistic.name));
        view.expect("a plan refers to statistics that are there")
    }

    /// Bytes of every operand and statistic of a tensor, with what adapters add.
    pub fn read_bytes(&self, tensor: &TensorPlan) -> u64 {
        let operands = tensor.operands().map(|operand| self.operand_bytes(operand));
        let statistics = tensor.statistics().iter().map(|statistic| self.statistic(statistic).info().n_bytes() as u64);
        operands.chain(statistics).sum()
    }

    /// The tensors of the output for a checkpoint writer, in the order of [`MergePlan::tensors`].
    pub fn layout_specs(&self) -> Vec<glue_tensor::TensorSpec> {
        let spec = |tensor: &TensorPlan| glue_tensor::TensorSpec {
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape: tensor.shape.clone(),
        };
        self.tensors.iter().map(spec).collect()
    }

    /// The plan of those tensors that `keep` chooses, as they are merged in this plan. Where experts are matched, it
    /// has to choose all tensors of a layer or none; the layers it does not choose are not matched.
    #[must_use]
    pub fn restricted(mut self, keep: impl Fn(&TensorPlan) -> bool) -> MergePlan {
        let kept: Vec<bool> = self.tensors.iter().map(keep).collect();
        let number = |next: &mut usize, kept: &bool| {
            let number = *next;
            *next += usize::from(*kept);
            Some(kept.then_some(number))
        };
        let numbers: Vec<Option<usize>> = kept.iter().scan(0, number).collect();
        self.experts = self.experts.iter().filter_map(|layer| layer.renumbered(&numbers)).collect();
        let mut kept = kept.iter();
        self.tensors.retain(|_| kept.next().is_some_and(|kept| *kept));
        self
    }

    /// Tensors that are copied because they do not hold floating-point numbers.
    pub fn copied(&self) -> impl Iterator<Item = (&TensorPlan, &TensorRef)> {
        self.tensors.iter().filter_map(|tensor| match &tensor.action {
            Action::Copy(from) => Some((tensor, from)),
            Action::Merge { .. } => None,
        })
    }

    /// Checks that every file of every model, adapter and statistic is still the one that was opened, and that nobody
    /// has written to it since: a merge and the hashes of its inputs in between are then of the same content.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.models.iter().try_for_each(|model| {
            model.dir.check_unchanged()?;
            model.adapter.as_ref().map_or(Ok(()), |adapter| adapter.dir.check_unchanged())?;
            model.statistics.as_ref().map_or(Ok(()), |statistics| statistics.checkpoint.check_unchanged())
        })
    }

    /// The directories of all models.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.models.iter().map(|model| model.dir.path())
    }
}

impl TensorPlan {
    /// The base, when there is one.
    pub fn base(&self) -> Option<&TensorRef> {
        match &self.action {
            Action::Merge { base, .. } => base.as_ref(),
            Action::Copy(_) => None,
        }
    }

    /// The inputs, the base not among them; what is copied is the only one.
    pub fn inputs(&self) -> &[TensorRef] {
        match &self.action {
            Action::Merge { inputs, .. } => inputs,
            Action::Copy(from) => std::slice::from_ref(from),
        }
    }

    /// The statistics that the operator gets, in the order of the operands they are of.
    pub fn statistics(&self) -> &[TensorRef] {
        match &self.action {
            Action::Merge { statistics, .. } => statistics,
            Action::Copy(_) => &[],
        }
    }

    /// For each input, what its task vector is taken from where that is not the base; may be empty where none has such.
    pub fn own_bases(&self) -> &[Option<TensorRef>] {
        match &self.action {
            Action::Merge { own_bases, .. } => own_bases,
            Action::Copy(_) => &[],
        }
    }

    /// Every operand, the base first and bases of single inputs last, without statistics.
    pub fn operands(&self) -> impl Iterator<Item = &TensorRef> {
        self.base().into_iter().chain(self.inputs()).chain(self.own_bases().iter().flatten())
    }

    /// Number of elements.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its data in the output.
    pub fn n_bytes(&self) -> u64 {
        self.n_elements() as u64 * self.dtype.size() as u64
    }
}

fn spec<'a>(tensor: &'a TensorPlan, operator: &Operator, seed: u64) -> glue_merge::TensorSpec<'a> {
    glue_merge::TensorSpec::new(&tensor.name, &tensor.shape)
        .with_stacked(is_fused_experts(&tensor.name, &tensor.shape))
        .with_operands(tensor.base().is_some(), tensor.inputs().len())
        .with_layer(tensor.layer)
        .with_seed(seed)
        .with_statistic(operator.statistic().filter(|_| !tensor.statistics().is_empty()))
}
