//! Small checkpoints on disk, and descriptions of mixtures of them.

#![allow(missing_docs, unreachable_pub)]

use glue_mixture::{MixConfig, MixError, MixPlan, RunOptions, Unwatched, run};
use glue_tensor::{CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const WIDTH: usize = 4;
pub const LAYERS: usize = 3;

/// A model before it is written.
#[derive(Clone)]
pub struct Tiny {
    pub config: Value,
    pub tensors: Vec<(String, Dtype, Vec<usize>)>,
    pub vocabulary: Option<Vec<&'static str>>,
    /// Makes the values differ from model to model.
    pub start: f32,
}

/// A Llama of three layers of width 4, with a tokenizer.
pub fn llama(start: f32) -> Tiny {
    let mut tensors = vec![
        ("lm_head.weight".to_string(), Dtype::F32, vec![6, WIDTH]),
        ("model.embed_tokens.weight".to_string(), Dtype::F32, vec![6, WIDTH]),
        ("model.norm.weight".to_string(), Dtype::F32, vec![WIDTH]),
    ];
    for layer in 0..LAYERS {
        let shapes: [(&str, Vec<usize>); 9] = [
            ("input_layernorm", vec![WIDTH]),
            ("post_attention_layernorm", vec![WIDTH]),
            ("self_attn.q_proj", vec![WIDTH, WIDTH]),
            ("self_attn.k_proj", vec![2, WIDTH]),
            ("self_attn.v_proj", vec![2, WIDTH]),
            ("self_attn.o_proj", vec![WIDTH, WIDTH]),
            ("mlp.gate_proj", vec![8, WIDTH]),
            ("mlp.up_proj", vec![8, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, 8]),
        ];
        for (part, shape) in shapes {
            tensors.push((format!("model.layers.{layer}.{part}.weight"), Dtype::F32, shape));
        }
    }
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 6, "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "torch_dtype": "float32",
    });
    Tiny { config, tensors, vocabulary: Some(vec!["a", "b", "c", "d", "e", "f"]), start }
}

impl Tiny {
    pub fn with_config(mut self, key: &str, value: Value) -> Tiny {
        self.config[key] = value;
        self
    }

    pub fn with(mut self, name: &str, dtype: Dtype, shape: &[usize]) -> Tiny {
        self = self.without(name);
        self.tensors.push((name.into(), dtype, shape.to_vec()));
        self
    }

    pub fn without(mut self, name: &str) -> Tiny {
        self.tensors.retain(|(other, _, _)| other != name);
        self
    }

    pub fn with_dtype(mut self, dtype: Dtype) -> Tiny {
        self.tensors.iter_mut().for_each(|tensor| tensor.1 = dtype);
        self.with_config("torch_dtype", dtype.torch_name().into())
    }

    pub fn with_vocabulary(mut self, vocabulary: Option<Vec<&'static str>>) -> Tiny {
        self.vocabulary = vocabulary;
        self
    }
}

/// Models in a folder.
pub struct Zoo {
    pub dir: TempDir,
}

impl Zoo {
    pub fn new() -> Zoo {
        Zoo { dir: tempfile::tempdir().unwrap() }
    }

    /// A base and three experts, all alike but for their values.
    pub fn usual() -> Zoo {
        let zoo = Zoo::new();
        for (name, start) in [("base", 0.0), ("x", 1.0), ("y", 2.0), ("z", 3.0)] {
            zoo.add(name, &llama(start));
        }
        zoo
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn add(&self, name: &str, tiny: &Tiny) {
        let specs: Vec<TensorSpec> = tiny
            .tensors
            .iter()
            .map(|(name, dtype, shape)| TensorSpec { name: name.clone(), dtype: *dtype, shape: shape.clone() })
            .collect();
        let staging = Staging::create(self.path(name)).unwrap();
        let layout = Layout::new(specs.clone(), u64::MAX, "model").unwrap();
        let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
        for (i, spec) in specs.iter().enumerate() {
            let n: usize = spec.shape.iter().product();
            // Multiples of 1/64 below 8: exact in every type used here.
            let values: Vec<f32> = (0..n).map(|j| tiny.start + ((7 * i + j) % 64) as f32 / 64.0).collect();
            let mut bytes = vec![0; n * spec.dtype.size()];
            if spec.dtype.is_float() {
                narrow(spec.dtype, &values, &mut bytes).unwrap();
            }
            writer.write_at(i, 0, &bytes).unwrap();
        }
        writer.finish().unwrap();
        staging.write_file("config.json", tiny.config.to_string().as_bytes()).unwrap();
        if let Some(tokens) = &tiny.vocabulary {
            let vocab: serde_json::Map<_, _> =
                tokens.iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id))).collect();
            let tokenizer = json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] }, "added_tokens": [] });
            staging.write_file("tokenizer.json", tokenizer.to_string().as_bytes()).unwrap();
        }
        staging.commit().unwrap();
    }

    /// A description with these lines, base `base` and experts as given; models are named by `@NAME`.
    pub fn text(&self, lines: &str, experts: &[&str]) -> String {
        let experts: String = experts.iter().map(|name| format!("- source_model: '@{name}'\n")).collect();
        let text = format!("base_model: '@base'\ngate_mode: random\n{lines}\nexperts:\n{experts}");
        self.resolve(&text)
    }

    pub fn resolve(&self, text: &str) -> String {
        text.replace('@', &format!("{}/", self.dir.path().display()))
    }

    pub fn plan(&self, text: &str) -> Result<MixPlan, MixError> {
        MixPlan::new(&MixConfig::parse(&self.resolve(text), "mix.yml")?)
    }

    /// Writes the mixture with random gates.
    pub fn mix(&self, text: &str, out: &str) -> PathBuf {
        let plan = self.plan(text).unwrap();
        let out = self.path(out);
        run(&plan, &plan.random_gates(), &out, &RunOptions::default(), &Unwatched).unwrap();
        out
    }
}

pub fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The content of a directory, names with bytes, those inside included.
pub fn files_of(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(files_of(&entry.path()).into_iter().map(|(inner, bytes)| (format!("{name}/{inner}"), bytes)));
        } else {
            files.insert(name, std::fs::read(entry.path()).unwrap());
        }
    }
    files
}
