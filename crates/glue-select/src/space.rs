//! Search spaces: one for each merge method, of its parameters and of groups of tensors with separate values; and the
//! recipe of a point in a space.
//!
//! ```yaml
//! methods: [task_arithmetic, {ties: {density: {min: 0.3}, lambda: 1}}]
//! layer_groups: 4
//! filters: [self_attn, mlp]
//! ```
//!
//! Several methods are several spaces, which a strategy compares: the parameters of one method say nothing about those
//! of another. A search whose config names no methods compares those of [`methods_by_default`].
//!
//! A parameter is searched if its operator declares a usual range; nothing is listed twice. A parameter can be fixed to
//! a value, narrowed, or given options. Weights differ by group of tensors, other parameters of a model by model, and
//! the rest are the same everywhere, unless [`Choice::Range`] sets `per`.
//!
//! Groups become filters by the names of tensors, and a curve over the layers becomes a gradient of the dialect:
//! mergekit reads the recipe of a point as it is meant here.

mod config;
mod defaults;
mod groups;

pub use config::{Choice, Fixed, MethodConfig, Options, Per, Range, Smooth, SpaceConfig};
pub use defaults::{DECOMPOSITION, SCORED_TOKENS, decomposition_operations, methods_by_default, scoring_operations};
pub use groups::TensorNames;

use crate::contract::Candidate;
use crate::recipe_text::{NamedParam, ParamText, RecipeTemplate, WEIGHT, recipe};
use glue_merge::params::{Kind, Scope, Value};
use glue_merge::{MergeError, Operator, ParamError, ParamSpec, Registry, Setting, StatisticOf, StatisticSpec};
use glue_progress::ErrorChain;
use glue_search::{Coordinate, SearchError, Space};
use groups::Groups;
use std::collections::BTreeMap;

/// Why a space or a point is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpaceError {
    /// A coordinate or a point is invalid.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// A method cannot merge these models.
    #[error("method `{method}`: {error}")]
    Method {
        /// The method.
        method: String,
        /// What is wrong.
        error: String,
    },
    /// A key of the config has an invalid value.
    #[error("`{key}`: expected {expected}, found {found}")]
    Key {
        /// The key, with its parent keys before it.
        key: String,
        /// What is expected.
        expected: String,
        /// What was given.
        found: String,
    },
}

impl SpaceError {
    fn key(key: impl Into<String>, expected: impl Into<String>, found: impl ToString) -> SpaceError {
        SpaceError::Key { key: key.into(), expected: expected.into(), found: found.to_string() }
    }

    fn method(method: &str, error: impl std::error::Error) -> SpaceError {
        SpaceError::Method { method: method.into(), error: error.chain() }
    }
}

/// A parameter that is searched.
#[derive(Debug, Clone)]
struct Searched {
    spec: &'static ParamSpec,
    /// Its first coordinate. Coordinates go model by model, and group by group within a model.
    first: usize,
    n_models: usize,
    n_groups: usize,
    /// Its options; empty for a number.
    options: Vec<Setting>,
}

impl Searched {
    fn is_weight(&self) -> bool {
        self.spec.name == WEIGHT && self.spec.scope == Scope::Input
    }
}

/// The method of a space.
#[derive(Debug, Clone)]
struct Method {
    name: String,
    /// With the statistics that the method uses.
    template: RecipeTemplate,
    fixed: Vec<NamedParam>,
    searched: Vec<Searched>,
}

/// The parameters of one merge method as a box of coordinates, and the recipe of each of its points.
#[derive(Debug, Clone)]
pub struct SearchSpace {
    /// `None` for a method without a parameter to search.
    space: Option<Space>,
    models: Vec<String>,
    method: Method,
    groups: Groups,
    normalise: bool,
    negative: bool,
}

impl SearchSpace {
    /// The spaces of merges of `models`, which exclude the base and whose tensors have the names `names`: one for each
    /// method, in the order of the config.
    ///
    /// # Errors
    /// [`SpaceError`]: a method that does not exist or cannot work on so many models, a parameter that it does not have
    /// or a value out of range, groups that the model has no layers for, statistics that no method uses, or nothing to
    /// search.
    pub fn all(
        config: &SpaceConfig,
        template: &RecipeTemplate,
        models: &[String],
        names: &TensorNames,
        registry: &Registry,
    ) -> Result<Vec<SearchSpace>, SpaceError> {
        let groups = Groups::new(config, names)?;
        let spaces: Vec<SearchSpace> = config
            .methods
            .iter()
            .map(|method| {
                let (name, choices) = method.parts()?;
                let labels = glue_text::names::short(models);
                let (groups, coordinates) = (&groups, Vec::new());
                let mut builder = Builder { config, template, models, labels, groups, registry, coordinates };
                let method = builder.method(&name, &choices)?;
                let space = match builder.coordinates.is_empty() {
                    true => None,
                    false => Some(Space::new(builder.coordinates)?),
                };
                Ok(SearchSpace {
                    space,
                    models: models.to_vec(),
                    method,
                    groups: groups.clone(),
                    normalise: config.normalise,
                    negative: config.negative_weights,
                })
            })
            .collect::<Result<_, SpaceError>>()?;
        let named = || match spaces.is_empty() {
            true => "none".to_string(),
            false => spaces.iter().map(SearchSpace::method).collect::<Vec<_>>().join(", "),
        };
        if !config.statistics.is_empty() && spaces.iter().all(|space| space.method.template.statistics.is_empty()) {
            return Err(SpaceError::key("statistics", "a method that uses statistics of models", named()));
        }
        if config.base_statistics.is_some()
            && spaces.iter().all(|space| space.method.template.base_statistics.is_none())
        {
            return Err(SpaceError::key("base_statistics", "a method that uses statistics of the base", named()));
        }
        if spaces.len() < 2 && spaces.iter().all(|space| space.space.is_none()) {
            return Err(SpaceError::key("methods", "a method with a parameter to search, or several", named()));
        }
        Ok(spaces)
    }

    /// The box that is searched; `None` if the method has no parameter to search, so that there is one point, which has
    /// no coordinates.
    pub fn space(&self) -> Option<&Space> {
        self.space.as_ref()
    }

    /// The models, in the order of the recipes.
    pub fn models(&self) -> &[String] {
        &self.models
    }

    /// The merge method.
    pub fn method(&self) -> &str {
        &self.method.name
    }

    /// The recipe of a point, in user units.
    ///
    /// # Errors
    /// [`SpaceError::Search`] for a point of another space.
    pub fn candidate(&self, point: &[f64]) -> Result<Candidate, SpaceError> {
        if let Some(space) = &self.space {
            space.to_unit(point)?;
        }
        let method = &self.method;
        let mut shared = method.fixed.clone();
        let mut own: Vec<Vec<NamedParam>> = vec![Vec::new(); self.models.len()];
        for searched in &method.searched {
            let key = searched.spec.name.to_string();
            let values = |model: usize| &point[searched.first + model * searched.n_groups..][..searched.n_groups];
            if let Some(option) = searched.options.get(point[searched.first] as usize) {
                shared.push((key, as_text(option)));
            } else if searched.spec.scope == Scope::Tensor || searched.n_models == 1 && self.models.len() > 1 {
                shared.push((key, self.param(values(0))));
            } else {
                let mut by_model: Vec<Vec<f64>> = (0..searched.n_models).map(|model| values(model).to_vec()).collect();
                if self.normalise && searched.spec.name == WEIGHT {
                    for group in 0..searched.n_groups {
                        self.normalise(&mut by_model, group);
                    }
                }
                for (own, values) in own.iter_mut().zip(by_model) {
                    own.push((key.clone(), self.param(&values)));
                }
            }
        }
        let models: Vec<(String, Vec<NamedParam>)> = self.models.iter().cloned().zip(own).collect();
        Ok(recipe(&method.template, &method.name, &models, &shared))
    }

    /// A point to start from: each model with its weight, 0 if none is given, clamped to the bounds; other parameters
    /// at their defaults, or in the middle of their range if there is no default.
    ///
    /// # Errors
    /// [`SpaceError`] for a model that the space does not have.
    pub fn start(&self, weights: &[(String, f64)]) -> Result<Vec<f64>, SpaceError> {
        if let Some((unknown, _)) = weights.iter().find(|(model, _)| !self.models.contains(model)) {
            return Err(SpaceError::key("start", format!("one of the models {}", self.models.join(", ")), unknown));
        }
        Ok(self.point(|model, _| weights.iter().find(|(name, _)| name == model).map_or(0.0, |(_, weight)| *weight)))
    }

    /// The merge in which all models take part equally: each with the default weight of the method or, if it has none,
    /// a weight of 1/n; other parameters as in [`start`](Self::start).
    pub fn equal(&self) -> Vec<f64> {
        let equal = 1.0 / self.models.len() as f64;
        self.point(|_, default| default.unwrap_or(equal))
    }

    /// The same point with another length of the merged task vector, clamped to its bounds; `None` if the method does
    /// not search for the factor `lambda`.
    pub fn scaled(&self, point: &[f64], lambda: f64) -> Option<Vec<f64>> {
        let searched = self.method.searched.iter().find(|searched| searched.spec.name == LAMBDA)?;
        let of_lambda = searched.first..searched.first + searched.n_groups;
        let of = |(at, x): (usize, &f64)| if of_lambda.contains(&at) { self.nearest(at, lambda) } else { *x };
        Some(point.iter().enumerate().map(of).collect())
    }

    /// Whether the weights of the method are shares: with a weight of 1 for one model and 0 for the others, the merge
    /// is that model.
    pub fn has_shares(&self) -> bool {
        self.method.searched.iter().any(|searched| searched.is_weight() && searched.spec.default.is_none())
    }

    /// The coordinate of the weight of model `model` in the tensor called `tensor`; `None` if the weight is not
    /// searched, is the same for all models, or follows a curve over the layers.
    pub fn weight_of(&self, model: usize, tensor: &str) -> Option<usize> {
        let searched = self.method.searched.iter().find(|searched| searched.is_weight())?;
        let group = if searched.n_groups == 1 { 0 } else { self.groups.of(tensor)? };
        (model < searched.n_models && searched.n_models == self.models.len())
            .then(|| searched.first + model * searched.n_groups + group)
    }

    /// A point with the weight `weight(model, default)` for each model and the default of each other parameter.
    fn point(&self, weight: impl Fn(&str, Option<f64>) -> f64) -> Vec<f64> {
        let Some(space) = &self.space else { return Vec::new() };
        let mut point = space.to_user(&vec![0.5; space.dimension()]);
        for searched in &self.method.searched {
            for i in 0..searched.n_models * searched.n_groups {
                let at = searched.first + i;
                let default = searched.spec.default.and_then(as_number);
                let wanted = if searched.is_weight() && searched.n_models == self.models.len() {
                    Some(weight(&self.models[i / searched.n_groups], default))
                } else if searched.options.is_empty() {
                    default
                } else {
                    let default = searched.spec.default.map(as_setting);
                    searched.options.iter().position(|option| Some(option) == default.as_ref()).map(|i| i as f64)
                };
                if let Some(wanted) = wanted {
                    point[at] = self.nearest(at, wanted);
                }
            }
        }
        point
    }

    /// The nearest valid value of a coordinate.
    fn nearest(&self, at: usize, x: f64) -> f64 {
        match self.space.as_ref().map(|space| &space.coordinates()[at].domain) {
            Some(glue_search::Domain::Real { low, high, .. }) => x.clamp(*low, *high),
            Some(glue_search::Domain::Integer { low, high }) => x.round().clamp(*low as f64, *high as f64),
            _ => x,
        }
    }

    fn param(&self, values: &[f64]) -> ParamText {
        if values.len() == 1 { ParamText::Number(values[0]) } else { self.groups.param(values) }
    }

    /// Makes the weights of a group sum to 1.
    fn normalise(&self, weights: &mut [Vec<f64>], group: usize) {
        let n = weights.len() as f64;
        let sum: f64 = weights.iter().map(|of_model| of_model[group]).sum();
        for of_model in weights {
            let weight = &mut of_model[group];
            *weight = match (self.negative, sum > 0.0) {
                // A sum near 0 cannot be a divisor: the nearest point with sum 1 instead.
                (true, _) => *weight + (1.0 - sum) / n,
                (false, true) => *weight / sum,
                (false, false) => 1.0 / n,
            };
        }
    }
}

/// The parameter of methods for the length of the merged task vector.
const LAMBDA: &str = "lambda";

struct Builder<'a> {
    config: &'a SpaceConfig,
    template: &'a RecipeTemplate,
    models: &'a [String],
    labels: Vec<String>,
    groups: &'a Groups,
    registry: &'a Registry,
    coordinates: Vec<Coordinate>,
}

impl Builder<'_> {
    fn method(&mut self, name: &str, choices: &BTreeMap<String, Choice>) -> Result<Method, SpaceError> {
        let refuse = |error: MergeError| SpaceError::method(name, error);
        let def = self.registry.get(name).map_err(|error| SpaceError::key("methods", "the name of a method", error))?;
        let inner = def.wraps().and_then(|key| match choices.get(key) {
            Some(Choice::Text(inner)) => Some(inner.as_str()),
            _ => None,
        });
        let operator = self.registry.operator(name, inner).map_err(refuse)?;
        operator.check_operands(self.models.len(), self.template.base_model.is_some()).map_err(refuse)?;
        let known: Vec<&str> = operator.specs().map(|spec| spec.name).collect();
        if let Some(unknown) = choices.keys().find(|key| !known.contains(&key.as_str())) {
            let expected = format!("a parameter of `{name}`: one of {}", known.join(", "));
            return Err(SpaceError::key(format!("methods.{name}"), expected, format!("`{unknown}`")));
        }
        let template = self.template_of(name, operator.statistic())?;
        let mut method = Method { name: name.to_string(), template, fixed: Vec::new(), searched: Vec::new() };
        for spec in operator.specs() {
            self.param(&mut method, &operator, spec, choices.get(spec.name))?;
        }
        Ok(method)
    }

    /// The template of a method, with the statistics that it uses.
    fn template_of(&self, method: &str, statistic: Option<&StatisticSpec>) -> Result<RecipeTemplate, SpaceError> {
        let mut template = self.template.clone();
        let Some(spec) = statistic else { return Ok(template) };
        let measured =
            |of: &str| format!("a path, since `{method}` uses `{}`; glue calibrate {of} measures it", spec.name);
        match spec.of {
            StatisticOf::Base => {
                if self.config.base_statistics.is_none() {
                    let base = self.template.base_model.as_deref().unwrap_or("BASE");
                    return Err(SpaceError::key("base_statistics", measured(base), "none"));
                }
                template.base_statistics.clone_from(&self.config.base_statistics);
            }
            StatisticOf::Inputs => {
                if let Some(unknown) = self.config.statistics.keys().find(|model| !self.models.contains(model)) {
                    let expected = format!("one of the models {}", self.models.join(", "));
                    return Err(SpaceError::key("statistics", expected, format!("`{unknown}`")));
                }
                if let Some(model) = self.models.iter().find(|model| !self.config.statistics.contains_key(*model)) {
                    return Err(SpaceError::key(format!("statistics.{model}"), measured(model), "none"));
                }
                template.statistics.clone_from(&self.config.statistics);
            }
        }
        Ok(template)
    }

    fn param(
        &mut self,
        method: &mut Method,
        operator: &Operator,
        spec: &'static ParamSpec,
        choice: Option<&Choice>,
    ) -> Result<(), SpaceError> {
        let name = operator.def().name;
        let key = || format!("methods.{name}.{}", spec.name);
        let check = |setting: &Setting| match spec.kind {
            Kind::Operator => Ok(()),
            _ => spec.check(name, setting).map(|_| ()).map_err(|error: ParamError| SpaceError::method(name, error)),
        };
        let fixed = match choice {
            Some(Choice::Flag(x)) => Some(Setting::Flag(*x)),
            Some(Choice::Number(x)) => Some(Setting::Number(*x)),
            Some(Choice::Text(x)) => Some(Setting::Text(x.clone())),
            _ => None,
        };
        if let Some(setting) = fixed {
            check(&setting)?;
            method.fixed.push((spec.name.into(), as_text(&setting)));
            return Ok(());
        }
        if let Some(Choice::Options(options)) = choice {
            let options: Vec<Setting> = options.options.iter().map(Fixed::setting).collect();
            options.iter().try_for_each(check)?;
            let names = options.iter().map(|option| option.to_string().trim_matches('`').to_string());
            let first = self.coordinates.len();
            self.coordinates.push(Coordinate::categorical(spec.name, names));
            method.searched.push(Searched { spec, first, n_models: 1, n_groups: 1, options });
            return Ok(());
        }
        let range = if let Some(Choice::Range(range)) = choice { Some(*range) } else { None };
        let asked = range.unwrap_or_default();
        let is_weight = spec.name == WEIGHT && spec.scope == Scope::Input;
        let (low, high, whole) = match spec.kind {
            Kind::Number { usual: (low, high), .. } => {
                let low = if is_weight && self.config.negative_weights { -high } else { low };
                (Some(low), Some(high), false)
            }
            // Only a range with two ends can be searched.
            Kind::Integer { min, max } if max < i64::MAX && min > i64::MIN => {
                (Some(min as f64), Some(max as f64), true)
            }
            Kind::Integer { min, .. } => (Some(min as f64), None, true),
            _ => (None, None, false),
        };
        let (low, high) = (asked.min.or(low), asked.max.or(high));
        let (Some(low), Some(high)) = (low, high) else {
            return match (range, spec.default) {
                (None, Some(_)) => Ok(()),
                (None, None) => Err(SpaceError::key(key(), spec.kind.to_string(), "nothing")),
                (Some(_), _) => Err(SpaceError::key(key(), format!("bounds of {}", spec.kind), "a range")),
            };
        };
        if range.is_none() && low >= high {
            // There is nothing to search if the operator has one usual value.
            return match spec.default {
                Some(_) => Ok(()),
                None => Err(SpaceError::key(key(), spec.kind.to_string(), "nothing")),
            };
        }
        // A lower bound that the operator excludes is approached, but not reached.
        let low = match check(&Setting::Number(low)) {
            Err(_) if check(&Setting::Number(low.next_up())).is_ok() && !whole => low + (high - low) * 1e-3,
            _ => low,
        };
        check(&Setting::Number(low))?;
        check(&Setting::Number(high))?;
        let per = asked.per.unwrap_or(match spec.scope {
            Scope::Input if is_weight => Per::Group,
            Scope::Input => Per::Model,
            Scope::Tensor => Per::All,
        });
        let n_models = match (spec.scope, per) {
            (Scope::Tensor, Per::Model) => {
                return Err(SpaceError::key(
                    format!("{}.per", key()),
                    "`all` or `group`, since it is not a parameter of a model",
                    "`model`",
                ));
            }
            (Scope::Tensor, _) | (_, Per::All) => 1,
            _ => self.models.len(),
        };
        let n_groups = if per == Per::Group { self.groups.names.len() } else { 1 };
        let first = self.coordinates.len();
        for model in 0..n_models {
            for group in 0..n_groups {
                let mut label = spec.name.to_string();
                if spec.scope == Scope::Input && per != Per::All {
                    label = format!("{label}[{}]", self.labels[model]);
                }
                if n_groups > 1 {
                    label = format!("{label}[{}]", self.groups.names[group]);
                }
                self.coordinates.push(match (whole, asked.log) {
                    (true, _) => Coordinate::integer(label, low.ceil() as i64, high.floor() as i64),
                    (false, true) => Coordinate::log(label, low, high),
                    (false, false) => Coordinate::real(label, low, high),
                });
            }
        }
        method.searched.push(Searched { spec, first, n_models, n_groups, options: Vec::new() });
        Ok(())
    }
}

fn as_text(setting: &Setting) -> ParamText {
    match setting {
        Setting::Flag(x) => ParamText::Flag(*x),
        Setting::Number(x) => ParamText::Number(*x),
        Setting::Text(x) => ParamText::Text(x.clone()),
    }
}

fn as_number(value: Value) -> Option<f64> {
    match value {
        Value::Number(x) => Some(x),
        Value::Integer(x) => Some(x as f64),
        _ => None,
    }
}

fn as_setting(value: Value) -> Setting {
    match value {
        Value::Number(x) => Setting::Number(x),
        Value::Integer(x) => Setting::Number(x as f64),
        Value::Flag(x) => Setting::Flag(x),
        other => Setting::Text(other.to_string()),
    }
}
