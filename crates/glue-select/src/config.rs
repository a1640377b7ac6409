//! The config of a search: YAML, read with line and column, and checked as far as that goes without opening a file.

use crate::space::SpaceConfig;
use crate::strategy::StrategyRegistry;
use glue_search::Setting;
use glue_yaml::{FilePosition, YamlError, place_of};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The most processes that score candidates.
pub const MAX_WORKERS: usize = 256;

/// The most candidates that are scored at once in a process.
const MAX_PARALLEL: usize = 1024;

/// The most examples in a prompt.
const MAX_FEWSHOT: usize = 10_000;

/// Seconds in a year: longer than any command is waited for.
const YEAR: f64 = 31_536_000.0;

/// A search, as a config says it. Only models and tasks have to be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchConfig {
    /// Paths of the models to choose from, two or more.
    pub models: Vec<String>,
    /// Path of the model that they were fine-tuned from. Methods that work on task vectors need it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// Paths of the tasks: directories or files, as `glue eval` takes them; names, where an `evaluator` knows them.
    pub tasks: Vec<String>,
    /// Names of the tasks to use among them. Default: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    /// The items that candidates are scored on. Default: `proxy`.
    #[serde(default = "proxy")]
    pub split: String,
    /// The most items of each task. Default: all.
    #[serde(default, deserialize_with = "glue_yaml::positive_count", skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// Items held out to tell whether the search fits the others too closely. Default: a fifth; with an `evaluator` only
    /// another split can be held out.
    #[serde(default)]
    pub validation: Validation,
    /// What is tried, in this order. Default: `coefficient`, then `evolutionary`.
    #[serde(default = "strategies")]
    pub strategies: Vec<StrategyConfig>,
    /// Whether models that look harmful are found first and left out; else strategies see all. Default: yes. A search over
    /// shares may accept a little of anything, by chance.
    #[serde(default = "yes")]
    pub filter: bool,
    /// What optimisers search. Default: a weight for each model with `task_arithmetic`, or, without a base, with `linear`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceConfig>,
    /// When to end.
    #[serde(default, skip_serializing_if = "BudgetConfig::is_empty")]
    pub budget: BudgetConfig,
    /// Whether candidates are scored on growing parts of the items and dropped when they cannot win any more. Default: yes.
    #[serde(default = "yes")]
    pub racing: bool,
    /// Candidates that are scored at once in a process; as many as memory allows, and no more than threads, when absent.
    #[serde(default, deserialize_with = "glue_yaml::positive_count", skip_serializing_if = "Option::is_none")]
    pub parallel: Option<usize>,
    /// Memory for merged candidates, such as `4GiB`. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<String>,
    /// Processes that score candidates. Default: 0, this one does.
    #[serde(default)]
    pub workers: usize,
    /// A command that scores a model directory, as `glue eval --evaluator` takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluator: Option<String>,
    /// Seconds that command may take. Default: as long as it likes.
    #[serde(default, deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub evaluator_timeout: Option<f64>,
    /// Whether programs that a model writes are run, in a sandbox, where a task needs it. Default: no.
    #[serde(default)]
    pub allow_code_execution: bool,
    /// Examples in each prompt, instead of as many as a task asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_fewshot: Option<usize>,
    /// Whether prompts are put through the chat template. Default: no.
    #[serde(default)]
    pub apply_chat_template: bool,
    /// The source of all randomness. Default: 0.
    #[serde(default)]
    pub seed: u64,
    /// Type of merged weights, such as `bfloat16`. Default: that of the models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
}

fn proxy() -> String {
    "proxy".into()
}

fn yes() -> bool {
    true
}

fn strategies() -> Vec<StrategyConfig> {
    ["coefficient", "evolutionary"].map(|name| StrategyConfig { name: name.into(), settings: Vec::new() }).into()
}

/// Which items are held out.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Validation {
    /// This share of the items of each task, from 0 to 0.5.
    Share(f64),
    /// Those of another split.
    Split {
        /// Its name.
        split: String,
    },
}

impl Default for Validation {
    /// A fifth: enough to see an over-fitted search by (its standard error is twice that of the part searched), and
    /// little enough to cost the search a ninth of its precision.
    fn default() -> Self {
        Validation::Share(0.2)
    }
}

impl<'de> Deserialize<'de> for Validation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Validation;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a share from 0 to 0.5, or {split: NAME}")
            }

            fn visit_f64<E: de::Error>(self, x: f64) -> Result<Validation, E> {
                match (0.0..=0.5).contains(&x) {
                    true => Ok(Validation::Share(x)),
                    false => Err(E::custom(format!("`validation`: expected a share from 0 to 0.5, found {x}"))),
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
    /// Evaluations, those of the models by themselves among them. Default: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub evaluations: Option<u64>,
    /// Seconds, those of interrupted runs among them. Default: no limit.
    #[serde(deserialize_with = "glue_yaml::positive", skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

impl BudgetConfig {
    fn is_empty(&self) -> bool {
        *self == BudgetConfig::default()
    }
}

/// A strategy by its name, or with settings.
#[derive(Debug, Clone, PartialEq)]
pub struct StrategyConfig {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: Vec<(String, Setting)>,
}

impl Serialize for StrategyConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeMap;
        if self.settings.is_empty() {
            return serializer.serialize_str(&self.name);
        }
        struct Pairs<'a>(&'a [(String, Setting)]);
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
struct Settings(Vec<(String, Setting)>);

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
                while let Some(entry) = map.next_entry::<String, Setting>()? {
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
    /// It is no YAML, or a key or a value is not what it should be.
    #[error(transparent)]
    Text(#[from] YamlError),
    /// A value that will not do.
    #[error("{place}: `{key}`: expected {expected}, found {found}")]
    Value {
        /// Where.
        place: FilePosition,
        /// The key.
        key: &'static str,
        /// What would do.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl SearchConfig {
    /// Reads and checks `text`, which comes from `origin`.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, origin: &str, strategies: &StrategyRegistry) -> Result<SearchConfig, ConfigError> {
        let mut config: SearchConfig = glue_yaml::read(text, origin)?;
        config.check(text, origin, strategies)?;
        if let (Some(_), Validation::Share(_)) = (&config.evaluator, &config.validation) {
            // A command is told the name of a split, never which of its items.
            config.validation = Validation::Share(0.0);
        }
        Ok(config)
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
            return refuse("models", "models beside the base", format!("the base `{base}` among them"));
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
        if self.evaluator.is_some() && !self.only.is_empty() {
            return refuse("only", "nothing beside `evaluator`, which is given names in `tasks`", "names".into());
        }
        Ok(())
    }

    /// The space that optimisers search.
    pub fn space(&self) -> SpaceConfig {
        self.space.clone().unwrap_or_else(|| match self.base {
            Some(_) => SpaceConfig::default(),
            None => SpaceConfig {
                methods: vec![crate::space::MethodConfig::Name("linear".into())],
                normalise: true,
                ..SpaceConfig::default()
            },
        })
    }

    /// What the course of the search depends on: all but budgets, and how fast it goes.
    pub fn course(&self) -> SearchConfig {
        SearchConfig { budget: BudgetConfig::default(), parallel: None, memory: None, workers: 0, ..self.clone() }
    }
}

/// A config with every key, commented, to begin with.
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
            (config.split.as_str(), &config.validation, config.racing),
            ("proxy", &Validation::Share(0.2), true)
        );
        let names: Vec<_> = config.strategies.iter().map(|strategy| strategy.name.as_str()).collect();
        assert_eq!(names, ["coefficient", "evolutionary"]);
        assert!(config.space().normalise);
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
        let expected = [("evaluations", Setting::Number(20.0)), ("optimiser", Setting::Text("nsga2".into()))];
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
        says(&format!("{LEAST}validation: 0.7\n"), "expected a share from 0 to 0.5, found 0.7");
        says(&format!("{LEAST}racing: maybe\n"), "search.yml:3:");
        says("models: [a]\ntasks: [t]\n", "`models`: expected two or more, found 1");
        says(&format!("{LEAST}workers: 10000\n"), "`workers`: expected at most 256, found 10000");
        says(&format!("{LEAST}parallel: 10000\n"), "`parallel`: expected at most 1024, found 10000");
        says(&format!("{LEAST}num_fewshot: 1000000\n"), "`num_fewshot`: expected at most 10000, found 1000000");
        says(&format!("{LEAST}evaluator_timeout: 1e300\n"), "`evaluator_timeout`: expected at most 31536000 seconds");
        says("models: [a, a]\ntasks: [t]\n", "expected each model once, found `a` twice");
        says(&format!("{LEAST}base: b\n"), "found the base `b` among them");
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
