//! Small checkpoints on disk, and recipes about them.

#![allow(missing_docs, unreachable_pub)]

use glue_merge::Registry;
use glue_progress::ErrorChain;
use glue_recipe::{MergePlan, PlanOptions, Recipe, RecipeError, plan};
use glue_tensor::{Checkpoint, CheckpointWriter, Dtype, Layout, Staging, TensorSpec, narrow};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The golden cases of the workspace.
pub fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/golden")
}

/// A folder of models.
pub struct Zoo {
    pub dir: TempDir,
}

/// A model of a Zoo before it is written.
pub struct Model {
    pub config: Value,
    pub tensors: Vec<(String, Dtype, Vec<usize>)>,
    pub files: Vec<(&'static str, String)>,
}

impl Model {
    /// A Llama of this many layers, with a vocabulary of 10, a width of 4 and a head of its own.
    pub fn llama(layers: usize) -> Model {
        let mut tensors = vec![
            ("lm_head.weight".to_string(), Dtype::F32, vec![10, 4]),
            ("model.embed_tokens.weight".to_string(), Dtype::F32, vec![10, 4]),
            ("model.norm.weight".to_string(), Dtype::F32, vec![4]),
        ];
        for layer in 0..layers {
            for (suffix, shape) in
                [("input_layernorm", vec![4]), ("mlp.down_proj", vec![4, 8]), ("self_attn.q_proj", vec![4, 4])]
            {
                tensors.push((format!("model.layers.{layer}.{suffix}.weight"), Dtype::F32, shape));
            }
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 10, "hidden_size": 4,
            "num_hidden_layers": layers, "tie_word_embeddings": false, "dtype": "float32",
        });
        Model { config, tensors, files: Vec::new() }
    }

    /// The same with the head tied to the embedding.
    pub fn tied(self) -> Model {
        self.without("lm_head.weight").with_config("tie_word_embeddings", json!(true))
    }

    pub fn without(mut self, tensor: &str) -> Model {
        self.tensors.retain(|(name, _, _)| name != tensor);
        self
    }

    pub fn with(mut self, tensor: &str, dtype: Dtype, shape: &[usize]) -> Model {
        self = self.without(tensor);
        self.tensors.push((tensor.into(), dtype, shape.to_vec()));
        self
    }

    pub fn with_config(mut self, key: &str, value: Value) -> Model {
        self.config[key] = value;
        self
    }

    pub fn with_file(mut self, name: &'static str, content: &str) -> Model {
        self.files.push((name, content.into()));
        self
    }

    /// With a tokenizer of these tokens.
    pub fn with_tokens(self, tokens: &[&str]) -> Model {
        let vocabulary: serde_json::Map<String, Value> =
            tokens.iter().zip(0..).map(|(token, id)| (token.to_string(), json!(id))).collect();
        let tokenizer = json!({ "model": { "type": "BPE", "vocab": vocabulary, "merges": [] }, "added_tokens": [] });
        self.with_file("tokenizer.json", &tokenizer.to_string())
    }
}

impl Zoo {
    pub fn new<const N: usize>(models: [(&str, Model); N]) -> Zoo {
        let zoo = Zoo { dir: TempDir::new().unwrap() };
        for (name, model) in models {
            zoo.add(name, model);
        }
        zoo
    }

    pub fn add(&self, name: &str, model: Model) {
        let staging = Staging::create(self.dir.path().join(name)).unwrap();
        let specs: Vec<TensorSpec> = model
            .tensors
            .iter()
            .map(|(name, dtype, shape)| TensorSpec { name: name.clone(), dtype: *dtype, shape: shape.clone() })
            .collect();
        let layout = Layout::new(specs, u64::MAX, "model").unwrap();
        let sizes: Vec<usize> =
            model.tensors.iter().map(|(_, dtype, shape)| shape.iter().product::<usize>() * dtype.size()).collect();
        let writer = create(&staging, layout);
        for (tensor, size) in sizes.into_iter().enumerate() {
            writer.write_at(tensor, 0, &vec![0; size]).unwrap();
        }
        writer.finish().unwrap();
        staging.write_file("config.json", model.config.to_string().as_bytes()).unwrap();
        for (name, content) in &model.files {
            staging.write_file(name, content.as_bytes()).unwrap();
        }
        staging.commit().unwrap();
    }

    /// Changes the elements of an F32 or BF16 tensor from `start` on.
    pub fn set(&self, model: &str, tensor: &str, start: usize, values: &[f32]) {
        let path = self.dir.path().join(model).join("model.safetensors");
        let (at, dtype) = {
            let checkpoint = Checkpoint::open(&path).unwrap();
            let info = checkpoint.info(tensor).unwrap();
            (info.range.start + start * info.dtype.size(), info.dtype)
        };
        let mut bytes = vec![0; values.len() * dtype.size()];
        narrow(dtype, values, &mut bytes).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&bytes, at as u64).unwrap();
    }

    /// The plan of the only recipe in `text`.
    pub fn plan(&self, text: &str) -> Result<MergePlan, RecipeError> {
        let recipe = Recipe::parse(text, "recipe.yml", &Registry::builtin())?.remove(0);
        plan(&recipe, &self.options())
    }

    pub fn options(&self) -> PlanOptions {
        let mut options = PlanOptions::default();
        options.directory = self.dir.path().into();
        options
    }

    /// Checks that planning `text` fails with `expected`, where the folder of models is written `ZOO`.
    #[track_caller]
    pub fn refuses(&self, text: &str, expected: &str) -> RecipeError {
        let error = self.plan(text).map(|plan| plan.tensors.len()).expect_err("a refusal");
        let found = error.chain().replace(&*self.dir.path().to_string_lossy(), "ZOO");
        assert_eq!(found, expected, "for:\n{text}");
        error
    }
}

fn create(staging: &Staging, layout: Layout) -> CheckpointWriter {
    CheckpointWriter::create(staging, layout, &Default::default()).unwrap()
}
