//! How a run ends: results that cannot be stored, cancellation, and what the destination is handed.

use crate::common::{Model, Zoo};
use crate::device::Device;
use glue_merge::{BoxError, Driver, Registry};
use glue_progress::{ErrorChain, NoProgress, Progress};
use glue_recipe::engine::{Destination, EngineError};
use glue_recipe::run::merge_into;
use glue_recipe::{PlanOptions, Recipe, RunError, RunOptions, plan, run};
use glue_tensor::Dtype;
use parking_lot::Mutex;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Merges by the recipe `text` fails with `expected`, on the host and on a device, and leaves nothing.
fn fails(zoo: &Zoo, text: &str, expected: &str, of_device: &str) {
    let plan = zoo.plan(text).unwrap();
    let device = Device::default();
    let out = zoo.dir.path().join("out");
    let on_device = RunOptions { executor: &device, ..RunOptions::default() };
    for (options, expected) in [(RunOptions::default(), expected), (on_device, of_device)] {
        let error = run(&plan, &out, &options, &NoProgress).unwrap_err();
        assert_eq!(error.chain(), expected, "for:\n{text}");
        assert!(!out.exists());
    }
}

#[test]
fn results_beyond_the_range_of_the_output_are_refused() {
    let zoo = Zoo::new([("a", Model::llama(1)), ("b", Model::llama(1))]);
    zoo.set("a", "model.norm.weight", 2, &[70000.0]);
    zoo.set("a", "model.layers.0.self_attn.q_proj.weight", 13, &[-500.0]);
    let linear = |dtype: &str, weight: f32| {
        format!(
            "merge_method: linear\nmodels: [{{model: a}}, {{model: b}}]\n\
             parameters: {{weight: {weight:e}, normalize: false}}\nout_dtype: {dtype}\n"
        )
    };
    let refusal = |tensor: &str, value: &str, index: usize, dtype: &str, advice: &str| {
        format!("merging tensor {tensor}: the result is {value} at index {index}, which {dtype} cannot hold; {advice}")
    };
    let smaller = "merge with smaller weights";
    let wider = "merge with smaller weights, or set `out_dtype` to a type with a larger range, such as bfloat16";
    for (dtype, weight, tensor, index, [value, rounded], advice) in [
        ("float16", 1.0, "model.norm.weight", 2, ["70000", "inf"], wider),
        // Of 70000 and −500, the layer comes first.
        ("float8_e4m3fn", 1.0, "model.layers.0.self_attn.q_proj.weight", 13, ["-500", "-500"], wider),
        ("bfloat16", 1e34, "model.norm.weight", 2, ["inf", "inf"], smaller),
        ("float32", 1e34, "model.norm.weight", 2, ["inf", "inf"], smaller),
    ] {
        let one = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        one.install(|| {
            fails(
                &zoo,
                &linear(dtype, weight),
                &refusal(tensor, value, index, dtype, advice),
                &refusal(tensor, rounded, index, dtype, advice),
            );
        });
    }
    zoo.plan(&linear("bfloat16", 1.0))
        .map(|plan| run(&plan, &zoo.dir.path().join("held"), &RunOptions::default(), &NoProgress))
        .unwrap()
        .unwrap();
}

/// Cancels when it is asked for the n-th time.
struct Cancelling {
    left: AtomicUsize,
}

impl Progress for Cancelling {
    fn is_cancelled(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_err()
    }
}

/// Keeps the offset and the length of every write.
#[derive(Default)]
struct Writes(Mutex<Vec<(usize, u64, usize)>>);

impl Destination for Writes {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        self.0.lock().push((job, offset, bytes.len()));
        Ok(())
    }
}

/// A zoo of two models with one tensor of three spans and a bit.
fn large() -> (Zoo, usize) {
    let rows = 3 * Driver::SPAN / 4 + 1;
    let model = || Model::llama(0).with("model.embed_tokens.weight", Dtype::Bf16, &[rows, 4]);
    (Zoo::new([("a", model()), ("b", model())]), rows * 4)
}

#[test]
fn a_stopped_merge_is_an_error_and_is_asked_for_every_span() {
    let (zoo, elements) = large();
    for method in [
        "merge_method: linear\nmodels: [{model: a}, {model: b}]\nparameters: {weight: 0.5}\n",
        "merge_method: slerp\nbase_model: a\nmodels: [{model: b}]\nparameters: {t: 0.5}\n",
        "merge_method: passthrough\nmodels: [{model: a}]\n",
    ] {
        let plan = zoo.plan(method).unwrap();
        let whole = Writes::default();
        merge_into(&plan, &whole, &RunOptions::default(), &NoProgress).unwrap();
        let longest = whole.0.lock().iter().map(|(_, _, length)| *length).max();
        assert_eq!(longest, Some(Driver::SPAN * 2), "a span is written at once");
        let total: usize = whole.0.lock().iter().map(|(_, _, length)| *length).sum();
        assert_eq!(total as u64, plan.tensors.iter().map(|tensor| tensor.n_bytes()).sum::<u64>());
        let spans = elements.div_ceil(Driver::SPAN);
        for asked in 0..spans {
            let writes = Writes::default();
            let progress = Cancelling { left: AtomicUsize::new(asked) };
            let stopped = merge_into(&plan, &writes, &RunOptions::default(), &progress);
            assert!(matches!(stopped, Err(EngineError::Stopped)), "{asked}: {stopped:?}");
            assert!(writes.0.lock().len() < whole.0.lock().len());
            let out = zoo.dir.path().join("out");
            let progress = Cancelling { left: AtomicUsize::new(asked) };
            let stopped = run(&plan, &out, &RunOptions::default(), &progress);
            assert!(matches!(stopped, Err(RunError::Stopped)) && !out.exists(), "{asked}: {stopped:?}");
        }
    }
}

/// What a run wrote, tensor by tensor.
#[derive(Default)]
struct Results(Mutex<BTreeMap<(usize, u64), Vec<u8>>>);

impl Destination for Results {
    fn write(&self, job: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        self.0.lock().insert((job, offset), bytes.to_vec());
        Ok(())
    }
}

/// Candidates of a search share open models. The order of experts does not depend on coefficients.
#[test]
fn experts_are_matched_once_for_all_candidates() {
    const LAYERS: usize = 2;
    let model = || {
        (0..LAYERS).fold(Model::llama(LAYERS), |model, layer| {
            let at = |rest: &str| format!("model.layers.{layer}.mlp.{rest}.weight");
            let expert =
                |model: Model, e: usize| model.with(&at(&format!("experts.{e}.down_proj")), Dtype::F32, &[4, 8]);
            (0..3).fold(model.with(&at("gate"), Dtype::F32, &[3, 4]), expert)
        })
    };
    let zoo = Zoo::new([("a", model()), ("b", model()), ("c", model())]);
    // Experts of b are those of a under the next number, those of c under the one after.
    for (shift, name) in ["a", "b", "c"].into_iter().enumerate() {
        for layer in 0..LAYERS {
            for expert in 0..3 {
                let values: Vec<f32> =
                    (0..32).map(|i| ((expert * 37 + layer * 11 + i * i) % 19) as f32 - 9.0).collect();
                let tensor = format!("model.layers.{layer}.mlp.experts.{}.down_proj.weight", (expert + shift) % 3);
                zoo.set(name, &tensor, 0, &values);
            }
        }
    }
    let candidate = |weight: f32| {
        format!(
            "merge_method: linear\nmodels: [{{model: a}}, {{model: b, parameters: {{weight: {weight}}}}}, {{model: c}}]\n\
             parameters: {{weight: 1}}\nalign_experts: true\n"
        )
    };
    let options = zoo.options();
    let merged = |text: &str, options: &PlanOptions| {
        let recipe = Recipe::parse(text, "recipe.yml", &Registry::builtin()).unwrap().remove(0);
        let results = Results::default();
        merge_into(&plan(&recipe, options).unwrap(), &results, &RunOptions::default(), &NoProgress).unwrap();
        results.0.into_inner()
    };
    assert_eq!(options.opened.expert_matches_computed(), 0);
    let weights = [0.5, 1.0, 2.0, 3.0];
    let shared: Vec<_> = weights.par_iter().map(|&weight| merged(&candidate(weight), &options)).collect();
    // Each layer of each model, of which the first is the reference.
    assert_eq!(options.opened.expert_matches_computed(), LAYERS * 3);
    for (weight, shared) in weights.into_iter().zip(&shared) {
        assert!(merged(&candidate(weight), &zoo.options()) == *shared, "as without the others: {weight}");
    }
    assert!(shared[0] != shared[1]);
    // Another reference, or another way to read, is another match.
    let swapped = candidate(1.0).replace("model: a}", "model: ?}").replace("model: b,", "model: a,").replace('?', "b");
    merged(&swapped, &options);
    assert_eq!(options.opened.expert_matches_computed(), LAYERS * 6);
    merged(&format!("{}on_nonfinite: zero\n", candidate(1.0)), &options);
    assert_eq!(options.opened.expert_matches_computed(), LAYERS * 9);
}
