//! `zoo.yml`: models, tasks and settings of a run. Only models and tasks are required.

use glue_metrics::cluster::{DEFAULT_THRESHOLD, check_threshold};
use glue_metrics::{METRICS, Metric, MetricsError};
use glue_mixture::{Level, Pool, RouterKind, Routing};
use glue_select::config::{BudgetConfig, ConfigError, StrategyConfig, Validation};
use glue_select::space::SpaceConfig;
use glue_select::strategy::StrategyRegistry;
use glue_text::{names, size};
use glue_yaml::place_of;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The config of a run. Paths in it are relative to its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooConfig {
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

/// The tasks, and what their splits are for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TasksConfig {
    /// Directories or files, as `glue eval` takes them.
    pub paths: Vec<String>,
    /// Names of the tasks to use among them; all when empty.
    pub only: Vec<String>,
    /// The split that decides everything. Default: `proxy`.
    pub proxy: String,
    /// The split that routers are trained on. Default: `train`.
    pub router: String,
    /// The split that is used once, at the end. Default: `test`.
    pub test: String,
    /// Maximum number of items of each task and split. Default: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Whether programs that a model writes are run, in a sandbox, if a task needs it. Default: no.
    pub allow_code_execution: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TasksMap {
    #[serde(deserialize_with = "one_or_more")]
    path: Vec<String>,
    #[serde(default, deserialize_with = "one_or_more")]
    only: Vec<String>,
    #[serde(default = "proxy")]
    proxy: String,
    #[serde(default = "train")]
    router: String,
    #[serde(default = "test")]
    test: String,
    #[serde(default, deserialize_with = "glue_yaml::positive_count")]
    limit: Option<usize>,
    #[serde(default)]
    allow_code_execution: bool,
}

impl TasksConfig {
    fn of(paths: Vec<String>) -> TasksConfig {
        TasksConfig {
            paths,
            only: Vec::new(),
            proxy: proxy(),
            router: train(),
            test: test(),
            limit: None,
            allow_code_execution: false,
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
                Ok(TasksConfig {
                    paths: map.path,
                    only: map.only,
                    proxy: map.proxy,
                    router: map.router,
                    test: map.test,
                    limit: map.limit,
                    allow_code_execution: map.allow_code_execution,
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
    /// The strategies, in the order in which they run; the best on the validation items is taken. Default: `average`,
    /// `coefficient`, `evolutionary`.
    pub strategies: Vec<StrategyConfig>,
    /// Whether harmful models are found first and left out. Default: yes.
    pub filter: bool,
    /// What optimisers search. Default: one weight for each model, with task vectors if there is a base. Statistics are
    /// given by the names of models and bases, with paths relative to the config.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceConfig>,
    /// Proxy items held out to choose between strategies. Default: a fifth.
    pub validation: Validation,
    /// When the search in a group ends. Default: when all strategies have ended; `evolutionary` ends after 500
    /// candidates, as published.
    pub budget: BudgetConfig,
    /// Whether candidates are dropped once they can no longer win. Default: yes.
    pub racing: bool,
}

impl Default for SelectConfig {
    fn default() -> Self {
        let strategy = |name: &str| StrategyConfig { name: name.into(), settings: Vec::new() };
        Self {
            strategies: ["average", "coefficient", "evolutionary"].map(strategy).into(),
            filter: true,
            space: None,
            validation: Validation::default(),
            budget: BudgetConfig::default(),
            racing: true,
        }
    }
}

/// What is mixed, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MixtureConfig {
    /// Whether a mixture is tried at all. Default: yes.
    pub enabled: bool,
    /// Levels to choose from. Default: all. Models of different architectures mix at level `model` only.
    pub levels: Vec<Level>,
    /// Fractions of the layers that stay dense, to choose from, 0 to 1. Default: 0, 1/4, 1/2 and 3/4.
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
            levels: vec![Level::Model, Level::Block, Level::Ffn],
            dense: vec![0.0, 0.25, 0.5, 0.75],
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

fn proxy() -> String {
    "proxy".into()
}

fn train() -> String {
    "train".into()
}

fn test() -> String {
    "test".into()
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
        let config: ZooConfig = glue_yaml::read(text, origin)?;
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
        let TasksConfig { proxy, router, test, .. } = &self.tasks;
        if test == proxy || test == router {
            return refuse(
                "tasks.test",
                "a split that is used for nothing else",
                format!("`{test}`, which decides or trains routers"),
            );
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
