//! `zoo.yml`: models, tasks and settings of a run. Only models and tasks are required.

mod preset;

pub use preset::Preset;

use glue_eval::scale::PerplexityUnit;
use glue_eval::{SplitExpression, TaskSources};
use glue_metrics::cluster::{DEFAULT_THRESHOLD, check_threshold};
use glue_metrics::{METRICS, Metric, MetricsError};
use glue_mixture::{Level, Pool, RouterKind, Routing};
use glue_select::config::{BudgetConfig, ConfigError, StrategyConfig};
use glue_select::race::Racing;
use glue_select::space::SpaceConfig;
use glue_select::strategy::StrategyRegistry;
use glue_text::{names, size};
use glue_yaml::place_of;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The config of a run. Paths in it are relative to its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooConfig {
    /// Where defaults come from. Default: this project.
    #[serde(default, skip_serializing_if = "Preset::is_default")]
    pub preset: Preset,
    /// The models, one or more.
    pub models: Vec<ModelEntry>,
    /// Paths of base models. They are compared and scored like the others, and merges inside their clusters may use
    /// them as the base of task vectors, but they are not merged themselves.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_more")]
    pub base: Vec<String>,
    /// The tasks.
    pub tasks: TasksConfig,
    /// How models are grouped.
    #[serde(default)]
    pub cluster: ClusterConfig,
    /// How the models of a group are merged.
    #[serde(default)]
    pub select: SelectConfig,
    /// Which models are merged with which, and which stay apart.
    #[serde(default)]
    pub frontier: FrontierConfig,
    /// Whether stacked layers of two models (frankenmerge) are tried as a candidate. Default: yes.
    #[serde(default = "yes")]
    pub stack: bool,
    /// What is mixed, and how.
    #[serde(default)]
    pub mixture: MixtureConfig,
    /// The limits of a run.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Type of written weights, such as `bfloat16`. Default: the type of the models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// The source of all randomness. Default: 0.
    #[serde(default)]
    pub seed: u64,
}

/// A model by its path, or with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a path, or {path: PATH, name: NAME}")]
pub enum ModelEntry {
    /// Its path; the name is the last part of it.
    Path(String),
    /// Path and name.
    Named(NamedModel),
}

/// A model with a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedModel {
    /// Its directory.
    pub path: String,
    /// What it is called in the report.
    pub name: String,
}

/// The tasks, and the role of each of their items.
///
/// Every item has one role. Roles are splits, or shares of splits such as `proxy[:50%]`, which a hash of each item
/// decides ([`SplitExpression`]): a task with one split can serve all roles.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TasksConfig {
    /// Names, shell patterns, or paths of directories or files, as `glue eval` takes them.
    #[serde(rename = "path")]
    pub paths: Vec<String>,
    /// Directories with task files of lm-evaluation-harness, searched for names before `LM_EVAL_TASKS` and the
    /// installed package. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub include_path: Vec<String>,
    /// Directories with data repositories as `ORG/NAME`, searched before the working directory and the cache of the
    /// Hugging Face hub. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Names of the tasks to use among them; all when empty.
    pub only: Vec<String>,
    /// The roles of items of tasks that are not in `per_task`.
    #[serde(flatten)]
    pub roles: Roles,
    /// Roles of single tasks, by name. What is absent is as for all tasks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub per_task: BTreeMap<String, TaskRoles>,
    /// The weight of each task in averages, by name. Default: 1 each; tasks on different scales, such as accuracies and
    /// perplexities, need them all.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// What perplexities count as: `reported`, the main metric of the task, or `bits_per_byte`, which can be compared
    /// between tasks. Default: `reported`.
    pub perplexity: PerplexityUnit,
    /// Maximum number of items of each task and role. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Whether programs that a model writes are run, in a sandbox, if a task needs it. Default: no.
    pub allow_code_execution: bool,
    /// Whether tasks of lm-evaluation-harness may be searched and validated on shares of the split that they are
    /// reported on. Default: no.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_test_split: bool,
    /// Number of examples in each prompt. Default: what each task asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Whether prompts are put into the chat template. Default: no.
    pub apply_chat_template: bool,
}

/// The split, or share of a split, of each role.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Roles {
    /// Items that candidates are scored on while merges are searched. Default: `proxy[:50%]`.
    pub search: SplitExpression,
    /// Items that decide between finished candidates; no search sees them. Default: `proxy[50%:]`.
    pub validation: SplitExpression,
    /// Items that routers are trained on. Default: `train`.
    pub router: SplitExpression,
    /// Items that are used once, at the end. Default: `test`.
    pub test: SplitExpression,
}

impl Default for Roles {
    fn default() -> Self {
        let split = |text: &str| text.parse().unwrap_or_else(|_| SplitExpression::whole(text));
        Roles {
            search: split("proxy[:50%]"),
            validation: split("proxy[50%:]"),
            router: split("train"),
            test: split("test"),
        }
    }
}

/// The split, or share of a split, of some roles of one task.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TaskRoles {
    /// Instead of [`Roles::search`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SplitExpression>,
    /// Instead of [`Roles::validation`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<SplitExpression>,
    /// Instead of [`Roles::router`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<SplitExpression>,
    /// Instead of [`Roles::test`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test: Option<SplitExpression>,
}

/// What an item is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ItemUse {
    /// [`Roles::search`].
    Search,
    /// [`Roles::validation`].
    Validation,
    /// [`Roles::router`].
    Router,
    /// [`Roles::test`].
    Test,
}

impl ItemUse {
    const ALL: [ItemUse; 4] = [ItemUse::Search, ItemUse::Validation, ItemUse::Router, ItemUse::Test];

    /// The key of the config.
    pub(crate) fn key(self) -> &'static str {
        match self {
            ItemUse::Search => "tasks.search",
            ItemUse::Validation => "tasks.validation",
            ItemUse::Router => "tasks.router",
            ItemUse::Test => "tasks.test",
        }
    }
}

impl TasksConfig {
    /// The split of a role.
    pub(crate) fn split(&self, role: ItemUse) -> &SplitExpression {
        match role {
            ItemUse::Search => &self.roles.search,
            ItemUse::Validation => &self.roles.validation,
            ItemUse::Router => &self.roles.router,
            ItemUse::Test => &self.roles.test,
        }
    }

    /// The splits of a role in tasks that have their own, by name.
    pub(crate) fn own_splits(&self, role: ItemUse) -> BTreeMap<String, String> {
        let own = |(task, roles): (&String, &TaskRoles)| Some((task.clone(), roles.of(role)?.to_string()));
        self.per_task.iter().filter_map(own).collect()
    }
}

impl TasksConfig {
    /// The first two roles of a task that share items: the second of them, and what was found, in words.
    fn overlap(&self) -> Option<(ItemUse, String)> {
        let none = TaskRoles::default();
        let tasks = self.per_task.iter().map(|(task, roles)| (Some(task), roles));
        for (task, own) in std::iter::once((None, &none)).chain(tasks) {
            let split = |role| own.of(role).unwrap_or_else(|| self.split(role));
            for (i, &second) in ItemUse::ALL.iter().enumerate() {
                if let Some(&first) = ItemUse::ALL[..i].iter().find(|&&first| split(first).overlaps(split(second))) {
                    let of_task = task.map_or(String::new(), |task| format!(" of task `{task}`"));
                    let (a, b) = (split(second), split(first));
                    return Some((second, format!("`{a}`{of_task}, which shares items with `{}: {b}`", first.key())));
                }
            }
        }
        None
    }
}

impl TaskRoles {
    fn of(&self, role: ItemUse) -> Option<&SplitExpression> {
        match role {
            ItemUse::Search => self.search.as_ref(),
            ItemUse::Validation => self.validation.as_ref(),
            ItemUse::Router => self.router.as_ref(),
            ItemUse::Test => self.test.as_ref(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TasksMap {
    #[serde(deserialize_with = "one_or_more")]
    path: Vec<String>,
    #[serde(default, deserialize_with = "one_or_more")]
    include_path: Vec<String>,
    #[serde(default, deserialize_with = "one_or_more")]
    data: Vec<String>,
    #[serde(default, deserialize_with = "one_or_more")]
    only: Vec<String>,
    search: Option<SplitExpression>,
    validation: Option<SplitExpression>,
    router: Option<SplitExpression>,
    test: Option<SplitExpression>,
    #[serde(default)]
    per_task: BTreeMap<String, TaskRoles>,
    #[serde(default)]
    weights: BTreeMap<String, f64>,
    #[serde(default)]
    perplexity: PerplexityUnit,
    #[serde(default, deserialize_with = "glue_yaml::positive_count")]
    limit: Option<usize>,
    #[serde(default)]
    allow_code_execution: bool,
    #[serde(default)]
    allow_test_split: bool,
    #[serde(default)]
    num_fewshot: Option<usize>,
    #[serde(default)]
    apply_chat_template: bool,
}

impl TasksConfig {
    /// Names as they are, and paths as seen from `directory`.
    pub(crate) fn requests(&self, directory: &Path) -> Vec<String> {
        let of = |request: &String| {
            let path = directory.join(request);
            let is_path = path.exists() || TaskSources::is_path(request);
            if is_path { path.display().to_string() } else { request.clone() }
        };
        self.paths.iter().map(of).collect()
    }

    fn of(paths: Vec<String>) -> TasksConfig {
        TasksConfig {
            paths,
            include_path: Vec::new(),
            data: Vec::new(),
            only: Vec::new(),
            roles: Roles::default(),
            per_task: BTreeMap::new(),
            weights: BTreeMap::new(),
            perplexity: PerplexityUnit::default(),
            limit: None,
            allow_code_execution: false,
            allow_test_split: false,
            num_fewshot: None,
            apply_chat_template: false,
        }
    }
}

impl<'de> Deserialize<'de> for TasksConfig {
    // Not an untagged enum, whose errors would say neither where a wrong value is nor what is expected.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TasksConfig, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = TasksConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, a list of paths, or {path: PATH, ...} with keys of tasks")
            }

            fn visit_str<E>(self, path: &str) -> Result<TasksConfig, E> {
                Ok(TasksConfig::of(vec![path.into()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<TasksConfig, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(TasksConfig::of)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<TasksConfig, A::Error> {
                let map = TasksMap::deserialize(MapAccessDeserializer::new(map))?;
                let roles = Roles::default();
                Ok(TasksConfig {
                    include_path: map.include_path,
                    data: map.data,
                    only: map.only,
                    roles: Roles {
                        search: map.search.unwrap_or(roles.search),
                        validation: map.validation.unwrap_or(roles.validation),
                        router: map.router.unwrap_or(roles.router),
                        test: map.test.unwrap_or(roles.test),
                    },
                    per_task: map.per_task,
                    weights: map.weights,
                    perplexity: map.perplexity,
                    limit: map.limit,
                    allow_code_execution: map.allow_code_execution,
                    allow_test_split: map.allow_test_split,
                    num_fewshot: map.num_fewshot,
                    apply_chat_template: map.apply_chat_template,
                    paths: map.path,
                })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// How models are grouped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterConfig {
    /// A metric, as `glue similarity --metric` takes it. Default: `cosine_per_column`, the paper's.
    pub metric: String,
    /// Minimum similarity of the models of a group. Default: 0.95, the paper's.
    pub threshold: f64,
    /// `leader`, the paper's and the default, or a linkage: `single`, `complete`, `average`.
    pub method: String,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self { metric: "cosine_per_column".into(), threshold: DEFAULT_THRESHOLD, method: "leader".into() }
    }
}

/// How the models of a group are merged: a part of the config of `glue search`, the same for all groups.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SelectConfig {
    /// The strategies, in the order in which they run; one of their finalists is taken. Default: `average`,
    /// `coefficient`, `evolutionary`.
    pub strategies: Vec<StrategyConfig>,
    /// Whether harmful models are found first and left out. Default: yes.
    pub filter: bool,
    /// What optimisers search. Default: one weight for each model, with task vectors if there is a base. Statistics are
    /// given by the names of models and bases, with paths relative to the config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceConfig>,
    /// When the search in a group ends. Default: when all strategies have ended; `evolutionary` ends after 500
    /// candidates, as published.
    pub budget: BudgetConfig,
    /// When candidates are dropped before all items are scored, as in the config of `glue search`: `off`, `exact`, or
    /// `{confidence: 0.99}`, the default.
    pub racing: Racing,
    /// Fraction of the search items of each task that candidates are scored on, as in the config of `glue search`.
    /// Default: 1.
    pub item_fraction: f64,
}

impl SelectConfig {
    /// Everything that a result depends on but the budget.
    pub(crate) fn without_limits(&self) -> SelectConfig {
        SelectConfig { budget: BudgetConfig::default(), ..self.clone() }
    }
}

impl Default for SelectConfig {
    fn default() -> Self {
        let strategy = |name: &str| StrategyConfig { name: name.into(), settings: Vec::new() };
        Self {
            strategies: ["average", "coefficient", "evolutionary"].map(strategy).into(),
            filter: true,
            space: None,
            budget: BudgetConfig::default(),
            racing: Racing::default(),
            item_fraction: 1.0,
        }
    }
}

/// Which models are merged with which: the search for the size–score frontier.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrontierConfig {
    /// Whether pairs of experts are merged step by step; without it, the frontier has single models and the merges of
    /// clusters only. Default: yes.
    pub enabled: bool,
    /// Maximum number of merges that are scored for it. Default: 100.
    pub evaluations: u64,
}

impl Default for FrontierConfig {
    fn default() -> Self {
        Self { enabled: true, evaluations: 100 }
    }
}

/// Which experts a mixture may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MixtureCandidates {
    /// The merge of each cluster, and the models that would not merge: the paper's mixture.
    Merged,
    /// Models as they are.
    Members,
    /// Whatever lies on the frontier. The default.
    #[default]
    Both,
}

/// What is mixed, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Whether a mixture is tried at all. Default: yes.
    pub enabled: bool,
    /// Which experts the final mixture may have: `merged`, `members` or `both`. The others are reported, but not
    /// chosen. Default: `both`.
    pub candidates: MixtureCandidates,
    /// Levels to choose from. Default: all. Models of different architectures mix at level `model` only.
    pub levels: Vec<Level>,
    /// Fractions of the layers that stay dense, to choose from, 0 to 1. Default: 0, and 1/2, the paper's.
    pub dense: Vec<f64>,
    /// Maximum number of experts. Default: 8.
    pub experts: usize,
    /// The unit that is routed. Default: `sample`, the unit that routers are trained on.
    pub routing: Routing,
    /// How prompts are pooled. Default: `mean`.
    pub pool: Pool,
    /// The form of gates. Default: `linear`.
    pub router: RouterKind,
}

impl Default for MixtureConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            candidates: MixtureCandidates::default(),
            levels: vec![Level::Model, Level::Block, Level::Ffn],
            dense: vec![0.0, 0.5],
            experts: 8,
            routing: Routing::Sample,
            pool: Pool::Mean,
            router: RouterKind::Linear,
        }
    }
}

impl MixtureConfig {
    /// Numbers of dense layers to choose from, ascending, for a model of so many layers.
    pub(crate) fn depths(&self, layers: usize) -> Vec<usize> {
        let mut depths: Vec<usize> =
            self.dense.iter().map(|fraction| (fraction * layers as f64).round() as usize).collect();
        depths.retain(|&depth| depth < layers);
        depths.sort_unstable();
        depths.dedup();
        depths
    }
}

/// The limits of a run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsConfig {
    /// Maximum seconds of a search. Default: no limit.
    #[serde(deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Maximum memory for merged candidates, such as `4GiB`. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Maximum size of the final model, as a multiple of the parameters of the largest model of the zoo. Default: no
    /// limit.
    #[serde(deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub size: Option<f64>,
    /// Maximum number of parameters of all experts together, such as `30e9`. Default: no limit.
    #[serde(deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub parameters: Option<f64>,
}

impl LimitsConfig {
    /// The limit on memory in bytes; `None` without one.
    pub fn memory_bytes(&self) -> Option<u64> {
        size::parse(self.memory.as_deref()?).ok()
    }
}

fn yes() -> bool {
    true
}

/// A word, or a list of words.
fn one_or_more<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a word or a list of words")]
    enum Words {
        One(String),
        More(Vec<String>),
    }
    Ok(match Words::deserialize(deserializer)? {
        Words::One(word) => vec![word],
        Words::More(words) => words,
    })
}

impl ModelEntry {
    /// Its path, as written.
    pub fn path(&self) -> &str {
        match self {
            ModelEntry::Path(path) => path,
            ModelEntry::Named(named) => &named.path,
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            ModelEntry::Path(path) => names::last_part(path),
            ModelEntry::Named(named) => &named.name,
        }
    }
}

impl ZooConfig {
    /// Reads and checks `text`, which comes from `origin`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str, strategies: &StrategyRegistry) -> Result<ZooConfig, ConfigError> {
        let mut config: ZooConfig = glue_yaml::read(text, origin)?;
        if config.preset == Preset::Paper {
            config.fill_from_paper(&glue_yaml::documents(text, origin)?)?;
        }
        config.check(text, origin, strategies)?;
        Ok(config)
    }

    fn check(&self, text: &str, origin: &str, strategies: &StrategyRegistry) -> Result<(), ConfigError> {
        let refuse = |key: &'static str, expected: &str, found: String| {
            Err(ConfigError::Value { place: place_of(text, origin, key), key, expected: expected.into(), found })
        };
        if self.models.is_empty() {
            return refuse("models", "at least one", "none".into());
        }
        let model_names: Vec<&str> = self.models.iter().map(ModelEntry::name).collect();
        if let Some(model) = self.models.iter().find(|model| model.name().is_empty()) {
            return refuse(
                "models",
                "a path that ends in a name, or `{path: …, name: …}`",
                format!("`{}`", model.path()),
            );
        }
        if let Some((_, twice)) = model_names.iter().enumerate().find(|(i, name)| model_names[..*i].contains(name)) {
            return refuse("models", "a unique name for each (`{path: …, name: …}`)", format!("`{twice}` twice"));
        }
        if self.tasks.paths.is_empty() {
            return refuse("tasks", "at least one", "none".into());
        }
        if let Some((role, found)) = self.tasks.overlap() {
            return refuse(role.key(), "items that have no other role", found);
        }
        let metric = &self.cluster.metric;
        let Ok(metric) = Metric::find(metric) else {
            let known: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
            return refuse("cluster.metric", &known.join(", "), format!("`{metric}`"));
        };
        if let Err(MetricsError::Threshold { threshold, expected }) =
            check_threshold(metric.scale, self.cluster.threshold)
        {
            return refuse("cluster.threshold", expected, threshold.to_string());
        }
        let known: Vec<&str> = strategies.iter().map(|def| def.name).collect();
        if self.select.strategies.is_empty() {
            return refuse("select.strategies", "at least one", "none".into());
        }
        if let Some(unknown) = self.select.strategies.iter().find(|s| !known.contains(&s.name.as_str())) {
            return refuse("select.strategies", &known.join(", "), format!("`{}`", unknown.name));
        }
        if let Some(space) = &self.select.space {
            let all: Vec<&str> =
                model_names.iter().copied().chain(self.base.iter().map(|path| names::last_part(path))).collect();
            if let Some(unknown) = space.statistics.keys().find(|name| !all.contains(&name.as_str())) {
                let expected = format!("the name of a model, one of {}", all.join(", "));
                return refuse("select.space.statistics", &expected, format!("`{unknown}`"));
            }
            if let Some(path) = &space.base_statistics {
                let expected = "nothing: list statistics of bases under `statistics`, by name";
                return refuse("select.space.base_statistics", expected, format!("`{path}`"));
            }
        }
        if let Some(fraction) = self.mixture.dense.iter().find(|fraction| !(0.0..=1.0).contains(*fraction)) {
            return refuse("mixture.dense", "fractions from 0 to 1", fraction.to_string());
        }
        if self.mixture.enabled && (self.mixture.levels.is_empty() || self.mixture.dense.is_empty()) {
            return refuse("mixture", "at least one level and one fraction of dense layers", "none".into());
        }
        if let Some(memory) = &self.limits.memory
            && let Err(error) = size::parse(memory)
        {
            return refuse("limits.memory", "a size such as `4GiB`", format!("`{memory}`: {error}"));
        }
        if self.mixture.experts < 2 {
            return refuse("mixture.experts", "at least 2", self.mixture.experts.to_string());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
