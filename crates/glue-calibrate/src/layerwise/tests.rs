//! RegMean++ of small models against a decoder and a regression in `f64` that know nothing of this project's.

use super::*;
use crate::run::calibrate;
use glue_lm::{Weight, Weights};
use glue_progress::NoProgress;
use glue_tensor::{Checkpoint, Dtype, ModelDir, widen};
use ndarray::{Array1, Array2, Axis, s};
use std::sync::atomic::{AtomicUsize, Ordering};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

/// Tensors in `f64`; vectors have one row.
type Tensors = BTreeMap<String, Array2<f64>>;

fn read(path: &Path) -> Tensors {
    let checkpoint = Checkpoint::open(path).unwrap();
    let tensors = checkpoint.views().map(|view| {
        let mut values = vec![0.0f32; view.shape().iter().product()];
        widen(view.dtype(), view.data(), &mut values).unwrap();
        let (rows, columns) = match view.shape() {
            [columns] => (1, *columns),
            shape => (shape[0], shape[1]),
        };
        let values = values.into_iter().map(f64::from).collect();
        (view.name().to_owned(), Array2::from_shape_vec((rows, columns), values).unwrap())
    });
    tensors.collect()
}

/// The values that they have as `f32`.
fn rounded(tensors: Tensors) -> Tensors {
    tensors.into_iter().map(|(name, values)| (name, values.mapv(|x| f64::from(x as f32)))).collect()
}

/// The same with something added to every element, another for each `seed`.
fn moved(tensors: &Tensors, seed: u64) -> Tensors {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 31) as f64 - 0.5
    };
    let one = |(name, values): (&String, &Array2<f64>)| {
        (name.clone(), values.mapv(|x| x + 0.3 * x.abs() * next() + 0.04 * next()))
    };
    rounded(tensors.iter().map(one).collect())
}

fn model(dir: &ModelDir, tensors: &Tensors) -> Model {
    let one = |(name, values): (&String, &Array2<f64>)| {
        let bytes: Vec<u8> = values.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect();
        let shape = dir.checkpoint().info(name).unwrap().shape.clone();
        (name.clone(), Weight::owned(Dtype::F32, shape, bytes).unwrap())
    };
    Model::new(dir.config(), Weights::from_tensors(tensors.iter().map(one))).unwrap()
}

/// A Llama with as many heads of keys as of queries.
struct Llama {
    heads: usize,
    layers: usize,
    eps: f64,
    theta: f64,
}

/// What goes into the matrices of a layer, by the end of their names, and the residual streams after it.
type Inputs = Vec<(&'static str, Array2<f64>)>;

impl Llama {
    fn of(model: &Model) -> Llama {
        let arch = model.architecture();
        assert_eq!((arch.heads, arch.model_type), (arch.kv_heads, "llama"));
        Llama { heads: arch.heads, layers: arch.num_layers(), eps: f64::from(arch.norm_eps), theta: 10000.0 }
    }

    fn norm(&self, x: &Array2<f64>, weight: &Array2<f64>) -> Array2<f64> {
        let mut out = x.clone();
        for mut row in out.rows_mut() {
            let mean = row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64;
            row.zip_mut_with(&weight.row(0), |x, w| *x = *x / (mean + self.eps).sqrt() * w);
        }
        out
    }

    fn rotated(&self, x: &Array2<f64>) -> Array2<f64> {
        let head = x.ncols() / self.heads;
        let half = head / 2;
        Array2::from_shape_fn(x.dim(), |(position, column)| {
            let (start, within) = (column - column % head, column % head);
            let angle = position as f64 * self.theta.powf(-2.0 * (within % half) as f64 / head as f64);
            let (first, second) = (x[[position, start + within % half]], x[[position, start + within % half + half]]);
            if within < half {
                first * angle.cos() - second * angle.sin()
            } else {
                second * angle.cos() + first * angle.sin()
            }
        })
    }

    fn attention(&self, q: &Array2<f64>, k: &Array2<f64>, v: &Array2<f64>) -> Array2<f64> {
        let head = q.ncols() / self.heads;
        let mut out = Array2::zeros(q.dim());
        for start in (0..q.ncols()).step_by(head) {
            let part = s![.., start..start + head];
            let (q, k, v) = (q.slice(part), k.slice(part), v.slice(part));
            for position in 0..q.nrows() {
                let scores: Array1<f64> =
                    (0..=position).map(|key| q.row(position).dot(&k.row(key)) / (head as f64).sqrt()).collect();
                let largest = scores.fold(f64::NEG_INFINITY, |a, &b| a.max(b));
                let weights = scores.mapv(|score| (score - largest).exp());
                let mixed = weights.dot(&v.slice(s![..=position, ..])) / weights.sum();
                out.slice_mut(s![position, start..start + head]).assign(&mixed);
            }
        }
        out
    }

    fn layer(&self, tensors: &Tensors, layer: usize, x: &Array2<f64>) -> (Inputs, Array2<f64>) {
        let of = |name: &str| &tensors[&format!("model.layers.{layer}.{name}.weight")];
        let times = |x: &Array2<f64>, name: &str| x.dot(&of(name).t());
        let read = self.norm(x, of("input_layernorm"));
        let [q, k, v] = ["q", "k", "v"].map(|name| times(&read, &format!("self_attn.{name}_proj")));
        let attended = self.attention(&self.rotated(&q), &self.rotated(&k), &v);
        let x = x + &times(&attended, "self_attn.o_proj");
        let inner = self.norm(&x, of("post_attention_layernorm"));
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let neurons = times(&inner, "mlp.gate_proj").mapv(silu) * times(&inner, "mlp.up_proj");
        let after = &x + &times(&neurons, "mlp.down_proj");
        let attention = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"].map(|name| (name, read.clone()));
        let mlp = ["mlp.gate_proj", "mlp.up_proj"].map(|name| (name, inner.clone()));
        let rest = [("self_attn.o_proj", attended), ("mlp.down_proj", neurons)];
        (attention.into_iter().chain(mlp).chain(rest).collect(), after)
    }
}

/// X of A·X = B, by the elimination of Gauss and Jordan.
fn solve(mut a: Array2<f64>, mut b: Array2<f64>) -> Array2<f64> {
    let n = a.nrows();
    for at in 0..n {
        let pivot = (at..n).max_by(|&i, &j| a[[i, at]].abs().total_cmp(&a[[j, at]].abs())).unwrap();
        for matrix in [&mut a, &mut b] {
            (0..matrix.ncols()).for_each(|column| matrix.swap([at, column], [pivot, column]));
        }
        let scale = a[[at, at]];
        let (row_a, row_b) = (a.row(at).to_owned() / scale, b.row(at).to_owned() / scale);
        for row in 0..n {
            let factor = if row == at { a[[row, at]] - 1.0 } else { a[[row, at]] };
            a.row_mut(row).scaled_add(-factor, &row_a);
            b.row_mut(row).scaled_add(-factor, &row_b);
        }
    }
    b
}

/// (Σ Wi Gi)(Σ Gi)⁻¹ with off-diagonal elements times 0.9.
fn regression(weights: &[&Array2<f64>], grams: &[Array2<f64>]) -> Array2<f64> {
    let reduced =
        |gram: &Array2<f64>| Array2::from_shape_fn(gram.dim(), |(i, j)| gram[[i, j]] * if i == j { 1.0 } else { 0.9 });
    let grams: Vec<Array2<f64>> = grams.iter().map(reduced).collect();
    let pulls = weights.iter().zip(&grams).map(|(w, g)| w.dot(g)).reduce(|a, b| a + b).unwrap();
    let sum = grams.into_iter().reduce(|a, b| a + b).unwrap();
    solve(sum, pulls.reversed_axes()).reversed_axes()
}

/// The merged tensors of a layer: those with Gram matrices by regression, the others by their mean.
fn merged_layer(models: &[Tensors], layer: usize, grams: &dyn Fn(usize, &str) -> Option<Array2<f64>>) -> Tensors {
    let prefix = format!("model.layers.{layer}.");
    let names = models[0].keys().filter(|name| name.starts_with(&prefix));
    let one = |name: &String| {
        let weights: Vec<&Array2<f64>> = models.iter().map(|model| &model[name]).collect();
        let grams: Option<Vec<_>> = (0..models.len()).map(|number| grams(number, name)).collect();
        let merged = grams.map_or_else(|| mean(&weights), |grams| regression(&weights, &grams));
        (name.clone(), merged)
    };
    names.map(one).collect()
}

fn mean(all: &[&Array2<f64>]) -> Array2<f64> {
    all.iter().fold(Array2::zeros(all[0].dim()), |sum, one| sum + *one) / all.len() as f64
}

fn sequences(seed: u32) -> Vec<Sequence> {
    let ids = |n: u32, salt: u32| (0..n).map(|i| (7 + 31 * salt + 13 * i * i + 5 * i) % 96 + 3).collect();
    (0..7).map(|number| Sequence::text(ids(6 + (number * 5 + seed) % 13, 10 * seed + number))).collect()
}

/// The models, and what merges them: the regression above on what is handed over.
struct Setup {
    dir: ModelDir,
    tensors: Vec<Tensors>,
    models: Vec<Model>,
    sequences: Vec<Vec<Sequence>>,
}

struct Regression<'a> {
    setup: &'a Setup,
    layers: Vec<usize>,
}

impl Setup {
    fn new(arch: &str, count: u64) -> Setup {
        let dir = ModelDir::open(data(arch)).unwrap();
        let base = read(&data(arch));
        let tensors: Vec<Tensors> = (1..=count).map(|seed| moved(&base, seed)).collect();
        let models = tensors.iter().map(|tensors| model(&dir, tensors)).collect();
        let sequences = (1..=count as u32).map(sequences).collect();
        Setup { dir, tensors, models, sequences }
    }

    fn plan(&self, max_memory: Option<u64>) -> LayerwisePlan {
        let models: Vec<_> = self.models.iter().zip(&self.sequences).map(|(m, s)| (m, s.as_slice())).collect();
        LayerwisePlan::new(&models, max_memory).unwrap()
    }

    /// Statistics of each model, by their files in `out`.
    fn run(
        &self,
        out: &Path,
        max_memory: Option<u64>,
        progress: &dyn Progress,
    ) -> Result<Vec<CalibrationSummary>, CalibrateError> {
        let places: Vec<PathBuf> = (0..self.models.len()).map(|number| out.join(format!("of-{number}"))).collect();
        let models: Vec<LayerwiseModel<'_>> = (0..self.models.len())
            .map(|number| LayerwiseModel {
                model: &self.models[number],
                files: (&self.dir).into(),
                sequences: &self.sequences[number],
                source: &Value::Null,
                out_dir: &places[number],
            })
            .collect();
        let mut merger = Regression { setup: self, layers: Vec::new() };
        let done = calibrate_layerwise(&models, &self.plan(max_memory), &mut merger, progress)?;
        assert!(merger.layers.iter().copied().eq(0..self.models[0].num_layers()));
        Ok(done)
    }

    fn embedding(&self) -> Array2<f64> {
        mean(&self.tensors.iter().map(|tensors| &tensors["model.embed_tokens.weight"]).collect::<Vec<_>>())
    }
}

impl LayerMerger for Regression<'_> {
    fn embedding(&mut self) -> Result<Model, Box<dyn Error + Send + Sync>> {
        let mut merged = self.setup.tensors[0].clone();
        merged.insert("model.embed_tokens.weight".into(), self.setup.embedding());
        Ok(model(&self.setup.dir, &merged))
    }

    fn layer(&mut self, layer: usize, statistics: &[PathBuf]) -> Result<Model, Box<dyn Error + Send + Sync>> {
        self.layers.push(layer);
        let found: Vec<Tensors> = statistics.iter().map(|path| read(path)).collect();
        let grams = |number: usize, name: &str| found[number].get(&format!("{name}.gram")).cloned();
        let mut merged = self.setup.tensors[1 % self.setup.tensors.len()].clone();
        merged.extend(merged_layer(&self.setup.tensors, layer, &grams));
        Ok(model(&self.setup.dir, &merged))
    }
}

fn near(found: &Array2<f64>, expected: &Array2<f64>, what: &str) {
    assert_eq!(found.dim(), expected.dim(), "{what}");
    let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    let off = (found - expected).iter().fold(0.0f64, |off, x| off.max(x.abs()));
    // Three layers in f32, each fitted to what the layers before gave.
    assert!(off < 1e-4 * size, "{what}: {off} of {size}");
}

#[test]
fn gram_matrices_are_those_of_streams_through_merged_layers() {
    let setup = Setup::new("archs/llama2", 3);
    let out = tempfile::tempdir().unwrap();
    setup.run(out.path(), None, &NoProgress).unwrap();
    let found: Vec<Tensors> = (0..3).map(|number| read(&out.path().join(format!("of-{number}")))).collect();

    let llama = Llama::of(&setup.models[0]);
    let embedding = rounded(BTreeMap::from([("e".to_owned(), setup.embedding())]))["e"].clone();
    let start = |sequences: &Vec<Sequence>| {
        let ids =
            |sequence: &Sequence| sequence.tokens[..sequence.read()].iter().map(|&id| id as usize).collect::<Vec<_>>();
        sequences.iter().map(|sequence| embedding.select(Axis(0), &ids(sequence))).collect::<Vec<_>>()
    };
    let mut streams: Vec<Vec<Array2<f64>>> = setup.sequences.iter().map(start).collect();
    let gram = |inputs: &[Array2<f64>]| {
        let rows: usize = inputs.iter().map(Array2::nrows).sum();
        inputs.iter().map(|x| x.t().dot(x)).reduce(|a, b| a + b).unwrap() / rows as f64
    };
    for layer in 0..llama.layers {
        // Of each model by its own layer.
        let mut grams: Vec<BTreeMap<String, Array2<f64>>> = Vec::new();
        for (tensors, streams) in setup.tensors.iter().zip(&streams) {
            let inputs: Vec<Inputs> = streams.iter().map(|x| llama.layer(tensors, layer, x).0).collect();
            let of_matrix = |at: usize| {
                let rows: Vec<Array2<f64>> = inputs.iter().map(|of_sequence| of_sequence[at].1.clone()).collect();
                (format!("model.layers.{layer}.{}.weight", inputs[0][at].0), gram(&rows))
            };
            grams.push((0..inputs[0].len()).map(of_matrix).collect());
        }
        for (number, (found, grams)) in found.iter().zip(&grams).enumerate() {
            for (name, expected) in grams {
                near(&found[&format!("{name}.gram")], expected, &format!("model {number}, {name}"));
            }
        }
        // All of them on by the merged layer.
        let merged = merged_layer(&setup.tensors, layer, &|number, name| grams[number].get(name).cloned());
        for x in streams.iter_mut().flatten() {
            *x = llama.layer(&merged, layer, x).1;
        }
    }
    for ((tensors, streams), found) in setup.tensors.iter().zip(&streams).zip(&found) {
        let normed: Vec<Array2<f64>> = streams.iter().map(|x| llama.norm(x, &tensors["model.norm.weight"])).collect();
        near(&found["lm_head.weight.gram"], &gram(&normed), "head");
        assert_eq!(found.len(), 7 * llama.layers + 1);
    }
}

#[test]
fn one_model_has_the_statistics_of_a_calibration() {
    for arch in ["archs/llama2", "archs/llama3-scaled-tied", "archs/gemma2"] {
        let mut setup = Setup::new(arch, 1);
        // Merged with itself it is itself, but for the rounding of the regression: without moving, exactly.
        setup.tensors = vec![read(&data(arch))];
        setup.models = vec![Model::open(data(arch)).unwrap()];
        let out = tempfile::tempdir().unwrap();
        struct Itself(PathBuf);
        impl LayerMerger for Itself {
            fn embedding(&mut self) -> Result<Model, Box<dyn Error + Send + Sync>> {
                Ok(Model::open(&self.0)?)
            }

            fn layer(&mut self, _: usize, _: &[PathBuf]) -> Result<Model, Box<dyn Error + Send + Sync>> {
                Ok(Model::open(&self.0)?)
            }
        }
        let place = out.path().join("layerwise");
        let models = [LayerwiseModel {
            model: &setup.models[0],
            files: (&setup.dir).into(),
            sequences: &setup.sequences[0],
            source: &Value::Null,
            out_dir: &place,
        }];
        calibrate_layerwise(&models, &setup.plan(None), &mut Itself(data(arch)), &NoProgress).unwrap();
        let options = CalibrateOptions { statistics: [Statistic::Gram].into(), ..CalibrateOptions::default() };
        let plan = CalibratePlan::new(&setup.models[0], &options).unwrap();
        let plain = out.path().join("plain");
        calibrate(&setup.models[0], &setup.dir, &plan, &setup.sequences[0], &Value::Null, &plain, &NoProgress).unwrap();
        assert_eq!(read(&place), read(&plain), "{arch}: to the bit");
    }
}

fn bytes(out: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for directory in std::fs::read_dir(out).unwrap() {
        for file in std::fs::read_dir(directory.unwrap().path()).unwrap() {
            let path = file.unwrap().path();
            all.push((path.strip_prefix(out).unwrap().to_path_buf(), std::fs::read(&path).unwrap()));
        }
    }
    all.sort();
    all
}

#[test]
fn threads_passes_and_files_change_no_byte() {
    let setup = Setup::new("archs/llama2", 2);
    let run = |threads: usize, max_memory: Option<u64>| {
        let out = tempfile::tempdir().unwrap();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| setup.run(out.path(), max_memory, &NoProgress)).unwrap();
        bytes(out.path())
    };
    let one = run(1, None);
    let tokens: u64 = setup.sequences.iter().flatten().map(|sequence| sequence.read() as u64).sum();
    let limits = [None, Some(1), Some(40_000), Some(1 << 30)];
    for (threads, limit) in [3, 2, 4, 1].into_iter().zip(limits) {
        assert!(run(threads, limit) == one, "{threads} threads, {limit:?}");
    }
    let estimates = limits.map(|limit| setup.plan(limit).estimate(2));
    assert!(estimates.iter().all(|estimate| estimate.stream_bytes == 4 * 32 * tokens));
    assert_eq!(estimates.map(|estimate| estimate.spooled), [false, true, true, false]);
    assert_eq!(estimates.map(|estimate| estimate.passes), [1, 4, 2, 1]);
    let written: usize = one
        .iter()
        .filter(|(path, _)| path.extension().is_some_and(|end| end == "safetensors"))
        .map(|(_, bytes)| bytes.len())
        .sum();
    // Headers are small beside the matrices.
    let expected = estimates[0].output_bytes as usize;
    assert!((expected..expected + 20_000).contains(&written), "{written} {expected}");
}

/// Stops at the nth question.
struct Impatient(AtomicUsize);

impl Progress for Impatient {
    fn is_cancelled(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

#[test]
fn what_is_refused_or_stopped_leaves_nothing() {
    let setup = Setup::new("archs/llama2", 2);
    let out = tempfile::tempdir().unwrap();
    let mut stopped = 0;
    for questions in [0, 1, 3, 6, 9, 12] {
        let ended = setup.run(out.path(), Some(1), &Impatient(AtomicUsize::new(questions)));
        assert!(matches!(ended, Err(CalibrateError::Stopped)), "{ended:?}");
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
        stopped += 1;
    }
    assert_eq!(stopped, 6);
    // One of two places is taken: nothing appears at the other.
    std::fs::create_dir(out.path().join("of-1")).unwrap();
    std::fs::write(out.path().join("of-1/file"), "something").unwrap();
    let error = setup.run(out.path(), None, &NoProgress).unwrap_err();
    assert!(matches!(error, CalibrateError::Write(WriteError::NotEmpty { .. })), "{error}");
    assert!(!out.path().join("of-0").exists());

    let other = Model::open(data("zoo/base-a")).unwrap();
    let sequences = setup.sequences[0].as_slice();
    let plan = |models: &[(&Model, &[Sequence])]| LayerwisePlan::new(models, None).unwrap_err().to_string();
    let error = plan(&[(&setup.models[0], sequences), (&other, sequences)]);
    assert!(error.starts_with("models of 3 layers of width 32 and of "), "{error}");
    assert!(plan(&[(&setup.models[0], &[])]).contains("no sequences"));
}

#[test]
fn a_layer_that_cannot_be_merged_is_named() {
    struct Unable;
    impl LayerMerger for Unable {
        fn embedding(&mut self) -> Result<Model, Box<dyn Error + Send + Sync>> {
            Ok(Model::open(data("archs/llama2"))?)
        }

        fn layer(&mut self, layer: usize, statistics: &[PathBuf]) -> Result<Model, Box<dyn Error + Send + Sync>> {
            assert!(statistics.iter().all(|path| path.exists()));
            if layer == 1 { Err("out of ideas".into()) } else { self.embedding() }
        }
    }
    let setup = Setup::new("archs/llama2", 1);
    let out = tempfile::tempdir().unwrap();
    let models = [LayerwiseModel {
        model: &setup.models[0],
        files: (&setup.dir).into(),
        sequences: &setup.sequences[0],
        source: &Value::Null,
        out_dir: &out.path().join("of"),
    }];
    let error = calibrate_layerwise(&models, &setup.plan(None), &mut Unable, &NoProgress).unwrap_err();
    assert_eq!(error.to_string(), "layer 1 cannot be merged");
    assert_eq!(error.source().unwrap().to_string(), "out of ideas");
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
}
