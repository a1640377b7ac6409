//! From a description and the headers of its models to everything that will be written, before any weight is read.

mod fit;
mod format;
mod tensors;

use crate::card::license_note;
use crate::config::{GateMode, MixConfig};
use crate::error::MixError;
use crate::gates::Gates;
use crate::random::{random_gates, zero_gates};
use crate::sites::{MixtureFormat, Sites};
use crate::spec::{FORMAT_VERSION, Level, MODEL_TYPE, Mixture, MixtureSpec, Pool, Routing, WholeSpec};
use glue_tensor::hub::LegalFiles;
use glue_tensor::{Config, Dtype, FileChanged, ModelDir, TensorSpec};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
pub(crate) use tensors::{Planned, Source};

/// Prompts of one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// Prompts that should go to it.
    pub positive: Vec<String>,
    /// Prompts that should not.
    pub negative: Vec<String>,
}

/// What the initial gates of a mixture are made from.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GateRequest {
    /// How they are made.
    pub mode: GateMode,
    /// Directory of the model that reads the prompts.
    pub model: PathBuf,
    /// Which gates are wanted; `experts`, `hidden_size`, `router` and the level are there.
    pub sites: Sites,
    /// For each gate, the residual stream it reads: 0 for the embedding, l for what leaves the l-th layer counted from
    /// 1, their number plus 1 for the state after the final norm. A gate inside a layer reads the stream that enters
    /// it, so that this is the layer's number counted from 0; at FFN level it is after the norm before the MLP that
    /// `router_input` takes it.
    pub streams: Vec<usize>,
    /// What is routed as one.
    pub routing: Routing,
    /// How prompts are pooled with routing by sample.
    pub pool: Pool,
    /// Prompts of each expert.
    pub prompts: Vec<Prompts>,
    /// Prompts of the shared expert, in Qwen2-MoE's format.
    pub shared: Option<Prompts>,
    /// Seed of whatever is random.
    pub seed: u64,
}

/// What a mixture takes, from headers alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Estimate {
    /// Bytes of input tensors, each counted once for every tensor it goes into.
    pub read_bytes: u64,
    /// Bytes of output tensors, gates included.
    pub write_bytes: u64,
    /// Peak bytes of buffers with the given number of threads, excluding memory-mapped inputs.
    pub peak_memory_bytes: u64,
    /// Elements of all tensors, gates included. With whole experts, of the router model too.
    pub parameters: u64,
    /// Elements that one token meets: all that is not an expert's, and those of as many experts as it goes to. With
    /// whole experts, those of the largest one and of the model that reads the prompt.
    pub active_parameters: u64,
}

/// A directory of the output that is a model: the output itself, or one inside it.
#[derive(Debug)]
pub(crate) struct OutputModel {
    /// Below the output, with `/`; empty for the output itself.
    pub(crate) directory: String,
    /// The model whose tokenizer and generation defaults go there.
    pub(crate) side_files_of: usize,
    /// Its `config.json`.
    pub(crate) config: Config,
    /// Its tensors, without gates.
    pub(crate) tensors: Vec<Planned>,
}

/// A mixture, checked against the headers of its models.
#[derive(Debug)]
#[non_exhaustive]
pub struct MixPlan {
    /// The description.
    pub config: MixConfig,
    /// Where the gates go.
    pub sites: Sites,
    /// What else there is to know, in sentences without a full stop.
    pub notes: Vec<String>,
    pub(crate) models: Vec<ModelDir>,
    pub(crate) base: usize,
    pub(crate) parts: Vec<OutputModel>,
    pub(crate) gate_dtype: Dtype,
    /// Gates of layers that are not mixed, in a format that has one in every layer; their values are zeros.
    pub(crate) dense_gates: Vec<TensorSpec>,
    pub(crate) n_layers: usize,
    /// Names of the experts whose prompts are not the description's.
    pub(crate) from_tasks: Vec<String>,
    /// Texts of licences and notices that all models have, by name and content.
    pub(crate) legal_files: Vec<(String, Vec<u8>)>,
}

impl MixPlan {
    /// Opens the models of `config` and checks that they can be mixed. Reads headers, configurations and tokenizer
    /// files; no weight.
    ///
    /// # Errors
    /// [`MixError`]: prompts missing for a mode that needs them, a model that cannot be opened, tensors that are
    /// missing or of another shape, configurations or vocabularies that differ where they must not, a format that
    /// cannot hold the mixture.
    pub fn new(config: &MixConfig) -> Result<MixPlan, MixError> {
        config.check_prompts()?;
        let mut models: Vec<ModelDir> = Vec::new();
        let mut open = |path: &Path, at| -> Result<usize, MixError> {
            let path = config.locate(path);
            if let Some(known) = models.iter().position(|model| model.path() == path) {
                return Ok(known);
            }
            let dir = ModelDir::open(path)
                .map_err(|error| MixError::Open { place: config.place(at), error: Box::new(error) })?;
            fit::is_plain(&dir)?;
            models.push(dir);
            Ok(models.len() - 1)
        };
        let base = open(&config.base_model, config.base_at)?;
        let experts =
            config.experts.iter().map(|expert| open(&expert.model, expert.at)).collect::<Result<Vec<_>, _>>()?;
        let shared = config.shared_experts.first().map(|expert| open(&expert.model, expert.at)).transpose()?;
        let input = Inputs { config, models: &models, base, experts: &experts, shared };
        let draft = if config.whole { input.whole()? } else { input.shared_trunk()? };
        let n_layers = models[base].config().num_layers().unwrap_or(0);
        let Draft { sites, parts, gate_dtype, dense_gates, notes } = draft;
        for part in &parts {
            models[part.side_files_of].check_links(config.links)?;
        }
        let (config, from_tasks) = (config.clone(), Vec::new());
        let legal_files = Vec::new();
        let mut plan = MixPlan {
            config,
            sites,
            notes,
            models,
            base,
            parts,
            gate_dtype,
            dense_gates,
            n_layers,
            from_tasks,
            legal_files,
        };
        plan.notes.extend(license_note(&plan));
        plan.find_legal_files()?;
        Ok(plan)
    }

    /// The texts of licences and notices of the output itself. Models inside the output have their own.
    fn find_legal_files(&mut self) -> Result<(), MixError> {
        let names: Vec<String> =
            self.models.iter().map(|model| self.config.as_written(model.path()).display().to_string()).collect();
        let directories = names.iter().map(String::as_str).zip(self.models.iter().map(ModelDir::path));
        let LegalFiles { common, notes, .. } = LegalFiles::of(directories, self.config.links)?;
        self.legal_files = common;
        self.notes.extend(notes);
        Ok(())
    }

    /// Checks that every file of every model is still the one that was opened, and that nobody has written to it since.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.models.iter().try_for_each(ModelDir::check_unchanged)
    }

    /// What initial gates are to be made from.
    pub fn gate_request(&self) -> GateRequest {
        let prompts = |expert: &crate::config::Expert| Prompts {
            positive: expert.positive_prompts.clone(),
            negative: expert.negative_prompts.clone(),
        };
        let streams = match (self.sites.whole, self.sites.level) {
            (true, _) => vec![self.config.router_layer.unwrap_or(self.n_layers + 1)],
            (_, Level::Model) => self.sites.prefixes.iter().map(|_| self.config.dense_layers).collect(),
            _ => self.sites.layers.clone(),
        };
        GateRequest {
            mode: self.config.gate_mode,
            model: self.models[self.base].path().to_path_buf(),
            sites: self.sites.clone(),
            streams,
            routing: self.config.routing,
            pool: self.config.pool,
            prompts: self.config.experts.iter().map(prompts).collect(),
            shared: self.config.shared_experts.first().map(prompts),
            seed: self.config.seed,
        }
    }

    /// Gates of random numbers, a function of the seed, the names of the experts and the place of each gate. With the
    /// mode `random` normal numbers of deviation 1, else uniform ones between ±1/√width, as torch begins linear layers.
    /// In a gate with a hidden layer, the matrix into that layer is of deviation 1/√width in the first case too, so
    /// that its units are of size 1 for states of size 1; biases are zero.
    pub fn random_gates(&self) -> Gates {
        random_gates(&self.sites, self.config.gate_mode == GateMode::UniformRandom, self.config.seed)
    }

    /// The format it will be written in.
    pub fn format(&self) -> MixtureFormat {
        self.sites.format
    }

    /// Bytes and parameters, with buffers for `threads` threads.
    pub fn estimate(&self, threads: usize) -> Estimate {
        let mut sum = Estimate::default();
        let mut own_active = 0u64;
        let mut largest = 0u64;
        let mut converts = false;
        for part in &self.parts {
            let mut elements = 0u64;
            for tensor in &part.tensors {
                let n = tensor.n_elements();
                elements += n;
                sum.write_bytes += n * tensor.dtype.size() as u64;
                if let Source::Tensor { model, name } = &tensor.source {
                    let info = self.models[*model].checkpoint().info(name);
                    sum.read_bytes += info.map_or(0, |info| info.n_bytes() as u64);
                    converts |= info.is_some_and(|info| info.dtype != tensor.dtype) || tensor.changes();
                }
                if !tensor.of_expert {
                    own_active += n;
                }
            }
            sum.parameters += elements;
            if part.directory.starts_with("experts/") {
                largest = largest.max(elements);
            }
        }
        // Experts of a layer have the same shapes, so that each share is exact.
        let of_experts = sum.parameters - own_active;
        let n_experts = self.sites.experts.len().max(1) as u64;
        sum.active_parameters = own_active + of_experts / n_experts * self.sites.experts_per_token as u64;
        if self.sites.whole {
            let router = self.parts.iter().find(|part| part.directory == "router");
            let reads = match router {
                Some(part) => part.tensors.iter().map(Planned::n_elements).sum(),
                None => self.models[self.base].checkpoint().n_parameters(),
            };
            sum.active_parameters = largest + reads;
        }
        let gates: u64 = self.gate_specs().iter().map(|spec| spec.shape.iter().product::<usize>() as u64).sum();
        sum.parameters += gates;
        sum.active_parameters += gates;
        sum.write_bytes += gates * self.gate_dtype.size() as u64;
        let block = crate::run::BLOCK as u64;
        sum.peak_memory_bytes = if converts { threads.max(1) as u64 * block * (4 + 4) } else { 0 };
        sum
    }

    /// The tensors of the gates, in the order they are written: those with values, and then those of layers that are
    /// not mixed.
    pub(crate) fn gate_specs(&self) -> Vec<TensorSpec> {
        let gates = zero_gates(&self.sites).written(&self.sites);
        let mut specs = crate::gates::specs(&self.sites, &gates, self.gate_dtype);
        specs.extend(self.dense_gates.iter().cloned());
        specs
    }

    /// The sources: each model once, the base first.
    pub fn models(&self) -> &[ModelDir] {
        &self.models
    }
}

/// What a plan is made from.
struct Inputs<'a> {
    config: &'a MixConfig,
    models: &'a [ModelDir],
    base: usize,
    experts: &'a [usize],
    shared: Option<usize>,
}

/// What differs between plans.
struct Draft {
    sites: Sites,
    parts: Vec<OutputModel>,
    gate_dtype: Dtype,
    dense_gates: Vec<TensorSpec>,
    notes: Vec<String>,
}

impl Inputs<'_> {
    fn base(&self) -> &ModelDir {
        &self.models[self.base]
    }

    /// A mixture whose experts share what is not mixed.
    fn shared_trunk(&self) -> Result<Draft, MixError> {
        let config = self.config;
        let base = self.base();
        let mut notes = Vec::new();
        let (layers, hidden) = fit::size(base)?;
        if config.dense_layers > layers {
            return Err(self.out_of_range("dense_layers", format!("0 to {layers}"), config.dense_layers));
        }
        if let Some(&layer) = config.mixed_layers.iter().flatten().find(|&&layer| layer >= layers) {
            return Err(self.out_of_range("mixed_layers", format!("layers below {layers}"), layer));
        }
        self.check_fit(&mut notes)?;
        let spec = MixtureSpec {
            level: config.level,
            experts: config.experts.iter().map(|expert| expert.name.clone()).collect(),
            experts_per_token: config.experts_per_token,
            dense_layers: config.dense_layers,
            mixed_layers: config.mixed_layers.clone().unwrap_or_else(|| (config.dense_layers..layers).collect()),
            routing: config.routing,
            pool: config.pool,
            router: config.router,
        };
        let format = format::choose(self, &spec)?;
        let sites = Sites::shared_trunk(format, &spec, hidden);
        let dtype = config.dtype.or_else(|| base.config().dtype());
        let mut tensors = tensors::shared_trunk(self, &spec, format, dtype)?;
        if format == MixtureFormat::Mixtral && spec.mixed_layers.len() < layers {
            notes.push(tensors::dense_copies(&tensors, &spec));
        }
        let dense_gates = tensors.extract_if(.., |tensor| tensor.is_dense_gate()).map(|gate| gate.spec()).collect();
        let out = match format {
            MixtureFormat::Native => native_config(&Mixture::Shared(spec, format::dense_config(base, dtype)), dtype)?,
            format => format::config(base, format, &spec, dtype)?,
        };
        let gate_dtype = if format == MixtureFormat::Native { Dtype::F32 } else { dtype.unwrap_or(Dtype::F32) };
        let part = OutputModel { directory: String::new(), side_files_of: self.base, config: out, tensors };
        Ok(Draft { sites, parts: vec![part], gate_dtype, dense_gates, notes })
    }

    /// A mixture of whole models.
    fn whole(&self) -> Result<Draft, MixError> {
        let config = self.config;
        if let crate::config::RequestedFormat::Fixed(format @ (MixtureFormat::Mixtral | MixtureFormat::Qwen2Moe)) =
            config.format
        {
            return Err(MixError::Format { format: format.name(), why: "its experts are whole models".into() });
        }
        let needed = "with `whole` each expert reads text";
        for (expert, &model) in config.experts.iter().zip(self.experts) {
            self.has_tokenizer(model, config.place(expert.at), needed)?;
        }
        self.has_tokenizer(self.base, config.place(config.base_at), "it reads the prompts")?;
        let (layers, hidden) = fit::size(self.base())?;
        let router_layer = config.router_layer.unwrap_or(layers + 1);
        if router_layer > layers + 1 {
            return Err(self.out_of_range("router_layer", format!("0 to {}", layers + 1), router_layer));
        }
        let among = self.experts.iter().position(|&model| model == self.base);
        let spec = WholeSpec {
            experts: config.experts.iter().map(|expert| expert.name.clone()).collect(),
            pool: config.pool,
            router: config.router,
            router_model: among.map_or("router".to_string(), |expert| format!("experts/{expert}")),
            router_layer,
        };
        let mut parts = Vec::new();
        for (e, &model) in self.experts.iter().enumerate() {
            parts.push(self.copy_of(model, format!("experts/{e}"), Some(e))?);
        }
        if among.is_none() {
            parts.push(self.copy_of(self.base, "router".into(), None)?);
        }
        let sites = Sites::whole(&spec, hidden);
        let mut out = native_config(&Mixture::Whole(spec), config.dtype)?;
        out.set("hidden_size", hidden.into())?;
        parts.push(OutputModel {
            directory: String::new(),
            side_files_of: self.base,
            config: out,
            tensors: Vec::new(),
        });
        Ok(Draft { sites, parts, gate_dtype: Dtype::F32, dense_gates: Vec::new(), notes: Vec::new() })
    }

    /// The model `model` as it is, but for its type, noise and scale.
    fn copy_of(&self, model: usize, directory: String, expert: Option<usize>) -> Result<OutputModel, MixError> {
        let config = format::dense_config(&self.models[model], self.config.dtype);
        let tensors = tensors::whole(self, model, expert, self.config.dtype)?;
        Ok(OutputModel { directory, side_files_of: model, config, tensors })
    }

    fn has_tokenizer(&self, model: usize, place: crate::FilePosition, needed: &'static str) -> Result<(), MixError> {
        let dir = &self.models[model];
        match dir.tokenizer().vocabulary()?.is_some() || dir.tokenizer().names().iter().any(|n| n == "tokenizer.model")
        {
            true => Ok(()),
            false => Err(MixError::NoTokenizer { place, path: dir.path().to_path_buf(), needed }),
        }
    }

    fn out_of_range(&self, key: &'static str, expected: String, found: usize) -> MixError {
        let (place, key) = (self.config.place_of(key), key.to_string());
        MixError::WrongValue { place, key, expected, found: found.to_string() }
    }
}

/// `config.json` of a mixture in the native format.
fn native_config(mixture: &Mixture, dtype: Option<Dtype>) -> Result<Config, MixError> {
    let mut value = json!({
        "model_type": MODEL_TYPE,
        "architectures": ["GlueMixtureForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_glue_mixture.GlueMixtureConfig",
            "AutoModelForCausalLM": "modeling_glue_mixture.GlueMixtureForCausalLM",
        },
        "format_version": FORMAT_VERSION,
    });
    let mut put = |key: &str, entry: Value| value[key] = entry;
    let merge = |spec: Value, put: &mut dyn FnMut(&str, Value)| {
        for (key, entry) in spec.as_object().into_iter().flatten() {
            put(key, entry.clone());
        }
    };
    match mixture {
        Mixture::Shared(spec, base) => {
            let base_dtype = dtype.or_else(|| base.dtype()).unwrap_or(Dtype::F32);
            put("torch_dtype", base_dtype.torch_name().into());
            merge(json!(spec), &mut put);
            put("whole", false.into());
            // Generation asks the outer configuration for these.
            for key in ["bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "vocab_size"] {
                if let Some(entry) = base.get(key) {
                    put(key, entry.clone());
                }
            }
            put("base", base.to_value());
        }
        Mixture::Whole(spec) => {
            put("level", json!(Level::Model));
            put("whole", true.into());
            put("routing", json!(Routing::Sample));
            merge(json!(spec), &mut put);
        }
    }
    Ok(Config::from_value(value)?)
}
