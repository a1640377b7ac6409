//! The weights of a recipe as a table: models against groups of layers.

use glue_merge::{Registry, Setting};
use glue_recipe::Recipe;
use glue_recipe::recipe::Body;
use glue_recipe::settings::ParamValue;
use glue_report::{WeightRow, Weights};

/// The table of `recipe`; `name` gives the names of its models.
pub(crate) fn table(recipe: &str, operators: &Registry, name: &dyn Fn(&str) -> String) -> Weights {
    let parsed = Recipe::parse(recipe, "best.yml", operators);
    let Some(recipe) = parsed.ok().and_then(|recipes| recipes.into_iter().next()) else { return Weights::default() };
    let method = match &recipe.base {
        Some(base) => format!("{} on {}", recipe.operator.value.def().name, name(&base.value)),
        None => recipe.operator.value.def().name.to_string(),
    };
    let mut groups: Vec<String> = Vec::new();
    let mut rows: Vec<(String, Vec<(String, f64)>)> = Vec::new();
    for part in &recipe.parts {
        let Body::Models(models) = &part.body else { continue };
        for model in models {
            let cells = model.settings.get("weight").map(|value| cells(&value.value)).unwrap_or_default();
            for (group, _) in &cells {
                if !groups.contains(group) {
                    groups.push(group.clone());
                }
            }
            rows.push((name(&model.model.value), cells));
        }
    }
    let rows = rows
        .into_iter()
        .map(|(model, cells)| WeightRow {
            model,
            values: groups.iter().map(|group| cells.iter().find(|(g, _)| g == group).map(|(_, x)| *x)).collect(),
        })
        .collect();
    Weights { method, groups, rows }
}

/// The weights of one model by group. Consecutive layers with the same weight are one group.
fn cells(value: &ParamValue) -> Vec<(String, f64)> {
    match value {
        ParamValue::Scalar(Setting::Number(x)) => vec![("all".into(), *x)],
        ParamValue::Gradient(points) => {
            let last = points.len().saturating_sub(1).max(1);
            let place = |i: usize| format!("at {:.0} % of the layers", 100.0 * i as f64 / last as f64);
            points.iter().enumerate().map(|(i, x)| (place(i), *x)).collect()
        }
        ParamValue::Cases(cases) => {
            let mut runs: Vec<(String, f64)> = Vec::new();
            let mut open: Option<(u64, u64, f64)> = None;
            let close = |open: &mut Option<(u64, u64, f64)>, runs: &mut Vec<(String, f64)>| {
                if let Some((first, last, x)) = open.take() {
                    let name =
                        if first == last { format!("layer {first}") } else { format!("layers {first}–{last}") };
                    runs.push((name, x));
                }
            };
            for case in cases {
                let ParamValue::Scalar(Setting::Number(x)) = &case.value else { continue };
                let layer = case.filter.as_deref().and_then(layer_of);
                match (layer, open) {
                    (Some(layer), Some((first, last, value))) if layer == last + 1 && value == *x => {
                        open = Some((first, layer, value));
                    }
                    (Some(layer), _) => {
                        close(&mut open, &mut runs);
                        open = Some((layer, layer, *x));
                    }
                    (None, _) => {
                        close(&mut open, &mut runs);
                        runs.push((case.filter.clone().unwrap_or_else(|| "the rest".into()), *x));
                    }
                }
            }
            close(&mut open, &mut runs);
            runs
        }
        _ => Vec::new(),
    }
}

/// The number in a filter such as `layers.3.`.
fn layer_of(filter: &str) -> Option<u64> {
    let digits = filter.strip_suffix('.')?.rsplit('.').next()?;
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weights(parameter: &str) -> Weights {
        let recipe = format!(
            "merge_method: task_arithmetic\nbase_model: zoo/base\nmodels:\n  - model: zoo/a\n    parameters:\n      weight: {parameter}\n  - model: zoo/b\n    parameters:\n      weight: 0.25\n"
        );
        table(&recipe, &Registry::builtin(), &|path| path.trim_start_matches("zoo/").to_string())
    }

    #[test]
    fn one_weight_is_one_column() {
        let found = weights("0.5");
        assert_eq!(found.method, "task_arithmetic on base");
        assert_eq!(found.groups, ["all"]);
        let rows: Vec<_> = found.rows.iter().map(|row| (row.model.as_str(), row.values.clone())).collect();
        assert_eq!(rows, [("a", vec![Some(0.5)]), ("b", vec![Some(0.25)])]);
    }

    #[test]
    fn consecutive_equal_layers_are_one_column() {
        let cases = "[{filter: layers.0., value: 0.1}, {filter: layers.1., value: 0.1}, {filter: layers.2., value: 0.2}, {value: 0.3}]";
        let found = weights(cases);
        assert_eq!(found.groups, ["layers 0–1", "layer 2", "the rest", "all"]);
        assert_eq!(found.rows[0].values, [Some(0.1), Some(0.2), Some(0.3), None]);
    }

    #[test]
    fn a_gradient_has_a_column_for_each_point() {
        assert_eq!(weights("[0.0, 1.0]").groups, ["at 0 % of the layers", "at 100 % of the layers", "all"]);
    }
}
