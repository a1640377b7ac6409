//! Frequencies against numbers derived by hand, each beside its derivation.

use super::*;
use glue_tensor::Config;
use serde_json::json;

fn rope(parameters: Value, head_dim: usize, max_positions: usize) -> Rope {
    let config = Config::from_value(json!({ "rope_parameters": parameters })).unwrap();
    let context = Context { head_dim, max_positions, original: None, interleaved: false };
    Rope::from_config(&config.ropes()[0], context, "rope_parameters").unwrap()
}

#[track_caller]
fn check(found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len());
    for (f, e) in found.iter().zip(expected) {
        // Rounding to f32 of either side; the numbers written here have nine digits.
        assert!((f64::from(*f) - e).abs() <= 2e-7 * e.abs(), "{found:?}, not {expected:?}");
    }
}

/// 10000^(-i/4) for i = 0..4, by hand.
#[test]
fn default_and_linear() {
    check(&rope(json!({"rope_theta": 1e4}), 8, 64).at_length(9), &[1.0, 0.1, 0.01, 0.001]);
    let linear = rope(json!({"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}), 8, 64);
    check(&linear.at_length(9), &[0.25, 0.025, 0.0025, 0.00025]);
}

/// With d = 4 the exponent of the base is d/(d-2) = 2. For factor 3 and a text of twice the original length the base
/// grows by (3·2 − 2)² = 16, and the second frequency is its inverse square root.
#[test]
fn dynamic_grows_with_the_text() {
    let dynamic = rope(json!({"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}), 4, 32);
    check(&dynamic.at_length(32), &[1.0, 0.01]);
    check(&dynamic.at_length(64), &[1.0, 0.0025]);
    assert_eq!([1, 32, 33, 64].map(|length| dynamic.length_class(length)), [0, 0, 33, 64]);
}

/// Waves of 2π·(1, 10, 100, 1000) positions against 64/4 = 16 and 64/1 = 64: the first, of 6.28, is short and stays;
/// the last two are long and divided by 8; the second, of 62.83, turns 64·0.1/2π = 1.0185916 times, which is (1.0185916
/// − 1)/3 = 0.00619721 of the way: 0.1·(0.99380279/8 + 0.00619721) = 0.0130422560.
#[test]
fn llama3_scales_by_wavelength() {
    let parameters = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64, "rope_theta": 1e4});
    check(&rope(parameters, 8, 512).at_length(1), &[1.0, 0.013_042_256, 0.00125, 0.000_125]);
}

/// Base 10^4, d = 8, original length 64. The dimension that turns r times is 8·ln(64/(2πr))/(2·ln 10^4): for r = 32
/// below 0, so 0; for r = 1 it is 1.0081…, rounded up to 2. The ramp over i is 0, 1/2, 1, 1, so with factor 4 the
/// frequencies are multiplied by 1, (1/4 + 1)/2, 1/4, 1/4. The attention factor is 0.1·ln 4 + 1 = 1.138629436.
#[test]
fn yarn_ramps_between_the_two() {
    let parameters =
        json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 1e4});
    let yarn = rope(parameters.clone(), 8, 256);
    check(&yarn.at_length(1), &[1.0, 0.0625, 0.0025, 0.00025]);
    check(&[yarn.attention_factor], &[1.138_629_436]);
    let with = |key: &str, value: Value| {
        let mut parameters = parameters.clone();
        parameters[key] = value;
        rope(parameters, 8, 256)
    };
    check(&[with("attention_factor", json!(0.5)).attention_factor], &[0.5]);
    // Without rounding the upper end is 8·ln(64/2π)/(2·ln 10^4) = 1.00807…, so that the second is nearly at the end of
    // its ramp.
    let upper = 8.0 * (64.0 / TAU).ln() / (2.0 * 1e4f64.ln());
    let second = 0.1 * (0.25 / upper + (1.0 - 1.0 / upper));
    check(&with("truncate", json!(false)).at_length(1), &[1.0, second, 0.0025, 0.00025]);
}

/// √(1 + ln 4 / ln 32) = 1.183215957: of factor 128/32 by the configuration's lengths.
#[test]
fn longrope_changes_sets_at_the_original_length() {
    let parameters = json!({"rope_type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [4.0, 5.0],
        "original_max_position_embeddings": 32, "rope_theta": 1e4});
    let long = rope(parameters, 4, 128);
    check(&long.at_length(32), &[1.0, 0.005]);
    check(&long.at_length(33), &[0.25, 0.002]);
    check(&[long.attention_factor], &[1.183_215_957]);
}

#[test]
fn tables_hold_the_angles_of_rows_in_any_order() {
    let dynamic = rope(json!({"rope_type": "dynamic", "factor": 3.0, "rope_theta": 1e4}), 4, 32);
    let tables = RopeTables::new(dynamic.clone());
    let (positions, lengths) = ([5, 0, 31, 63, 2], [6, 6, 32, 64, 64]);
    let angles = tables.angles(&positions, &lengths);
    for (row, (&position, &length)) in positions.iter().zip(&lengths).enumerate() {
        for (i, f) in dynamic.at_length(length).into_iter().enumerate() {
            let angle = f64::from(position as f32 * f);
            assert_eq!((angles.cos[2 * row + i], angles.sin[2 * row + i]), (angle.cos() as f32, angle.sin() as f32));
        }
    }
    let some = angles.select(&[3, 1]);
    assert_eq!((some.cos[0], some.sin[2]), (angles.cos[6], angles.sin[2]));
}

/// Where the two limits are one, waves that turn at least so many times stay and the others are divided. In 64
/// positions waves of 6.28 and 62.83 turn once at least; those of 628 and 6283 do not.
#[test]
fn llama3_with_one_limit_is_a_step() {
    let parameters = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0,
        "original_max_position_embeddings": 64, "rope_theta": 1e4});
    check(&rope(parameters, 8, 512).at_length(1), &[1.0, 0.1, 0.00125, 0.000_125]);
}

/// The rotation of neighbours is that of halves when the dimensions are put in another order.
#[test]
fn neighbours_are_rotated_as_halves_are() {
    let rope = |interleaved| {
        let frequencies = Frequencies::Fixed(vec![1.0, 0.1, 0.01]);
        Arc::new(
            RopeTables::new(Rope { dims: 6, frequencies, attention_factor: 1.5, interleaved })
                .angles(&[3, 11], &[12, 12]),
        )
    };
    let x = crate::ops::gradients::numbers(2 * 16, 5);
    let rotated = |x: &[f32], interleaved| {
        let x = Tensor::from_slice(x, (2, 16), &candle_core::Device::Cpu).unwrap();
        crate::ops::elements(&rotate(&x, &rope(interleaved), 8).unwrap()).unwrap()
    };
    // Of each head of 8 the first 6 are rotated: the pairs 0 1, 2 3, 4 5 and 0 3, 1 4, 2 5.
    let order = [0, 2, 4, 1, 3, 5, 6, 7];
    let reordered = |x: &[f32]| x.chunks(8).flat_map(|head| order.map(|i| head[i])).collect::<Vec<f32>>();
    assert_eq!(reordered(&rotated(&x, true)), rotated(&reordered(&x), false));
    assert_ne!(rotated(&x, true), rotated(&x, false));
}

#[test]
fn gradients_are_those_of_differences() {
    for interleaved in [false, true] {
        let frequencies = Frequencies::Fixed(vec![1.0, 0.1]);
        let rope = Rope { dims: 4, frequencies, attention_factor: 1.3, interleaved };
        let angles = Arc::new(RopeTables::new(rope).angles(&[0, 1, 7], &[8, 8, 8]));
        crate::ops::gradients::check_gradients(&[&[3, 12]], 1.0, |x| rotate(&x[0], &angles, 6));
    }
}
