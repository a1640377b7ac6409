//! Models to test with, and changed copies of them.

#![allow(unreachable_pub)] // each test file uses a part, and no other crate any of it

use glue_tensor::{CheckpointWriter, Dtype, Layout, ModelDir, Staging, TensorInfo, TensorSpec, narrow, random, widen};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One model of every architecture whose structure is known.
pub const ARCHS: [&str; 11] = [
    "gemma2",
    "llama-bias",
    "llama-linear-rope",
    "llama2",
    "llama3-scaled-tied",
    "mistral-window",
    "mixtral",
    "olmo2",
    "phi3",
    "qwen2",
    "qwen3",
];

/// The model directory `name` (such as `zoo/base-a`) of the test data.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

pub fn open(name: &str) -> ModelDir {
    ModelDir::open(data(name)).unwrap()
}

/// A tensor to be written.
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl Tensor {
    pub fn floats(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.bytes.len() / self.dtype.size()];
        widen(self.dtype, &self.bytes, &mut values).unwrap();
        values
    }

    pub fn set_floats(&mut self, values: &[f32]) {
        self.bytes.resize(values.len() * self.dtype.size(), 0);
        narrow(self.dtype, values, &mut self.bytes).unwrap();
    }
}

/// Every tensor of a model.
pub fn tensors(model: &ModelDir) -> Vec<Tensor> {
    let tensor = |info: &TensorInfo| Tensor {
        name: info.name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
        bytes: model.checkpoint().get(&info.name).unwrap().data().to_vec(),
    };
    model.checkpoint().tensors().iter().map(tensor).collect()
}

/// Writes `tensors` with the configuration of `like`, some of its keys replaced, and opens that.
pub fn write(tensors: &[Tensor], like: &ModelDir, keys: &[(&str, serde_json::Value)], out_dir: &Path) -> ModelDir {
    let spec =
        |tensor: &Tensor| TensorSpec { name: tensor.name.clone(), dtype: tensor.dtype, shape: tensor.shape.clone() };
    let layout = Layout::new(tensors.iter().map(spec).collect(), u64::MAX, "model").unwrap();
    let staging = Staging::create(out_dir).unwrap();
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
    for (i, tensor) in tensors.iter().enumerate() {
        writer.write_at(i, 0, &tensor.bytes).unwrap();
    }
    let mut config = like.config().clone();
    for (key, value) in keys {
        config.set(key, value.clone()).unwrap();
    }
    staging.write_file("config.json", &config.to_bytes()).unwrap();
    writer.finish().unwrap();
    staging.commit().unwrap();
    ModelDir::open(out_dir).unwrap()
}

/// Noise of standard deviation near 1, a function of seed and index.
pub fn noise(seed: u64, index: u64) -> f32 {
    // Twelve uniform numbers less their mean: near normal, variance 1.
    let uniform = |k: u64| (random::at(seed, index * 12 + k) >> 40) as f32 / (1u32 << 24) as f32;
    (0..12).map(uniform).sum::<f32>() - 6.0
}

/// Asserts that two models hold the same bytes under the same names.
pub fn assert_same(a: &ModelDir, b: &ModelDir, what: &str) {
    let (a, b) = (tensors(a), tensors(b));
    assert_eq!(a.len(), b.len(), "{what}");
    for (a, b) in a.iter().zip(&b) {
        assert_eq!((&a.name, a.dtype, &a.shape), (&b.name, b.dtype, &b.shape), "{what}");
        assert!(a.bytes == b.bytes, "{what}: {}", a.name);
    }
}
