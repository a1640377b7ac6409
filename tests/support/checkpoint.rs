//! Safetensors files: written by hand, read independently of the crates under test.

use crate::number::{BF16, SMALL};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A checkpoint in memory.
pub type Tensors = BTreeMap<String, Tensor>;

/// A tensor in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// Element type, as headers call it.
    pub dtype: String,
    /// Extents.
    pub shape: Vec<usize>,
    /// Elements, little endian.
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor of `F32`.
    pub fn f32(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
        let data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        Tensor { dtype: "F32".into(), shape: shape.into(), data }.checked(4)
    }

    /// A tensor of `BF16`, from the upper halves of `values`.
    pub fn bf16(shape: &[usize], values: impl IntoIterator<Item = f32>) -> Tensor {
        let data = values.into_iter().flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect();
        Tensor { dtype: BF16.name.into(), shape: shape.into(), data }.checked(2)
    }

    /// A tensor of `I64`.
    pub fn i64(shape: &[usize], values: impl IntoIterator<Item = i64>) -> Tensor {
        let data = values.into_iter().flat_map(i64::to_le_bytes).collect();
        Tensor { dtype: "I64".into(), shape: shape.into(), data }.checked(8)
    }

    fn checked(self, size: usize) -> Tensor {
        assert_eq!(self.shape.iter().product::<usize>() * size, self.data.len(), "elements fill the shape");
        self
    }

    /// The elements as numbers.
    ///
    /// # Panics
    /// On a type that no test needs.
    pub fn values(&self) -> Vec<f64> {
        if self.dtype == "F32" {
            return self.data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect();
        }
        if self.dtype == "I32" {
            return self.data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect();
        }
        if self.dtype == "I64" {
            return self.data.as_chunks().0.iter().map(|bytes| i64::from_le_bytes(*bytes) as f64).collect();
        }
        let small = SMALL.into_iter().find(|small| small.name == self.dtype);
        let small = small.unwrap_or_else(|| panic!("{} is not read here", self.dtype));
        match small.size {
            1 => self.data.iter().map(|byte| small.decode((*byte).into())).collect(),
            _ => self.data.as_chunks().0.iter().map(|bytes| small.decode(u16::from_le_bytes(*bytes))).collect(),
        }
    }
}

/// The file of `tensors`, in the order of their names.
pub fn encode(tensors: &Tensors) -> Vec<u8> {
    let mut end = 0;
    let entry = |(name, tensor): (&String, &Tensor)| {
        let begin = end;
        end += tensor.data.len();
        let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end] });
        (name.clone(), entry)
    };
    let header: Map<String, Value> = tensors.iter().map(entry).collect();
    let mut file = with_length(Value::Object(header).to_string().as_bytes());
    tensors.values().for_each(|tensor| file.extend(&tensor.data));
    file
}

/// `header` with its length before it.
pub fn with_length(header: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header);
    file
}

/// Writes `tensors` to `directory` as `shards` files and, if there are several, their index.
pub fn write(directory: &Path, tensors: &Tensors, shards: usize) {
    if shards == 1 {
        fs::write(directory.join("model.safetensors"), encode(tensors)).expect("a temporary file");
        return;
    }
    let mut weight_map = Map::new();
    for shard in 0..shards {
        let name = format!("model-{:05}-of-{shards:05}.safetensors", shard + 1);
        let part = tensors.iter().enumerate().filter(|(i, _)| i % shards == shard);
        let part: Tensors = part.map(|(_, (name, tensor))| (name.clone(), tensor.clone())).collect();
        weight_map.extend(part.keys().map(|tensor| (tensor.clone(), name.as_str().into())));
        fs::write(directory.join(name), encode(&part)).expect("a temporary file");
    }
    let index = json!({ "metadata": {}, "weight_map": weight_map });
    fs::write(directory.join("model.safetensors.index.json"), index.to_string()).expect("a temporary file");
}

/// Every tensor of the file, or of the model's directory, at `path`.
///
/// # Panics
/// On what is not a checkpoint, or one whose ranges leave its file.
pub fn read(path: &Path) -> Tensors {
    let index = path.join("model.safetensors.index.json");
    if path.is_file() {
        return read_file(path);
    } else if !index.exists() {
        return read_file(&path.join("model.safetensors"));
    }
    let index = json_file(&index);
    let map = index["weight_map"].as_object().expect("an index maps tensors to files");
    let mut tensors = Tensors::new();
    let files: BTreeMap<&str, ()> = map.values().map(|file| (file.as_str().expect("a file name"), ())).collect();
    for file in files.keys() {
        for (name, tensor) in read_file(&path.join(file)) {
            assert_eq!(map[&name], **file, "the index says where {name} is");
            tensors.insert(name, tensor);
        }
    }
    assert_eq!(tensors.len(), map.len(), "every tensor of the index is there");
    tensors
}

fn read_file(path: &Path) -> Tensors {
    let file = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (length, rest) = file.split_first_chunk().expect("a header length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: Map<String, Value> = serde_json::from_slice(header).expect("a header");
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, entry)| {
        let numbers = |key: &str| -> Vec<usize> {
            let list = entry[key].as_array().expect("a list");
            list.iter().map(|n| n.as_u64().expect("a number") as usize).collect()
        };
        let range = numbers("data_offsets");
        let dtype = entry["dtype"].as_str().expect("a type").into();
        (name, Tensor { dtype, shape: numbers("shape"), data: data[range[0]..range[1]].into() })
    });
    tensors.collect()
}

/// The JSON document in the file at `path`.
///
/// # Panics
/// When there is none.
pub fn json_file(path: &Path) -> Value {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
