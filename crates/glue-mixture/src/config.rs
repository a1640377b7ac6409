//! What a mixture shall be: mergekit-moe's dialect of YAML, extended.

use crate::spec::{Level, Pool, RouterKind, Routing};
use glue_tensor::{Dtype, Links};
use glue_yaml::Position;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Where the initial values of gates come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum GateMode {
    /// The mean over an expert's positive prompts, minus that over its negative ones, of the residual stream that
    /// enters the layer, at the last token; at unit length. The default.
    #[default]
    Hidden,
    /// The same with each prompt's mean over its tokens.
    HiddenAvg,
    /// The same with the mean of the prompt's token embeddings; equal for all layers.
    CheapEmbed,
    /// The same as `hidden_avg`, taken where the gate reads at run time.
    RouterInput,
    /// Normal numbers of mean 0 and deviation 1.
    Random,
    /// Uniform numbers between ±1/√width, torch's initial values of a linear layer.
    UniformRandom,
}

/// All modes with their names in a description.
pub const GATE_MODES: [(&str, GateMode); 6] = [
    ("hidden", GateMode::Hidden),
    ("hidden_avg", GateMode::HiddenAvg),
    ("cheap_embed", GateMode::CheapEmbed),
    ("router_input", GateMode::RouterInput),
    ("random", GateMode::Random),
    ("uniform_random", GateMode::UniformRandom),
];

impl GateMode {
    /// Whether the gates are made from prompts.
    pub fn needs_prompts(self) -> bool {
        !matches!(self, GateMode::Random | GateMode::UniformRandom)
    }
}

/// Writes the name in a description.
impl fmt::Display for GateMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = GATE_MODES.iter().find(|(_, mode)| mode == self).map_or("", |(name, _)| name);
        f.pad(name)
    }
}

/// One expert of a description.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Expert {
    /// Its name in the mixture: `name`, or the last part of the path, made unique by a number.
    pub name: String,
    /// Directory of its model.
    pub model: PathBuf,
    /// Prompts that should go to it.
    pub positive_prompts: Vec<String>,
    /// Prompts that should not.
    pub negative_prompts: Vec<String>,
    /// Tasks or skills that are its, when prompts are taken from the items of tasks.
    pub skills: Vec<String>,
    /// Deviation of normal noise added to each of its elements before it is scaled, at least 0; 0 adds none.
    pub noise_scale: f64,
    /// Factor on the projection that ends its MLP.
    pub residual_scale: f64,
    /// Where it stands in the text.
    pub at: Position,
}

/// The format that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RequestedFormat {
    /// Qwen2-MoE's when there is a shared expert, Mixtral's where it can hold the mixture, else the native one.
    #[default]
    Auto,
    /// This one, or an error.
    Fixed(crate::sites::MixtureFormat),
}

/// The description of a mixture. Values are checked as far as they can be without the models.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct MixConfig {
    /// The text it was read from.
    pub text: String,
    /// What the text was read from: a path, usually.
    pub origin: String,
    /// The dense model that gives everything that is not mixed; with `whole`, the one that reads the prompt.
    pub base_model: PathBuf,
    /// Where it is named.
    pub base_at: Position,
    /// The experts, at least 1.
    pub experts: Vec<Expert>,
    /// The expert that every token goes to (Qwen2-MoE's format); none or one.
    pub shared_experts: Vec<Expert>,
    /// Experts used for a token or a sample: 1 to all. 2 unless given, or all where there are fewer; 1 with `whole`.
    pub experts_per_token: usize,
    /// Where initial gates come from.
    pub gate_mode: GateMode,
    /// Directories or files of tasks, whose items give prompts to experts that have none. Default: none, and every
    /// expert needs prompts where gates are made from them.
    pub tasks: Vec<PathBuf>,
    /// The type of the output; that of each tensor when absent.
    pub dtype: Option<Dtype>,
    /// What is mixed. Default: `ffn`.
    pub level: Level,
    /// The first layers, taken from the base as they are. Default: 0.
    pub dense_layers: usize,
    /// The layers that hold experts, ascending; all from `dense_layers` on when absent.
    pub mixed_layers: Option<Vec<usize>>,
    /// The kind of the gates. Default: linear.
    pub router: RouterKind,
    /// What is routed as one. Default: `token`; `sample` with `whole`.
    pub routing: Routing,
    /// How prompts are pooled with routing by sample. Default: `mean`.
    pub pool: Pool,
    /// Whether experts are whole models (level `model`).
    pub whole: bool,
    /// With `whole`: the residual stream that the gate reads, 0 for the embedding, up to the number of layers plus 1
    /// for the state after the final norm, which is what is taken when absent.
    pub router_layer: Option<usize>,
    /// Seed of noise and random gates. Default: 0.
    pub seed: u64,
    /// The format asked for.
    pub format: RequestedFormat,
    /// Where links in a model directory may lead to that the output gets a copy of. Not part of the text. Default: not
    /// out of the directory.
    pub links: Links,
    /// Where models are whose directory is not the path in the text, by that path. Not part of the text. Default: none.
    pub located: BTreeMap<PathBuf, PathBuf>,
    /// Where keys stand that can only be checked with the models at hand.
    pub(crate) places: Vec<(&'static str, Position)>,
}

impl MixConfig {
    /// The paths of all models as written: the base, the experts and the shared expert. A model may come several times.
    pub fn models(&self) -> impl Iterator<Item = &Path> {
        let experts = self.experts.iter().chain(&self.shared_experts).map(|expert| expert.model.as_path());
        std::iter::once(self.base_model.as_path()).chain(experts)
    }

    /// The directory of the model written as `model`.
    pub fn locate<'a>(&'a self, model: &'a Path) -> &'a Path {
        self.located.get(model).map_or(model, PathBuf::as_path)
    }

    /// How the model in the directory `path` is written.
    pub(crate) fn as_written<'a>(&'a self, path: &'a Path) -> &'a Path {
        let of = self.located.iter().find(|(_, directory)| directory.as_path() == path);
        of.map_or(path, |(model, _)| model.as_path())
    }
}
