//! Every operator against plain NumPy: `tests/interop/spectral.py` wrote the numbers.

use glue_merge::{Merge, Registry, Setting};
use serde_json::Value;

const GOLDEN: &str = include_str!("../data/spectral.json");

/// The weights are about 1 and come in `f32`: two roundings of numbers up to 4. Adam is in `f64` on both sides.
const TOLERANCE: f64 = 5e-7;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).iter().map(|x| *x as f32).collect()
}

fn setting(value: &Value) -> Setting {
    match value {
        Value::Bool(x) => (*x).into(),
        Value::String(x) => x.as_str().into(),
        other => other.as_f64().unwrap().into(),
    }
}

#[test]
fn operators_agree_with_numpy() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let registry = Registry::builtin().with(glue_spectral::DEFS);
    let mut seen = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let shape: Vec<usize> = numbers(&case["shape"]).iter().map(|x| *x as usize).collect();
        let base = floats(&case["base"]);
        let inputs: Vec<Vec<f32>> = case["inputs"].as_array().unwrap().iter().map(floats).collect();
        let grams: Vec<Vec<f32>> = case["grams"].as_array().unwrap().iter().map(floats).collect();
        for run in case["runs"].as_array().unwrap() {
            let name = run["operator"].as_str().unwrap();
            let operator = registry.operator(name, None).unwrap();
            let measured = operator.statistic().is_some();
            // In memory no tensor belongs to a layer.
            let mut settings = vec![("lambda", setting(&case["lambda"])), ("outside_layers", "matrix".into())];
            settings.retain(|(key, _)| operator.specs().any(|spec| spec.name == *key));
            let mut params = operator.params(inputs.len()).set_all(settings).each("weight", numbers(&case["weights"]));
            for (key, value) in run["settings"].as_object().unwrap() {
                params = match key.as_str() {
                    "densities" => params.each("density", numbers(value)),
                    key => params.set(key, setting(value)),
                };
            }
            let params = params.check().unwrap();
            let merge = Merge::new(&operator, &params).shape(&shape).inputs(&inputs);
            let merge = if measured { merge.statistics(&grams) } else { merge.base(&base) };
            let merged = merge.run().unwrap();
            let expected = numbers(&run["expected"]);
            assert_eq!(merged.len(), expected.len());
            let off = merged.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            assert!(off <= TOLERANCE, "{}, {name} with {}: off by {off:e}", case["name"], run["settings"]);
            seen.push(name);
        }
    }
    for def in glue_spectral::DEFS {
        assert!(seen.contains(&def.name), "{} has no golden numbers", def.name);
    }
}
