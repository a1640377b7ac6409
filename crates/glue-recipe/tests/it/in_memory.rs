//! Tensors that lie in memory, merged by the engine as those of files are.

use crate::device::Device;
use glue_merge::device::{Executor, HostExecutor};
use glue_merge::{BoxError, Driver, Operator, Registry, TensorSpec};
use glue_progress::{ErrorChain, NoProgress};
use glue_recipe::engine::{Destination, EngineError, EngineOptions, OperandView, TensorJob, merge_all};
use glue_recipe::recipe::OnNonfinite;
use glue_tensor::{Dtype, TensorInfo, TensorView};
use std::sync::Mutex;

/// The bytes of one result.
struct Memory(Mutex<Vec<u8>>);

impl Destination for Memory {
    fn write(&self, _: usize, offset: u64, bytes: &[u8]) -> Result<(), BoxError> {
        let start = offset as usize;
        self.0.lock().unwrap()[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()
}

/// The mean of `models`, which hold a tensor `w` each.
fn mean(models: &[&[f32]], executor: &dyn Executor) -> Result<Vec<f32>, EngineError> {
    let len = models[0].len();
    let info = TensorInfo::in_memory("w", Dtype::F32, vec![len]);
    let bytes: Vec<Vec<u8>> = models.iter().map(|x| x.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let operator = Operator::new(Registry::builtin().get("linear").unwrap());
    let params = operator.params(models.len()).set("weight", 1.0).check().unwrap();
    let operand = |bytes| {
        let view = TensorView::in_memory(&info, bytes);
        OperandView { view, low_rank: None, model: "a model in memory", order: None }
    };
    let job = TensorJob {
        spec: TensorSpec::new("w", &info.shape).with_operands(false, models.len()),
        dtype: Dtype::F32,
        operator: &operator,
        params: &params,
        base: None,
        inputs: bytes.iter().map(|bytes| operand(bytes)).collect(),
        own_bases: Vec::new(),
        statistics: Vec::new(),
    };
    let result = Memory(Mutex::new(vec![0; 4 * len]));
    let options = EngineOptions { executor, on_nonfinite: OnNonfinite::Error, block: Driver::BLOCK };
    merge_all(&[job], &result, &options, &NoProgress)?;
    Ok(floats(&result.0.into_inner().unwrap()))
}

#[test]
fn tensors_in_memory_are_merged() {
    // Several spans.
    let models: Vec<Vec<f32>> = (0..2).map(|i| (0..600_000).map(|j| (2 * i * j % 1000) as f32).collect()).collect();
    let expected: Vec<f32> = models[0].iter().zip(&models[1]).map(|(a, b)| (a + b) / 2.0).collect();
    let device = Device::default();
    for executor in [&HostExecutor as &dyn Executor, &device] {
        assert!(mean(&[&models[0], &models[1]], executor).unwrap() == expected);
    }
}

#[test]
fn an_error_names_the_tensor_and_what_it_is_in() {
    let error = mean(&[&[1.0, 2.0], &[1.0, f32::NAN]], &HostExecutor).unwrap_err().chain();
    assert!(error.contains("tensor w of a model in memory holds NaN at index 1"), "{error}");
}
