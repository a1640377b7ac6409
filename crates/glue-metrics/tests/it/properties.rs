//! Properties of every metric on small random models written to disk: what the formula promises, and that nothing
//! depends on threads, block length or the order of models.

use crate::formulas;
use glue_metrics::{
    Class, METRICS, Matrix, Metric, MetricsError, NamedCheckpoint, Scale, Selection, SimilarityOptions, similarity,
};
use glue_progress::{NoProgress, Progress, Unit};
use glue_tensor::{Checkpoint, CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow, random};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn write(directory: &Path, dtype: Dtype, tensors: &Tensors) -> Checkpoint {
    let spec = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| TensorSpec {
        name: name.clone(),
        dtype,
        shape: shape.clone(),
    };
    let layout = Layout::new(tensors.iter().map(spec).collect(), u64::MAX, "model").unwrap();
    let staging = Staging::create(directory).unwrap();
    let order: Vec<String> = tensors.iter().map(|tensor| tensor.0.clone()).collect();
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
    for (i, name) in order.iter().enumerate() {
        let values = &tensors.iter().find(|tensor| tensor.0 == *name).unwrap().2;
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(dtype, values, &mut bytes).unwrap();
        writer.write_at(i, 0, &bytes).unwrap();
    }
    writer.finish().unwrap();
    staging.commit().unwrap();
    Checkpoint::open(directory).unwrap()
}

/// A zoo in a directory that lives as long as it.
struct Zoo {
    _root: tempfile::TempDir,
    checkpoints: Vec<Checkpoint>,
    tensors: Vec<Tensors>,
}

impl Zoo {
    fn write(dtype: Dtype, tensors: Vec<Tensors>) -> Zoo {
        let root = tempfile::tempdir().unwrap();
        let checkpoints =
            tensors.iter().enumerate().map(|(i, t)| write(&root.path().join(format!("m{i}")), dtype, t)).collect();
        Zoo { _root: root, checkpoints, tensors }
    }

    /// `n` models and, last, a base, with matrices of the given extents in two layers.
    fn random(n: usize, rows: usize, columns: usize, seed: u64) -> Zoo {
        let mut drawn = 0..;
        let mut uniform = move || {
            let bits = random::at(seed, drawn.next().expect("the range has no end"));
            (bits >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.up_proj.weight"];
        let common: Vec<Vec<f32>> = names.iter().map(|_| (0..rows * columns).map(|_| uniform()).collect()).collect();
        let mut model = || -> Tensors {
            let mut tensor = |(name, common): (&&str, &Vec<f32>)| {
                let values = common.iter().map(|x| x + 0.5 * uniform()).collect();
                (name.to_string(), vec![rows, columns], values)
            };
            let mut tensors: Tensors = names.iter().zip(&common).map(&mut tensor).collect();
            let norm: Vec<f32> = (0..columns).map(|_| 1.0 + uniform()).collect();
            tensors.push(("model.norm.weight".to_string(), vec![columns], norm));
            tensors
        };
        Zoo::write(Dtype::F32, (0..=n).map(|_| model()).collect())
    }

    fn models(&self) -> Vec<NamedCheckpoint<'_>> {
        let model = |(i, checkpoint)| NamedCheckpoint { name: format!("m{i}"), checkpoint };
        self.checkpoints.iter().enumerate().map(model).collect()
    }

    fn n(&self) -> usize {
        self.checkpoints.len() - 1
    }

    fn run(&self, metric: &'static Metric, options: &SimilarityOptions) -> Matrix {
        self.run_in_order(metric, options, &(0..self.n()).collect::<Vec<_>>())
    }

    fn run_in_order(&self, metric: &'static Metric, options: &SimilarityOptions, order: &[usize]) -> Matrix {
        let models = self.models();
        let base = metric.needs_base.then_some(&models[self.n()]);
        let chosen: Vec<NamedCheckpoint<'_>> = order.iter().map(|&i| models[i].clone()).collect();
        similarity(&chosen, base, metric, options, &NoProgress).unwrap().matrix()
    }

    /// The metric's own formula for two models and the metric's selection, in f64.
    fn by_formula(&self, metric: &Metric, i: usize, j: usize) -> Option<f64> {
        let selected = (metric.default_selection)();
        let mut figures = Vec::new();
        for t in 0..self.tensors[i].len() {
            let (name, shape, a) = &self.tensors[i][t];
            let class = if shape.len() == 1 { Class::Norm } else { Class::Mlp };
            if !selected.selects(class, None, name) {
                continue;
            }
            let (b, base) = (&self.tensors[j][t].2, &self.tensors[self.n()][t].2);
            let delta = |x: &[f32]| -> Vec<f32> { x.iter().zip(base).map(|(x, base)| x - base).collect() };
            let (a, b) = if metric.needs_base { (delta(a), delta(b)) } else { (a.clone(), b.clone()) };
            let columns = if shape.len() == 1 { 1 } else { shape[1] };
            figures.extend(formulas::of(metric)(&a, &b, columns));
        }
        let n = figures.len() as f64;
        match metric.scale {
            _ if figures.is_empty() => None,
            // Matrices are of one size here: a fraction over all elements is a mean over matrices.
            Scale::Similarity => Some(figures.iter().sum::<f64>() / n),
            Scale::Distance => Some(figures.iter().map(|d| d * d).sum::<f64>().sqrt()),
        }
    }
}

fn assert_close(a: &Matrix, b: &Matrix, tolerance: f64, what: &str) {
    for (x, y) in a.rows().iter().flatten().zip(b.rows().iter().flatten()) {
        let close = match (x, y) {
            (Some(x), Some(y)) => (x - y).abs() <= tolerance * x.abs().max(1.0),
            (None, None) => true,
            _ => false,
        };
        assert!(close, "{}, {what}: {x:?} and {y:?}", a.metric());
    }
}

#[test]
fn figures_worked_out_by_hand() {
    let check = |name: &str, shape: &[usize], a: &[f32], b: &[f32], expected: Option<f64>| {
        let metric = Metric::find(name).unwrap();
        let columns = if shape.len() == 1 { 1 } else { shape[1] };
        let model =
            |values: &[f32]| vec![("model.layers.0.mlp.up_proj.weight".to_string(), shape.to_vec(), values.to_vec())];
        let zoo = Zoo::write(Dtype::F32, vec![model(a), model(b), model(&vec![0.0; a.len()])]);
        let options = SimilarityOptions { selection: Some(Selection::all()), ..SimilarityOptions::default() };
        for found in [formulas::of(metric)(a, b, columns), zoo.run(metric, &options).get(0, 1)] {
            let close = match (found, expected) {
                // A few roundings in f64 of sums that are exact.
                (Some(found), Some(expected)) => (found - expected).abs() < 1e-14,
                (None, None) => true,
                _ => false,
            };
            assert!(close, "{name} of {a:?} and {b:?}: {found:?}, not {expected:?}");
        }
    };
    // Columns (1, 0) and (3, 4) against (1, 1) and (−3, −4); zero columns are left out.
    let mean = Some((0.5_f64.sqrt() - 1.0) / 2.0);
    for name in ["cosine_per_column", "delta_cosine_per_column"] {
        check(name, &[2, 2], &[1.0, 3.0, 0.0, 4.0], &[1.0, -3.0, 1.0, -4.0], mean);
        check(name, &[2, 2], &[0.0, 3.0, 0.0, 4.0], &[1.0, 3.0, 1.0, 4.0], Some(1.0));
        check(name, &[1, 2], &[0.0, 3.0], &[1.0, 0.0], None);
    }
    // Rows (1, 0) and (3, 4) against (1, 1) and (−3, −4); zero rows are left out, and a vector is one row.
    check("cosine_per_row", &[3, 2], &[1.0, 0.0, 3.0, 4.0, 0.0, 0.0], &[1.0, 1.0, -3.0, -4.0, 1.0, 1.0], mean);
    check("cosine_per_row", &[1, 2], &[1.0, 0.0], &[0.0, 0.0], None);
    check("cosine_per_row", &[3], &[3.0, 0.0, 4.0], &[0.0, 0.0, 2.0], Some(0.8));
    for name in ["cosine_flat", "delta_cosine_flat"] {
        check(name, &[2, 2], &[3.0, 0.0, 4.0, 0.0], &[0.0, 0.0, -2.0, 0.0], Some(-0.8));
        check(name, &[2, 2], &[0.0; 4], &[1.0; 4], None);
    }
    check("l2_distance", &[1, 3], &[1.0, 2.0, 3.0], &[1.0, -1.0, 7.0], Some(5.0));
    check("l2_distance", &[3, 3], &[1.5; 9], &[1.5; 9], Some(0.0));
    for name in ["sign_agreement", "delta_sign_agreement"] {
        check(name, &[1, 4], &[1.0, -1.0, 0.0, 2.0], &[5.0, 1.0, -0.0, 0.0], Some(0.5));
    }
    // Centred: rows (−1, 1) and (−2, 2), (−1, 1) and (0, 0). Gram matrices 5·M and 1·M: aligned.
    check("linear_cka", &[2, 2], &[0.0, 2.0, 1.0, 5.0], &[4.0, 6.0, 7.0, 7.0], Some(1.0));
    // Centred rows (1, −1, 0) and (1, 1, −2), which are orthogonal: ⟨XᵀY⟩ = 0.
    check("linear_cka", &[1, 3], &[2.0, 0.0, 1.0], &[1.0, 1.0, -2.0], Some(0.0));
    check("linear_cka", &[1, 3], &[3.0, 3.0, 3.0], &[1.0, 1.0, -2.0], None);
}

fn threads(n: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap()
}

proptest! {
    // Every case writes a zoo and compares it nine times over.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_every_metric_promises(n in 1_usize..8, rows in 1_usize..150, columns in 1_usize..150, seed: u64) {
        let zoo = Zoo::random(n, rows, columns, seed);
        for metric in METRICS {
            let matrix = zoo.run(metric, &SimilarityOptions::default());
            for i in 0..n {
                for j in 0..n {
                    let (figure, expected) = (matrix.get(i, j), zoo.by_formula(metric, i, j));
                    prop_assert_eq!(figure, matrix.get(j, i));
                    prop_assert_eq!(figure.is_some(), expected.is_some(), "{} {} {}", metric.name, i, j);
                    if let (Some(figure), Some(expected)) = (figure, expected) {
                        // Products are rounded to f32 and up to 64 of them added in f32.
                        let close = (figure - expected).abs() <= 3e-6 * expected.abs().max(1.0);
                        prop_assert!(close, "{}: {} {}", metric.name, figure, expected);
                        let range = if metric.scale == Scale::Distance { 0.0..=f64::MAX } else { -1.0..=1.0 + 1e-12 };
                        prop_assert!(range.contains(&figure), "{}: {}", metric.name, figure);
                    }
                }
                if let Some(own) = matrix.get(i, i) {
                    let expected = if metric.scale == Scale::Distance { 0.0 } else { 1.0 };
                    // A few roundings in f64.
                    prop_assert!((own - expected).abs() < 1e-12, "{}: {}", metric.name, own);
                }
            }
        }
    }

    #[test]
    fn threads_blocks_and_order_change_nothing(n in 2_usize..6, rows in 1_usize..200, columns in 1_usize..200,
                                               block in 8_usize..20_000, seed: u64) {
        let zoo = Zoo::random(n, rows, columns, seed);
        for metric in METRICS {
            let options = SimilarityOptions { block: Some(block), ..SimilarityOptions::default() };
            let one = threads(1).install(|| zoo.run(metric, &options));
            let many = threads(4).install(|| zoo.run(metric, &options));
            prop_assert_eq!(one.rows(), many.rows(), "{}", metric.name);
            // The promise: sums are cut elsewhere, which changes the order of f32 sums at the cuts at most.
            assert_close(&one, &zoo.run(metric, &SimilarityOptions::default()), 2e-7, "block");
            let order: Vec<usize> = (0..n).rev().collect();
            let reversed = zoo.run_in_order(metric, &options, &order);
            for i in 0..n {
                for j in 0..n {
                    // Pairs are summed in the same way at any position, but the order of factors may differ.
                    prop_assert_eq!(one.get(i, j), reversed.get(n - 1 - i, n - 1 - j), "{}", metric.name);
                }
            }
            let whole = SimilarityOptions { sample: Some(1.0), seed, ..options };
            let sampled = zoo.run(metric, &whole);
            prop_assert_eq!(one.rows(), sampled.rows(), "{}", metric.name);
        }
    }

    #[test]
    fn a_factor_changes_distances_only(factor in prop_oneof![Just(0.125_f32), Just(4.0), Just(64.0)], seed: u64) {
        let zoo = Zoo::random(2, 40, 30, seed);
        let mut tensors = zoo.tensors.clone();
        for tensor in &mut tensors[1] {
            tensor.2.iter_mut().for_each(|x| *x *= factor);
        }
        let scaled = Zoo::write(Dtype::F32, tensors);
        for metric in METRICS.into_iter().filter(|metric| !metric.needs_base) {
            let options = SimilarityOptions::default();
            let (before, after) = (zoo.run(metric, &options), scaled.run(metric, &options));
            if metric.scale == Scale::Distance {
                prop_assert!((before.get(0, 1).unwrap() - after.get(0, 1).unwrap()).abs() > 1e-3);
            } else {
                // Powers of two are exact; what is left is rounding in f64.
                assert_close(&before, &after, 1e-9, "factor");
            }
        }
    }
}

#[test]
fn cka_does_not_see_rotations_of_the_outputs_but_the_cosines_do() {
    let zoo = Zoo::random(2, 48, 64, 3);
    let mut tensors = zoo.tensors.clone();
    let (sin, cos) = 0.7_f32.sin_cos();
    for (_, shape, values) in &mut tensors[1] {
        if let [rows, columns] = shape[..] {
            // Rows are turned against each other two by two, and the last half is then reversed.
            for pair in 0..rows / 2 {
                for c in 0..columns {
                    let (a, b) = (2 * pair * columns + c, (2 * pair + 1) * columns + c);
                    (values[a], values[b]) = (cos * values[a] - sin * values[b], sin * values[a] + cos * values[b]);
                }
            }
            let half = rows / 2 * columns;
            let reversed: Vec<f32> = values[half..].chunks(columns).rev().flatten().copied().collect();
            values[half..].copy_from_slice(&reversed);
        }
    }
    let turned = Zoo::write(Dtype::F32, tensors);
    let figure =
        |zoo: &Zoo, name| zoo.run(Metric::find(name).unwrap(), &SimilarityOptions::default()).get(0, 1).unwrap();
    // The rotation is rounded to f32.
    assert!((figure(&zoo, "linear_cka") - figure(&turned, "linear_cka")).abs() < 1e-5);
    assert!((figure(&zoo, "cosine_flat") - figure(&turned, "cosine_flat")).abs() > 0.1);
}

#[test]
fn cka_of_a_matrix_with_several_tiles_follows_the_formula() {
    let zoo = Zoo::random(3, 20, 300, 5);
    let metric = Metric::find("linear_cka").unwrap();
    let matrix = zoo.run(metric, &SimilarityOptions::default());
    let expected = zoo.by_formula(metric, 0, 2).unwrap();
    assert!((matrix.get(0, 2).unwrap() - expected).abs() < 1e-6);
}

#[test]
fn a_sample_is_within_its_errors() {
    let zoo = Zoo::random(3, 640, 64, 11);
    let models = zoo.models();
    for metric in METRICS {
        let base = metric.needs_base.then_some(&models[3]);
        let full = similarity(&models[..3], base, metric, &SimilarityOptions::default(), &NoProgress).unwrap();
        assert!(full.standard_errors().iter().flatten().all(|error| *error == Some(0.0)));
        let (truth, draws) = (full.matrix().get(0, 1).unwrap(), 100);
        let (mut covered, mut squares, mut variances) = (0, 0.0, 0.0);
        for seed in 0..draws {
            let options = SimilarityOptions { sample: Some(0.1), seed, ..SimilarityOptions::default() };
            let sampled = similarity(&models[..3], base, metric, &options, &NoProgress).unwrap();
            assert!(sampled.bytes_read < sampled.bytes_selected / 8, "{}", metric.name);
            let error = sampled.standard_errors()[0][1].unwrap();
            let off = sampled.matrix().get(0, 1).unwrap() - truth;
            // Two-sided 95 % of Student's t with seven degrees of freedom.
            covered += u32::from(off.abs() <= 2.365 * error);
            squares += off * off;
            variances += error * error;
        }
        // CKA of few features is biased upwards (its documentation says so); its error is that of the spread.
        if metric.name == "linear_cka" {
            continue;
        }
        let ratio = (variances / squares).sqrt();
        assert!(f64::from(covered) >= 0.88 * draws as f64, "{}: {covered} of {draws}", metric.name);
        assert!((0.8..1.3).contains(&ratio), "{}: errors said over errors made {ratio}", metric.name);
    }
}

#[test]
fn stored_types_other_than_f32_are_widened() {
    let zoo = Zoo::random(2, 33, 70, 21);
    // Rounding of the stored values, which are about 1; of a few in a thousand it changes the sign of the delta.
    for (dtype, tolerance) in [(Dtype::Bf16, 1e-2), (Dtype::F16, 3e-3), (Dtype::F64, 1e-12)] {
        let stored = Zoo::write(dtype, zoo.tensors.clone());
        for metric in METRICS {
            let (a, b) =
                (zoo.run(metric, &SimilarityOptions::default()), stored.run(metric, &SimilarityOptions::default()));
            assert_close(&a, &b, tolerance, dtype.torch_name());
        }
    }
}

#[test]
fn what_differs_in_shape_has_no_figure() {
    let mut tensors = Zoo::random(2, 8, 8, 1).tensors;
    tensors[1][0].1 = vec![4, 16];
    let zoo = Zoo::write(Dtype::F32, tensors);
    for metric in METRICS.into_iter().filter(|metric| !metric.needs_base) {
        let matrix = zoo.run(metric, &SimilarityOptions::default());
        assert_eq!((matrix.get(0, 1), matrix.get(0, 0).is_some()), (None, true), "{}", metric.name);
    }
    // The second model has no delta from the base, and the first has.
    let delta = zoo.run(Metric::find("delta_cosine_flat").unwrap(), &SimilarityOptions::default());
    assert_eq!((delta.get(1, 1), delta.get(0, 0)), (None, Some(1.0)));
}

#[test]
fn zero_tensors_are_left_out_of_the_mean() {
    let mut tensors = Zoo::random(2, 8, 8, 2).tensors;
    tensors[1][0].2.fill(0.0);
    let zoo = Zoo::write(Dtype::F32, tensors.clone());
    for metric in METRICS.into_iter().filter(|metric| metric.name.starts_with("cosine")) {
        let expected = zoo.by_formula(metric, 0, 1).unwrap();
        assert!((zoo.run(metric, &SimilarityOptions::default()).get(0, 1).unwrap() - expected).abs() < 1e-6);
    }
    tensors[1][1].2.fill(0.0);
    let zoo = Zoo::write(Dtype::F32, tensors);
    assert_eq!(zoo.run(METRICS[0], &SimilarityOptions::default()).get(0, 1), None);
}

#[test]
fn refusals_name_what_is_wrong() {
    let zoo = Zoo::random(2, 8, 8, 2);
    let models = zoo.models();
    let check = |models: &[NamedCheckpoint<'_>],
                 base: Option<&NamedCheckpoint<'_>>,
                 name: &str,
                 options: &SimilarityOptions,
                 needles: &[&str]| {
        let error =
            similarity(models, base, Metric::find(name).unwrap(), options, &NoProgress).unwrap_err().to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    };
    let default = SimilarityOptions::default();
    check(&[], None, "cosine_flat", &default, &["no models"]);
    check(&[models[0].clone(), models[0].clone()], None, "cosine_flat", &default, &["called `m0`"]);
    check(&models, None, "delta_cosine_flat", &default, &["delta_cosine_flat", "no base"]);
    check(&models, Some(&models[0]), "cosine_flat", &default, &["cosine_flat", "m0", "delta_sign_agreement"]);
    for fraction in [0.0, -1.0, 1.5, f64::NAN] {
        let options = SimilarityOptions { sample: Some(fraction), ..default.clone() };
        check(&models, None, "cosine_flat", &options, &["fraction"]);
    }
    let nothing = SimilarityOptions {
        selection: Some(Selection { layers: Some(7..=9), ..Selection::default() }),
        ..default.clone()
    };
    check(&models, None, "cosine_flat", &nothing, &["layers 7 to 9", "m0", "3 tensors"]);

    let other = Zoo::random(1, 9, 8, 2);
    let base = NamedCheckpoint { name: "other".to_string(), checkpoint: &other.checkpoints[0] };
    check(&models, Some(&base), "delta_cosine_flat", &default, &["`other`", "q_proj.weight", "[9, 8]", "[8, 8]"]);

    for (value, needles) in [(f32::NAN, ["m1", "up_proj.weight"]), (f32::INFINITY, ["m1", "NaN or an infinity"])] {
        let mut tensors = zoo.tensors.clone();
        tensors[1][1].2[13] = value;
        let broken = Zoo::write(Dtype::F32, tensors);
        for metric in METRICS.into_iter().filter(|metric| !metric.needs_base) {
            check(&broken.models()[..2], None, metric.name, &default, &needles);
        }
    }
    let mut tensors = zoo.tensors.clone();
    tensors[1][1].2.fill(1e30);
    let huge = Zoo::write(Dtype::F32, tensors);
    check(&huge.models(), None, "cosine_flat", &default, &["up_proj.weight", "range of f32"]);
}

struct Counter {
    announced: AtomicU64,
    done: AtomicU64,
    stop_after: u64,
}

impl Progress for Counter {
    fn begin(&self, _: &str, unit: Unit, bytes: Option<u64>) {
        assert_eq!(unit, Unit::Bytes);
        self.announced.store(bytes.unwrap(), Ordering::Relaxed);
    }
    fn message(&self, tensor: &str) {
        assert!(tensor.ends_with(".weight"));
    }
    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
    fn is_cancelled(&self) -> bool {
        self.done.load(Ordering::Relaxed) >= self.stop_after
    }
}

#[test]
fn progress_adds_up_and_a_stop_is_heeded() {
    let zoo = Zoo::random(3, 300, 500, 2);
    for metric in METRICS.into_iter().filter(|metric| !metric.needs_base) {
        let counter = |stop_after| Counter { announced: AtomicU64::new(0), done: AtomicU64::new(0), stop_after };
        let watched = counter(u64::MAX);
        let found = similarity(&zoo.models(), None, metric, &SimilarityOptions::default(), &watched).unwrap();
        assert_eq!(watched.announced.load(Ordering::Relaxed), found.bytes_read);
        assert_eq!(watched.done.load(Ordering::Relaxed), found.bytes_read, "{}", metric.name);
        let stopped = similarity(&zoo.models(), None, metric, &SimilarityOptions::default(), &counter(0));
        assert!(matches!(stopped, Err(MetricsError::Stopped)));
    }
}
