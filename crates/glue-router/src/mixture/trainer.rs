//! From the directory of a mixture and tasks to trained gates in their place.

use super::{GateReport, Held, Labels, Method, TrainPlan, TrainReport, TrainRequest};
use crate::error::RouterError;
use crate::error::check_cancelled;
use crate::gate::{Gate, GateMath};
use crate::items::{Encoded, Item, read_items, train_validation_split};
use crate::labels::{assign, loss_targets, skill_targets};
use crate::lm_loss::{LmExamples, train_by_loss, with_parameters};
use crate::losses::losses_of_models;
use crate::report::RoutingTable;
use crate::state_file::{Numbers, StateFile};
use crate::states::{DenseStates, ResidualSite, TokenStates, pooled_states};
use crate::supervised::{Examples, train_gate};
use crate::through::{Streams, Through};
use crate::training::kept_parameters;
use glue_eval::Task;
use glue_lm::{Model, Tokenizer};
use glue_mixture::{Gates, Mixture, MixtureFormat, Sites, WholeSpec, gate_dtype, mend_gates, read_gates, write_gates};
use glue_progress::{Progress, Unit};
use glue_tensor::model_dir::CONFIG_FILE;
use glue_tensor::{Checkpoint, Config, ContentHash, Dtype};
use ndarray::Array2;
use rayon::prelude::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

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
    /// What gates are stored as.
    dtype: Dtype,
    gates: Vec<Gate>,
    selected: Vec<usize>,
    train: Data,
    validation: Data,
    /// A hash of all models in the mixture.
    hash: String,
    /// A hash of what the states that gates read come from.
    states_hash: String,
}

impl std::fmt::Debug for Trainer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trainer").field("request", &self.request).field("gates", &self.selected).finish_non_exhaustive()
    }
}

impl Trainer {
    /// Opens the mixture and reads the items of `tasks`. Nothing is computed yet. Where an earlier training was killed
    /// while it replaced the gates, that is completed first.
    ///
    /// # Errors
    /// [`RouterError`]: a mixture or items that are not sound, a layer without a gate, gates that cannot be replaced by
    /// themselves, too few items.
    pub fn open(request: TrainRequest, tasks: &[Task]) -> Result<Trainer, RouterError> {
        let directory = &request.mixture;
        mend_gates(directory)?;
        let sites = Sites::open(directory)?;
        let stored = read_gates(directory)?;
        let wide = |gate| Gate::from_stored(gate, stored.experts, stored.hidden_size);
        let gates = stored.gates.iter().map(wide).collect::<Result<Vec<_>, _>>()?;
        let selected = select(&sites, gates.len(), request.layers.as_deref())?;
        let dtype = gate_dtype(directory)?;
        let items = read_items(tasks, Some(&request.split), &request.splits, request.limit)?;
        let (train, held) = match &request.held {
            Held::Share(share) => train_validation_split(items, *share, request.settings.seed)?,
            Held::Split(split) => (items, read_items(tasks, Some(split), &BTreeMap::new(), None)?),
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
        let (hash, states_hash) = (String::new(), String::new());
        Ok(Trainer { hash, states_hash, request, sites, opened, stored, dtype, gates, selected, train, validation })
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
    pub fn run(mut self, progress: &dyn Progress) -> Result<TrainReport, RouterError> {
        if let Some(state) = &self.request.state {
            let io = |error| RouterError::Io { path: state.clone(), error };
            std::fs::create_dir_all(state).map_err(io)?;
            let parts = self.content_hashes(progress)?;
            self.hash = parts.join(" ");
            self.states_hash = match &self.opened {
                Opened::Shared { .. } => self.hash.clone(),
                Opened::Whole { spec, .. } => format!("{} {} {:?}", parts[1], spec.router_layer, spec.pool),
            };
        }
        let report = match self.request.method {
            Method::Supervised => self.supervised(progress)?,
            Method::LmLoss { balance } => self.by_loss(balance, progress)?,
        };
        match &self.opened {
            Opened::Shared { model } => model.check_unchanged()?,
            Opened::Whole { router, .. } => router.model().check_unchanged()?,
        }
        write_gates(&self.request.mixture, &self.as_stored(&self.gates)?)?;
        Ok(report)
    }

    /// Gates as they come back from the mixture's files.
    fn as_stored(&self, gates: &[Gate]) -> Result<Gates, RouterError> {
        let gates = Gates { gates: gates.iter().map(GateMath::to_stored).collect(), ..self.stored.clone() };
        Ok(gates.stored_as(self.dtype)?)
    }

    fn name(&self, gate: usize) -> String {
        self.sites.prefixes.get(gate).cloned().unwrap_or_default()
    }

    fn supervised(&mut self, progress: &dyn Progress) -> Result<TrainReport, RouterError> {
        let experts = self.sites.experts.clone();
        let (assigned, train_targets, held_targets) = match self.request.labels {
            Labels::Skill => {
                let mut losses = || self.losses("train", &self.train, progress);
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
                    loss_targets(self.losses(what, data, progress)?.view(), temperature)
                };
                (BTreeMap::new(), targets("train", &self.train)?, targets("validation", &self.validation)?)
            }
        };
        let mut reports = Vec::with_capacity(self.selected.len());
        // Beside the state where there is one, else beside the mixture: memory is not the place.
        let directory = self.request.state.clone().unwrap_or_else(|| self.request.mixture.clone());
        let (mut of_train, mut of_held) = (Streams::new(&directory)?, Streams::new(&directory)?);
        for gate in self.selected.clone() {
            let states = self.inputs(&self.train, gate, &mut of_train, progress)?;
            let held = self.inputs(&self.validation, gate, &mut of_held, progress)?;
            let examples = Examples { states: states.view(), targets: train_targets.view() };
            let validation = Examples { states: held.view(), targets: held_targets.view() };
            let kind = self.request.router.unwrap_or(self.sites.router);
            let path = self.request.state.as_ref().map(|state| state.join(format!("gate-{gate}.state")));
            let state = path.as_deref().map(|path| (path, self.request.resume));
            // Formats that other programs know have no bias.
            let bias = self.sites.format == MixtureFormat::Native;
            let trained = train_gate(kind, bias, &examples, &validation, &self.request.settings, state, progress)?;
            // Accuracy is that of the gate as it is stored.
            let stored = self.as_stored(std::slice::from_ref(&trained.gate))?;
            let stored = Gate::from_stored(&stored.gates[0], experts.len(), states.ncols())?;
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

    fn by_loss(&mut self, balance: f64, progress: &dyn Progress) -> Result<TrainReport, RouterError> {
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
        let began = match state {
            Some((path, true)) => self.began_with(path)?,
            _ => None,
        };
        let start = began.as_deref().unwrap_or(&self.gates);
        let trained = train_by_loss(&mixture, start, &examples, &self.request.settings, state, progress)?;
        let mut rows: Vec<Vec<(String, Vec<f64>)>> = vec![Vec::new(); self.gates.len()];
        let mut tasks: BTreeMap<&str, Vec<&Encoded>> = BTreeMap::new();
        for (item, encoded) in self.validation.items.iter().zip(&self.validation.encoded) {
            tasks.entry(&item.task).or_default().push(encoded);
        }
        for (task, items) in tasks {
            check_cancelled(progress)?;
            let found = mixture.load(&trained.gates, &items)?;
            rows.iter_mut().zip(found).for_each(|(rows, load)| rows.push((task.to_owned(), load)));
        }
        let table = |(gate, rows)| {
            let (rows_are, experts) = ("task".to_owned(), self.sites.experts.clone());
            (self.name(gate), RoutingTable { rows_are, experts, rows })
        };
        let load = rows.into_iter().enumerate().map(table).collect();
        self.gates.clone_from(&trained.gates);
        Ok(TrainReport::LmLoss { trained, load })
    }

    /// The gates with which the training kept at `path` began, if the mixture has those that it led to: then it was
    /// killed after it had replaced them.
    fn began_with(&self, path: &Path) -> Result<Option<Vec<Gate>>, RouterError> {
        let parameters: usize = self.selected.iter().map(|&gate| self.gates[gate].flat().len()).sum();
        let kept = kept_parameters(path)?.filter(|kept| kept.iter().all(|kept| kept.len() == parameters));
        let Some([initial, best]) = kept else { return Ok(None) };
        let with = |parameters: &[f64]| with_parameters(&self.gates, &self.selected, parameters);
        Ok((self.as_stored(&with(&best))? == self.stored).then(|| with(&initial)))
    }

    /// Losses of answers by each expert alone, [items, experts]; kept where states are.
    fn losses(&self, what: &str, data: &Data, progress: &dyn Progress) -> Result<Array2<f64>, RouterError> {
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
            Opened::Shared { model } => Through::new(model)?.losses_of_experts(&data.encoded, progress)?,
            Opened::Whole { .. } => {
                let part = |number: usize| self.request.mixture.join("experts").join(number.to_string());
                let models = self.sites.experts.iter().enumerate().map(|(number, name)| (name.clone(), part(number)));
                losses_of_models(&data.items, &models.collect::<Vec<(String, PathBuf)>>(), progress)?
            }
        };
        if let Some(path) = path {
            let arrays = vec![("losses".to_owned(), Numbers::F64(losses.iter().copied().collect()))];
            StateFile { about: key, arrays }.write(&path)?;
        }
        Ok(losses)
    }

    /// What a gate reads of each prompt; kept where states are, by everything it depends on.
    fn inputs(
        &self,
        data: &Data,
        gate: usize,
        streams: &mut Streams,
        progress: &dyn Progress,
    ) -> Result<Array2<f32>, RouterError> {
        let before: Vec<u8> = self.gates[..gate].iter().flat_map(GateMath::flat).flat_map(f64::to_le_bytes).collect();
        let key = json!({
            "model": self.states_hash,
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
            Opened::Shared { model } => {
                Through::new(model)?.inputs(&data.prompts(), &self.gates, gate, streams, progress)?
            }
            Opened::Whole { spec, router } => {
                let prompts: Vec<Vec<u32>> = data.encoded.iter().map(|item| item.prompt.clone()).collect();
                let site = [ResidualSite::Residual(spec.router_layer)];
                let mut found = pooled_states(router.as_ref(), &prompts, &site, spec.pool, progress)?;
                found.pop().unwrap_or_else(|| Array2::zeros((0, router.width())))
            }
        };
        if let Some(path) = path {
            let arrays = vec![("inputs".to_owned(), Numbers::F32(inputs.iter().copied().collect()))];
            StateFile { about: key, arrays }.write(&path)?;
        }
        Ok(inputs)
    }

    /// Hashes of the configuration and all weights but the gates', of the mixture itself and, of whole models, of the
    /// one that reads prompts and of each expert.
    fn content_hashes(&self, progress: &dyn Progress) -> Result<Vec<String>, RouterError> {
        let directory = &self.request.mixture;
        let mut directories = vec![directory.clone()];
        if let Opened::Whole { spec, .. } = &self.opened {
            directories.push(directory.join(&spec.router_model));
            directories.extend((0..spec.experts.len()).map(|e| directory.join("experts").join(e.to_string())));
        }
        let mut hashes = Vec::new();
        for directory in directories {
            let mut all = Vec::new();
            let config = Config::open(directory.join(CONFIG_FILE)).map_err(glue_mixture::MixError::from)?;
            let mut config = config.to_value();
            // The form of the gates is not what they are trained on.
            config.as_object_mut().map(|map| map.remove("router"));
            all.extend(config.to_string().into_bytes());
            let checkpoint = Checkpoint::open(&directory)?;
            let own: Vec<_> = checkpoint.views().filter(|view| !self.sites.is_gate(view.name())).collect();
            progress.begin("hashing weights", Unit::Steps, Some(own.len() as u64));
            let hash = |view: &glue_tensor::TensorView<'_>| {
                check_cancelled(progress)?;
                let hash = ContentHash::of(view.data()).0;
                progress.advance(1);
                Ok(format!("{} {:?} {:?} {hash:032x}\n", view.name(), view.dtype(), view.shape()))
            };
            let of_tensors: Vec<String> = own.par_iter().map(hash).collect::<Result<_, RouterError>>()?;
            all.extend(of_tensors.concat().into_bytes());
            hashes.push(format!("{:032x}", ContentHash::of(&all).0));
        }
        Ok(hashes)
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
