//! How a run ends: results that cannot be stored, cancellation, and what the destination is handed.

use crate::common::{Model, Zoo};
use crate::device::Device;
use glue_merge::{BoxError, Driver};
use glue_progress::{ErrorChain, NoProgress, Progress};
use glue_recipe::engine::{Destination, EngineError};
use glue_recipe::run::merge_into;
use glue_recipe::{RunError, RunOptions, run};
use glue_tensor::Dtype;
use parking_lot::Mutex;
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
