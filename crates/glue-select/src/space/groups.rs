//! Groups of tensors with separate values, by the names of tensors.

use super::{SpaceConfig, SpaceError};
use crate::recipe_text::{CaseText, ParamText};
use glue_tensor::{ModelDir, Names};

/// The names of the tensors of the models, from which groups are made, and their shapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorNames {
    /// The prefix of the number of a layer; empty without layers.
    prefix: String,
    layers: usize,
    /// What follows the number, over all layers.
    suffixes: Vec<String>,
    /// Names outside of the layers.
    outside: Vec<String>,
    /// Rows and columns of each matrix within the layers; empty if shapes are not known.
    matrices: Vec<(usize, usize)>,
    /// Elements of all tensors; 0 if shapes are not known.
    parameters: usize,
}

impl TensorNames {
    /// The names and shapes in a model, from its headers.
    pub fn of(model: &ModelDir) -> TensorNames {
        let tensors = model.checkpoint().tensors();
        let names = TensorNames::from_names(tensors.iter().map(|info| info.name.as_str()));
        let inside = |name: &str| !names.prefix.is_empty() && name.starts_with(&names.prefix);
        let matrices = tensors.iter().filter(|info| inside(&info.name)).filter_map(|info| match info.shape[..] {
            [rows, columns] => Some((rows, columns)),
            _ => None,
        });
        let (matrices, parameters) = (matrices.collect(), tensors.iter().map(|info| info.n_elements()).sum());
        TensorNames { matrices, parameters, ..names }
    }

    #[cfg(test)]
    pub(super) fn with_shapes(self, matrices: Vec<(usize, usize)>, parameters: usize) -> TensorNames {
        TensorNames { matrices, parameters, ..self }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.layers
    }

    /// Rows and columns of each matrix within the layers; empty if shapes are not known.
    pub fn matrices(&self) -> &[(usize, usize)] {
        &self.matrices
    }

    /// Elements of all tensors; 0 if shapes are not known.
    pub fn parameters(&self) -> usize {
        self.parameters
    }

    /// The names in a list, without shapes.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> TensorNames {
        let names: Vec<&str> = names.into_iter().collect();
        let parsed = Names::infer(names.iter().copied());
        let stack = parsed.main_stack();
        let prefix = stack.map_or(String::new(), |stack| stack.prefix.clone());
        let layers = stack.and_then(|stack| stack.layers.last()).map_or(0, |last| last + 1);
        let (mut suffixes, mut outside) = (Vec::new(), Vec::new());
        for name in names {
            let tensor = parsed.parse(name);
            match tensor.layer {
                Some(_) if tensor.prefix == prefix => suffixes.push(tensor.suffix.to_string()),
                _ => outside.push(name.to_string()),
            }
        }
        suffixes.sort_unstable();
        suffixes.dedup();
        TensorNames { prefix, layers, suffixes, outside, matrices: Vec::new(), parameters: 0 }
    }
}

/// Groups of tensors: their names, and the cases of a recipe that select them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Groups {
    pub(super) names: Vec<String>,
    cases: Vec<(Option<String>, CaseValue)>,
}

/// The groups that a case takes its value from.
#[derive(Debug, Clone, PartialEq)]
enum CaseValue {
    One(usize),
    Curve(std::ops::Range<usize>),
}

impl Groups {
    /// One group of all tensors.
    fn one() -> Groups {
        Groups { names: vec![String::new()], cases: vec![(None, CaseValue::One(0))] }
    }

    pub(super) fn new(config: &SpaceConfig, names: &TensorNames) -> Result<Groups, SpaceError> {
        let TensorNames { prefix, layers, suffixes, .. } = names;
        let matched = |filter: &str| suffixes.iter().any(|suffix| suffix.contains(filter));
        for filter in &config.filters {
            if filter.is_empty() || !matched(filter) {
                let expected =
                    format!("part of the name of a tensor within the layers: one of {}", suffixes.join(", "));
                return Err(SpaceError::key("filters", expected, format!("`{filter}`")));
            }
        }
        // The filter that matches a tensor first; `None` if no filter matches.
        let of = |suffix: &String| config.filters.iter().position(|filter| suffix.contains(filter.as_str()));
        let rest = suffixes.iter().any(|suffix| of(suffix).is_none());
        let kinds: Vec<Option<usize>> =
            (0..config.filters.len()).filter(|f| suffixes.iter().any(|s| of(s) == Some(*f))).map(Some).collect();
        let kinds: Vec<Option<usize>> = kinds.into_iter().chain(rest.then_some(None)).collect();
        let label = |place: String, kind: Option<usize>| match kind {
            Some(f) if place.is_empty() => config.filters[f].clone(),
            Some(f) => format!("{place} {}", config.filters[f]),
            None => place,
        };
        let mut groups = Groups { names: Vec::new(), cases: Vec::new() };
        let n_groups = match (config.smooth.points(), config.layer_groups) {
            (Some(_), n) if n > 0 => {
                return Err(SpaceError::key("smooth", "either a curve or `layer_groups`", "both"));
            }
            (Some(points), _) if points < 2 => {
                return Err(SpaceError::key("smooth", "at least 2 points", points));
            }
            (Some(points), _) => return groups.curve(points, &kinds, config, names, label),
            (None, n) => n,
        };
        if n_groups > *layers {
            return Err(SpaceError::key("layer_groups", format!("at most {layers}, the number of layers"), n_groups));
        }
        if n_groups == 0 {
            if config.filters.is_empty() {
                return Ok(Groups::one());
            }
            let taken: Vec<usize> = kinds.iter().copied().flatten().collect();
            for (g, f) in taken.iter().enumerate() {
                let filter = &config.filters[*f];
                groups.outside_first(filter, names, taken.len())?;
                groups.cases.push((Some(filter.clone()), CaseValue::One(g)));
                groups.names.push(filter.clone());
            }
            groups.close("rest");
            return Ok(groups);
        }
        for g in 0..n_groups {
            let range = (g * layers).div_ceil(n_groups)..((g + 1) * layers).div_ceil(n_groups);
            let place = match range.len() {
                1 => format!("layer {}", range.start),
                _ => format!("layers {}-{}", range.start, range.end - 1),
            };
            let first = groups.names.len();
            groups.names.extend(kinds.iter().map(|kind| label(place.clone(), *kind)));
            for layer in range {
                for (k, kind) in kinds.iter().enumerate() {
                    let slot = || CaseValue::One(first + k);
                    match kind {
                        None => groups.cases.push((Some(format!("{prefix}{layer}.")), slot())),
                        Some(f) => {
                            let filter = &config.filters[*f];
                            let taken = suffixes.iter().filter(|suffix| of(suffix) == Some(*f));
                            if taken.clone().all(|suffix| suffix.starts_with(filter.as_str())) {
                                groups.cases.push((Some(format!("{prefix}{layer}.{filter}")), slot()));
                            } else {
                                let whole = taken.map(|suffix| (Some(format!("{prefix}{layer}.{suffix}")), slot()));
                                groups.cases.extend(whole);
                            }
                        }
                    }
                }
            }
        }
        groups.close("outside");
        Ok(groups)
    }

    /// The last group: all tensors that no case matches.
    fn close(&mut self, name: &str) {
        self.cases.push((None, CaseValue::One(self.names.len())));
        self.names.push(name.into());
    }

    /// Tensors outside of the layers that a filter would match get a case before it.
    fn outside_first(&mut self, filter: &str, names: &TensorNames, group: usize) -> Result<(), SpaceError> {
        for name in names.outside.iter().filter(|name| name.contains(filter)) {
            let within = |suffix: &String| format!("{}0.{suffix}", names.prefix).contains(name.as_str());
            if names.suffixes.iter().any(within) {
                let expected = format!("a filter that does not match `{name}`, which is part of other names");
                return Err(SpaceError::key("filters", expected, format!("`{filter}`")));
            }
            self.cases.push((Some(name.clone()), CaseValue::One(group)));
        }
        Ok(())
    }

    fn curve(
        mut self,
        points: usize,
        kinds: &[Option<usize>],
        config: &SpaceConfig,
        names: &TensorNames,
        label: impl Fn(String, Option<usize>) -> String,
    ) -> Result<Groups, SpaceError> {
        if names.layers < points {
            let expected = format!("at most {} points, the number of layers", names.layers);
            return Err(SpaceError::key("smooth", expected, points));
        }
        let outside = points * kinds.len();
        for kind in kinds {
            let first = self.names.len();
            let place = |point| format!("{:.0}%", 100.0 * point as f64 / (points - 1) as f64);
            self.names.extend((0..points).map(|point| label(place(point), *kind)));
            let filter = kind.map_or(&names.prefix, |f| &config.filters[f]);
            self.outside_first(filter, names, outside)?;
            self.cases.push((Some(filter.clone()), CaseValue::Curve(first..first + points)));
        }
        self.close("outside");
        Ok(self)
    }

    /// The group of a tensor; `None` where it takes its value from a curve.
    pub(super) fn of(&self, tensor: &str) -> Option<usize> {
        let takes = |filter: &Option<String>| filter.as_ref().is_none_or(|filter| tensor.contains(filter));
        match self.cases.iter().find(|(filter, _)| takes(filter)) {
            Some((_, CaseValue::One(group))) => Some(*group),
            _ => None,
        }
    }

    /// The parameter that has these values in the groups.
    pub(super) fn param(&self, values: &[f64]) -> ParamText {
        if values.iter().all(|x| x == &values[0]) {
            return ParamText::Number(values[0]);
        }
        let value = |slot: &CaseValue| match slot {
            CaseValue::One(group) => ParamText::Number(values[*group]),
            CaseValue::Curve(groups) => ParamText::Gradient(values[groups.clone()].to_vec()),
        };
        let case =
            |(filter, slot): &(Option<String>, CaseValue)| CaseText { filter: filter.clone(), value: value(slot) };
        ParamText::Cases(self.cases.iter().map(case).collect())
    }
}
