//! From a model and tasks to a report.

mod answer;
mod results;

use crate::cache::{Cache, Hasher, Key};
use crate::error::{EvalError, FilePosition, ModelError, TaskError};
use crate::filters::Pipeline;
use crate::metrics::{Metric, Score};
use crate::model::{GenerateRequest, LanguageModel, LogLikelihood, LogLikelihoodRequest, Sampling};
use crate::report::{ItemScore, MetricReport, Report, Sample, TaskReport, metric_names};
use crate::sandbox::{self, Sandbox, SandboxError, Strength};
use crate::task::{Ask, Chat, Check, Item, ItemOptions, Items, Python, Task};
use answer::{Answer, loss, not_run, record, truncations};
use glue_lm::jinja;
use glue_progress::{Progress, Unit};
pub(crate) use results::Said;
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::Arc;

/// How an evaluation is done.
#[derive(Debug, Clone)]
pub struct EvalOptions {
    /// The split that is scored, or [a share of it](crate#shares-of-splits); `None`, the default, for the split that
    /// each task names, which is `test` for native tasks.
    pub split: Option<String>,
    /// Splits, or shares, of single tasks by name, instead of `split`; none by default.
    pub splits: BTreeMap<String, String>,
    /// Maximum number of items of each task, from its beginning; all by default.
    pub limit: Option<usize>,
    /// Fraction of the items of each task that is scored, from its beginning: above 0 and at most 1, rounded up to
    /// whole items; all by default.
    pub fraction: Option<f64>,
    /// Examples in each prompt, instead of as many as a task asks for.
    pub num_fewshot: Option<usize>,
    /// What the choice of examples and sampled answers depend on; 1234 by default, as in lm-evaluation-harness.
    pub seed: u64,
    /// Whether prompts are put into the model's chat template; false by default.
    pub apply_chat_template: bool,
    /// Whether, in a chat template, examples are turns of their own, as by default; else they stand in the question.
    pub fewshot_as_multiturn: bool,
    /// An instruction at the beginning of every prompt, before descriptions of tasks; none by default.
    pub system_instruction: Option<String>,
    /// `generation_kwargs` of lm-evaluation-harness (`until`, `max_gen_toks`, `temperature`, `do_sample`, `top_k`,
    /// `top_p`, `min_p`, `repetition_penalty`) in the place of those of the tasks; none by default.
    pub gen_kwargs: Map<String, Value>,
    /// The text that ends the reasoning of a model, which is taken off its answers; none by default. Stop strings count
    /// after it only: what a model generates ends with its own end of text or at the maximum length.
    pub think_end_token: Option<String>,
    /// Whether programs that the model writes may be run; false by default, and then tasks that do so are refused.
    pub allow_code_execution: bool,
    /// What each of those programs may use.
    pub limits: sandbox::Limits,
    /// How they are run.
    pub sandbox: sandbox::Options,
    /// How many of them run at a time; as many as there are processors by default.
    pub sandbox_threads: usize,
    /// Whether functions that tasks take from Python files, and that are not evaluated here, may be run by the Python
    /// that is installed, in a sandbox; false by default, and then such tasks are refused.
    pub allow_python: bool,
    /// Whether the report has a record of each item; false by default.
    pub samples: bool,
    /// Where scores are kept and looked up; nowhere by default.
    pub cache: Option<Cache>,
}

impl Default for EvalOptions {
    fn default() -> EvalOptions {
        EvalOptions {
            split: None,
            splits: BTreeMap::new(),
            limit: None,
            fraction: None,
            num_fewshot: None,
            seed: 1234,
            apply_chat_template: false,
            fewshot_as_multiturn: true,
            system_instruction: None,
            gen_kwargs: Map::new(),
            think_end_token: None,
            allow_code_execution: false,
            limits: sandbox::Limits::default(),
            sandbox: sandbox::Options::default(),
            sandbox_threads: std::thread::available_parallelism().map_or(1, usize::from),
            allow_python: false,
            samples: false,
            cache: None,
        }
    }
}

impl EvalOptions {
    /// What runs functions that are not evaluated here.
    pub(crate) fn python(&self) -> Option<Python> {
        self.allow_python.then(|| Python::new(&self.sandbox))
    }

    /// The split, or share, that is scored of a task; `None` for the split that the task names.
    pub fn split_of(&self, task: &Task) -> Option<&str> {
        self.splits.get(task.name()).or(self.split.as_ref()).map(String::as_str)
    }

    /// What a task makes its items by.
    pub(crate) fn of_items<'a>(
        &'a self,
        task: &Task,
        chat: Option<Chat<'a>>,
        python: Option<&'a Python>,
    ) -> ItemOptions<'a> {
        ItemOptions {
            split: self.split_of(task),
            limit: self.limit,
            fraction: self.fraction,
            num_fewshot: self.num_fewshot,
            seed: self.seed,
            chat,
            system_instruction: self.system_instruction.as_deref(),
            gen_kwargs: &self.gen_kwargs,
            think_end: self.think_end_token.as_deref(),
            python,
        }
    }

    /// Refuses splits of tasks that are not there.
    pub(crate) fn check_splits(&self, tasks: &[Task]) -> Result<(), TaskError> {
        let unknown = self.splits.iter().find(|(name, _)| tasks.iter().all(|task| task.name() != *name));
        unknown.map_or(Ok(()), |(name, split)| {
            let known = tasks.iter().map(|task| task.name().to_owned()).collect();
            Err(TaskError::SplitOfUnknownTask { name: name.clone(), split: split.clone(), known })
        })
    }
}

/// Scores a model in some tasks. The requests of all tasks are made together; where there is a cache, task by task, and
/// what is known of a task is in the cache before the next one begins.
///
/// # Errors
/// [`EvalError`]: a task or an item that is not sound, or programs to run without permission or without a sandbox that
/// holds, before anything is asked; or the model's own.
pub fn evaluate(
    model: &dyn LanguageModel,
    tasks: &[Task],
    options: &EvalOptions,
    progress: &dyn Progress,
) -> Result<Report, EvalError> {
    let rendered = render(tasks, options, Some(model))?;
    ask_all(model, tasks, &rendered, None, options, progress)
}

/// Tasks whose items were read and rendered once, to be asked of many models, all or some of them.
#[derive(Debug)]
pub struct Prepared {
    tasks: Arc<[Task]>,
    items: Vec<Items>,
    options: EvalOptions,
}

impl Prepared {
    /// Reads and renders all items that `options` names. In a chat template, that of `chat` is taken: one prepared set
    /// fits the models of one template.
    ///
    /// # Errors
    /// [`EvalError`]: a task or an item that is not sound, programs to run without permission, or a chat template that
    /// fails, as it does for want of a model.
    pub fn new(
        tasks: impl Into<Arc<[Task]>>,
        options: &EvalOptions,
        chat: Option<&dyn LanguageModel>,
    ) -> Result<Prepared, EvalError> {
        let tasks = tasks.into();
        let items = render(&tasks, options, chat)?;
        Ok(Prepared { tasks, items, options: options.clone() })
    }

    /// The tasks.
    pub fn tasks(&self) -> &Arc<[Task]> {
        &self.tasks
    }

    /// The items of each task.
    pub(crate) fn items(&self) -> &[Items] {
        &self.items
    }

    /// How many items each task has.
    pub fn counts(&self) -> Vec<usize> {
        self.items.iter().map(|items| items.items.len()).collect()
    }

    /// For each task a hash of what is asked and how it is scored; not of where its files are.
    pub fn content_hashes(&self) -> Vec<String> {
        let hash = |(task, items): (&Task, &Items)| {
            let all: Vec<usize> = (0..items.items.len()).collect();
            task_hash(task, items, &all, &self.options)
        };
        self.tasks.iter().zip(&self.items).map(hash).collect()
    }

    /// Scores a model as [`evaluate`] does. `chosen` has, for each task, which of its items are asked, by their
    /// numbers, in ascending order, and the report is of these alone; `None` asks all. A task of which none are asked
    /// is reported with no items and metrics that are not numbers.
    ///
    /// # Errors
    /// [`EvalError`]: no sandbox for programs that it writes, before anything is asked; or the model's own.
    ///
    /// # Panics
    /// When `chosen` has another number of tasks, or an item that a task does not have.
    pub fn evaluate(
        &self,
        model: &dyn LanguageModel,
        chosen: Option<&[Vec<usize>]>,
        progress: &dyn Progress,
    ) -> Result<Report, EvalError> {
        ask_all(model, &self.tasks, &self.items, chosen, &self.options, progress)
    }
}

/// The items of all tasks. What can be refused is refused here.
fn render(tasks: &[Task], options: &EvalOptions, model: Option<&dyn LanguageModel>) -> Result<Vec<Items>, EvalError> {
    if tasks.is_empty() {
        return Err(EvalError::NoTasks);
    }
    if let Some(task) = tasks.iter().find(|task| task.runs_code() && !options.allow_code_execution) {
        return Err(EvalError::CodeNotAllowed { task: task.name().into() });
    }
    options.check_splits(tasks)?;
    let render = |messages: &[crate::model::ChatMessage]| match model {
        Some(model) => model.chat(messages),
        None => Err(ModelError::new("there is no model whose chat template could be applied")),
    };
    let python = options.python();
    let items = |task: &Task| {
        let chat = Chat { render: &render, multiturn: options.fewshot_as_multiturn };
        task.items(&options.of_items(task, options.apply_chat_template.then_some(chat), python.as_ref()))
    };
    tasks.iter().map(items).collect()
}

fn ask_all(
    model: &dyn LanguageModel,
    tasks: &[Task],
    rendered: &[Items],
    chosen: Option<&[Vec<usize>]>,
    options: &EvalOptions,
    progress: &dyn Progress,
) -> Result<Report, EvalError> {
    assert!(chosen.is_none_or(|chosen| chosen.len() == tasks.len()), "items are chosen for each task");
    let model_hash = if options.cache.is_some() { model.content_hash()? } else { None };
    let of_task = |t: usize| chosen.map(|chosen| &chosen[t][..]);
    let mut runs: Vec<Run<'_>> = Vec::with_capacity(tasks.len());
    for (t, (task, items)) in tasks.iter().zip(rendered).enumerate() {
        runs.push(Run::prepare(task, items, of_task(t), options, model_hash.as_deref()));
    }
    // Before the model is asked, whose answers would be lost without.
    let stopped = |error| if progress.is_cancelled() { EvalError::Stopped } else { error };
    let sandbox = runs.iter().find(|run| run.runs_programs()).map(|run| run.sandbox(options));
    let sandbox = sandbox.transpose().map_err(stopped)?;
    // What is in the cache need not be asked again after an interruption.
    let together = if options.cache.is_some() { 1 } else { runs.len().max(1) };
    let requests: Vec<Requests<'_>> = runs.chunks(together).map(|runs| Requests::of(runs, options.seed)).collect();
    let mut report = Report { model: model.name(), tasks: Vec::new(), samples: Vec::new() };
    for (runs, requests) in runs.chunks_mut(together).zip(requests) {
        // A model that was made to end gives an error of its own.
        let asked = ask(model, runs, requests, sandbox.as_ref(), options, progress).map_err(stopped);
        if !matches!(asked, Err(EvalError::Stopped)) {
            // Whatever failed may have failed because the model changed.
            model.check_unchanged()?;
        }
        asked?;
        for run in runs {
            let (task, samples) = run.finish(&report.model, sandbox.as_ref(), options)?;
            report.tasks.push(task);
            report.samples.extend(samples);
        }
    }
    Ok(report)
}

/// One task under way.
struct Run<'a> {
    task: &'a Task,
    items: &'a Items,
    /// Numbers of the items that are asked.
    chosen: Vec<usize>,
    key: Option<Key>,
    known: Option<(TaskReport, Vec<Sample>)>,
    /// Why an entry of the cache was not used.
    note: Option<String>,
    /// One for each that is asked.
    answers: Vec<Answer>,
}

impl<'a> Run<'a> {
    fn prepare(
        task: &'a Task,
        items: &'a Items,
        chosen: Option<&[usize]>,
        options: &EvalOptions,
        model_hash: Option<&str>,
    ) -> Run<'a> {
        let chosen = chosen.map_or_else(|| (0..items.items.len()).collect(), <[usize]>::to_vec);
        let key = model_hash.map(|model| Key { model: model.into(), task: task_hash(task, items, &chosen, options) });
        let (known, note) = match (&options.cache, &key) {
            (Some(cache), Some(key)) => match cache.get(key, options.samples) {
                Ok(known) => (known, None),
                Err(why) => (None, Some(why)),
            },
            _ => (None, None),
        };
        let answers = chosen.iter().map(|_| Answer::default()).collect();
        Run { task, items, chosen, key, known, note, answers }
    }

    /// The items that are asked.
    fn chosen_items(&self) -> impl Iterator<Item = &'a Item> {
        let items = self.items;
        self.chosen.iter().map(move |&i| &items.items[i])
    }

    /// What is still to be asked, by position among the items that are.
    fn open_items(&self) -> impl Iterator<Item = (usize, &'a Item)> {
        let asked = if self.known.is_some() { 0 } else { self.chosen.len() };
        self.chosen_items().take(asked).enumerate()
    }

    /// Whether there are programs to run.
    fn runs_programs(&self) -> bool {
        self.task.runs_code() && self.known.is_none() && !self.chosen.is_empty()
    }

    /// Where they are run.
    fn sandbox(&self, options: &EvalOptions) -> Result<Sandbox, EvalError> {
        Sandbox::with_options(options.limits.clone(), &options.sandbox)
            .map_err(|error| EvalError::Code { task: self.task.name().into(), error: error.into() })
    }

    fn wants_unconditional(&self) -> bool {
        self.task.metrics.iter().any(|spec| matches!(spec.metric, Metric::AccMutualInfo))
    }
}

/// A hash of what is asked and how it is scored; not of where the files are.
fn task_hash(task: &Task, items: &Items, chosen: &[usize], options: &EvalOptions) -> String {
    let mut hasher = Hasher::new();
    let chosen = || chosen.iter().map(|&i| &items.items[i]);
    let sampled = chosen().any(|item| match &item.ask {
        Ask::Generate { settings, .. } => settings.sampling.temperature > 0.0,
        _ => false,
    });
    // Writing to a hasher cannot fail.
    let _ = write!(hasher, "{} {:?} {:?} {:?} {}", task.name, task.kind, task.metrics, task.pipelines, task.main);
    let _ = write!(hasher, "{:?}", task.process_results);
    let _ = write!(hasher, "{} {} {:?}", items.split, items.num_fewshot, items.notes);
    let _ = write!(hasher, "{:?}", sampled.then_some(options.seed));
    let _ = write!(hasher, "{:?}", task.runs_code().then_some((&options.limits, &options.sandbox)));
    for item in chosen() {
        let _ = write!(hasher, "{:?}{:?}", item.fields, item.ask);
    }
    hasher.finish()
}

/// Where an answer goes: task, position among the items asked, and whether it is without a context.
type Owner = (usize, usize, bool);

/// What the model is to be asked.
#[derive(Default)]
struct Requests<'a> {
    scored: Vec<LogLikelihoodRequest<'a>>,
    scored_owners: Vec<Owner>,
    texts: Vec<&'a str>,
    text_owners: Vec<Owner>,
    generated: Vec<GenerateRequest<'a>>,
    generated_owners: Vec<Owner>,
}

impl<'a> Requests<'a> {
    /// Everything that is not known yet.
    fn of(runs: &[Run<'a>], seed: u64) -> Requests<'a> {
        let mut requests = Requests::default();
        for (r, run) in runs.iter().enumerate() {
            for (i, item) in run.open_items() {
                requests.add(run, (r, i), item, seed);
            }
        }
        requests
    }

    fn add(&mut self, run: &Run<'a>, (r, i): (usize, usize), item: &'a Item, seed: u64) {
        match &item.ask {
            Ask::Choose { contexts, continuations, choices, .. } => {
                for c in 0..choices.len() {
                    let context = contexts.get(c).or(contexts.first()).map_or("", String::as_str);
                    let continuation = continuations.get(c).or(continuations.first()).map_or("", String::as_str);
                    self.scored.push(LogLikelihoodRequest { context, continuation });
                    self.scored_owners.push((r, i, false));
                }
                if run.wants_unconditional() {
                    for continuation in continuations {
                        self.scored.push(LogLikelihoodRequest { context: "", continuation });
                        self.scored_owners.push((r, i, true));
                    }
                }
            }
            Ask::Continue { context, continuation } => {
                self.scored.push(LogLikelihoodRequest { context, continuation });
                self.scored_owners.push((r, i, false));
            }
            Ask::Roll { text } => {
                self.texts.push(text);
                self.text_owners.push((r, i, false));
            }
            Ask::Generate { context, settings, .. } => {
                let is_random = settings.sampling.temperature > 0.0;
                let seed = if is_random { item_seed(run.task, run.chosen[i], seed) } else { 0 };
                self.generated.push(GenerateRequest {
                    context,
                    until: if settings.think_end.is_some() { &[] } else { &settings.until },
                    max_new_tokens: settings.max_new_tokens,
                    sampling: Sampling { seed, ..settings.sampling },
                    n: settings.repeats,
                });
                self.generated_owners.push((r, i, false));
            }
        }
    }
}

/// Asks, and hands each run its answers. Each kind of request is a phase of its own: they differ in speed, and a rate
/// over all of them would be that of none.
fn ask(
    model: &dyn LanguageModel,
    runs: &mut [Run<'_>],
    requests: Requests<'_>,
    sandbox: Option<&Sandbox>,
    options: &EvalOptions,
    progress: &dyn Progress,
) -> Result<(), EvalError> {
    let Requests { scored, scored_owners, texts, text_owners, generated, generated_owners } = requests;
    let answered = |more: usize| progress.advance(more as u64);
    let of = match &*runs {
        [run] => format!(" {}", run.task.name()),
        _ => " all tasks".to_string(),
    };
    let begin = |what: &str, requests: usize| {
        if requests > 0 {
            progress.begin(&format!("{what}{of}"), Unit::Requests, Some(requests as u64));
        }
    };
    let name = || model.name();
    let at = |owners: &[Owner], error| place_error(&name, runs, owners, error);
    let go_on = || if progress.is_cancelled() { Err(EvalError::Stopped) } else { Ok(()) };
    go_on()?;
    begin("scoring", scored.len() + texts.len());
    let scored = call(scored.len(), |_| model.loglikelihoods(&scored, &answered)).map_err(|e| at(&scored_owners, e))?;
    check_numbers(&scored).map_err(|e| at(&scored_owners, e))?;
    go_on()?;
    let texts = call(texts.len(), |_| model.rolling(&texts, &answered)).map_err(|e| at(&text_owners, e))?;
    check_numbers(&texts).map_err(|e| at(&text_owners, e))?;
    go_on()?;
    begin("generating answers to", generated.len());
    let generated =
        call(generated.len(), |_| model.generate(&generated, &answered)).map_err(|e| at(&generated_owners, e))?;
    go_on()?;
    for ((r, i, unconditional), answer) in scored_owners.into_iter().zip(scored) {
        let item = &mut runs[r].answers[i];
        if unconditional { &mut item.unconditional } else { &mut item.scored }.push(answer);
    }
    for ((r, i, _), answer) in text_owners.into_iter().zip(texts) {
        runs[r].answers[i].scored.push(answer);
    }
    for ((r, i, _), answers) in generated_owners.into_iter().zip(generated) {
        let run = &mut runs[r];
        let settings = match &run.items.items[run.chosen[i]].ask {
            Ask::Generate { settings, .. } => settings,
            _ => continue,
        };
        run.answers[i].generated = answers.into_iter().map(|answer| settings.without_reasoning(answer)).collect();
    }
    if let Some(sandbox) = sandbox {
        for run in runs.iter_mut().filter(|run| run.runs_programs()) {
            go_on()?;
            run.execute(sandbox, options, progress)?;
        }
    }
    Ok(())
}

/// Calls the model if there is something to ask, and checks that it answered all of it.
fn call<T>(requests: usize, ask: impl FnOnce(usize) -> Result<Vec<T>, ModelError>) -> Result<Vec<T>, ModelError> {
    if requests == 0 {
        return Ok(Vec::new());
    }
    let answers = ask(requests)?;
    if answers.len() != requests {
        return Err(ModelError::new(format!("the model gave {} answers to {requests} requests", answers.len())));
    }
    Ok(answers)
}

/// Refuses a log-likelihood that is NaN or plus infinity. Minus infinity is allowed: an impossible continuation.
fn check_numbers(answers: &[LogLikelihood]) -> Result<(), ModelError> {
    let wrong = |x: f64| x.is_nan() || x == f64::INFINITY;
    match answers.iter().position(|answer| wrong(answer.logprob)) {
        None => Ok(()),
        Some(request) => {
            let message = format!("a log-likelihood is {}", answers[request].logprob);
            Err(ModelError { not_a_number: true, ..ModelError::of_request(request, message) })
        }
    }
}

fn place_error(model: &dyn Fn() -> String, runs: &[Run<'_>], owners: &[Owner], error: ModelError) -> EvalError {
    match error.request.and_then(|request| owners.get(request)) {
        Some(&(r, i, _)) => {
            let run = &runs[r];
            let (task, place) = (run.task.name().into(), run.items.items[run.chosen[i]].place.clone());
            match error.not_a_number {
                true => EvalError::NotANumber { model: model(), task, place, message: error.message },
                false => EvalError::Item { task, place, error: error.into() },
            }
        }
        None => EvalError::Model(error),
    }
}

/// Chance for one item, which does not depend on what else is scored.
fn item_seed(task: &Task, index: usize, seed: u64) -> u64 {
    xxhash_rust::xxh3::xxh3_64_with_seed(format!("{}\n{index}", task.name()).as_bytes(), seed)
}

impl Run<'_> {
    /// Runs the programs that the model wrote, each with the tests of its item. Equal programs are run once.
    fn execute(&mut self, sandbox: &Sandbox, options: &EvalOptions, progress: &dyn Progress) -> Result<(), EvalError> {
        let name = self.task.name().to_string();
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| EvalError::Code { task: name.clone(), error };
        let python = options.python();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut programs: Vec<String> = Vec::new();
        let mut wanted: Vec<Vec<usize>> = Vec::new();
        for (item, answer) in self.chosen_items().zip(&self.answers) {
            let Ask::Generate { check: Check::Run { before, after }, .. } = &item.ask else {
                wanted.push(Vec::new());
                continue;
            };
            let texts: Vec<String> = answer.generated.iter().map(|generation| generation.text.clone()).collect();
            // What a program is does not depend on the metric, so that the first pipeline is the only one.
            let filtered = match self.task.pipelines.first() {
                Some(pipeline) => {
                    pipeline.apply(&texts, &item.fields, python.as_ref()).map_err(|message| failed(message.into()))?
                }
                None => texts.into_iter().map(Value::from).collect(),
            };
            // What a function of the task made is the program.
            let made = self.task.pipelines.first().is_some_and(Pipeline::has_function);
            let numbered = filtered.iter().map(|answer| {
                let answer = jinja::str(answer);
                let code = if made { &answer } else { sandbox::assemble::code_in(&answer) };
                let program = format!("{before}{code}{after}");
                let next = programs.len();
                *numbers.entry(program).or_insert_with_key(|program| {
                    programs.push(program.clone());
                    next
                })
            });
            wanted.push(numbered.collect());
        }
        progress.begin(&format!("running programs of {name}"), Unit::Requests, Some(programs.len() as u64));
        let executions =
            sandbox.run_many(&programs, options.sandbox_threads, progress).map_err(|error| match error {
                SandboxError::Stopped => EvalError::Stopped,
                error => failed(error.into()),
            })?;
        for (answer, wanted) in self.answers.iter_mut().zip(wanted) {
            answer.executions = wanted.into_iter().map(|number| executions[number].clone()).collect();
        }
        Ok(())
    }

    fn finish(
        &mut self,
        model: &str,
        sandbox: Option<&Sandbox>,
        options: &EvalOptions,
    ) -> Result<(TaskReport, Vec<Sample>), EvalError> {
        if let Some(known) = self.known.take() {
            return Ok(known);
        }
        let Run { task, items, chosen, key, answers, note, .. } = &*self;
        let runs_programs = self.runs_programs();
        let names = metric_names(&task.metrics, &task.pipelines);
        let main = names.iter().position(|name| *name == task.main).unwrap_or(0);
        let python = options.python();
        let asked: Vec<&Item> = chosen.iter().map(|&index| &items.items[index]).collect();
        let columns = results::columns(task, &asked, answers, python.as_ref()).map_err(|Said { item, message }| {
            let place = item.and_then(|item| asked.get(item)).map(|item| item.place.clone());
            EvalError::Item {
                task: task.name.clone(),
                place: place.unwrap_or_else(|| FilePosition::file(&task.path)),
                error: ModelError::new(message).into(),
            }
        })?;
        let mut of_items = Vec::with_capacity(answers.len());
        let mut samples = Vec::new();
        for (i, (&index, answer)) in chosen.iter().zip(answers).enumerate() {
            let item = &items.items[index];
            let of_item: Vec<Score> = columns.iter().filter_map(|column| column.scores.get(i).copied()).collect();
            if options.samples {
                let mut json = record(task, &items.split, (index, item), answer, &names, &of_item, python.as_ref());
                json["doc"] = serde_json::Value::Object(item.fields.clone());
                samples.push(Sample { task: task.name.clone(), index, json: json.to_string() });
            }
            if let Some(Score { sum, weight }) = of_item.get(main) {
                of_items.push(ItemScore { index, sum: *sum, weight: *weight, loss: loss(item, answer) });
            }
        }
        let per_pipeline = task.metrics.len().max(1);
        let metrics = names.iter().zip(&columns).enumerate().map(|(i, (name, column))| {
            let spec = &task.metrics[i % per_pipeline];
            let estimate = column.estimate;
            if estimate.value.is_nan() && !column.scores.is_empty() {
                let (model, task) = (model.to_string(), task.name.clone());
                return Err(EvalError::Undefined { model, task, metric: name.clone(), n: column.scores.len() });
            }
            Ok(MetricReport {
                name: name.clone(),
                value: estimate.value,
                stderr: estimate.stderr,
                higher_is_better: spec.higher_is_better(),
            })
        });
        let weaker = sandbox.filter(|_| runs_programs).map(Sandbox::strength);
        let weaker = weaker.filter(|&strength| strength != Strength::PrivateDisk);
        let weaker = weaker.map(|strength| format!("programs ran in a weaker sandbox: {strength}"));
        let failures = not_run(answers);
        // The next evaluation may be able to run them.
        let lasts = failures.is_none();
        let notes = items.notes.iter().cloned().chain(truncations(answers)).chain(failures).chain(weaker);
        let mut report = TaskReport {
            name: task.name.clone(),
            metrics: metrics.collect::<Result<_, _>>()?,
            main: task.main.clone(),
            scale: task.scale(),
            n: answers.len(),
            split: items.split.clone(),
            num_fewshot: items.num_fewshot,
            notes: notes.collect(),
            cached: false,
            items: of_items,
        };
        // Of no items there are no numbers to keep.
        if let (Some(cache), Some(key), true) = (&options.cache, key, lasts && !answers.is_empty()) {
            cache.put(key, &report, options.samples.then_some(&samples))?;
        }
        report.notes.extend(note.clone());
        Ok((report, samples))
    }
}
