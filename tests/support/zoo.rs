//! A temporary directory with small models.

use crate::checkpoint::{self, Tensor, Tensors};
use crate::number::Numbers;
use crate::run::{self, Run};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Names and shapes of the tensors of the small models: two layers, 12 tokens, 4 wide.
const SHAPES: &[(&str, &[usize])] = &[
    ("lm_head.weight", &[12, 4]),
    ("model.embed_tokens.weight", &[12, 4]),
    ("model.layers.0.input_layernorm.weight", &[4]),
    ("model.layers.0.mlp.up_proj.weight", &[8, 4]),
    ("model.layers.0.self_attn.q_proj.weight", &[4, 4]),
    ("model.layers.1.input_layernorm.weight", &[4]),
    ("model.layers.1.mlp.up_proj.weight", &[8, 4]),
    ("model.layers.1.self_attn.q_proj.weight", &[4, 4]),
    ("model.norm.weight", &[4]),
];

/// A tensor of the small models that tests spoil.
pub const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

/// The tensors of a small model.
pub fn tensors(seed: u64) -> Tensors {
    let mut numbers = Numbers::new(seed);
    let tensor = |(name, shape): &(&str, &[usize])| {
        let n: usize = shape.iter().product();
        (name.to_string(), Tensor::f32(shape, (0..n).map(|_| numbers.around_zero(1.0))))
    };
    SHAPES.iter().map(tensor).collect()
}

/// The configuration of the small models.
pub fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 4,
        "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 12, "tie_word_embeddings": false,
        "dtype": "float32",
    })
}

/// A tokenizer with `tokens` tokens.
pub fn tokenizer(tokens: usize) -> Value {
    let vocab: serde_json::Map<String, Value> = (0..tokens).map(|id| (format!("t{id}"), id.into())).collect();
    json!({ "version": "1.0", "added_tokens": [], "model": { "type": "BPE", "vocab": vocab, "merges": [] } })
}

/// The trained models, tasks and reference scores that come with the project; the README there explains them.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data/zoo")
}

/// A temporary directory in which `glue` is run.
#[derive(Debug)]
pub struct Zoo {
    directory: TempDir,
}

impl Zoo {
    /// An empty one.
    pub fn empty() -> Zoo {
        Zoo { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// One with models that take some time to merge: `base` and two fine-tunes of it, `a` and `b`, of `layers` tensors of 4 MiB.
    pub fn slow(layers: usize) -> Zoo {
        const SIDE: usize = 1 << 10;
        let zoo = Zoo::empty();
        for (name, seed) in [("base", 0), ("a", 1), ("b", 2)] {
            let mut numbers = Numbers::new(seed);
            let tensor = |layer| {
                let values: Vec<f32> = (0..SIDE * SIDE).map(|_| numbers.around_zero(1.0)).collect();
                (format!("model.layers.{layer}.mlp.up_proj.weight"), Tensor::f32(&[SIDE, SIDE], values))
            };
            zoo.add(name, &(0..layers).map(tensor).collect());
            zoo.set(name, "num_hidden_layers", layers.into());
        }
        zoo
    }

    /// One with the small models `base`, `a` and `b`.
    pub fn small() -> Zoo {
        let zoo = Zoo::empty();
        for (name, seed) in [("base", 1), ("a", 2), ("b", 3)] {
            zoo.add(name, &tensors(seed));
        }
        zoo
    }

    /// The path of `name`.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The path of the file or directory of this name, as text for a command line.
    pub fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Writes a model: `tensors` with the configuration, tokenizer and generation defaults of the small models.
    pub fn add(&self, name: &str, tensors: &Tensors) {
        self.add_sharded(name, tensors, 1);
    }

    /// The same in `shards` files.
    pub fn add_sharded(&self, name: &str, tensors: &Tensors, shards: usize) {
        fs::create_dir_all(self.path(name)).expect("a temporary directory");
        checkpoint::write(&self.path(name), tensors, shards);
        self.write(&format!("{name}/config.json"), config().to_string());
        self.write(&format!("{name}/generation_config.json"), r#"{"max_length": 64}"#);
        self.write(&format!("{name}/tokenizer.json"), tokenizer(12).to_string());
        let template = json!({ "chat_template": format!("{{{{ messages }}}} of {name}") });
        self.write(&format!("{name}/tokenizer_config.json"), template.to_string());
    }

    /// Writes a LoRA adapter: `tensors`, with `config` over a configuration that says no more than `peft_type`. Names of
    /// tensors stand without what PEFT puts before all of them.
    pub fn add_adapter(&self, name: &str, config: Value, tensors: impl IntoIterator<Item = (String, Tensor)>) {
        let mut all = json!({ "peft_type": "LORA", "base_model_name_or_path": "base" });
        for (key, value) in config.as_object().into_iter().flatten() {
            all[key] = value.clone();
        }
        self.write(&format!("{name}/adapter_config.json"), all.to_string());
        let prefixed = |(name, tensor)| (format!("base_model.model.{name}"), tensor);
        let tensors: Tensors = tensors.into_iter().map(prefixed).collect();
        self.write(&format!("{name}/adapter_model.safetensors"), checkpoint::encode(&tensors));
    }

    /// Changes the tensors of the model `name`.
    pub fn edit(&self, name: &str, edit: impl FnOnce(&mut Tensors)) {
        let mut tensors = self.read(name);
        edit(&mut tensors);
        checkpoint::write(&self.path(name), &tensors, 1);
    }

    /// Changes the configuration of the model `name`.
    pub fn set(&self, name: &str, key: &str, value: Value) {
        let file = format!("{name}/config.json");
        let mut config = self.json(&file);
        config[key] = value;
        self.write(&file, config.to_string());
    }

    /// Writes a file, and makes the directories that `name` leads through.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap_or(&path)).expect("a temporary directory");
        fs::write(path, content).expect("a temporary file");
    }

    /// Copies a directory with all that is below it to `name`.
    pub fn copy(&self, from: &Path, name: &str) {
        for entry in fs::read_dir(from).unwrap_or_else(|error| panic!("{}: {error}", from.display())) {
            let path = entry.expect("a directory entry").path();
            let name = format!("{name}/{}", path.file_name().unwrap_or_default().display());
            if path.is_dir() {
                self.copy(&path, &name);
            } else {
                self.write(&name, fs::read(&path).expect("a readable file"));
            }
        }
    }

    /// The bytes of a file.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// The JSON document in a file.
    pub fn json(&self, name: &str) -> Value {
        checkpoint::json_file(&self.path(name))
    }

    /// The tensors of a model.
    pub fn read(&self, name: &str) -> Tensors {
        checkpoint::read(&self.path(name))
    }

    /// A command that starts `glue` in this directory.
    pub fn command(&self, args: &[&str]) -> Command {
        run::command(self.directory.path(), args)
    }

    /// Runs `glue` in this directory.
    pub fn glue(&self, args: &[&str]) -> Run {
        Run::of(&mut self.command(args))
    }

    /// Merges as `config` says into `out`, with further arguments. The config is a file named after `out`.
    pub fn merge(&self, config: &str, out: &str, args: &[&str]) -> Run {
        let file = format!("{out}.yml");
        self.write(&file, config);
        self.glue(&[&["merge", file.as_str(), out], args].concat())
    }

    /// Path and content of everything below `name`, hidden files too; directories end in a slash and have no content.
    pub fn listing(&self, name: &str) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        let mut open = vec![self.path(name)];
        while let Some(directory) = open.pop() {
            for entry in fs::read_dir(&directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display())) {
                let path = entry.expect("a directory entry").path();
                let local = path.strip_prefix(self.path(name)).unwrap_or(&path).display().to_string();
                if path.is_dir() {
                    found.push((format!("{local}/"), Vec::new()));
                    open.push(path);
                } else {
                    found.push((local, fs::read(&path).expect("a readable file")));
                }
            }
        }
        found.sort();
        found
    }

    /// The names in that listing.
    pub fn names(&self, name: &str) -> Vec<String> {
        self.listing(name).into_iter().map(|(name, _)| name).collect()
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}
