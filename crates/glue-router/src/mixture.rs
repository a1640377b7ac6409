//! Training the gates of a mixture on disk: items, labels, states, gates, and how well they do.

use crate::error::RouterError;
use crate::gate::Gate;
use crate::items::{Encoded, Item, part, read_items};
use crate::labels::{assign, loss_targets, skill_targets};
use crate::lm_loss::{LmExamples, LmTrained, train_by_loss};
use crate::report::RoutingTable;
use crate::state_file::{Numbers, StateFile};
use crate::states::{DenseStates, Place, TokenStates, pooled_states};
use crate::supervised::{Examples, Training, train_gate};
use crate::through::Through;
use crate::training::TrainSettings;
use crate::watch::{Watch, go_on};
use glue_eval::{LanguageModel, LocalModel, LogLikelihoodRequest, Task};
use glue_lm::{Model, Tokenizer};
use glue_mixture::{Form, Gates, Mixture, RouterKind, Sites, WholeSpec, read_gates, write_gates};
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, Config, ContentHash};
use ndarray::Array2;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Which expert is right for an item.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Labels {
    /// The expert of its task or skill; see [`crate::labels::assign`].
    Skill,
    /// The expert with the lowest loss on its answer; see [`crate::labels::loss_targets`].
    Loss {
        /// 0 for the lowest alone.
        temperature: f64,
    },
}

/// What is minimised.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// The cross-entropy of the experts of labelled items, gate after gate: a gate is trained on what it reads when the gates
    /// before it are trained already.
    Supervised,
    /// The loss of answers through the frozen network, all gates at once, with this weight on the load balance.
    LmLoss {
        /// At least 0; [`crate::lm_loss::BALANCE`] is usual.
        balance: f64,
    },
}

/// Where validation items come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Held {
    /// This share of the items of each task.
    Share(f64),
    /// Another split.
    Split(String),
}

/// A training of the gates of a mixture.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct TrainRequest {
    /// Directory of the mixture.
    pub mixture: PathBuf,
    /// The split with the items to train with. Default: `train`.
    pub split: String,
    /// The most items of each task; all by default.
    pub limit: Option<usize>,
    /// Default: a fifth.
    pub held: Held,
    /// Default: by skill.
    pub labels: Labels,
    /// Default: supervised.
    pub method: Method,
    /// Experts of tasks or skills, by name.
    pub given: BTreeMap<String, String>,
    /// Layers whose gates are trained; all by default. A mixture with one gate has no choice.
    pub layers: Option<Vec<usize>>,
    /// The form that trained gates have; as the mixture says by default.
    pub router: Option<RouterKind>,
    /// How gradients go. Its seed also parts the items.
    pub settings: TrainSettings,
    /// Where states are kept; nowhere by default.
    pub state: Option<PathBuf>,
    /// Whether a training that is kept there goes on.
    pub resume: bool,
}

impl TrainRequest {
    /// The usual training of a mixture.
    pub fn new(mixture: impl Into<PathBuf>) -> TrainRequest {
        TrainRequest {
            mixture: mixture.into(),
            split: "train".into(),
            limit: None,
            held: Held::Share(0.2),
            labels: Labels::Skill,
            method: Method::Supervised,
            given: BTreeMap::new(),
            layers: None,
            router: None,
            settings: TrainSettings::SUPERVISED,
            state: None,
            resume: false,
        }
    }
}

/// What would be trained.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainPlan {
    /// Names of the experts.
    pub experts: Vec<String>,
    /// The tensors' prefix of each gate that would be trained, with its number.
    pub gates: Vec<(usize, String)>,
    /// Numbers of items to train and to validate with.
    pub items: [usize; 2],
    /// Items of each task.
    pub tasks: BTreeMap<String, usize>,
}

/// One trained gate.
#[derive(Debug, Clone, PartialEq)]
pub struct GateReport {
    /// What the names of its tensors begin with.
    pub name: String,
    /// Share of training items that go to their expert.
    pub train_accuracy: f64,
    /// The same of validation items.
    pub validation_accuracy: f64,
    /// How it was trained.
    pub training: Training,
    /// Where validation items go, by task.
    pub tasks: RoutingTable,
    /// The same by skill.
    pub skills: RoutingTable,
}

/// What a training did.
#[derive(Debug, Clone, PartialEq)]
pub enum TrainReport {
    /// A supervised one.
    Supervised {
        /// The expert of each task; empty for labels by loss.
        assigned: BTreeMap<String, usize>,
        /// One for each gate trained.
        gates: Vec<GateReport>,
    },
    /// One by the loss of answers.
    LmLoss {
        /// Losses.
        trained: LmTrained,
        /// For each gate the prefix of its tensors and the load of experts by task, on validation items.
        load: Vec<(String, RoutingTable)>,
    },
}

/// A mixture opened for training.
enum Opened {
    Shared { model: Box<Model> },
    Whole { spec: WholeSpec, router: Box<DenseStates> },
}

/// Items with their tokens.
struct Data {
    items: Vec<Item>,
    encoded: Vec<Encoded>,
}

impl Data {
    fn new(items: Vec<Item>, tokenizer: &Tokenizer) -> Result<Data, RouterError> {
        let encoded = items.par_iter().map(|item| item.encode(tokenizer)).collect::<Result<_, _>>()?;
        Ok(Data { items, encoded })
    }

    fn prompts(&self) -> Vec<&[u32]> {
        self.encoded.iter().map(|item| item.prompt.as_slice()).collect()
    }
}

/// A training whose items are read and whose gates are known.
pub struct Trainer {
    request: TrainRequest,
    sites: Sites,
    opened: Opened,
    stored: Gates,
    gates: Vec<Gate>,
    selected: Vec<usize>,
    train: Data,
    validation: Data,
    hash: String,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("request", &self.request).field("gates", &self.selected).finish_non_exhaustive()
    }
}

impl Trainer {
    /// Opens the mixture and reads the items of `tasks`. Nothing is computed yet.
    ///
    /// # Errors
    /// [`RouterError`]: a mixture or items that are not sound, a layer without a gate, too few items.
    pub fn open(request: TrainRequest, tasks: &[Task]) -> Result<Trainer, RouterError> {
        let directory = &request.mixture;
        let sites = Sites::open(directory)?;
        let stored = read_gates(directory)?;
        let wide = |gate| Gate::from_stored(gate, stored.experts, stored.hidden_size);
        let gates = stored.gates.iter().map(wide).collect::<Result<Vec<_>, _>>()?;
        let selected = select(&sites, gates.len(), request.layers.as_deref())?;
        let items = read_items(tasks, Some(&request.split), request.limit)?;
        let (train, held) = match &request.held {
            Held::Share(share) => part(items, *share, request.settings.seed)?,
            Held::Split(split) => (items, read_items(tasks, Some(split), None)?),
        };
        let tokenizer = Tokenizer::load(directory)?;
        let config = Config::open(directory.join(CONFIG_FILE)).map_err(glue_mixture::MixError::from)?;
        let opened = match Mixture::from_config(&config)? {
            Some(Mixture::Whole(spec)) => {
                let router = Box::new(DenseStates::open(directory.join(&spec.router_model))?);
                Opened::Whole { spec, router }
            }
            _ => Opened::Shared { model: Box::new(Model::open(directory)?) },
        };
        let (train, validation) = (Data::new(train, &tokenizer)?, Data::new(held, &tokenizer)?);
        Ok(Trainer { hash: String::new(), request, sites, opened, stored, gates, selected, train, validation })
    }

    /// What would be trained.
    pub fn plan(&self) -> TrainPlan {
        let mut tasks = BTreeMap::new();
        for item in self.train.items.iter().chain(&self.validation.items) {
            *tasks.entry(item.task.clone()).or_default() += 1;
        }
        TrainPlan {
            experts: self.sites.experts.clone(),
            gates: self.selected.iter().map(|&gate| (gate, self.name(gate))).collect(),
            items: [self.train.items.len(), self.validation.items.len()],
            tasks,
        }
    }

    /// Trains, and replaces the gates of the mixture when all of it has gone well.
    ///
    /// # Errors
    /// [`RouterError`]; the mixture is as it was.
    pub fn run(mut self, watch: &dyn Watch) -> Result<TrainReport, RouterError> {
        if let Some(state) = &self.request.state {
            let io = |error| RouterError::Io { path: state.clone(), error };
            std::fs::create_dir_all(state).map_err(io)?;
            self.hash = self.content_hash(watch)?;
        }
        let report = match self.request.method {
            Method::Supervised => self.supervised(watch)?,
            Method::LmLoss { balance } => self.by_loss(balance, watch)?,
        };
        let gates = Gates { gates: self.gates.iter().map(Gate::to_stored).collect(), ..self.stored };
        write_gates(&self.request.mixture, &gates)?;
        Ok(report)
    }

    fn name(&self, gate: usize) -> String {
        self.sites.prefixes.get(gate).cloned().unwrap_or_default()
    }

    fn supervised(&mut self, watch: &dyn Watch) -> Result<TrainReport, RouterError> {
        let experts = self.sites.experts.clone();
        let (assigned, train_targets, held_targets) = match self.request.labels {
            Labels::Skill => {
                let mut losses = || self.losses("train", &self.train, watch);
                let assigned = assign(&self.train.items, &self.request.given, &experts, &mut losses)?;
                let targets = |data: &Data| skill_targets(&data.items, &assigned, experts.len());
                let (train, held) = (targets(&self.train)?, targets(&self.validation)?);
                (assigned, train, held)
            }
            Labels::Loss { temperature } => {
                let targets = |what: &str, data: &Data| -> Result<Array2<f64>, RouterError> {
                    if let Some(item) = data.items.iter().zip(&data.encoded).find(|(_, e)| e.answer.is_empty()) {
                        return Err(RouterError::NoAnswer { task: item.0.task.clone(), purpose: "a label by loss" });
                    }
                    loss_targets(self.losses(what, data, watch)?.view(), temperature)
                };
                (BTreeMap::new(), targets("train", &self.train)?, targets("validation", &self.validation)?)
            }
        };
        let mut reports = Vec::with_capacity(self.selected.len());
        for gate in self.selected.clone() {
            let (states, held) = (self.inputs(&self.train, gate, watch)?, self.inputs(&self.validation, gate, watch)?);
            let examples = Examples { states: states.view(), targets: train_targets.view() };
            let validation = Examples { states: held.view(), targets: held_targets.view() };
            let kind = self.request.router.unwrap_or(self.sites.router);
            let path = self.request.state.as_ref().map(|state| state.join(format!("gate-{gate}.state")));
            let state = path.as_deref().map(|path| (path, self.request.resume));
            // Forms that other programs know have no bias.
            let bias = self.sites.form == Form::Native;
            let trained = train_gate(kind, bias, &examples, &validation, &self.request.settings, state, watch)?;
            // Accuracy is that of the gate as it is stored.
            let stored = Gate::from_stored(&trained.gate.to_stored(), experts.len(), states.ncols())?;
            let routes = stored.routes(held.mapv(f64::from).view());
            let table = |rows_are: &str, name: fn(&Item) -> &str| {
                let names: Vec<&str> = self.validation.items.iter().map(name).collect();
                RoutingTable::of_routes(rows_are, &names, &routes, &experts)
            };
            reports.push(GateReport {
                name: self.name(gate),
                train_accuracy: examples.accuracy(&stored),
                validation_accuracy: validation.accuracy(&stored),
                training: trained.training,
                tasks: table("task", |item| &item.task),
                skills: table("skill", |item| &item.skill),
            });
            self.gates[gate] = stored;
        }
        Ok(TrainReport::Supervised { assigned, gates: reports })
    }

    fn by_loss(&mut self, balance: f64, watch: &dyn Watch) -> Result<TrainReport, RouterError> {
        let Opened::Shared { model } = &self.opened else {
            let reason = "experts are whole models, which one sample chooses; train supervised".to_owned();
            return Err(RouterError::Unsupported { what: "training by the loss of answers".into(), reason });
        };
        let mixture = Through::new(model)?;
        let examples = LmExamples {
            train: &self.train.encoded,
            validation: &self.validation.encoded,
            trained: &self.selected,
            balance,
            model: &self.hash,
        };
        let path = self.request.state.as_ref().map(|state| state.join("lm-loss.state"));
        let state = path.as_deref().map(|path| (path, self.request.resume));
        let trained = train_by_loss(&mixture, &self.gates, &examples, &self.request.settings, state, watch)?;
        let mut rows: Vec<Vec<(String, Vec<f64>)>> = vec![Vec::new(); self.gates.len()];
        let mut tasks: BTreeMap<&str, Vec<&Encoded>> = BTreeMap::new();
        for (item, encoded) in self.validation.items.iter().zip(&self.validation.encoded) {
            tasks.entry(&item.task).or_default().push(encoded);
        }
        for (task, items) in tasks {
            go_on(watch)?;
            let found = mixture.lm_loss(&trained.gates, &items, balance, false)?;
            rows.iter_mut().zip(found.load).for_each(|(rows, load)| rows.push((task.to_owned(), load)));
        }
        let table = |(gate, rows)| {
            let (rows_are, experts) = ("task".to_owned(), self.sites.experts.clone());
            (self.name(gate), RoutingTable { rows_are, experts, rows })
        };
        let load = rows.into_iter().enumerate().map(table).collect();
        self.gates.clone_from(&trained.gates);
        Ok(TrainReport::LmLoss { trained, load })
    }

    /// Losses of answers by each expert alone, [items, experts]; kept where states are.
    fn losses(&self, what: &str, data: &Data, watch: &dyn Watch) -> Result<Array2<f64>, RouterError> {
        let key = json!({ "model": self.hash, "items": hash_of(&data.encoded) });
        let path = self.request.state.as_ref().map(|state| state.join(format!("losses-{what}.state")));
        let shape = (data.items.len(), self.sites.experts.len());
        if let Some(file) = kept(path.as_deref(), &key)?
            && let Some(values) = file.wide("losses")
            && let Ok(losses) = Array2::from_shape_vec(shape, values.to_vec())
        {
            return Ok(losses);
        }
        let losses = match &self.opened {
            Opened::Shared { model } => Through::new(model)?.losses_of_experts(&data.encoded, watch)?,
            Opened::Whole { .. } => self.losses_of_whole(data, watch)?,
        };
        if let Some(path) = path {
            let arrays = vec![("losses".to_owned(), Numbers::F64(losses.iter().copied().collect()))];
            StateFile { about: key, arrays }.write(&path)?;
        }
        Ok(losses)
    }

    /// The same of experts with tokenizers of their own, which are given the text.
    fn losses_of_whole(&self, data: &Data, watch: &dyn Watch) -> Result<Array2<f64>, RouterError> {
        let mut losses = Array2::zeros((data.items.len(), self.sites.experts.len()));
        for (number, expert) in self.sites.experts.iter().enumerate() {
            go_on(watch)?;
            let failed = |error| RouterError::Expert { expert: expert.clone(), error };
            let model =
                LocalModel::open(self.request.mixture.join("experts").join(number.to_string())).map_err(failed)?;
            let (mut places, mut requests) = (Vec::new(), Vec::new());
            for (row, item) in data.items.iter().enumerate() {
                if let Some(continuation) = item.answer.as_deref() {
                    places.push(row);
                    requests.push(LogLikelihoodRequest { context: &item.prompt, continuation });
                }
            }
            watch.begins(&format!("scoring answers by {expert}"), requests.len());
            let scores = model.loglikelihoods(&requests, &|n| watch.advanced(n)).map_err(failed)?;
            for (row, score) in places.into_iter().zip(scores) {
                losses[[row, number]] = -score.logprob;
            }
        }
        Ok(losses)
    }

    /// What a gate reads of each prompt; kept where states are, by everything it depends on.
    fn inputs(&self, data: &Data, gate: usize, watch: &dyn Watch) -> Result<Array2<f32>, RouterError> {
        let before: Vec<u8> = self.gates[..gate].iter().flat_map(Gate::flat).flat_map(f64::to_le_bytes).collect();
        let key = json!({
            "model": self.hash,
            "gate": gate,
            "gates before": format!("{:032x}", ContentHash::of(&before).0),
            "items": hash_of(&data.encoded),
        });
        let name = format!("{:032x}", ContentHash::of(key.to_string().as_bytes()).0);
        let path = self.request.state.as_ref().map(|state| state.join(format!("inputs-{name}.state")));
        let shape = (data.items.len(), self.stored.hidden_size);
        if let Some(file) = kept(path.as_deref(), &key)?
            && let Some(values) = file.narrow("inputs")
            && let Ok(inputs) = Array2::from_shape_vec(shape, values.to_vec())
        {
            return Ok(inputs);
        }
        let inputs = match &self.opened {
            Opened::Shared { model } => Through::new(model)?.inputs(&data.prompts(), &self.gates, gate, watch)?,
            Opened::Whole { spec, router } => {
                let prompts: Vec<Vec<u32>> = data.encoded.iter().map(|item| item.prompt.clone()).collect();
                let place = [Place::Stream(spec.router_layer)];
                let mut found = pooled_states(router.as_ref(), &prompts, &place, spec.pool, watch)?;
                found.pop().unwrap_or_else(|| Array2::zeros((0, router.width())))
            }
        };
        if let Some(path) = path {
            let arrays = vec![("inputs".to_owned(), Numbers::F32(inputs.iter().copied().collect()))];
            StateFile { about: key, arrays }.write(&path)?;
        }
        Ok(inputs)
    }

    /// A hash of all weights but the gates', of every model in the mixture.
    fn content_hash(&self, watch: &dyn Watch) -> Result<String, RouterError> {
        let directory = &self.request.mixture;
        let mut directories = vec![directory.clone()];
        if let Opened::Whole { spec, .. } = &self.opened {
            directories.push(directory.join(&spec.router_model));
            directories.extend((0..spec.experts.len()).map(|e| directory.join("experts").join(e.to_string())));
        }
        let mut all = Vec::new();
        for directory in directories {
            let config = Config::open(directory.join(CONFIG_FILE)).map_err(glue_mixture::MixError::from)?;
            let mut config = config.to_value();
            // The form of the gates is not what they are trained on.
            config.as_object_mut().map(|map| map.remove("router"));
            all.extend(config.to_string().into_bytes());
            let checkpoint = Checkpoint::open(&directory)?;
            let own: Vec<_> = checkpoint.views().filter(|view| !self.sites.is_gate(view.name())).collect();
            watch.begins("hashing weights", own.len());
            let hash = |view: &glue_tensor::TensorView<'_>| {
                go_on(watch)?;
                let hash = ContentHash::of(view.data()).0;
                watch.advanced(1);
                Ok(format!("{} {:?} {:?} {hash:032x}\n", view.name(), view.dtype(), view.shape()))
            };
            let hashes: Vec<String> = own.par_iter().map(hash).collect::<Result<_, RouterError>>()?;
            all.extend(hashes.concat().into_bytes());
        }
        Ok(format!("{:032x}", ContentHash::of(&all).0))
    }
}

/// A file of saved states, if it is there and about this.
fn kept(path: Option<&Path>, about: &serde_json::Value) -> Result<Option<StateFile>, RouterError> {
    let Some(path) = path else { return Ok(None) };
    Ok(StateFile::read(path)?.filter(|file| file.about == *about))
}

fn hash_of(items: &[Encoded]) -> String {
    let mut bytes = Vec::new();
    for item in items {
        for tokens in [&item.prompt, &item.answer] {
            bytes.extend((tokens.len() as u32).to_le_bytes());
            tokens.iter().for_each(|token| bytes.extend(token.to_le_bytes()));
        }
    }
    format!("{:032x}", ContentHash::of(&bytes).0)
}

/// Numbers of the gates of some layers.
fn select(sites: &Sites, gates: usize, layers: Option<&[usize]>) -> Result<Vec<usize>, RouterError> {
    if gates == 0 {
        let reason = "no layer of the mixture is mixed".to_owned();
        return Err(RouterError::Unsupported { what: "training of gates".into(), reason });
    }
    let Some(layers) = layers else { return Ok((0..gates).collect()) };
    let one = |layer: &usize| match sites.layers.iter().position(|mixed| mixed == layer) {
        Some(_) if gates == 1 => Ok(0),
        Some(gate) if gate < gates => Ok(gate),
        _ => {
            let reason = format!("no gate is there; mixed layers are {:?}", sites.layers);
            Err(RouterError::Unsupported { what: format!("layer {layer}"), reason })
        }
    };
    let mut selected = layers.iter().map(one).collect::<Result<Vec<usize>, _>>()?;
    selected.sort_unstable();
    selected.dedup();
    Ok(selected)
}
