//! The search space that a config gives, and the recipes of its points.

use crate::common::{plan_options, template, zoo};
use glue_merge::Registry;
use glue_progress::ErrorChain;
use glue_recipe::{Action, Recipe, plan};
use glue_search::Space;
use glue_select::space::{SearchSpace, SpaceConfig, TensorNames};
use glue_tensor::ModelDir;
use std::collections::BTreeMap;

fn models() -> Vec<String> {
    ["a-chat", "a-math", "a-code"].map(String::from).to_vec()
}

fn try_spaces(yaml: &str, models: &[String]) -> Result<Vec<SearchSpace>, String> {
    let config: SpaceConfig = glue_yaml::read(yaml, "space").map_err(|error| error.chain())?;
    let again: SpaceConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config, "a config comes back as it was written down");
    let names = TensorNames::of(&ModelDir::open(zoo().join("base-a")).unwrap());
    SearchSpace::all(&config, &template(), models, &names, &Registry::builtin()).map_err(|error| error.chain())
}

/// The space of each method.
fn spaces(yaml: &str) -> Vec<SearchSpace> {
    try_spaces(yaml, &models()).unwrap_or_else(|error| panic!("{error}\n{yaml}"))
}

/// The space of one method.
fn space(yaml: &str) -> SearchSpace {
    spaces(yaml).remove(0)
}

fn coordinates(space: &SearchSpace) -> &Space {
    space.space().expect("something to search")
}

fn names(space: &SearchSpace) -> Vec<&str> {
    coordinates(space).coordinates().iter().map(|coordinate| coordinate.name.as_str()).collect()
}

/// What the recipe of a point plans: for each tensor, a parameter of each input.
fn planned(space: &SearchSpace, point: &[f64], key: &str) -> BTreeMap<String, Vec<f64>> {
    let text = space.candidate(point).unwrap().recipe;
    let recipe = Recipe::parse(&text, "point", &Registry::builtin()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let plan = plan(&recipe[0], &plan_options()).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let of = |action: &Action| match action {
        Action::Merge { params, .. } => params.input_numbers(key),
        Action::Copy(_) => panic!("all tensors of the zoo are floats"),
    };
    plan.tensors.iter().map(|tensor| (tensor.name.clone(), of(&tensor.action))).collect()
}

/// A point whose coordinates are all different.
fn distinct(space: &SearchSpace) -> Vec<f64> {
    let n = coordinates(space).dimension();
    coordinates(space).to_user(&(0..n).map(|i| (i as f64 + 0.5) / n as f64).collect::<Vec<_>>())
}

fn layer(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

#[test]
fn weights_alone_are_one_for_each_model() {
    let space = space("methods: [linear]\n");
    assert_eq!(names(&space), ["weight[a-chat]", "weight[a-math]", "weight[a-code]"]);
    let point = [0.1, 0.2, 0.3];
    assert!(planned(&space, &point, "weight").values().all(|weights| weights == &point));
    let text = space.candidate(&point).unwrap().recipe;
    assert!(text.contains("weight: 0.1\n") && !text.contains("filter"), "{text}");
    assert!(space.candidate(&[0.1]).is_err());
}

#[test]
fn groups_of_layers_and_filters_reach_their_tensors() {
    let all = ModelDir::open(zoo().join("base-a")).unwrap();
    let layers = all.config().num_layers().unwrap();
    // As many groups as layers, so that each layer has its own; what neither filter takes is the rest of a layer.
    for groups in [1, 2, layers] {
        let space =
            space(&format!("methods: [task_arithmetic]\nlayer_groups: {groups}\nfilters: [self_attn, down_proj]\n"));
        let named: Vec<String> =
            names(&space).iter().filter(|name| name.starts_with("weight[")).map(|n| n.to_string()).collect();
        assert_eq!(named.len(), 3 * (3 * groups + 1), "{named:?}");
        let point = distinct(&space);
        let value = |model: &str, group: &str| {
            let name = format!("weight[{model}][{group}]");
            point[names(&space).iter().position(|n| *n == name).unwrap_or_else(|| panic!("{name}: {named:?}"))]
        };
        let mut seen = 0;
        for (tensor, weights) in planned(&space, &point, "weight") {
            let group = match layer(&tensor) {
                None => "outside".to_string(),
                Some(layer) => {
                    let g = (0..groups).find(|g| ((g + 1) * layers).div_ceil(groups) > layer).unwrap();
                    let (first, last) = ((g * layers).div_ceil(groups), ((g + 1) * layers).div_ceil(groups) - 1);
                    let place = if first == last { format!("layer {first}") } else { format!("layers {first}-{last}") };
                    match ["self_attn", "down_proj"].iter().find(|filter| tensor.contains(**filter)) {
                        Some(filter) => format!("{place} {filter}"),
                        None => place,
                    }
                }
            };
            let expected: Vec<f64> = ["a-chat", "a-math", "a-code"].iter().map(|model| value(model, &group)).collect();
            assert_eq!(weights, expected, "{tensor} of {group}");
            seen += 1;
        }
        assert!(seen > 3 * layers);
    }
    // Without groups of layers, filters take tensors of all layers, and nothing outside of them.
    let space = space("methods: [linear]\nfilters: [norm, mlp]\n");
    let point = distinct(&space);
    assert_eq!(names(&space)[..3], ["weight[a-chat][norm]", "weight[a-chat][mlp]", "weight[a-chat][rest]"]);
    for (tensor, weights) in planned(&space, &point, "weight") {
        let filter = ["norm", "mlp"].iter().position(|filter| tensor.contains(filter) && layer(&tensor).is_some());
        assert_eq!(weights[0], point[filter.unwrap_or(2)], "{tensor}");
    }
}

#[test]
fn curves_are_linear_between_their_points() {
    let space = space("methods: [linear]\nsmooth: 2\nfilters: [mlp]\n");
    let labels = ["[0% mlp]", "[100% mlp]", "[0%]", "[100%]", "[outside]"];
    assert_eq!(names(&space)[..5], labels.map(|label| format!("weight[a-chat]{label}")));
    let point = distinct(&space);
    let layers = ModelDir::open(zoo().join("base-a")).unwrap().config().num_layers().unwrap();
    for (tensor, weights) in planned(&space, &point, "weight") {
        let Some(layer) = layer(&tensor) else {
            assert_eq!(weights[0], point[4], "{tensor}");
            continue;
        };
        let t = layer as f64 / (layers - 1) as f64;
        let [from, to] = if tensor.contains("mlp") { [point[0], point[1]] } else { [point[2], point[3]] };
        // The dialect interpolates by another formula: a few roundings.
        assert!((weights[0] - (from + t * (to - from))).abs() < 1e-15, "{tensor}");
    }
    assert_eq!(names(&self::space("methods: [linear]\nsmooth: true\n")).len(), 12);
}

#[test]
fn parameters_with_ranges_are_searched_and_others_are_not() {
    let space = space("methods: [ties]\n");
    let per_model = |key: &str| ["a-chat", "a-math", "a-code"].map(|model| format!("{key}[{model}]"));
    let expected: Vec<String> =
        per_model("weight").into_iter().chain(per_model("density")).chain(["lambda".to_string()]).collect();
    let mut found: Vec<String> = names(&space).into_iter().map(String::from).collect();
    found.sort_unstable();
    let mut sorted = expected.clone();
    sorted.sort_unstable();
    assert_eq!(found, sorted);
    // Every operator either has a space or says what it lacks; every corner of it can be planned.
    let registry = Registry::builtin();
    let mut spaces = 0;
    for def in registry.iter() {
        for count in 1..=3 {
            let yaml = format!("methods: [{}]\n", def.name);
            let Ok(space) = try_spaces(&yaml, &models()[..count]).map(|mut spaces| spaces.remove(0)) else { continue };
            spaces += 1;
            for unit in [0.0, 0.5, 1.0] {
                let point = coordinates(&space).to_user(&vec![unit; coordinates(&space).dimension()]);
                let text = space.candidate(&point).unwrap().recipe;
                let recipe = Recipe::parse(&text, def.name, &registry).unwrap_or_else(|e| panic!("{e}\n{text}"));
                assert_eq!(recipe.len(), 1);
            }
        }
    }
    assert!(spaces >= 15, "{spaces}");
}

#[test]
fn parameters_are_fixed_narrowed_and_chosen() {
    let space = space(
        "methods:\n  - ties: {density: {min: 0.3, max: 0.6, per: all}, lambda: 1, normalize: {options: [true, false]}, \
         weight: {max: 2, per: model}}\nlayer_groups: 2\n",
    );
    let expected = ["weight[a-chat]", "weight[a-math]", "weight[a-code]", "density", "normalize"];
    assert_eq!(names(&space).iter().filter(|name| expected.contains(name)).count(), 5, "{:?}", names(&space));
    assert_eq!(names(&space).len(), 5);
    let point = coordinates(&space).to_user(&[1.0; 5]);
    let text = space.candidate(&point).unwrap().recipe;
    for part in ["weight: 2\n", "density: 0.6\n", "lambda: 1\n", "normalize: false\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(planned(&space, &point, "density").values().all(|density| density == &[0.6; 3]));
}

#[test]
fn weights_are_normalised_by_group() {
    let sum = |weights: &Vec<f64>| weights.iter().sum::<f64>();
    for negative in [false, true] {
        let space = space(&format!(
            "methods: [task_arithmetic]\nlayer_groups: 2\nnormalise: true\nnegative_weights: {negative}\n"
        ));
        for unit in [0.0, 0.3, 1.0] {
            let mut units: Vec<f64> = (0..coordinates(&space).dimension()).map(|i| (i as f64 * 0.37).fract()).collect();
            units.iter_mut().for_each(|u| *u = (*u + unit).min(1.0));
            let point = coordinates(&space).to_user(&units);
            for (tensor, weights) in planned(&space, &point, "weight") {
                // A few roundings of three numbers near 1.
                assert!((sum(&weights) - 1.0).abs() < 1e-14, "{tensor}: {weights:?}");
            }
        }
        let low = coordinates(&space).to_user(&vec![0.0; coordinates(&space).dimension()]);
        assert_eq!(low[0], if negative { -1.0 } else { 0.0 });
        assert!(planned(&space, &low, "weight").values().all(|w| w.iter().all(|x| (x - 1.0 / 3.0).abs() < 1e-15)));
    }
}

#[test]
fn each_method_has_a_space_and_starts_of_its_own() {
    let weights = [("a-math".to_string(), 0.6), ("a-chat".into(), 7.0)];
    let found: Vec<(String, Vec<f64>)> = spaces("methods: [linear, {ties: {density: {per: all}}}, karcher]\n")
        .iter()
        .map(|space| (space.method().to_string(), space.start(&weights).unwrap()))
        .collect();
    // Weights of models in their order, within the bounds; density and lambda at their defaults.
    let expected = [("linear", vec![1.0, 0.6, 0.0]), ("ties", vec![1.0, 0.6, 0.0, 1.0, 1.0]), ("karcher", vec![])];
    assert_eq!(found, expected.map(|(method, point)| (method.to_string(), point)));

    let ties = space("methods: [{ties: {density: {per: all}}}]\n");
    let third = 1.0 / 3.0;
    assert_eq!(ties.equal(), [third, third, third, 1.0, 1.0]);
    assert_eq!(ties.scaled(&ties.equal(), 0.5), Some(vec![third, third, third, 1.0, 0.5]));
    assert_eq!(ties.scaled(&ties.equal(), 9.0), Some(vec![third, third, third, 1.0, 1.5]), "within the bounds");
    let linear = space("methods: [linear]\n");
    assert_eq!(linear.scaled(&linear.equal(), 0.5), None);
    assert!(ties.has_shares() && linear.has_shares() && !space("methods: [sce]\n").has_shares());
    assert!(ties.start(&[("a-nowhere".into(), 1.0)]).unwrap_err().to_string().contains("one of the models a-chat"));
}

#[test]
fn methods_get_the_statistics_that_they_use_and_no_others() {
    let of = "statistics: {a-chat: s/chat, a-math: s/math, a-code: s/code}\nbase_statistics: s/base\n";
    let spaces = spaces(&format!("methods: [task_arithmetic, fisher, {{aim: {{operator: task_arithmetic}}}}]\n{of}"));
    let recipe = |method: &str| {
        let space = spaces.iter().find(|space| space.method() == method).unwrap();
        let text = space.candidate(&space.equal()).unwrap().recipe;
        let parsed =
            Recipe::parse(&text, "point", &Registry::builtin()).unwrap_or_else(|error| panic!("{error}\n{text}"));
        parsed[0].statistics().map(|(model, path)| format!("{} {}", model.value, path.value)).collect::<Vec<_>>()
    };
    assert_eq!(recipe("task_arithmetic"), [""; 0]);
    assert_eq!(recipe("fisher"), ["a-chat s/chat", "a-math s/math", "a-code s/code"]);
    assert_eq!(recipe("aim"), ["base-a s/base"]);

    let check = |yaml: &str, expected: &[&str]| {
        let error = try_spaces(yaml, &models()).err().unwrap_or_default();
        assert!(expected.iter().all(|role| error.contains(role)), "{yaml}: {error}");
    };
    check("methods: [fisher]\nstatistics: {a-chat: s}\n", &["`statistics.a-math`", "glue calibrate a-math", "none"]);
    check("methods: [fisher]\nstatistics: {a-nowhere: s}\n", &["`statistics`", "one of the models", "`a-nowhere`"]);
    check("methods: [{aim: {operator: ties}}]\n", &["`base_statistics`", "glue calibrate base-a"]);
    check("methods: [ties]\nbase_statistics: s\n", &["`base_statistics`", "statistics of the base", "ties"]);
    check("methods: [ties]\nstatistics: {a-chat: s}\n", &["`statistics`", "statistics of models", "ties"]);
}

#[test]
fn invalid_spaces_are_refused() {
    let check = |yaml: &str, expected: &str| {
        let error = try_spaces(yaml, &models()).err().unwrap_or_default();
        assert!(error.contains(expected), "{yaml}: {error}");
    };
    check("methods: [tise]\n", "did you mean `ties`");
    check("methods: [karcher]\n", "`methods`: expected a method with a parameter to search, or several, found karcher");
    check("methods: [{ties: {}, linear: {}}]\n", "found 2 names in one entry");
    check("methods: [{ties: {wieght: 1}}]\n", "`methods.ties`: expected a parameter of `ties`: one of weight");
    check("methods: [{ties: {density: 2}}]\n", "method `ties`:");
    check("methods: [{ties: {density: {max: 2}}}]\n", "method `ties`:");
    check("methods: [{ties: {lambda: {per: model}}}]\n", "not a parameter of a model");
    check("methods: [slerp]\n", "method `slerp`:");
    check("methods: [lines]\n", "method `lines`:");
    check("{}\n", "`methods`: expected a method with a parameter to search, or several, found none");
    check("methods: [linear]\nlayer_groups: 99\n", "`layer_groups`: expected at most ");
    check(
        "methods: [linear]\nsmooth: true\nlayer_groups: 2\n",
        "`smooth`: expected either a curve or `layer_groups`, found both",
    );
    check("methods: [linear]\nsmooth: 1\n", "`smooth`: expected at least 2 points, found 1");
    check(
        "methods: [linear]\nfilters: [experts]\n",
        "`filters`: expected part of the name of a tensor within the layers: one of ",
    );
    check("groups: 2\n", "unknown");
}
