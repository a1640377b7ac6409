//! Mixtures of experts as inputs of merges: one tensor for each expert, or all of a layer in one.

use glue_tests::Tensors;
use glue_tests::checkpoint::{Tensor, with_length};
use glue_tests::number::Numbers;
use glue_tests::zoo::Zoo;
use serde_json::json;

/// Experts, their neurons, and the width of the model.
const EXPERTS: usize = 5;
const NEURONS: usize = 3;
const WIDTH: usize = 4;

const GATE_UP: &str = "model.layers.0.mlp.experts.gate_up_proj";
const DOWN: &str = "model.layers.0.mlp.experts.down_proj";
const ROUTER: &str = "model.layers.0.mlp.gate.weight";

/// The matrices of one expert, \[out, in\], and its row of the router.
#[derive(Clone)]
struct Expert {
    gate_up: Vec<f32>,
    down: Vec<f32>,
    row: Vec<f32>,
}

fn experts(seed: u64) -> Vec<Expert> {
    let mut numbers = Numbers::new(seed);
    let mut values = |n: usize| (0..n).map(|_| numbers.around_zero(1.0)).collect::<Vec<f32>>();
    let one = |_| Expert { gate_up: values(2 * NEURONS * WIDTH), down: values(WIDTH * NEURONS), row: values(WIDTH) };
    (0..EXPERTS).map(one).collect()
}

/// Experts near these: fine-tuned.
fn moved(experts: &[Expert], seed: u64) -> Vec<Expert> {
    let mut numbers = Numbers::new(seed);
    let mut near = |values: &[f32]| values.iter().map(|x| x + numbers.around_zero(0.1)).collect::<Vec<f32>>();
    let one = |e: &Expert| Expert { gate_up: near(&e.gate_up), down: near(&e.down), row: near(&e.row) };
    experts.iter().map(one).collect()
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect()
}

/// How a checkpoint holds experts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Layout {
    /// A tensor for each matrix of each expert.
    Each,
    /// All of a layer in one, each matrix \[out, in\].
    OutIn,
    /// The same, \[in, out\].
    InOut,
}

const LAYOUTS: [Layout; 3] = [Layout::Each, Layout::OutIn, Layout::InOut];

fn tensors(experts: &[Expert], layout: Layout) -> Tensors {
    let norm = ("model.norm.weight".to_string(), Tensor::f32(&[WIDTH], [1.0; WIDTH]));
    let rows = experts.iter().flat_map(|e| e.row.clone());
    let mut tensors: Tensors = [norm, (ROUTER.to_string(), Tensor::f32(&[EXPERTS, WIDTH], rows))].into();
    let (n, w) = (NEURONS, WIDTH);
    match layout {
        Layout::Each => {
            for (i, e) in experts.iter().enumerate() {
                let mut add = |name: &str, shape: [usize; 2], values: &[f32]| {
                    let name = format!("model.layers.0.mlp.experts.{i}.{name}.weight");
                    tensors.insert(name, Tensor::f32(&shape, values.iter().copied()));
                };
                add("gate_up_proj", [2 * n, w], &e.gate_up);
                add("down_proj", [w, n], &e.down);
            }
        }
        Layout::OutIn => {
            let all = |of: fn(&Expert) -> &Vec<f32>| experts.iter().flat_map(of).copied().collect::<Vec<_>>();
            tensors.insert(GATE_UP.into(), Tensor::f32(&[EXPERTS, 2 * n, w], all(|e| &e.gate_up)));
            tensors.insert(DOWN.into(), Tensor::f32(&[EXPERTS, w, n], all(|e| &e.down)));
        }
        Layout::InOut => {
            let gate_up = experts.iter().flat_map(|e| transposed(&e.gate_up, 2 * n, w));
            let down = experts.iter().flat_map(|e| transposed(&e.down, w, n));
            tensors.insert(GATE_UP.into(), Tensor::f32(&[EXPERTS, w, 2 * n], gate_up));
            tensors.insert(DOWN.into(), Tensor::f32(&[EXPERTS, n, w], down));
        }
    }
    tensors
}

fn add(zoo: &Zoo, name: &str, experts: &[Expert], layout: Layout) {
    zoo.add(name, &tensors(experts, layout));
    zoo.set(name, "num_hidden_layers", 1.into());
    zoo.set(name, "num_experts", EXPERTS.into());
}

/// The matrices of the model `name`, read from either layout, one below the other.
fn matrices(zoo: &Zoo, name: &str, layout: Layout) -> [Vec<f64>; 2] {
    let read = zoo.read(name);
    match layout {
        Layout::Each => ["gate_up_proj", "down_proj"].map(|kind| {
            let of = |e| read[&format!("model.layers.0.mlp.experts.{e}.{kind}.weight")].values();
            (0..EXPERTS).flat_map(of).collect()
        }),
        _ => [GATE_UP, DOWN].map(|name| read[name].values()),
    }
}

#[test]
fn operators_on_matrices_see_each_expert() {
    let zoo = Zoo::empty();
    let base = experts(1);
    for (suffix, layout) in [("each", Layout::Each), ("fused", Layout::OutIn)] {
        add(&zoo, &format!("base-{suffix}"), &base, layout);
        add(&zoo, &format!("a-{suffix}"), &moved(&base, 2), layout);
        add(&zoo, &format!("b-{suffix}"), &moved(&base, 3), layout);
    }
    for operator in ["iso_c", "iso_cts", "tsv_m", "knots", "wudi"] {
        let merged = ["each", "fused"].map(|suffix| {
            let config = format!(
                "merge_method: {operator}\nbase_model: base-{suffix}\nmodels: [{{model: a-{suffix}}}, {{model: b-{suffix}}}]\n"
            );
            zoo.merge(&config, &format!("{operator}-{suffix}"), &[]).ok();
            matrices(&zoo, &format!("{operator}-{suffix}"), if suffix == "each" { Layout::Each } else { Layout::OutIn })
        });
        assert_eq!(merged[0], merged[1], "{operator}");
    }
    // Memory is that of one expert: for Iso-C on two models, base, models, result and 10 matrices in f64 or less.
    let plan = |suffix: &str| {
        let config = format!("merge_method: iso_c\nbase_model: base-{suffix}\nmodels: [{{model: a-{suffix}}}]\n");
        zoo.merge(&config, "none", &["--dry-run", "--json", "--threads", "1"]).json()["memory"].clone()
    };
    assert_eq!(plan("fused"), plan("each"));
}

/// Factors of an adapter as PEFT's `ParamWrapper` holds them: A is \[experts·rank, in\], B \[out, rank·experts\]. The
/// change of expert e is Σₖ B\[o, k·experts + e\]·A\[e·rank + k, i\].
fn change(a: &Tensor, b: &Tensor, rank: usize, scale: f64, e: usize, o: usize, i: usize) -> f64 {
    let (inputs, a, b) = (a.shape[1], a.values(), b.values());
    let term = |k: usize| b[(o * rank + k) * EXPERTS + e] * a[(e * rank + k) * inputs + i];
    scale * (0..rank).map(term).sum::<f64>()
}

#[test]
fn adapters_change_parameters_expert_by_expert() {
    let zoo = Zoo::empty();
    let (n, w, rank) = (NEURONS, WIDTH, 2);
    let mut numbers = Numbers::new(7);
    let mut matrix = |rows: usize, columns: usize| {
        Tensor::f32(&[rows, columns], (0..rows * columns).map(|_| numbers.around_zero(1.0)))
    };
    let module = "model.layers.0.mlp.experts";
    // PEFT wraps the parameter that the module defines last, `down_proj`, around the other.
    let factors = vec![
        (format!("{module}.base_layer.lora_A.weight"), matrix(EXPERTS * rank, w)),
        (format!("{module}.base_layer.lora_B.weight"), matrix(2 * n, rank * EXPERTS)),
        (format!("{module}.lora_A.weight"), matrix(EXPERTS * rank, n)),
        (format!("{module}.lora_B.weight"), matrix(w, rank * EXPERTS)),
    ];
    let config = json!({
        "r": rank, "lora_alpha": 3, "target_modules": [],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    });
    zoo.add_adapter("x", config.clone(), factors.clone());
    let base = experts(1);
    for layout in [Layout::OutIn, Layout::InOut] {
        let name = format!("{layout:?}");
        add(&zoo, &name, &base, layout);
        let out = format!("{layout:?}-changed");
        zoo.merge(&format!("merge_method: passthrough\nmodels: [{{model: {name}+x}}]\n"), &out, &[]).ok();
        let [gate_up, down] = matrices(&zoo, &out, layout);
        let at = |e: usize, o: usize, i: usize, outputs: usize, inputs: usize| match layout {
            Layout::InOut => (e * inputs + i) * outputs + o,
            _ => (e * outputs + o) * inputs + i,
        };
        for e in 0..EXPERTS {
            for o in 0..2 * n {
                for i in 0..w {
                    let own = f64::from(base[e].gate_up[o * w + i]);
                    let expected = own + change(&factors[0].1, &factors[1].1, rank, 1.5, e, o, i);
                    let found = gate_up[at(e, o, i, 2 * n, w)];
                    assert!((found - expected).abs() < 2e-6, "{layout:?} gate_up {e} {o} {i}: {found} for {expected}");
                }
            }
            for o in 0..w {
                for i in 0..n {
                    let own = f64::from(base[e].down[o * n + i]);
                    let expected = own + change(&factors[2].1, &factors[3].1, rank, 1.5, e, o, i);
                    let found = down[at(e, o, i, w, n)];
                    assert!((found - expected).abs() < 2e-6, "{layout:?} down {e} {o} {i}: {found} for {expected}");
                }
            }
        }
    }
    let report = zoo.glue(&["inspect", "x", "--json"]).json();
    assert_eq!(report["low_rank"], 2);
    // Factors of one parameter where two are named fit neither by name nor by number.
    zoo.add_adapter("half", config, factors[2..].to_vec());
    let run = zoo.merge("merge_method: passthrough\nmodels: [{model: OutIn+half}]\n", "none", &[]);
    run.refused("half", 2, &["target_parameters", module]);
}

#[test]
fn an_extracted_adapter_restores_every_expert() {
    let zoo = Zoo::empty();
    for layout in [Layout::OutIn, Layout::InOut] {
        let (base, fine) = (format!("base-{layout:?}"), format!("fine-{layout:?}"));
        let theirs = experts(1);
        let mut ours = moved(&theirs, 2);
        // One expert stays as it is.
        ours[3] = theirs[3].clone();
        add(&zoo, &base, &theirs, layout);
        add(&zoo, &fine, &ours, layout);
        let adapter = format!("adapter-{layout:?}");
        let args =
            ["extract-lora", &base, &fine, &adapter, "--rank", "64", "--dtype", "float32", "--save-full", "--json"];
        let report = zoo.glue(&args).json();
        let names: Vec<&str> =
            report["modules"].as_array().unwrap().iter().map(|module| module["module"].as_str().unwrap()).collect();
        assert!(names.contains(&GATE_UP) && names.contains(&DOWN), "{names:?}");
        let config = zoo.json(&format!("{adapter}/adapter_config.json"));
        assert_eq!(config["target_parameters"], json!(["experts.down_proj", "experts.gate_up_proj"]));
        let out = format!("restored-{layout:?}");
        zoo.merge(&format!("merge_method: passthrough\nmodels: [{{model: {base}+{adapter}}}]\n"), &out, &[]).ok();
        for (found, expected) in matrices(&zoo, &out, layout).iter().zip(matrices(&zoo, &fine, layout)) {
            // Sums of a few products of factors that are rounded to f32.
            assert!(found.iter().zip(&expected).all(|(x, y)| (x - y).abs() < 1e-6), "{layout:?}");
        }
    }
}

/// Where each expert of a shuffled model comes from.
const SHUFFLE: [usize; EXPERTS] = [3, 0, 4, 1, 2];

fn shuffled(experts: &[Expert]) -> Vec<Expert> {
    SHUFFLE.map(|from| experts[from].clone()).to_vec()
}

/// Makes the weights of a model begin `offset` bytes after a boundary of 8, by spaces at the end of the header.
fn place_weights(zoo: &Zoo, name: &str, offset: usize) {
    let file = format!("{name}/model.safetensors");
    let bytes = zoo.bytes(&file);
    let end = 8 + usize::try_from(u64::from_le_bytes(bytes[..8].try_into().expect("a length"))).expect("a length");
    let mut header = bytes[8..end].to_vec();
    header.resize(header.len() + (8 + offset - end % 8) % 8, b' ');
    zoo.write(&file, [&with_length(&header), &bytes[end..]].concat());
}

#[test]
fn a_shuffled_copy_merges_back_to_itself() {
    // Weights that begin on a boundary are used where they lie.
    for (layout, offset) in LAYOUTS.into_iter().flat_map(|layout| [(layout, 0), (layout, 1)]) {
        let zoo = Zoo::empty();
        let (base, fine) = (experts(1), moved(&experts(1), 2));
        add(&zoo, "base", &base, layout);
        add(&zoo, "a", &fine, layout);
        add(&zoo, "shuffled", &shuffled(&fine), layout);
        ["base", "a", "shuffled"].iter().for_each(|name| place_weights(&zoo, name, offset));
        let mean = "merge_method: linear\nmodels: [{model: a}, {model: shuffled}]\nparameters: {weight: 0.5}\n";
        zoo.merge(mean, "mixed-up", &[]).ok();
        assert_ne!(zoo.read("mixed-up"), zoo.read("a"), "{layout:?}: the order matters");
        zoo.merge(&format!("{mean}align_experts: true\n"), "mean", &[]).ok();
        assert_eq!(zoo.read("mean"), zoo.read("a"), "{layout:?}: in the order of the first");
        zoo.merge(&format!("{mean}align_experts: false\n"), "as-before", &[]).ok();
        assert_eq!(zoo.read("as-before"), zoo.read("mixed-up"));

        // On a base, the order is that of the base.
        let over = "merge_method: ties\nbase_model: base\nmodels: [{model: shuffled}]\nparameters: {weight: 1}\n\
                    align_experts: true\n";
        zoo.merge(over, "over", &["--threads", "2"]).ok();
        for (name, tensor) in zoo.read("over") {
            let expected = zoo.read("a")[&name].values();
            // θ0 + (θ1 − θ0) in f32.
            assert!(tensor.values().iter().zip(&expected).all(|(x, y)| (x - y).abs() < 5e-7), "{layout:?} {name}");
        }
    }
}

#[test]
fn adapters_of_a_shuffled_model_move_with_its_experts() {
    for layout in [Layout::OutIn, Layout::InOut] {
        let zoo = Zoo::empty();
        let (base, fine) = (experts(1), moved(&experts(1), 2));
        add(&zoo, "a", &base, layout);
        add(&zoo, "fine", &fine, layout);
        add(&zoo, "b", &shuffled(&base), layout);
        add(&zoo, "fine-b", &shuffled(&fine), layout);
        zoo.glue(&["extract-lora", "b", "fine-b", "x", "--rank", "64", "--dtype", "float32", "--save-full"]).ok();
        let config = "merge_method: linear\nmodels: [{model: a, parameters: {weight: 0}}, {model: b+x}]\n\
                      parameters: {weight: 1}\nalign_experts: true\n";
        zoo.merge(config, "out", &[]).ok();
        for (name, tensor) in zoo.read("out") {
            let expected = zoo.read("fine")[&name].values();
            assert!(tensor.values().iter().zip(&expected).all(|(x, y)| (x - y).abs() < 2e-6), "{layout:?} {name}");
        }
    }
}

#[test]
fn experts_that_cannot_be_matched_are_refused() {
    let zoo = Zoo::small();
    let config = "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 1}\nalign_experts: ";
    zoo.merge(&format!("{config}true\n"), "out", &[]).refused("no experts", 2, &["out.yml:4:", "no layer has experts"]);
    zoo.merge(&format!("{config}maybe\n"), "out", &[]).refused("no flag", 2, &["align_experts", "`true` or `false`"]);
    for name in ["a", "b"] {
        add(&zoo, name, &experts(1), Layout::OutIn);
        zoo.set(name, "n_group", 5.into());
    }
    zoo.merge(&format!("{config}true\n"), "out", &[]).refused("groups", 2, &["5 groups", "n_group"]);
    for name in ["a", "b"] {
        zoo.set(name, "n_group", 1.into());
        zoo.edit(name, |tensors| _ = tensors.remove(ROUTER));
    }
    zoo.merge(&format!("{config}true\n"), "out", &[]).refused("no router", 2, &["model.layers.0", "no router"]);
}
