//! The regression that trains linear gates, against optima that scipy and scikit-learn find.

use glue_router::gate::Gate;
use glue_router::linear::{EXACT, fit_linear};
use ndarray::{Array1, Array2};
use serde_json::Value;
use std::path::Path;

fn matrix(value: &Value) -> Array2<f64> {
    let rows: Vec<Vec<f64>> = serde_json::from_value(value.clone()).unwrap();
    let columns = rows[0].len();
    Array2::from_shape_vec((rows.len(), columns), rows.concat()).unwrap()
}

/// Made by `python3 tests/interop/regression.py tests/data/router/regression.json`.
#[test]
fn optima_are_those_of_scipy() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/router/regression.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let states = matrix(&golden["states"]);
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in cases {
        let l2 = case["l2"].as_f64().unwrap();
        let targets = matrix(&golden["targets"][case["targets"].as_str().unwrap()]);
        let (gate, certificate) = fit_linear(states.view(), targets.view(), l2).unwrap();
        assert!(certificate.gradient_norm <= EXACT, "{l2}: {certificate:?}");
        // Both are at the optimum to the rounding of sums of 40 terms.
        let objective = case["objective"].as_f64().unwrap();
        assert!((certificate.objective - objective).abs() < 1e-13, "{l2}: {} {objective}", certificate.objective);
        let Gate::Linear { weight, bias: Some(bias) } = gate else { panic!("linear with bias") };
        let expected: Array1<f64> = serde_json::from_value::<Vec<f64>>(case["bias"].clone()).unwrap().into();
        let distance = |a: f64, b: f64| (a - b).abs() / b.abs().max(1.0);
        let differences = weight
            .iter()
            .zip(&matrix(&case["weight"]))
            .map(|(&a, &b)| distance(a, b))
            .chain(bias.iter().zip(&expected).map(|(&a, &b)| distance(a, b)))
            .fold(0.0, f64::max);
        println!("{} {l2}: {differences:e}", case["targets"]);
        // The gradient's length over the penalty bounds the distance from the optimum on standardised states, and ours is at most
        // 1e-9; a bias takes up means of as many as 13 deviations.
        assert!(differences < (20.0 * EXACT / l2).clamp(1e-10, 1e-6), "{l2}: {differences:e}");
    }
}
