//! The config of a search: YAML, read with line and column, and checked as far as possible without opening a file.

use crate::race::Racing;
use crate::space::SpaceConfig;
use crate::strategy::StrategyRegistry;
use glue_eval::scale::PerplexityUnit;
use glue_eval::{Task, TaskError, TaskSources};
use glue_search::ParamSetting;
use glue_yaml::{FilePosition, YamlError, place_of};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// Maximum number of worker processes.
pub const MAX_WORKERS: usize = 256;

/// Maximum number of candidates scored in parallel in a process.
const MAX_PARALLEL: usize = 1024;

/// Maximum number of examples in a prompt.
const MAX_FEWSHOT: usize = 10_000;

/// Seconds in a year: the maximum time of a command.
const YEAR: f64 = 31_536_000.0;

/// The config of a search. Only models and tasks are required.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// Paths of the models to choose from, two or more.
    pub models: Vec<String>,
    /// Path of the model that they were fine-tuned from. Methods that work on task vectors need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// The tasks: names, shell patterns, or paths of directories or files, as `glue eval` takes them; names that the
    /// `evaluator` knows, if there is one.
    pub tasks: Vec<String>,
    /// Directories with task files of lm-evaluation-harness, searched for names before `LM_EVAL_TASKS` and the
    /// installed package. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include_path: Vec<String>,
    /// Directories with data repositories as `ORG/NAME`, searched before the working directory and the cache of the
    /// Hugging Face hub. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub data: Vec<String>,
    /// Names of the tasks to use among them. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The split that candidates are scored on. Default: `proxy`.
    #[serde(default = "proxy")]
    pub split: String,
    /// Maximum number of items of each task. Default: all.
    #[serde(default, deserialize_with = "glue_yaml::positive_count", skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The weight of each task in averages, by name. Default: 1 each; tasks on different scales, such as accuracies and
    /// perplexities, need them all. Candidates do not race with unequal weights.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub weights: BTreeMap<String, f64>,
    /// What perplexities count as: `reported`, the main metric of the task, or `bits_per_byte`, which can be compared
    /// between tasks. Default: `reported`.
    #[serde(default, skip_serializing_if = "is_reported")]
    pub perplexity: PerplexityUnit,
    /// Items held out to choose the result, which the search never sees. Default: half of the items; none with an
    /// `evaluator`, which can only hold out another split.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
    /// The strategies, in the order in which they run. Default: `coefficient`, then `evolutionary`.
    #[serde(default = "strategies")]
    pub strategies: Vec<StrategyConfig>,
    /// Whether harmful models are found first and left out; then the base is scored, too, as their reference. Default:
    /// yes. Without it, a search over weights may accept a little of any model by chance.
    #[serde(default = "yes")]
    pub filter: bool,
    /// What optimisers search. Default: one weight for each model, and the merge method
    /// ([`methods_by_default`](crate::space::methods_by_default)).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceConfig>,
    /// When the search ends.
    #[serde(default, skip_serializing_if = "BudgetConfig::is_empty")]
    pub budget: BudgetConfig,
    /// When candidates are dropped before all items are scored: `off`, `exact` (once they can no longer win even with
    /// all remaining items right), or `{confidence: 0.99}` (once they are worse than the best so far with this
    /// confidence). `true` is the default, `false` is `off`. Default: `{confidence: 0.99}`.
    #[serde(default)]
    pub racing: Racing,
    /// Fraction of the search items of each task that candidates are scored on, above 0 and up to 1: those that tell
    /// models apart first. Their scores are then estimates. Models alone are scored on all items, as is one in fifty
    /// candidates of a strategy, the best by their estimates, among which its finalists are. Default: 1.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub item_fraction: f64,
    /// Maximum number of candidates scored in parallel in a process. Default: the number of threads, as far as memory
    /// allows; 1 for models above 1 GB.
    #[serde(default, deserialize_with = "glue_yaml::positive_count", skip_serializing_if = "Option::is_none")]
    pub parallel: Option<usize>,
    /// Maximum memory for merged candidates, such as `4GiB`. Default: 60 % of what is available, but enough for one
    /// candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Number of worker processes that score candidates. Default: 0, which scores in this process.
    #[serde(default)]
    pub workers: usize,
    /// A command that scores a model directory, as `glue eval --evaluator` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<String>,
    /// Maximum seconds for one run of that command. Default: no limit.
    #[serde(default, deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub evaluator_timeout: Option<f64>,
    /// Whether programs that a model writes are run, in a sandbox, if a task needs it. Default: no.
    #[serde(default)]
    pub allow_code_execution: bool,
    /// Whether tasks of lm-evaluation-harness may be searched on the split that they are reported on, or a share of it.
    /// Default: no: a score that was searched for says nothing about other items.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub allow_test_split: bool,
    /// Number of examples in each prompt. Default: what each task asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Whether prompts are put into the chat template. Default: no.
    #[serde(default)]
    pub apply_chat_template: bool,
    /// The source of all randomness. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Type of merged weights, such as `bfloat16`. Default: the type of the models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}

fn is_reported(unit: &PerplexityUnit) -> bool {
    *unit == PerplexityUnit::Reported
}

fn proxy() -> String {
    "proxy".into()
}

fn one() -> f64 {
    1.0
}

fn is_one(fraction: &f64) -> bool {
    *fraction == 1.0
}

fn yes() -> bool {
    true
}

fn strategies() -> Vec<StrategyConfig> {
    ["coefficient", "evolutionary"].map(|name| StrategyConfig { name: name.into(), settings: Vec::new() }).into()
}

/// The items that are held out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Validation {
    /// This fraction of the items of each task, from 0 to 0.5.
    Fraction(f64),
    /// Those of another split.
    Split {
        /// Its name.
        split: String,
    },
}

impl Default for Validation {
    /// Half: a gain is as hard to prove as to find. The search tells candidates apart by one standard error, the
    /// decision asks for two, so that it needs as many items at least.
    fn default() -> Self {
        Validation::Fraction(0.5)
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Validation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a fraction from 0 to 0.5, or {split: NAME}")
            }

            fn visit_f64<E: de::Error>(self, x: f64) -> Result<Validation, E> {
                match (0.0..=0.5).contains(&x) {
                    true => Ok(Validation::Fraction(x)),
                    false => Err(E::custom(format!("`validation`: expected a fraction from 0 to 0.5, found {x}"))),
                }
            }

            fn visit_u64<E: de::Error>(self, x: u64) -> Result<Validation, E> {
                self.visit_f64(x as f64)
            }

            fn visit_i64<E: de::Error>(self, x: i64) -> Result<Validation, E> {
                self.visit_f64(x as f64)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Validation, A::Error> {
                #[derive(Deserialize)]
                #[serde(deny_unknown_fields)]
                struct Named {
                    split: String,
                }
                let named = Named::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Validation::Split { split: named.split })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// When a search ends.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetConfig {
    /// Maximum number of evaluations of merged candidates on the search items; models alone do not count. Default: no
    /// limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<u64>,
    /// Maximum seconds, including those of interrupted runs. Default: no limit.
    #[serde(deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl BudgetConfig {
    fn is_empty(&self) -> bool {
        *self == BudgetConfig::default()
    }
}

/// A strategy by name, or with settings.
#[derive(Debug, Clone, PartialEq)]
pub struct StrategyConfig {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: Vec<(String, ParamSetting)>,
}

impl Serialize for StrategyConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        if self.settings.is_empty() {
            return serializer.serialize_str(&self.name);
        }
        struct Pairs<'a>(&'a [(String, ParamSetting)]);
        impl Serialize for Pairs<'_> {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
            }
        }
        let mut map = serializer.serialize_map(Some(1))?;
        map.serialize_entry(&self.name, &Pairs(&self.settings))?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for StrategyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = StrategyConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a strategy, or {NAME: {SETTING: VALUE}}")
            }

            fn visit_str<E>(self, name: &str) -> Result<StrategyConfig, E> {
                Ok(StrategyConfig { name: name.into(), settings: Vec::new() })
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StrategyConfig, A::Error> {
                let one = || de::Error::custom("a strategy: expected one name with its settings");
                let (name, Settings(settings)) = map.next_entry::<String, Settings>()?.ok_or_else(one)?;
                if map.next_key::<String>()?.is_some() {
                    return Err(one());
                }
                Ok(StrategyConfig { name, settings })
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Settings in their order.
struct Settings(Vec<(String, ParamSetting)>);

impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Settings;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("settings of a strategy: {SETTING: VALUE}")
            }

            fn visit_unit<E>(self) -> Result<Settings, E> {
                Ok(Settings(Vec::new()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
                let mut settings = Vec::new();
                while let Some(entry) = map.next_entry::<String, ParamSetting>()? {
                    settings.push(entry);
                }
                Ok(Settings(settings))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

/// Why a config is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// It is not YAML, or a key or the type of a value is wrong.
    #[error(transparent)]
    Text(#[from] YamlError),
    /// An invalid value.
    #[error("{place}: `{key}`: expected {expected}, found {found}")]
    Value {
        /// Where.
        place: FilePosition,
        /// The key.
        key: &'static str,
        /// What is expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

impl SearchConfig {
    /// Reads and checks `text`, which comes from `origin`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str, strategies: &StrategyRegistry) -> Result<SearchConfig, ConfigError> {
        let config: SearchConfig = glue_yaml::read(text, origin)?;
        config.check(text, origin, strategies)?;
        Ok(config)
    }

    /// The items that are held out.
    pub fn validation(&self) -> Validation {
        self.validation.clone().unwrap_or_else(|| match self.evaluator {
            // A command gets the name of a split, never a selection of its items.
            Some(_) => Validation::Fraction(0.0),
            None => Validation::default(),
        })
    }

    fn check(&self, text: &str, origin: &str, strategies: &StrategyRegistry) -> Result<(), ConfigError> {
        let refuse = |key: &'static str, expected: &str, found: String| {
            Err(ConfigError::Value { place: place_of(text, origin, key), key, expected: expected.into(), found })
        };
        for (key, count, max) in [
            ("workers", Some(self.workers), MAX_WORKERS),
            ("parallel", self.parallel, MAX_PARALLEL),
            ("num_fewshot", self.num_fewshot, MAX_FEWSHOT),
        ] {
            if let Some(count) = count.filter(|count| *count > max) {
                return refuse(key, &format!("at most {max}"), count.to_string());
            }
        }
        if let Some(seconds) = self.evaluator_timeout.filter(|seconds| *seconds > YEAR) {
            return refuse("evaluator_timeout", &format!("at most {YEAR} seconds, a year"), seconds.to_string());
        }
        if self.models.len() < 2 {
            return refuse("models", "two or more", self.models.len().to_string());
        }
        if let Some((_, twice)) = self.models.iter().enumerate().find(|(i, model)| self.models[..*i].contains(model)) {
            return refuse("models", "each model once", format!("`{twice}` twice"));
        }
        if let Some(base) = self.base.as_ref().filter(|base| self.models.contains(base)) {
            return refuse("models", "models other than the base", format!("the base `{base}`"));
        }
        if self.tasks.is_empty() {
            return refuse("tasks", "at least one", "none".into());
        }
        if self.strategies.is_empty() {
            return refuse("strategies", "at least one", "none".into());
        }
        if let Some(unknown) = self.strategies.iter().find(|strategy| strategies.get(&strategy.name).is_err()) {
            let known: Vec<_> = strategies.iter().map(|def| def.name).collect();
            return refuse("strategies", &known.join(", "), format!("`{}`", unknown.name));
        }
        if let (Some(_), Some(Validation::Fraction(fraction))) = (&self.evaluator, &self.validation)
            && *fraction > 0.0
        {
            let expected = "0 or {split: NAME} together with `evaluator`, which is given the names of splits";
            return refuse("validation", expected, format!("the fraction {fraction}"));
        }
        if self.evaluator.is_some() && !self.weights.is_empty() {
            return refuse("weights", "nothing together with `evaluator`, whose average counts", "weights".into());
        }
        if !(self.item_fraction > 0.0 && self.item_fraction <= 1.0) {
            return refuse("item_fraction", "a number above 0 and up to 1", self.item_fraction.to_string());
        }
        if self.evaluator.is_some() && self.item_fraction < 1.0 {
            let expected = "1 together with `evaluator`, which takes whole splits";
            return refuse("item_fraction", expected, self.item_fraction.to_string());
        }
        for (key, given) in [("only", &self.only), ("include_path", &self.include_path), ("data", &self.data)] {
            if self.evaluator.is_some() && !given.is_empty() {
                return refuse(key, "nothing together with `evaluator`, which alone knows its tasks", given.join(", "));
            }
        }
        Ok(())
    }

    /// The tasks. With an `evaluator`, which alone knows them, this is not asked.
    ///
    /// # Errors
    /// [`TaskError`]: a task that is not there or not sound.
    pub fn load_tasks(&self) -> Result<Vec<Task>, TaskError> {
        let paths = |list: &[String]| list.iter().map(PathBuf::from).collect();
        let sources = TaskSources { include_path: paths(&self.include_path), data: paths(&self.data) };
        sources.load(&self.tasks, &self.only).map(|set| set.tasks)
    }

    /// The space that optimisers search.
    pub fn space(&self) -> SpaceConfig {
        self.space.clone().unwrap_or_else(|| match self.base {
            Some(_) => SpaceConfig::default(),
            // Methods without a base average by shares.
            None => SpaceConfig { normalise: true, ..SpaceConfig::default() },
        })
    }

    /// The config without budgets and without what only affects speed: everything that the result depends on.
    pub fn without_limits(&self) -> SearchConfig {
        SearchConfig {
            validation: Some(self.validation()),
            budget: BudgetConfig::default(),
            parallel: None,
            memory: None,
            workers: 0,
            ..self.clone()
        }
    }
}

/// A commented config with every key.
pub const EXAMPLE: &str = include_str!("example.yml");

#[cfg(test)]
mod tests {
    //! What is read, and how it is refused.
    use super::*;

    fn parse(text: &str) -> Result<SearchConfig, ConfigError> {
        SearchConfig::parse(text, "search.yml", &StrategyRegistry::builtin())
    }

    const LEAST: &str = "models: [a, b]\ntasks: [t]\n";

    #[test]
    fn models_and_tasks_are_enough() {
        let config = parse(LEAST).expect("a config");
        assert_eq!(
            (config.split.as_str(), config.validation(), config.racing),
            ("proxy", Validation::Fraction(0.5), Racing::Confident(0.99))
        );
        let names: Vec<_> = config.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
        assert_eq!(names, ["coefficient", "evolutionary"]);
        assert!(config.space().normalise);
        let external = parse(&format!("{LEAST}evaluator: x\n")).expect("a config");
        assert_eq!(external.validation(), Validation::Fraction(0.0));
        let based = parse(&format!("{LEAST}base: c\n")).expect("a config");
        assert_eq!(based.space(), SpaceConfig::default());
    }

    #[test]
    fn the_example_is_a_config() {
        let config = parse(EXAMPLE).expect("a config");
        assert_eq!(config.strategies.len(), 3);
        // Read again from what it is written as, for headers of journals.
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(serde_json::from_str::<SearchConfig>(&text).expect("a config"), config);
    }

    #[test]
    fn strategies_with_settings() {
        let config = parse(&format!(
            "{LEAST}strategies:\n  - average\n  - evolutionary: {{evaluations: 20, optimiser: nsga2}}\n"
        ));
        let settings = config.expect("a config").strategies[1].settings.clone();
        let expected = [("evaluations", ParamSetting::Number(20.0)), ("optimiser", ParamSetting::Text("nsga2".into()))];
        assert_eq!(settings, expected.map(|(key, value)| (key.to_string(), value)));
    }

    #[test]
    fn refusals_say_where() {
        let says = |text: &str, words: &str| {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.starts_with("search.yml") && error.contains(words), "{error}");
        };
        says(&format!("{LEAST}modles: [c]\n"), "search.yml:3:");
        says(&format!("{LEAST}modles: [c]\n"), "modles");
        says("models: [a, b]\n", "missing field `tasks`");
        says(&format!("{LEAST}validation: 0.7\n"), "search.yml:3:");
        says(&format!("{LEAST}validation: 0.7\n"), "expected a fraction from 0 to 0.5, found 0.7");
        says(
            &format!("{LEAST}evaluator: x\nvalidation: 0.2\n"),
            "search.yml:4:13: `validation`: expected 0 or {split: NAME} together with `evaluator`",
        );
        says(&format!("{LEAST}racing: maybe\n"), "search.yml:3:");
        says(&format!("{LEAST}item_fraction: 0\n"), "`item_fraction`: expected a number above 0 and up to 1, found 0");
        says(&format!("{LEAST}evaluator: x\nitem_fraction: 0.5\n"), "`item_fraction`: expected 1 together with");
        says("models: [a]\ntasks: [t]\n", "`models`: expected two or more, found 1");
        says(&format!("{LEAST}workers: 10000\n"), "`workers`: expected at most 256, found 10000");
        says(&format!("{LEAST}parallel: 10000\n"), "`parallel`: expected at most 1024, found 10000");
        says(&format!("{LEAST}num_fewshot: 1000000\n"), "`num_fewshot`: expected at most 10000, found 1000000");
        says(&format!("{LEAST}evaluator_timeout: 1e300\n"), "`evaluator_timeout`: expected at most 31536000 seconds");
        says("models: [a, a]\ntasks: [t]\n", "expected each model once, found `a` twice");
        says(&format!("{LEAST}base: b\n"), "expected models other than the base, found the base `b`");
        says(&format!("{LEAST}strategies: [greedy]\n"), "expected average, coefficient, similarity");
        says(&format!("{LEAST}budget: {{seconds: 0}}\n"), "search.yml:3:10: `budget.seconds`: ");
        says(&format!("{LEAST}budget: {{seconds: -1}}\n"), "expected a positive number");
        says(&format!("{LEAST}limit: 0\n"), "search.yml:3:");
        says(&format!("{LEAST}limit: 0\n"), ": `limit`: ");
        says(&format!("{LEAST}limit: -1\n"), "expected a positive whole number");
        says(&format!("{LEAST}parallel: 0\n"), ": `parallel`: ");
        says(&format!("{LEAST}budget: {{hours: 1}}\n"), "hours");
    }
}
