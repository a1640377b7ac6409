//! Values of parameters: scalars, gradients over layers, and lists of filters.

use glue_merge::params::Scope;
use glue_merge::{Operator, ParamError, ParamSpec, Params, Setting};
use glue_yaml::{At, Position};

/// A parameter as a recipe gives it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ParamValue {
    /// The same everywhere.
    Scalar(Setting),
    /// Interpolated over the layers of a slice: the first number at the first layer, the last at the last.
    Gradient(Vec<f64>),
    /// One of several over the layers of a slice, each for an equal part: what a gradient is for flags and words. The
    /// last holds at the last layer alone, as in mergekit.
    Steps(Vec<Setting>),
    /// The value of the first case that matches.
    Cases(Vec<Case>),
}

/// A value for some of the tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// A part of the name of the tensors it is for; `None` for all.
    pub filter: Option<String>,
    /// A scalar or a gradient.
    pub value: ParamValue,
}

/// A tensor and its position among the layers, for which a parameter is evaluated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamSite<'a> {
    /// Name of the tensor in the output.
    pub tensor: &'a str,
    /// Position among the layers: 0 before the layers and in the first layer of a slice, 1 in the last layer and after
    /// the layers.
    pub t: f64,
}

impl ParamValue {
    /// The value at `site`; `None` when it is a list of filters and none matches.
    pub fn at(&self, site: ParamSite<'_>) -> Option<Setting> {
        match self {
            Self::Scalar(setting) => Some(setting.clone()),
            Self::Gradient(points) => Some(Setting::Number(interpolate(points, site.t))),
            Self::Steps(values) => Some(values[step(values.len(), site.t)].clone()),
            Self::Cases(cases) => cases.iter().find(|case| case.matches(site.tensor))?.value.at(site),
        }
    }
}

impl Case {
    fn matches(&self, tensor: &str) -> bool {
        self.filter.as_deref().is_none_or(|filter| filter == "*" || tensor.contains(filter))
    }
}

/// Linear interpolation between equally spaced points over 0 to 1.
fn interpolate(points: &[f64], t: f64) -> f64 {
    let last = points.len().saturating_sub(1);
    let x = t.clamp(0.0, 1.0) * last as f64;
    let i = (x.floor() as usize).min(last);
    let fraction = x - i as f64;
    match points.get(i + 1) {
        Some(next) if fraction > 0.0 => points[i] + (next - points[i]) * fraction,
        _ => points[i],
    }
}

/// Which of `n` values over the layers holds at `t`: ⌊t·(n − 1)⌋, where `t` is a quotient that was rounded.
fn step(n: usize, t: f64) -> usize {
    (t.clamp(0.0, 1.0) * (n - 1) as f64 + 1e-9).floor() as usize
}

/// The parameters given at one place of a recipe.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    given: Vec<(&'static str, At<ParamValue>)>,
}

impl Settings {
    pub(crate) fn push(&mut self, key: &'static str, value: ParamValue, at: Position) {
        self.given.push((key, At::new(value, at)));
    }

    /// Whether nothing is given.
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Keys, in the order they are given.
    pub fn keys(&self) -> impl Iterator<Item = &'static str> {
        self.given.iter().map(|(key, _)| *key)
    }

    /// What is given for `key`.
    pub fn get(&self, key: &str) -> Option<&At<ParamValue>> {
        self.given.iter().find(|(given, _)| *given == key).map(|(_, value)| value)
    }
}

/// The value of `key` at `site`: of the first of `levels` that has one there.
pub(crate) fn resolve(levels: &[&Settings], key: &str, site: ParamSite<'_>) -> Option<Setting> {
    levels.iter().find_map(|level| level.get(key)?.value.at(site))
}

/// The parameters of `operator` at one tensor: those of the tensor from the levels `shared` at `site`, those of each
/// input from levels and a site of its own. The first of several levels is the most specific.
pub(crate) fn params<'a>(
    operator: &Operator,
    shared: &[&Settings],
    site: ParamSite<'_>,
    inputs: impl ExactSizeIterator<Item = (&'a [&'a Settings], ParamSite<'a>)>,
) -> Result<Params, ParamError> {
    let at = |scope: Scope, levels: &[&Settings], site: ParamSite<'_>| -> Vec<(&'static str, Setting)> {
        let value = |spec: &ParamSpec| Some((spec.name, resolve(levels, spec.name, site)?));
        operator.specs().filter(|spec| spec.scope == scope).filter_map(value).collect()
    };
    let for_tensor = operator.params(inputs.len()).set_all(at(Scope::Tensor, shared, site));
    let of_inputs = inputs.map(|(levels, site)| at(Scope::Input, levels, site)).enumerate();
    of_inputs.fold(for_tensor, |params, (i, own)| params.input(i, own)).check()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_interpolate() {
        let check = |points: &[f64], t, expected| assert_eq!(interpolate(points, t), expected, "{points:?} at {t}");
        check(&[3.0], 0.0, 3.0);
        check(&[3.0], 1.0, 3.0);
        check(&[0.0, 1.0], 0.25, 0.25);
        check(&[0.0, 0.5, 0.3], 0.0, 0.0);
        check(&[0.0, 0.5, 0.3], 0.5, 0.5);
        check(&[0.0, 0.5, 0.3], 1.0, 0.3);
        check(&[0.0, 1.0, 3.0], 0.75, 2.0);
    }

    #[test]
    fn steps_are_values_of_the_list() {
        let values = ["a", "b", "c"].map(Setting::from).to_vec();
        let check = |t, expected: &str| {
            let found = ParamValue::Steps(values.clone()).at(ParamSite { tensor: "", t });
            assert_eq!(found, Some(Setting::from(expected)), "at {t}");
        };
        check(0.0, "a");
        check(0.49, "a");
        check(0.5, "b");
        check(0.99, "b");
        check(1.0, "c");
    }

    #[test]
    fn the_first_filter_that_matches_wins_and_no_match_falls_through() {
        let case = |filter: Option<&str>, x| Case {
            filter: filter.map(String::from),
            value: ParamValue::Scalar(Setting::Number(x)),
        };
        let settings = |cases| {
            let mut settings = Settings::default();
            settings.push("weight", ParamValue::Cases(cases), Position { line: 1, column: 1 });
            settings
        };
        let near = settings(vec![case(Some("mlp"), 1.0), case(Some("mlp.down"), 2.0)]);
        let far = settings(vec![case(Some("*"), 3.0), case(None, 4.0)]);
        let check = |levels: &[&Settings], tensor, expected: Option<f64>| {
            let found = resolve(levels, "weight", ParamSite { tensor, t: 0.0 });
            assert_eq!(found, expected.map(Setting::Number), "{tensor}");
        };
        check(&[&near, &far], "layers.0.mlp.down_proj.weight", Some(1.0));
        check(&[&near, &far], "layers.0.self_attn.q_proj.weight", Some(3.0));
        check(&[&near], "layers.0.self_attn.q_proj.weight", None);
        check(&[&far, &near], "layers.0.mlp.down_proj.weight", Some(3.0));
    }
}
