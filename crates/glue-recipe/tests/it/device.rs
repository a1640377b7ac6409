//! An executor that takes operands as they are stored, and gives results as they are to be stored, as a device does.

use glue_merge::device::{Executor, Float};
use glue_merge::{BoxError, Done, Driver, MergeError, Operand, Plan, Registry, Sink, Source, TensorSpec, VecSink};
use glue_progress::NoProgress;
use glue_recipe::{PlanOptions, Recipe, RunOptions, plan, run};
use glue_tensor::{Dtype, narrow, widen};
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

fn dtype(float: Float) -> Dtype {
    match float {
        Float::F32 => Dtype::F32,
        Float::F16 => Dtype::F16,
        Float::Bf16 => Dtype::Bf16,
    }
}

/// The elements as the bytes of the operands say.
struct FromBytes<'a>(&'a dyn Source);

impl Source for FromBytes<'_> {
    fn read<'a>(&'a self, operand: Operand, range: Range<usize>, buffer: &'a mut [f32]) -> Result<&'a [f32], BoxError> {
        let stored = self.0.stored(operand).ok_or("an operand is not there as it is stored")?;
        let size = stored.float.size();
        widen(dtype(stored.float), &stored.bytes[range.start * size..range.end * size], buffer)?;
        Ok(buffer)
    }
}

/// Merges whole tensors and hands them on in pieces, counted.
#[derive(Default)]
pub(crate) struct Device(AtomicUsize);

impl Executor for Device {
    fn advance(
        &self,
        plan: Plan,
        tensor: &TensorSpec<'_>,
        source: &dyn Source,
        sink: &dyn Sink,
    ) -> Result<Option<Plan>, MergeError> {
        let memory = VecSink::new(tensor.len());
        if let Done::Copy(operand) = Driver::default().run(plan, tensor, &FromBytes(source), &memory)? {
            return Ok(Some(Plan::Copy(operand)));
        }
        let float = sink.float();
        for (i, values) in memory.into_vec().chunks(1000).enumerate() {
            let mut bytes = vec![0; values.len() * float.size()];
            narrow(dtype(float), values, &mut bytes).map_err(|error| MergeError::Io(error.into()))?;
            sink.write_stored(i * 1000, &bytes).map_err(MergeError::Io)?;
        }
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }
}

#[test]
fn what_a_device_merges_is_what_the_processor_merges() {
    let golden = crate::common::golden();
    let scratch = tempfile::tempdir().unwrap();
    for case in ["ties", "slerp", "task_arithmetic"] {
        let file = std::fs::read_dir(golden.join("cases")).unwrap().map(|entry| entry.unwrap().path());
        let case = file.into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with(case)).unwrap();
        let text = std::fs::read_to_string(case.join("config.yml")).unwrap();
        let recipe = Recipe::parse(&text, "config.yml", &Registry::builtin()).unwrap().remove(0);
        // F64 has no name for executors: they give f32 then, which is widened.
        for dtype in [Dtype::F32, Dtype::F16, Dtype::Bf16, Dtype::F64] {
            let mut options = PlanOptions::default();
            (options.directory, options.dtype) = (golden.clone(), Some(dtype));
            let plan = plan(&recipe, &options).unwrap();
            let device = Device::default();
            let weights = |name: &str, options: &RunOptions<'_>| {
                let out = scratch.path().join(format!("{}-{dtype:?}-{name}", case.file_name().unwrap().display()));
                run(&plan, &out, options, &NoProgress).unwrap();
                std::fs::read(out.join("model.safetensors")).unwrap()
            };
            let expected = weights("host", &RunOptions::default());
            let found = weights("device", &RunOptions { executor: &device, ..RunOptions::default() });
            assert!(found == expected, "{} as {dtype:?}", case.display());
            assert!(device.0.into_inner() > 5, "the device merged");
        }
    }
}
