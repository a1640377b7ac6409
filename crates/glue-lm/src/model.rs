//! The forward pass of a decoder: embedding, layers, final norm, head.
//!
//! One pass runs all pending tokens of a [`Tree`], packed into rows. The last layer runs only for rows that are wanted,
//! apart from its keys and values.

mod attention_block;
mod experts;
mod feed_forward;
mod gate;
mod inventory;
mod latent;
mod layer;
mod load;
mod load_experts;
mod observer;
mod positions;
mod run;

use crate::architecture::{Architecture, split};
use crate::error::LmError;
use crate::norm::RmsNorm;
use crate::rope::RopeTables;
use crate::routing_log::RoutingLog;
use crate::tape::Tape;
#[cfg(feature = "mixtures")]
use crate::train::StreamBefore;
use crate::tree::{Branch, Pass, Tree};
use crate::weight::Weight;
use crate::weights::Weights;
use attention_block::Projection;
use candle_core::{CpuStorage, Device, Storage, Tensor};
use gate::Router;
use glue_mixture::{Gate, MixtureSpec};
use glue_tensor::{Config, FileChanged, ModelDir};
use layer::Layer;
pub(crate) use observer::Unobserved;
use rayon::prelude::*;
use run::Request;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

pub use gate::GateOutput;
#[cfg(feature = "mixtures")]
pub(crate) use gate::{StoredGate, largest, load_gate, stored_scores, widened};
pub use inventory::{LinearInput, Parameter, RoutedInput};
pub use observer::Observer;

/// A decoder, ready to run. Shared by reference: it does not change.
#[derive(Debug)]
pub struct Model {
    architecture: Architecture,
    embedding: Weight,
    embedding_name: Arc<str>,
    /// The layers below those of `upper`.
    layers: Vec<DecoderLayer>,
    /// Experts that are all the layers from one on.
    upper: Option<UpperExperts>,
    /// What is mixed, in the native format.
    mixture: Option<MixtureSpec>,
    routing_log: Option<Arc<RoutingLog>>,
    norm: RmsNorm,
    /// The embedding, where it has the same name.
    head: Projection,
    ropes: Vec<RopeTables>,
    /// Bytes of all tensors in use, as stored.
    pub(crate) weight_bytes: usize,
    /// Names of tensors that are not part of the language model.
    left_aside: Vec<String>,
    /// Where it was opened from.
    dir: Option<ModelDir>,
}

/// Rows of the embedding that a task widens, at least.
const EMBEDDED: usize = 64;

/// A layer, or several of which each token or each sample uses a few.
#[derive(Debug)]
enum DecoderLayer {
    Plain(Box<Layer>),
    Mixed { router: Box<Router>, experts: Vec<Layer> },
}

impl DecoderLayer {
    /// Places in a tree for keys and values.
    fn slots(&self) -> usize {
        match self {
            DecoderLayer::Plain(_) => 1,
            DecoderLayer::Mixed { experts, .. } => experts.len(),
        }
    }

    /// The layer, if there is one.
    fn single(&self) -> Option<&Layer> {
        match self {
            DecoderLayer::Plain(layer) => Some(layer),
            DecoderLayer::Mixed { .. } => None,
        }
    }
}

/// Experts of several layers with one gate before all of them.
#[derive(Debug)]
struct UpperExperts {
    router: Router,
    /// For each expert, its layers.
    experts: Vec<Vec<Layer>>,
}

/// Which rows of a pass.
#[derive(Debug, Clone, Copy)]
pub enum Rows<'a> {
    /// None.
    None,
    /// All, in the order of push and extend.
    All,
    /// The last pending token of each branch, in the order of push and extend.
    Last,
    /// These, in this order: a branch, and an index counted in the pending tokens of that branch.
    Some(&'a [(Branch, usize)]),
}

/// What a pass returns.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// Rows whose logits are wanted.
    pub logits: Rows<'a>,
    /// Hidden states of all rows: 0 is the embedding (scaled where the family scales it), i the residual stream after
    /// layer i counted from 1, and the number of layers plus 1 is the state after the final norm.
    pub hidden: &'a [usize],
}

impl Want<'_> {
    /// Logits of the last token of each branch, and nothing else.
    pub const LAST: Want<'static> = Want { logits: Rows::Last, hidden: &[] };
    /// Logits of all rows, and nothing else.
    pub const ALL: Want<'static> = Want { logits: Rows::All, hidden: &[] };
    /// Nothing: the pass only fills the cache.
    pub const NOTHING: Want<'static> = Want { logits: Rows::None, hidden: &[] };
}

/// What a pass returned.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Output {
    /// [rows wanted, vocabulary], `f32`.
    pub logits: Tensor,
    /// [pending rows, hidden size] for each index wanted, in the order in which they were named.
    pub hidden: Vec<Tensor>,
    /// The router logits of a mixture's gates in this pass, in the order of layers.
    pub routing: Vec<GateOutput>,
}

impl Model {
    /// Opens a Hugging Face model directory. Weights are mapped, not read.
    ///
    /// # Errors
    /// [`LmError::ModelDir`], and those of [`Model::new`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Model, LmError> {
        let dir = ModelDir::open(dir)?;
        let model = Model::new(dir.config(), Weights::from_checkpoint(dir.shared_checkpoint()))?;
        Ok(Model { dir: Some(dir), ..model })
    }

    /// Checks that the files that the model was opened from are still the same, and that nobody has written to them
    /// since: what it computed in between is then of one and the same model. A model in memory has none.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.dir.as_ref().map_or(Ok(()), ModelDir::check_unchanged)
    }

    /// Puts a model together from its configuration and tensors, such as a merge that was never written.
    ///
    /// # Errors
    /// Those of [`Architecture::from_config`]; [`LmError::MissingTensor`], [`LmError::Shape`],
    /// [`LmError::UnexpectedTensor`] when configuration and tensors disagree. Nothing is computed before all of that is
    /// checked.
    pub fn new(config: &Config, weights: Weights) -> Result<Model, LmError> {
        let (architecture, mixture) = split(config)?;
        load::model(architecture, mixture, &weights)
    }

    /// The same, counting in `log` what its gates decide from now on. `log` is made for [`Model::gates`].
    #[must_use]
    pub fn with_routing_log(self, log: Arc<RoutingLog>) -> Model {
        Model { routing_log: Some(log), ..self }
    }

    /// What is mixed, of a mixture in the native format.
    pub fn mixture(&self) -> Option<&MixtureSpec> {
        self.mixture.as_ref()
    }

    /// Whether experts are chosen once for each root of a [`Tree`], by its prompt: the tokens pending in the root at
    /// its first pass. Then the prompt stands in the root, whole, and what follows it in branches.
    pub fn routes_samples(&self) -> bool {
        self.routers().any(|router| router.pool.is_some())
    }

    /// The gates, in the order of their numbers.
    pub(crate) fn routers(&self) -> impl Iterator<Item = &Router> {
        self.layers
            .iter()
            .filter_map(|layer| match layer {
                DecoderLayer::Plain(layer) => layer.mlp.router(),
                DecoderLayer::Mixed { router, .. } => Some(&**router),
            })
            .chain(self.upper.as_ref().map(|upper| &upper.router))
    }

    /// Names of the tensors of the checkpoint that belong to other parts of a multimodal model, or to the prediction of
    /// further tokens: nothing here uses them.
    pub fn left_aside(&self) -> &[String] {
        &self.left_aside
    }

    /// What the model computes, apart from its weights.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Rows of the embedding, and logits of each token.
    pub fn vocab_size(&self) -> usize {
        self.architecture.vocab_size
    }

    /// Number of layers, each counted once however many experts it has.
    pub fn num_layers(&self) -> usize {
        self.architecture.num_layers()
    }

    /// Width of the residual stream.
    pub fn hidden_size(&self) -> usize {
        self.architecture.hidden_size
    }

    /// Longest text the model is made for, in tokens. Longer ones run all the same.
    pub fn max_positions(&self) -> usize {
        self.architecture.max_positions
    }

    /// Whether sequences of these two lengths have the same rotary embeddings, so that a cache filled at one length
    /// gives at the other what a pass over the whole sequence gives. False only where the embedding depends on the
    /// length (`dynamic`, `longrope`) and the two lie on different sides of its limit, or, for `dynamic`, both beyond
    /// it.
    pub fn same_rotation(&self, length: usize, other: usize) -> bool {
        self.length_classes(length) == self.length_classes(other)
    }

    /// For each rotary embedding that depends on the length, which of its scalings this length has: equal for lengths
    /// at which all of them are the same, and 0 where none is scaled for its length.
    pub(crate) fn length_classes(&self, length: usize) -> Vec<usize> {
        let ropes = self.ropes.iter().map(RopeTables::rope);
        ropes.filter(|rope| rope.depends_on_length()).map(|rope| rope.length_class(length)).collect()
    }

    /// Runs all pending tokens of `tree` and keeps their keys and values in it.
    ///
    /// # Errors
    /// [`LmError::Token`], [`LmError::HiddenIndex`], [`LmError::NoSuchRow`], [`LmError::ForeignTree`]: before anything
    /// is computed, and the tokens stay pending.
    pub fn forward(&self, tree: &mut Tree, want: &Want<'_>) -> Result<Output, LmError> {
        self.forward_with(tree, want, None, true)
    }

    pub(crate) fn forward_with(
        &self,
        tree: &mut Tree,
        want: &Want<'_>,
        gates: Option<&[Gate<Tensor>]>,
        keep: bool,
    ) -> Result<Output, LmError> {
        let pass = tree.pass();
        let rows: Vec<usize> = match want.logits {
            Rows::None => Vec::new(),
            Rows::All => (0..pass.tokens.len()).collect(),
            Rows::Last => pass.segments.iter().map(|segment| segment.rows.end - 1).collect(),
            Rows::Some(rows) => {
                let row = |&(branch, index): &(Branch, usize)| {
                    tree.row_of(&pass, branch, index).ok_or_else(|| LmError::NoSuchRow {
                        branch: format!("{branch:?}"),
                        index,
                        pending: tree.pending_of(branch),
                    })
                };
                rows.iter().map(row).collect::<Result<_, _>>()?
            }
        };
        let mut output_rows = rows.clone();
        output_rows.sort_unstable();
        output_rows.dedup();
        let request = Request {
            output_rows: &output_rows,
            hidden: want.hidden,
            keep,
            gates,
            observing: false,
            tape: None,
            until: None,
        };
        let run::Reply { states, hidden, routing, .. } = self.run_observed(tree, &pass, request, &mut Unobserved)?;
        let states = if rows == output_rows {
            states
        } else {
            // Every row is among those wanted, so the search finds it.
            let places: Vec<u32> = rows.iter().map(|row| output_rows.partition_point(|w| w < row) as u32).collect();
            select(&states, &places)?
        };
        Ok(Output { logits: self.logits(&states)?, hidden, routing })
    }

    /// The [hidden states](Want::hidden) of all pending tokens of `tree`, as [`Model::forward`] gives them. Nothing is
    /// kept in `tree`, whose tokens stay pending, and no layer above the last state is computed.
    ///
    /// # Errors
    /// Those of [`Model::forward`].
    pub fn hidden_states(&self, tree: &Tree, hidden: &[usize]) -> Result<Vec<Tensor>, LmError> {
        Ok(self.run(&mut tree.clone(), &tree.pass(), &[], hidden, false)?.1)
    }

    /// Runs all pending tokens of `tree` as far as the gate number `gate`, from the residual stream before a layer if
    /// one is given. Returns what gates decided, and the last layer with the stream before it.
    #[cfg(feature = "mixtures")]
    pub(crate) fn run_until(
        &self,
        tree: &mut Tree,
        gates: &[Gate<Tensor>],
        gate: usize,
        start: Option<&StreamBefore>,
    ) -> Result<(Vec<GateOutput>, Option<StreamBefore>), LmError> {
        let pass = tree.pass();
        let all: Vec<usize> = (0..pass.tokens.len()).collect();
        let request = Request {
            output_rows: &all,
            hidden: &[],
            keep: false,
            gates: Some(gates),
            observing: false,
            tape: None,
            until: Some(run::Until { gate, start: start.map(|start| (start.layer, &start.states)) }),
        };
        let reply = self.run_observed(tree, &pass, request, &mut Unobserved)?;
        Ok((reply.routing, reply.before.map(|(layer, states)| StreamBefore { layer, states })))
    }

    /// Runs all pending tokens of `tree` to the last layer, and shows `observer` what they become there. Keys and
    /// values are kept in `tree`, as by [`Model::forward`].
    ///
    /// # Errors
    /// [`LmError::Token`], [`LmError::ForeignTree`]: before anything is computed, and the tokens stay pending.
    pub fn observe(&self, tree: &mut Tree, observer: &mut dyn Observer) -> Result<(), LmError> {
        let pass = tree.pass();
        let all: Vec<usize> = (0..pass.tokens.len()).collect();
        let request = Request {
            output_rows: &all,
            hidden: &[],
            keep: true,
            gates: None,
            observing: true,
            tape: None,
            until: None,
        };
        self.run_observed(tree, &pass, request, observer).map(drop)
    }

    /// The states after the final norm of all pending tokens of `tree`, of which nothing is kept, differentiable. The
    /// backward pass records the gradients of weights on `tape`.
    #[cfg(feature = "gradients")]
    pub(crate) fn run_recorded(
        &self,
        tree: &mut Tree,
        tape: &Tape,
        observer: &mut dyn Observer,
    ) -> Result<Tensor, LmError> {
        let pass = tree.pass();
        let all: Vec<usize> = (0..pass.tokens.len()).collect();
        let tape = Some(tape);
        let request =
            Request { output_rows: &all, hidden: &[], keep: false, gates: None, observing: true, tape, until: None };
        Ok(self.run_observed(tree, &pass, request, observer)?.states)
    }

    /// Runs `pass`, the pending tokens of `tree`. Returns the states after the final norm of the rows `output_rows`,
    /// which ascend, and the hidden states asked for. Without `keep` nothing is kept in the tree, which is of no
    /// further use then.
    pub(crate) fn run(
        &self,
        tree: &mut Tree,
        pass: &Pass,
        output_rows: &[usize],
        hidden: &[usize],
        keep: bool,
    ) -> Result<(Tensor, Vec<Tensor>), LmError> {
        let request = Request { output_rows, hidden, keep, gates: None, observing: false, tape: None, until: None };
        let reply = self.run_observed(tree, pass, request, &mut Unobserved)?;
        Ok((reply.states, reply.hidden))
    }

    /// Logits of states after the final norm.
    pub(crate) fn logits(&self, states: &Tensor) -> Result<Tensor, LmError> {
        self.logits_recorded(states, None)
    }

    /// The same; the backward pass records the gradient of the head on `tape`.
    pub(crate) fn logits_recorded(&self, states: &Tensor, tape: Option<&Tape>) -> Result<Tensor, LmError> {
        let mut logits = self.head.forward_recorded(states, tape)?;
        let scale = self.architecture.logit_scale;
        if scale != 1.0 {
            logits = (logits * f64::from(scale))?;
        }
        Ok(match self.architecture.final_softcap {
            Some(cap) => crate::ops::softcap(&logits, cap)?,
            None => logits,
        })
    }

    /// The name of the stored embedding.
    pub(crate) fn embedding_name(&self) -> &str {
        &self.embedding_name
    }

    /// The name of the stored head, which may be that of the embedding.
    pub(crate) fn head_name(&self) -> &str {
        &self.head.stored.name
    }

    fn is_tied(&self) -> bool {
        self.embedding_name == self.head.stored.name
    }

    /// Places in a tree for keys and values: the layers, those of each expert counted.
    pub(crate) fn slots(&self) -> usize {
        let of_upper = self.upper.iter().flat_map(|upper| &upper.experts).map(Vec::len);
        self.layers.iter().map(DecoderLayer::slots).chain(of_upper).sum()
    }

    fn check(&self, tree: &Tree, pass: &Pass, hidden: &[usize]) -> Result<(), LmError> {
        let vocab_size = self.vocab_size();
        let last = self.num_layers() + 1;
        if let Some(&token) = pass.tokens.iter().find(|&&token| token as usize >= vocab_size) {
            return Err(LmError::Token { token, vocab_size });
        }
        if let Some(&index) = hidden.iter().find(|&&index| index > last) {
            return Err(LmError::HiddenIndex { index, last });
        }
        match tree.layers_kept() {
            Some(found) if found != self.slots() => Err(LmError::ForeignTree { expected: self.slots(), found }),
            _ => Ok(()),
        }
    }

    /// Rows of the embedding, widened and scaled.
    fn embed(&self, tokens: &[u32]) -> Result<Tensor, LmError> {
        let width = self.hidden_size();
        let reader = self.embedding.reader();
        let mut rows = vec![0.0; tokens.len() * width];
        let scale = self.architecture.embedding_scale;
        let embed = |(&token, row): (&u32, &mut [f32])| {
            reader.copy(token as usize, row);
            if scale != 1.0 {
                row.iter_mut().for_each(|x| *x *= scale);
            }
        };
        tokens.par_iter().zip(rows.par_chunks_exact_mut(width)).with_min_len(EMBEDDED).for_each(embed);
        Ok(Tensor::from_vec(rows, (tokens.len(), width), &Device::Cpu)?)
    }
}

/// Rows of a matrix, in the order named.
fn select(x: &Tensor, rows: &[u32]) -> candle_core::Result<Tensor> {
    x.index_select(&Tensor::from_slice(rows, rows.len(), &Device::Cpu)?, 0)
}

/// The elements of `x`, without a copy, under the lock of its storage.
struct Floats<G> {
    guard: G,
    range: Range<usize>,
}

/// The elements of `x`, a contiguous `f32` tensor on the CPU, without a copy.
pub(crate) fn floats(x: &Tensor) -> candle_core::Result<impl Deref<Target = [f32]> + '_> {
    let (guard, layout) = x.storage_and_layout();
    let Some((start, end)) = layout.contiguous_offsets() else {
        candle_core::bail!("a tensor of shape {:?} that is not contiguous", x.shape())
    };
    if !matches!(&*guard, Storage::Cpu(CpuStorage::F32(_))) {
        candle_core::bail!("a tensor of {:?} on {:?}", x.dtype(), x.device())
    }
    Ok(Floats { guard, range: start..end })
}

impl<G: Deref<Target = Storage>> Deref for Floats<G> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.guard {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // Refused when this was made.
            _ => &[],
        }
    }
}
