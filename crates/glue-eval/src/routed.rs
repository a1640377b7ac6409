//! A mixture of whole models as a [`LanguageModel`]: each context goes to the model that the router chooses for it,
//! which is asked as a [`LocalModel`].
//!
//! A route is decided by the context alone, without what is scored after it. Texts that are scored as a whole have no
//! context: they go where the empty prompt goes.

use crate::cache::Hasher;
use crate::error::ModelError;
use crate::local::LocalModel;
use crate::model::{ChatMessage, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest};
use glue_lm::{Prompt, RoutedTextModel};
use glue_progress::CancelToken;
use glue_tensor::{ContentHash, files};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A mixture of whole models, ready to be scored.
#[derive(Debug)]
pub struct RoutedModel {
    mixture: RoutedTextModel,
    experts: Vec<LocalModel>,
    router: LocalModel,
    name: String,
    directory: Option<PathBuf>,
    /// Where rendered conversations go: the text is that of the expert's template, which the router need not know.
    conversations: Mutex<HashMap<String, usize>>,
}

impl RoutedModel {
    /// Opens the directory of a mixture, whose path is the name in reports.
    ///
    /// # Errors
    /// [`ModelError`] for a mixture that cannot be opened, or a model in it with neither BOS nor an end-of-sequence
    /// token.
    pub fn open(directory: impl AsRef<Path>) -> Result<RoutedModel, ModelError> {
        let directory = directory.as_ref();
        let mixture = RoutedTextModel::open(directory).map_err(ModelError::caused_by)?;
        Ok(RoutedModel::new(mixture, directory.display().to_string())?.with_directory(directory))
    }

    /// Takes a mixture in memory. It has no content hash.
    ///
    /// # Errors
    /// [`ModelError`] for a model in it with neither BOS nor an end-of-sequence token.
    pub fn new(mixture: RoutedTextModel, name: impl Into<String>) -> Result<RoutedModel, ModelError> {
        let names = &mixture.spec().experts;
        let experts = mixture.experts().iter().zip(names);
        let experts =
            experts.map(|(model, name)| LocalModel::new(Arc::clone(model), name)).collect::<Result<_, _>>()?;
        let router = LocalModel::new(Arc::clone(mixture.router()), "router")?;
        let conversations = Mutex::default();
        Ok(RoutedModel { mixture, experts, router, name: name.into(), directory: None, conversations })
    }

    /// The same with the content hash of the files in `directory`, from which the mixture was opened.
    #[must_use]
    pub fn with_directory(self, directory: impl AsRef<Path>) -> RoutedModel {
        let directory = directory.as_ref();
        let at =
            |(expert, model): (usize, LocalModel)| model.with_directory(directory.join(format!("experts/{expert}")));
        RoutedModel {
            experts: self.experts.into_iter().enumerate().map(at).collect(),
            router: self.router.with_directory(directory.join(&self.mixture.spec().router_model)),
            directory: Some(directory.to_path_buf()),
            ..self
        }
    }

    /// The same, ending its work with an error once it is cancelled.
    #[must_use]
    pub fn with_cancel(self, cancel: &CancelToken) -> RoutedModel {
        let experts = self.experts.into_iter().map(|model| model.with_cancel(cancel.clone())).collect();
        RoutedModel { experts, ..self }
    }

    /// The same with this memory budget for the model that answers; see [`LocalModel::with_memory`].
    #[must_use]
    pub fn with_memory(self, bytes: u64) -> RoutedModel {
        let experts = self.experts.into_iter().map(|model| model.with_memory(bytes)).collect();
        RoutedModel { experts, ..self }
    }

    /// The mixture.
    pub fn mixture(&self) -> &RoutedTextModel {
        &self.mixture
    }

    /// The expert of each context; equal contexts are read once.
    fn route(&self, contexts: &[&str]) -> Result<Vec<usize>, ModelError> {
        let conversations = self.conversations.lock();
        let mut expert_of: HashMap<&str, Option<usize>> = HashMap::new();
        let mut asked = Vec::new();
        for &context in contexts {
            expert_of.entry(context).or_insert_with(|| {
                let known = conversations.get(context).copied();
                if known.is_none() {
                    asked.push(context);
                }
                known
            });
        }
        let prompts: Vec<Prompt> = asked.iter().map(|&context| Prompt::text(context)).collect();
        let routes = self.mixture.route(&prompts).map_err(ModelError::caused_by)?;
        for (context, route) in asked.into_iter().zip(routes) {
            expert_of.insert(context, Some(route.expert));
        }
        Ok(contexts.iter().map(|context| expert_of.get(context).copied().flatten().unwrap_or(0)).collect())
    }

    /// Asks each expert its own requests, and puts the answers in the order of all.
    fn dispatch<R: Copy, A>(
        &self,
        requests: &[R],
        routes: &[usize],
        ask: impl Fn(&LocalModel, &[R]) -> Result<Vec<A>, ModelError>,
    ) -> Result<Vec<A>, ModelError> {
        let mut answers: Vec<Option<A>> = requests.iter().map(|_| None).collect();
        for (expert, model) in self.experts.iter().enumerate() {
            let members: Vec<usize> = (0..requests.len()).filter(|&request| routes[request] == expert).collect();
            if members.is_empty() {
                continue;
            }
            let own: Vec<R> = members.iter().map(|&request| requests[request]).collect();
            let given = ask(model, &own).map_err(|error| ModelError {
                request: error.request.map(|request| members.get(request).copied().unwrap_or(request)),
                ..error
            })?;
            for (member, answer) in members.into_iter().zip(given) {
                answers[member] = Some(answer);
            }
        }
        let all: Option<Vec<A>> = answers.into_iter().collect();
        all.ok_or_else(|| ModelError::new(format!("{} left a request without an answer", self.name)))
    }
}

impl LanguageModel for RoutedModel {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn content_hash(&self) -> Result<Option<String>, ModelError> {
        let Some(directory) = &self.directory else { return Ok(None) };
        let mut hasher = Hasher::new();
        for file in ["config.json", "model.safetensors"] {
            let path = directory.join(file);
            let bytes = files::read(&path, files::DATA_BYTES)
                .map_err(|error| ModelError::new(format!("{}: {error}", path.display())))?;
            // Writing to a hasher cannot fail.
            let _ = write!(hasher, "{:?}", ContentHash::of(&bytes));
        }
        for model in self.experts.iter().chain([&self.router]) {
            let _ = write!(hasher, "{:?}", model.content_hash()?);
        }
        Ok(Some(hasher.finish()))
    }

    fn check_unchanged(&self) -> Result<(), ModelError> {
        self.mixture.check_unchanged().map_err(ModelError::caused_by)
    }

    fn loglikelihoods(
        &self,
        requests: &[LogLikelihoodRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<LogLikelihood>, ModelError> {
        let contexts: Vec<&str> = requests.iter().map(|request| request.context).collect();
        let routes = self.route(&contexts)?;
        self.dispatch(requests, &routes, |model, own| model.loglikelihoods(own, progress))
    }

    fn rolling(&self, texts: &[&str], progress: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
        let routes = self.route(&vec![""; texts.len()])?;
        self.dispatch(texts, &routes, |model, own| model.rolling(own, progress))
    }

    fn generate(
        &self,
        requests: &[GenerateRequest<'_>],
        progress: &(dyn Fn(usize) + Sync),
    ) -> Result<Vec<Vec<Generation>>, ModelError> {
        let contexts: Vec<&str> = requests.iter().map(|request| request.context).collect();
        let routes = self.route(&contexts)?;
        self.dispatch(requests, &routes, |model, own| model.generate(own, progress))
    }

    /// The router reads the conversation by its own template, or the contents line by line where it has none; the
    /// template of the expert renders it.
    fn chat(&self, messages: &[ChatMessage]) -> Result<String, ModelError> {
        let has_template =
            self.mixture.router().tokenizer.chat_template(None).map_err(ModelError::caused_by)?.is_some();
        let read = match has_template {
            true => Prompt::rendered(self.router.chat(messages)?),
            false => {
                Prompt::text(messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n"))
            }
        };
        let routes = self.mixture.route(&[read]).map_err(ModelError::caused_by)?;
        let expert = routes.first().map_or(0, |route| route.expert);
        let text = self.experts[expert].chat(messages)?;
        self.conversations.lock().insert(text.clone(), expert);
        Ok(text)
    }
}
