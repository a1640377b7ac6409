//! The space in a config.

use super::SpaceError;
use glue_merge::Setting;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is searched.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SpaceConfig {
    /// Merge methods; several are compared, and the best is searched. Default: the methods of the
    /// [default space](crate::space::methods_by_default).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodConfig>,
    /// Number of contiguous groups of layers with separate weights, as equal in size as possible; embedding, head and
    /// final norm are one more group. 0, the default, is one weight for all tensors of a model.
    pub layer_groups: usize,
    /// Parts of tensor names: tensors within the layers whose name contains one have separate weights, by the first
    /// that matches. Default: none.
    pub filters: Vec<String>,
    /// Whether weights may be as far below 0 as above it. Default: no.
    pub negative_weights: bool,
    /// Whether the weights of all models in a group sum to 1: divided by their sum or, if they may be negative, all
    /// shifted by the same amount. Default: no.
    pub normalise: bool,
    /// Weights as a curve over the layers, linear between so many points, instead of groups of layers; `true` is 3
    /// points. Default: no.
    pub smooth: Smooth,
    /// Paths of statistics, as `glue calibrate` writes them, by the paths of their models: for methods that use
    /// statistics of models. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub statistics: BTreeMap<String, String>,
    /// Path of the statistics of the base: for methods that use them. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_statistics: Option<String>,
}

impl Default for Smooth {
    fn default() -> Smooth {
        Smooth::Flag(false)
    }
}

/// Whether a curve replaces groups of layers, and with how many points.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a number of points")]
pub enum Smooth {
    /// With 3 points, or not at all.
    Flag(bool),
    /// With this many points, at least 2.
    Points(usize),
}

impl Smooth {
    pub(super) fn points(self) -> Option<usize> {
        match self {
            Smooth::Flag(false) => None,
            Smooth::Flag(true) => Some(3),
            Smooth::Points(n) => Some(n),
        }
    }
}

/// A method by name, or with choices about its parameters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected the name of a method, or {NAME: {PARAMETER: CHOICE}}")]
pub enum MethodConfig {
    /// All parameters as declared.
    Name(String),
    /// One name, with the parameters that are fixed or searched differently.
    With(BTreeMap<String, BTreeMap<String, Choice>>),
}

/// How a parameter is fixed or searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a value, {options: [...]}, or a range of min, max, log and per")]
pub enum Choice {
    /// It is always `true`, or `false`.
    Flag(bool),
    /// It is always this number.
    Number(f64),
    /// It is always this word.
    Text(String),
    /// It is one of these.
    Options(Options),
    /// It is a number between bounds.
    Range(Range),
}

/// Values to choose from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Options {
    /// Two or more.
    pub options: Vec<Fixed>,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected true, false, a number or a word")]
pub enum Fixed {
    /// `true` or `false`.
    Flag(bool),
    /// A number.
    Number(f64),
    /// A word.
    Text(String),
}

/// Bounds of a number; absent bounds are those that the operator declares.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Range {
    /// The minimum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The maximum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Whether the scale is logarithmic. Default: no.
    pub log: bool,
    /// What gets separate values. Default: `group` for weights, `model` for other parameters of a model, otherwise
    /// `all`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per: Option<Per>,
}

/// What gets separate values of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// One value for all.
    All,
    /// A value for each model.
    Model,
    /// A value for each group of tensors and, for parameters of a model, for each model.
    Group,
}

impl MethodConfig {
    pub(super) fn parts(&self) -> Result<(String, BTreeMap<String, Choice>), SpaceError> {
        match self {
            MethodConfig::Name(name) => Ok((name.clone(), BTreeMap::new())),
            MethodConfig::With(map) => match map.iter().next() {
                Some((name, choices)) if map.len() == 1 => Ok((name.clone(), choices.clone())),
                _ => {
                    let found = format!("{} names in one entry", map.len());
                    Err(SpaceError::key("methods", "a name, or one name with its parameters", found))
                }
            },
        }
    }
}

impl Fixed {
    pub(super) fn setting(&self) -> Setting {
        match self {
            Fixed::Flag(x) => Setting::Flag(*x),
            Fixed::Number(x) => Setting::Number(*x),
            Fixed::Text(x) => Setting::Text(x.clone()),
        }
    }
}
