//! Checkpoints to measure with: a base and fine-tunes in the shapes of a Llama, in bfloat16.
//!
//! The base is Gaussian with σ = 0.02, a fine-tune is the base plus a Gaussian with σ = 0.002, each rounded to
//! bfloat16: that gives task vectors with the equal magnitudes and the exact zeros that real ones have, and which
//! decide how long selection by magnitude takes. Every element is a function of its place in the file, so that the
//! files are the same whichever number of threads writes them.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::thread;

use anyhow::{Context, Result, anyhow};
use half::bf16;
use serde_json::{Map, Value, json};

use super::gaussian::Gaussian;

/// The names of so many checkpoints, the base first.
pub(super) fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| if number == 0 { "base".to_owned() } else { format!("model-{number}") }).collect()
}

/// The one file with weights of each checkpoint.
pub(super) const WEIGHTS: &str = "model.safetensors";

const SIGMA_BASE: f32 = 0.02;
const SIGMA_DELTA: f32 = 0.002;
/// The elements that one stream of random numbers is for.
const CHUNK: usize = 1 << 18;
const VOCABULARY: usize = 32_000;
const HEAD: usize = 64;

/// The sizes of a Llama.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Shape {
    hidden: usize,
    intermediate: usize,
    /// Width of keys and of values.
    key_value: usize,
    layers: usize,
    vocabulary: usize,
    /// Whether the head is the embedding.
    tied: bool,
}

/// Two layers of Llama-2-7B and its embeddings: tensors of 17 to 131 million elements.
pub(super) const LLAMA_2_7B: Shape =
    Shape { hidden: 4096, intermediate: 11_008, key_value: 4096, layers: 2, vocabulary: VOCABULARY, tied: false };

/// Llama-3.2-1B.
pub(super) const LLAMA_3_1B: Shape =
    Shape { hidden: 2048, intermediate: 8192, key_value: 512, layers: 16, vocabulary: 128_256, tied: true };

impl Shape {
    /// The shape with about so many billions of parameters; at least one layer.
    pub(super) fn of_size(billions: f64) -> Self {
        let hidden = match billions {
            b if b < 0.2 => 256,
            b if b < 2.0 => 1024,
            b if b < 5.0 => 2048,
            _ => 4096,
        };
        let with = |layers| Self {
            hidden,
            intermediate: 4 * hidden,
            key_value: hidden / 4,
            layers,
            vocabulary: VOCABULARY,
            tied: false,
        };
        let of_layers = |layers| with(layers).elements() as f64;
        let per_layer = of_layers(2) - of_layers(1);
        let layers = 1.0 + (billions * 1e9 - of_layers(1)) / per_layer;
        with(layers.round().max(1.0) as usize)
    }

    /// The number of parameters.
    pub(super) fn elements(self) -> usize {
        self.tensors().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// A name for a folder.
    pub(super) fn folder(self) -> String {
        format!("llama-{}x{}x{}", self.layers, self.hidden, self.intermediate)
    }

    fn tensors(self) -> Vec<(String, Vec<usize>)> {
        let (h, i, kv) = (self.hidden, self.intermediate, self.key_value);
        let mut tensors = vec![("model.embed_tokens.weight".to_owned(), vec![self.vocabulary, h])];
        for layer in 0..self.layers {
            for (name, shape) in [
                ("input_layernorm", vec![h]),
                ("mlp.down_proj", vec![h, i]),
                ("mlp.gate_proj", vec![i, h]),
                ("mlp.up_proj", vec![i, h]),
                ("post_attention_layernorm", vec![h]),
                ("self_attn.k_proj", vec![kv, h]),
                ("self_attn.o_proj", vec![h, h]),
                ("self_attn.q_proj", vec![h, h]),
                ("self_attn.v_proj", vec![kv, h]),
            ] {
                tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
            }
        }
        tensors.push(("model.norm.weight".to_owned(), vec![h]));
        if !self.tied {
            tensors.push(("lm_head.weight".to_owned(), vec![self.vocabulary, h]));
        }
        tensors
    }

    fn config(self) -> Value {
        json!({
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": SIGMA_BASE,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 4096,
            "num_attention_heads": self.hidden / HEAD,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.key_value / HEAD,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied,
            "torch_dtype": "bfloat16",
            "vocab_size": self.vocabulary,
        })
    }

    /// The length and the JSON that a safetensors file begins with, padded so that the data is aligned to 8 bytes.
    fn header(self) -> Vec<u8> {
        let (mut entries, mut start) = (Map::new(), 0);
        entries.insert("__metadata__".to_owned(), json!({"format": "pt"}));
        for (name, shape) in self.tensors() {
            let end = start + 2 * shape.iter().product::<usize>();
            entries.insert(name, json!({"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}));
            start = end;
        }
        let mut text = Value::Object(entries).to_string().into_bytes();
        text.resize(text.len().next_multiple_of(8), b' ');
        [&(text.len() as u64).to_le_bytes()[..], &text].concat()
    }
}

/// Writes so many checkpoints under `folder`, unless they are there already.
///
/// # Errors
/// A file cannot be written.
pub(super) fn make(folder: &Path, shape: Shape, count: usize) -> Result<()> {
    let names = names(count);
    // Whatever decides the bytes: when any of it changes, the files are written again.
    let made = json!({"config": shape.config(), "delta": SIGMA_DELTA, "chunk": CHUNK, "names": names}).to_string();
    let marker = folder.join("made.json");
    if fs::read_to_string(&marker).is_ok_and(|text| text == made) {
        return Ok(());
    }
    let _ = fs::remove_file(&marker);
    let (header, elements) = (shape.header(), shape.elements());
    for name in &names {
        let checkpoint = folder.join(name);
        fs::create_dir_all(&checkpoint).with_context(|| format!("cannot make {}", checkpoint.display()))?;
        fs::write(checkpoint.join("config.json"), format!("{:#}\n", shape.config()))?;
        let mut file = File::create(checkpoint.join(WEIGHTS))?;
        file.write_all(&header)?;
        file.set_len((header.len() + 2 * elements) as u64)?;
    }
    let chunks = elements.div_ceil(CHUNK);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let gaussian = Gaussian::new();
    thread::scope(|scope| {
        let ranges = (0..threads).map(|t| t * chunks / threads..(t + 1) * chunks / threads);
        let (gaussian, header, names) = (&gaussian, &header, &names[..]);
        let workers: Vec<_> = ranges
            .map(|range| scope.spawn(move || write_chunks(folder, names, header.len(), elements, range, gaussian)))
            .collect();
        let results = workers.into_iter().map(|w| w.join().map_err(|_| anyhow!("a writing thread panicked"))?);
        results.collect::<Result<()>>()
    })
    .with_context(|| format!("cannot write checkpoints under {}", folder.display()))?;
    Ok(fs::write(marker, made)?)
}

fn write_chunks(
    folder: &Path,
    names: &[String],
    header: usize,
    elements: usize,
    chunks: std::ops::Range<usize>,
    gaussian: &Gaussian,
) -> Result<()> {
    let mut files = Vec::new();
    for name in names {
        let mut file = File::options().write(true).open(folder.join(name).join(WEIGHTS))?;
        file.seek(SeekFrom::Start((header + 2 * chunks.start * CHUNK) as u64))?;
        files.push(file);
    }
    let (mut base, mut noise, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in chunks {
        let length = CHUNK.min(elements - chunk * CHUNK);
        noise.resize(length, 0.0);
        for (model, file) in files.iter_mut().enumerate() {
            gaussian.fill((chunk * names.len() + model) as u64, &mut noise);
            let values: Vec<bf16> = if model == 0 {
                noise.iter().map(|z| bf16::from_f32(SIGMA_BASE * z)).collect()
            } else {
                base.iter().zip(&noise).map(|(b, z)| bf16::from_f32(b + SIGMA_DELTA * z)).collect()
            };
            if model == 0 {
                base.clear();
                base.extend(values.iter().map(|v| v.to_f32()));
            }
            bytes.clear();
            bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
            file.write_all(&bytes)?;
        }
    }
    // Or the disk would still be busy with these files when the clock starts.
    Ok(files.iter().try_for_each(File::sync_all)?)
}

#[cfg(test)]
mod tests {
    //! The sizes asked for, and a small set of files looked at byte by byte.
    use super::*;

    const SMALL: Shape =
        Shape { hidden: 64, intermediate: 256, key_value: 16, layers: 1, vocabulary: VOCABULARY, tied: false };

    #[test]
    fn shapes_have_the_size_asked_for() {
        for billions in [0.05, 0.5, 1.0, 7.0] {
            let found = Shape::of_size(billions).elements() as f64 / 1e9;
            assert!((found / billions - 1.0).abs() < 0.05, "{found} for {billions}");
        }
        assert_eq!(Shape::of_size(0.0).layers, 1);
        assert_eq!(LLAMA_2_7B.elements(), 666_914_816);
        // As transformers counts the parameters of Llama-3.2-1B.
        assert_eq!(LLAMA_3_1B.elements(), 1_235_814_400);
    }

    #[test]
    fn files_are_valid_and_differ_as_fine_tunes_do() {
        let folder = tempfile::tempdir().unwrap();
        let shape = SMALL;
        make(folder.path(), shape, 4).unwrap();
        let read = |name: &str| fs::read(folder.path().join(name).join(WEIGHTS)).unwrap();
        let (base, model) = (read("base"), read("model-1"));
        let start = 8 + u64::from_le_bytes(base[..8].try_into().unwrap()) as usize;
        let header: Value = serde_json::from_slice(&base[8..start]).unwrap();
        assert_eq!(base.len(), start + 2 * shape.elements());
        assert_eq!(header["lm_head.weight"]["data_offsets"][1], 2 * shape.elements());
        assert_eq!((start % 8, &base[..start]), (0, &model[..start]));
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes[start..].chunks(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        };
        let (base, model) = (floats(&base), floats(&model));
        let sigma = |v: &[f32]| (v.iter().map(|x| f64::from(x * x)).sum::<f64>() / v.len() as f64).sqrt();
        let delta: Vec<f32> = base.iter().zip(&model).map(|(b, m)| m - b).collect();
        // Millions of samples give three digits; bfloat16 adds its rounding error to the small deltas.
        assert!((sigma(&base) / 0.02 - 1.0).abs() < 0.01, "{}", sigma(&base));
        assert!((sigma(&delta) / 0.002 - 1.0).abs() < 0.01, "{}", sigma(&delta));
        assert!(delta.contains(&0.0));
    }

    #[test]
    fn checkpoints_are_made_once() {
        let folder = tempfile::tempdir().unwrap();
        let shape = SMALL;
        make(folder.path(), shape, 4).unwrap();
        let weights = folder.path().join("base").join(WEIGHTS);
        fs::write(&weights, "kept").unwrap();
        make(folder.path(), shape, 4).unwrap();
        assert_eq!(fs::read(&weights).unwrap(), b"kept");
        make(folder.path(), Shape { layers: 2, ..SMALL }, 4).unwrap();
        assert_ne!(fs::read(&weights).unwrap(), b"kept");
    }
}
