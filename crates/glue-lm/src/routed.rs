//! Mixtures of whole models: a router model reads the text of a prompt, and one of several models, each with its own
//! shape, vocabulary and tokenizer, answers it.

use crate::batches::batches;
use crate::chat::{ChatOptions, Message};
use crate::error::LmError;
use crate::generate::{GenerateOptions, Generated, GenerationEstimate, Input, Prompt};
use crate::model::{StoredGate, floats, largest, load_gate, stored_scores};
use crate::ops::elements;
use crate::routing_log::RoutingLog;
use crate::text::{TextError, TextModel};
use crate::tokenizer::Tokenizer;
use crate::tree::Tree;
use crate::weights::Weights;
use candle_core::{Device, Tensor};
use glue_mixture::{Mixture, Pool, WholeSpec};
use glue_tensor::hub::locate;
use glue_tensor::model_dir::ModelDirError;
use glue_tensor::{Checkpoint, Config, FileChanged};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

/// Several models and what chooses among them.
#[derive(Debug)]
pub struct RoutedTextModel {
    spec: WholeSpec,
    router: Arc<TextModel>,
    gate: StoredGate,
    experts: Vec<Arc<TextModel>>,
    log: Option<Arc<RoutingLog>>,
    /// The file of the gate, where it was opened from.
    gate_file: Option<Arc<Checkpoint>>,
}

/// Where a prompt goes.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Route {
    /// The number of the model.
    pub expert: usize,
    /// The score of each model; the probabilities are their softmax. Empty for a prompt that was made for one of them.
    pub scores: Vec<f32>,
}

/// Tokens of prompts read in one pass.
const ROWS: usize = 2048;

impl RoutedTextModel {
    /// Opens the directory of a mixture of whole models. A model that is both expert and router is opened once.
    ///
    /// # Errors
    /// [`TextError::NotWhole`], [`TextError::Part`], and those of [`RoutedTextModel::new`].
    pub fn open(directory: impl AsRef<Path>) -> Result<RoutedTextModel, TextError> {
        let directory = &*locate(directory.as_ref());
        let config = Config::open(directory.join("config.json")).map_err(LmError::from)?;
        let Some(Mixture::Whole(spec)) = Mixture::from_config(&config).map_err(LmError::from)? else {
            return Err(TextError::NotWhole { path: directory.to_path_buf() });
        };
        let part = |part: &str| {
            let opened = TextModel::open(directory.join(part));
            let failed = |source| TextError::Part { part: part.to_owned(), source: Box::new(source) };
            opened.map(Arc::new).map_err(failed)
        };
        let names: Vec<String> = (0..spec.experts.len()).map(|expert| format!("experts/{expert}")).collect();
        let experts = names.iter().map(|name| part(name)).collect::<Result<Vec<_>, _>>()?;
        let router = match names.iter().position(|name| *name == spec.router_model) {
            Some(expert) => Arc::clone(&experts[expert]),
            None => part(&spec.router_model)?,
        };
        let gate = Checkpoint::open(directory.join("model.safetensors")).map_err(ModelDirError::from);
        let gate = Arc::new(gate.map_err(LmError::from)?);
        let mixture = RoutedTextModel::new(spec, router, &Weights::from_checkpoint(Arc::clone(&gate)), experts)?;
        Ok(RoutedTextModel { gate_file: Some(gate), ..mixture })
    }

    /// [`crate::Model::check_unchanged`] of the models and the gate.
    ///
    /// # Errors
    /// [`FileChanged`] with the first file that is not what was opened.
    pub fn check_unchanged(&self) -> Result<(), FileChanged> {
        self.experts.iter().chain([&self.router]).try_for_each(|text| text.model.check_unchanged())?;
        self.gate_file.as_ref().map_or(Ok(()), |file| file.check_unchanged())
    }

    /// Puts a mixture together from its parts. `gate` holds the tensors whose names begin with `gate.`.
    ///
    /// # Errors
    /// [`TextError::Mixture`] for parts that do not fit, [`TextError::Model`] for tensors of the gate that are missing,
    /// misshapen or left over.
    pub fn new(
        spec: WholeSpec,
        router: impl Into<Arc<TextModel>>,
        gate: &Weights,
        experts: Vec<Arc<TextModel>>,
    ) -> Result<RoutedTextModel, TextError> {
        let router = router.into();
        let misfit = |what: &str, expected: String, found: usize| {
            Err(TextError::Mixture { what: what.to_owned(), expected, found: found.to_string() })
        };
        if experts.len() != spec.experts.len() || experts.is_empty() {
            return misfit("the number of models", format!("{}, at least 1", spec.experts.len()), experts.len());
        }
        let last = router.model.num_layers() + 1;
        if spec.router_layer > last {
            return misfit("`router_layer`", format!("0 to {last}"), spec.router_layer);
        }
        let used = std::cell::RefCell::new(Vec::new());
        let tensor = |name: String, shape: &[usize]| {
            let Some(weight) = gate.get(&name)? else { return Ok(None) };
            if weight.shape() != shape {
                return Err(LmError::Shape { name, expected: shape.to_vec(), found: weight.shape().to_vec() });
            }
            used.borrow_mut().push(name);
            Ok(Some(weight))
        };
        let loaded = load_gate(spec.router, "gate.", experts.len(), router.model.hidden_size(), &tensor)?;
        if let Some(name) = gate.names().into_iter().find(|name| !used.borrow().iter().any(|used| used == name)) {
            let reason = "it is no tensor of this gate".to_owned();
            return Err(LmError::UnexpectedTensor { name: name.to_owned(), reason }.into());
        }
        Ok(RoutedTextModel { spec, router, gate: loaded, experts, log: None, gate_file: None })
    }

    /// What the mixture is.
    pub fn spec(&self) -> &WholeSpec {
        &self.spec
    }

    /// The model that reads prompts.
    pub fn router(&self) -> &Arc<TextModel> {
        &self.router
    }

    /// The models that answer.
    pub fn experts(&self) -> &[Arc<TextModel>] {
        &self.experts
    }

    /// An empty log of the right shape for [`RoutedTextModel::with_routing_log`]: one gate.
    pub fn routing_log(&self) -> RoutingLog {
        RoutingLog::with_shape([(self.spec.router_layer, self.experts.len())])
    }

    /// The same, counting in `log` where prompts go from now on.
    #[must_use]
    pub fn with_routing_log(self, log: Arc<RoutingLog>) -> RoutedTextModel {
        RoutedTextModel { log: Some(log), ..self }
    }

    /// Where each prompt goes: to the model with the highest score, the first of equals. A text that is too long for
    /// the router is read from its end; one without tokens is read as BOS, or as the end-of-sequence token of a router
    /// without BOS.
    ///
    /// # Errors
    /// [`TextError::NotText`], [`TextError::EmptyPrompt`], and those of tokenizer and model.
    pub fn route(&self, prompts: &[Prompt]) -> Result<Vec<Route>, TextError> {
        let Tokenized { texts, made_for } = self.tokens(prompts)?;
        let mut scores = Vec::with_capacity(texts.len());
        for batch in batches(texts.iter().map(Vec::len), ROWS) {
            scores.extend(self.scores(&texts[batch])?);
        }
        let mut scores = scores.into_iter();
        let route = |made_for: Option<usize>| match made_for {
            Some(expert) => Route { expert, scores: Vec::new() },
            None => {
                let scores = scores.next().unwrap_or_default();
                let expert = largest(&scores, 1).first().copied().unwrap_or(0);
                if let Some(log) = &self.log {
                    log.count(0, &scores, &[expert]);
                }
                Route { expert, scores }
            }
        };
        Ok(made_for.into_iter().map(route).collect())
    }

    fn tokens(&self, prompts: &[Prompt]) -> Result<Tokenized, TextError> {
        let tokenizer = &self.router.tokenizer;
        let max_positions = self.router.model.max_positions();
        let mut texts = Vec::new();
        for (prompt, given) in prompts.iter().enumerate().filter(|(_, given)| given.expert.is_none()) {
            let Input::Text { text, add_special } = &given.input else {
                return Err(TextError::NotText { prompt });
            };
            let mut tokens = self.router.encode(text, *add_special)?;
            if tokens.is_empty() {
                tokens.push(beginning(tokenizer).ok_or(TextError::EmptyPrompt { prompt })?);
            }
            texts.push(tokens.split_off(tokens.len().saturating_sub(max_positions)));
        }
        let made_for =
            prompts.iter().map(|prompt| prompt.expert.filter(|&expert| expert < self.experts.len())).collect();
        Ok(Tokenized { texts, made_for })
    }

    /// The scores of some texts, in one pass.
    fn scores(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, LmError> {
        let pooled = pooled_states(&self.router, texts, self.spec.router_layer, self.spec.pool)?;
        let scores = elements(&stored_scores(&self.gate, &pooled)?)?;
        Ok(scores.chunks_exact(self.experts.len()).map(<[f32]>::to_vec).collect())
    }

    /// Continues every prompt by the model it goes to, as [`TextModel::generate`] does.
    ///
    /// # Errors
    /// [`TextError`]; indices of prompts are those of `prompts`.
    pub fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Generated>, TextError> {
        let routes = self.route(prompts)?;
        let mut all = Vec::new();
        for (expert, model) in self.experts.iter().enumerate() {
            let members: Vec<usize> = (0..prompts.len()).filter(|&prompt| routes[prompt].expert == expert).collect();
            // The number that random numbers depend on stays that of the prompt.
            let with_stream = |&prompt: &usize| {
                let stream = prompts[prompt].stream.unwrap_or(prompt as u64);
                prompts[prompt].clone().with_stream(stream)
            };
            let own: Vec<Prompt> = members.iter().map(with_stream).collect();
            let answers = model.generate(&own, options, progress).map_err(|error| at_prompt(error, &members))?;
            all.extend(answers.into_iter().map(|answer| Generated { prompt: members[answer.prompt], ..answer }));
        }
        all.sort_by_key(|answer| (answer.prompt, answer.sample));
        Ok(all)
    }

    /// Continues one prompt by the model it goes to, as [`TextModel::generate_stream`] does.
    ///
    /// # Errors
    /// [`TextError`]
    pub fn generate_stream(
        &self,
        prompt: &Prompt,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, TextError> {
        let routes = self.route(std::slice::from_ref(prompt))?;
        let expert = routes.first().map_or(0, |route| route.expert);
        self.experts[expert].generate_stream(prompt, options, on_text)
    }

    /// The prompt that `messages` become: the router reads them by its own chat template, or their contents line by
    /// line where it has none, and the template of the model that they go to renders them.
    ///
    /// # Errors
    /// [`TextError::NoChatTemplate`], [`TextError::Chat`] of the model that they go to, and those of
    /// [`RoutedTextModel::route`].
    pub fn chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Prompt, TextError> {
        let read = match self.router.chat(messages, options) {
            Err(TextError::NoChatTemplate) => Prompt::text(plain(messages)),
            prompt => prompt?,
        };
        let routes = self.route(&[read])?;
        let expert = routes.first().map_or(0, |route| route.expert);
        Ok(Prompt { expert: Some(expert), ..self.experts[expert].chat(messages, options)? })
    }
}

struct Tokenized {
    /// Of the prompts that are to be routed.
    texts: Vec<Vec<u32>>,
    /// For each prompt the model it was made for.
    made_for: Vec<Option<usize>>,
}

/// The pooled states [texts, hidden size] of a model at one place of its residual stream, in one pass.
///
/// # Errors
/// [`LmError::HiddenIndex`], [`LmError::Token`], and [`LmError::NoPrompt`] for a text without tokens.
fn pooled_states(model: &TextModel, texts: &[Vec<u32>], layer: usize, pool: Pool) -> Result<Tensor, LmError> {
    if texts.iter().any(Vec::is_empty) {
        return Err(LmError::NoPrompt);
    }
    let mut tree = Tree::new();
    for text in texts {
        tree.push(None, text);
    }
    let found = model.model.hidden_states(&tree, &[layer])?;
    let hidden = model.model.hidden_size();
    let mut pooled = Vec::with_capacity(texts.len() * hidden);
    for states in &found {
        let states = floats(states)?;
        let mut at = 0;
        for text in texts {
            pooled.extend(pool.pooled(&states[at * hidden..(at + text.len()) * hidden], hidden));
            at += text.len();
        }
    }
    Ok(Tensor::from_vec(pooled, (texts.len(), hidden), &Device::Cpu)?)
}

/// What a text begins with.
fn beginning(tokenizer: &Tokenizer) -> Option<u32> {
    tokenizer.bos().or(tokenizer.eos())
}

/// The contents of messages, a line for each.
fn plain(messages: &[Message]) -> String {
    messages.iter().map(|message| message.content()).collect::<Vec<_>>().join("\n")
}

/// The same error with the index of the prompt among all.
fn at_prompt(error: TextError, members: &[usize]) -> TextError {
    let of = |prompt: usize| members.get(prompt).copied().unwrap_or(prompt);
    match error {
        TextError::EmptyPrompt { prompt } => TextError::EmptyPrompt { prompt: of(prompt) },
        TextError::PromptTooLong { prompt, tokens, max_new_tokens, max_positions } => {
            TextError::PromptTooLong { prompt: of(prompt), tokens, max_new_tokens, max_positions }
        }
        TextError::Choice { prompt, step, error } => TextError::Choice { prompt: of(prompt), step, error },
        other => other,
    }
}

/// A model directory of any kind: one model, dense or a mixture, or a mixture of whole models.
#[derive(Debug)]
#[non_exhaustive]
pub enum AnyTextModel {
    /// One model with its tokenizer.
    One(Box<TextModel>),
    /// Several whole models.
    Routed(Box<RoutedTextModel>),
}

impl AnyTextModel {
    /// Opens whichever it is.
    ///
    /// # Errors
    /// Those of [`TextModel::open`] and [`RoutedTextModel::open`].
    pub fn open(directory: impl AsRef<Path>) -> Result<AnyTextModel, TextError> {
        let directory = &*locate(directory.as_ref());
        match Config::open(directory.join("config.json")).map(|config| Mixture::from_config(&config)) {
            Ok(Ok(Some(Mixture::Whole(_)))) => Ok(AnyTextModel::Routed(Box::new(RoutedTextModel::open(directory)?))),
            // What is wrong is said by opening it.
            _ => Ok(AnyTextModel::One(Box::new(TextModel::open(directory)?))),
        }
    }

    /// As [`TextModel::generate`] and [`RoutedTextModel::generate`].
    ///
    /// # Errors
    /// [`TextError`]
    pub fn generate(
        &self,
        prompts: &[Prompt],
        options: &GenerateOptions,
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Generated>, TextError> {
        match self {
            AnyTextModel::One(model) => model.generate(prompts, options, progress),
            AnyTextModel::Routed(model) => model.generate(prompts, options, progress),
        }
    }

    /// As [`TextModel::estimate`]. For a mixture of whole models, whose models answer one after the other, as if all
    /// prompts went to the one that takes most.
    ///
    /// # Errors
    /// [`TextError`]
    pub fn estimate(&self, prompts: &[Prompt], options: &GenerateOptions) -> Result<GenerationEstimate, TextError> {
        match self {
            AnyTextModel::One(model) => model.estimate(prompts, options),
            AnyTextModel::Routed(model) => {
                let mut largest = model.router().estimate(prompts, options)?;
                for expert in model.experts() {
                    let estimate = expert.estimate(prompts, options)?;
                    largest = if estimate.memory > largest.memory { estimate } else { largest };
                }
                Ok(largest)
            }
        }
    }

    /// As [`TextModel::generate_stream`] and [`RoutedTextModel::generate_stream`].
    ///
    /// # Errors
    /// [`TextError`]
    pub fn generate_stream(
        &self,
        prompt: &Prompt,
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generated, TextError> {
        match self {
            AnyTextModel::One(model) => model.generate_stream(prompt, options, on_text),
            AnyTextModel::Routed(model) => model.generate_stream(prompt, options, on_text),
        }
    }

    /// As [`TextModel::chat`] and [`RoutedTextModel::chat`].
    ///
    /// # Errors
    /// [`TextError`]
    pub fn chat(&self, messages: &[Message], options: &ChatOptions) -> Result<Prompt, TextError> {
        match self {
            AnyTextModel::One(model) => model.chat(messages, options),
            AnyTextModel::Routed(model) => model.chat(messages, options),
        }
    }
}
