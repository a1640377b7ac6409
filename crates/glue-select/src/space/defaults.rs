//! The merge methods that are compared where a config names none.
//!
//! With a base: `task_arithmetic`, `ties`, `dare_ties` and `sce`, and `wudi` and `tsv_m`, which keep task vectors from
//! interfering by decomposing every matrix, where that takes at most as long as scoring does. Without a base: `linear`,
//! `multislerp` and, for two models, `nuslerp`. With statistics of all models: `fisher`, and `regmean`, which solves a
//! system of equations for every matrix, where that is affordable. With statistics of the base: `aim` around
//! `task_arithmetic`.

use super::{Choice, MethodConfig, Per, Range, TensorNames};
use glue_merge::{Registry, StatisticSpec};
use std::collections::BTreeMap;

/// Operations of a decomposition for each element, each index of the shorter side and each model.
///
/// A matrix of m rows and n columns takes about this times m·n·min(m, n) for each model. The products in it are a
/// tenth; the rest is an eigendecomposition or two, in `f64`, at a fraction of the speed of the products that scoring
/// consists of. `cargo xtask bench svd` measures 133 s for `tsv_m` on four matrices of 4096 × 4096 on one thread, on
/// which products in `f32` run at about 80 billion operations per second: 133 · 80e9 / (4 · 4096³) ≈ 39.
pub const DECOMPOSITION: f64 = 40.0;

/// Tokens of the items that a candidate is scored on: 500 items of 100 tokens. A space is made before items are read
/// and encoded.
pub const SCORED_TOKENS: f64 = 50_000.0;

/// Operations that it takes to merge `models` models with a method that decomposes every matrix of the layers.
pub fn decomposition_operations(matrices: &[(usize, usize)], models: usize) -> f64 {
    let of_matrix = |&(m, n): &(usize, usize)| m as f64 * n as f64 * m.min(n) as f64;
    DECOMPOSITION * models as f64 * matrices.iter().map(of_matrix).sum::<f64>()
}

/// Operations that it takes to score a model of so many parameters on so many tokens: a multiplication and an addition
/// for each parameter and token.
pub fn scoring_operations(parameters: usize, tokens: f64) -> f64 {
    2.0 * parameters as f64 * tokens
}

/// The methods to compare for `models` models whose tensors are `names`; those that `registry` does not have are left
/// out. Methods that decompose matrices are among them if that takes at most as many operations as scoring
/// [`SCORED_TOKENS`]. A function of the shapes in the headers, so that a search does not depend on the speed of a
/// machine. `statistics` are the names of the statistics that the config gives for all models, or for the base.
pub fn methods_by_default(
    models: usize,
    has_base: bool,
    statistics: &[String],
    names: &TensorNames,
    registry: &Registry,
) -> Vec<MethodConfig> {
    let affordable =
        decomposition_operations(names.matrices(), models) <= scoring_operations(names.parameters(), SCORED_TOKENS);
    let plain = |name: &str| MethodConfig::Name(name.into());
    // One density for all models: one coordinate instead of one per model.
    let shared = Choice::Range(Range { per: Some(Per::All), ..Range::default() });
    let with = |name: &str, key: &str, choice: Choice| {
        MethodConfig::With(BTreeMap::from([(name.into(), BTreeMap::from([(key.into(), choice)]))]))
    };
    let mut methods = Vec::new();
    if has_base {
        methods.push(("task_arithmetic", plain("task_arithmetic")));
        methods.push(("ties", with("ties", "density", shared.clone())));
        methods.push(("dare_ties", with("dare_ties", "density", shared)));
        methods.push(("sce", plain("sce")));
        if affordable {
            // The solver that is the default takes no steps: their length is not searched.
            methods.push(("wudi", with("wudi", "learning_rate", Choice::Number(1e-5))));
            methods.push(("tsv_m", plain("tsv_m")));
        }
    } else {
        methods.push(("linear", plain("linear")));
        methods.push(("multislerp", plain("multislerp")));
        if models == 2 {
            methods.push(("nuslerp", plain("nuslerp")));
        }
    }
    let measured = |name: &str| statistics.iter().any(|statistic| statistic == name);
    if measured(StatisticSpec::FISHER) {
        methods.push(("fisher", plain("fisher")));
    }
    if measured(StatisticSpec::GRAM) && affordable {
        methods.push(("regmean", plain("regmean")));
    }
    if measured(StatisticSpec::ACTIVATION) && has_base {
        methods.push(("aim", with("aim", "operator", Choice::Text("task_arithmetic".into()))));
    }
    methods.into_iter().filter(|(name, _)| registry.get(name).is_ok()).map(|(_, method)| method).collect()
}

#[cfg(test)]
mod tests {
    //! Operations by hand, and the methods that they decide about.
    use super::*;
    use glue_merge::OperatorDef;
    use glue_merge::operators::task_arithmetic;

    #[test]
    fn operations_by_hand() {
        assert_eq!(decomposition_operations(&[(3, 5), (4, 2)], 2), 40.0 * 2.0 * (45.0 + 16.0));
        assert_eq!(scoring_operations(100, 7.0), 1400.0);
    }

    /// Layers of `width`, with four matrices each of width × width and three of width × 4 width.
    fn names(width: usize, layers: usize) -> TensorNames {
        let of_layer = [(width, width); 4].into_iter().chain([(width, 4 * width); 3]);
        let matrices: Vec<(usize, usize)> = (0..layers).flat_map(|_| of_layer.clone()).collect();
        let parameters = matrices.iter().map(|(m, n)| m * n).sum();
        TensorNames::from_names(["model.layers.0.mlp.up_proj.weight"]).with_shapes(matrices, parameters)
    }

    /// The built-in registry with two more names.
    fn registry() -> Registry {
        static WUDI: OperatorDef = OperatorDef { name: "wudi", ..task_arithmetic::DEF };
        static TSV_M: OperatorDef = OperatorDef { name: "tsv_m", ..task_arithmetic::DEF };
        Registry::builtin().with(&[&WUDI, &TSV_M])
    }

    fn methods(models: usize, has_base: bool, names: &TensorNames, registry: &Registry) -> Vec<String> {
        let of = |method: &MethodConfig| method.parts().expect("a method").0;
        methods_by_default(models, has_base, &[], names, registry).iter().map(of).collect()
    }

    #[test]
    fn decompositions_have_to_be_affordable() {
        let cheap = ["task_arithmetic", "ties", "dare_ties", "sce"];
        let all = [&cheap[..], &["wudi", "tsv_m"]].concat();
        // 40 · models · width operations for each element against 2 · 50 000.
        assert_eq!(methods(4, true, &names(576, 30), &registry()), all);
        assert_eq!(methods(4, true, &names(4096, 32), &registry()), cheap);
        assert_eq!(methods(4, true, &names(625, 2), &registry()), all);
        assert_eq!(methods(4, true, &names(626, 2), &registry()), cheap);
        assert_eq!(methods(5, true, &names(625, 2), &registry()), cheap);
        assert_eq!(methods(4, true, &names(576, 30), &Registry::builtin()), cheap);
    }

    #[test]
    fn statistics_bring_the_methods_that_use_them() {
        let methods = |statistics: &[&str], has_base: bool| {
            let statistics: Vec<String> = statistics.iter().map(|name| name.to_string()).collect();
            let found = methods_by_default(3, has_base, &statistics, &names(64, 2), &Registry::builtin());
            found.iter().map(|method| method.parts().expect("a method").0).collect::<Vec<_>>()
        };
        assert_eq!(methods(&["fisher", "gram"], false), ["linear", "multislerp", "fisher"], "regmean is not built in");
        assert_eq!(methods(&["activation"], false), ["linear", "multislerp"]);
        assert_eq!(methods(&["activation"], true)[4..], ["aim"]);
    }

    #[test]
    fn without_a_base_there_are_averages() {
        assert_eq!(methods(3, false, &names(64, 2), &registry()), ["linear", "multislerp"]);
        assert_eq!(methods(2, false, &names(64, 2), &registry()), ["linear", "multislerp", "nuslerp"]);
    }
}
