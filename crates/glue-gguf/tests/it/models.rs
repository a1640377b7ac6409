//! Whole models, from a directory to a file and back.

use crate::{data, model, words};
use glue_gguf::container::GgufFile;
use glue_gguf::{ExportModel, ExportOptions, ExportPlan, FileType, GgmlType, ImportOptions, export, import};
use glue_progress::{NoProgress, Progress};
use glue_tensor::{Checkpoint, Config, Dtype, Links, ModelDir, widen};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// A copy of a model with changes of its configuration (of the language part, where there is one); null removes a key.
fn changed(name: &str, change: &Value, directory: &Path) -> PathBuf {
    let copy = directory.join("model");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(model(name)).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&fs::read(copy.join("config.json")).unwrap()).unwrap();
    let inner = if config["text_config"].is_object() { &mut config["text_config"] } else { &mut config };
    for (key, value) in change.as_object().unwrap() {
        inner[key] = value.clone();
        if value.is_null() {
            inner.as_object_mut().unwrap().remove(key);
        }
    }
    fs::write(copy.join("config.json"), config.to_string()).unwrap();
    copy
}

/// A caller who wants it to end.
struct Cancelled;

impl Progress for Cancelled {
    fn is_cancelled(&self) -> bool {
        true
    }
}

/// A plan of the export of a directory, and where its values are.
fn planned(directory: impl AsRef<Path>, options: &ExportOptions) -> (ExportPlan, ModelDir) {
    let model = ModelDir::open(directory).unwrap();
    (ExportPlan::new(&ExportModel::of(&model, Links::default()).unwrap(), options).unwrap(), model)
}

fn f32_options() -> ExportOptions {
    ExportOptions::new(FileType::F32)
}

fn values(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let view = checkpoint.get(name).unwrap_or_else(|| panic!("{name} is not there"));
    let mut values = vec![0.0; view.info().n_elements()];
    widen(view.dtype(), view.data(), &mut values).unwrap();
    values
}

/// What makes llama.cpp's Llama 4 of the small one.
fn llama4() -> Value {
    json!({"attention_chunk_size": 8192, "attn_scale": 0.1, "floor_scale": 8192, "layer_types": null,
        "no_rope_layers": [1, 1, 1, 0], "no_rope_layer_interval": 4})
}

/// Models that llama.cpp has a form of, with the changes of their configuration that this takes.
fn supported() -> Vec<(&'static str, Value)> {
    let heads = json!({"query_pre_attn_scalar": 8});
    vec![
        ("archs/llama2", json!({})),
        ("archs/llama-bias", json!({})),
        ("archs/llama-linear-rope", json!({})),
        ("archs/llama3-scaled-tied", json!({})),
        ("archs/mistral-window", json!({})),
        ("archs/mixtral", json!({})),
        ("archs/qwen2", json!({})),
        ("archs/qwen3", json!({})),
        ("archs/gemma2", heads.clone()),
        ("archs/phi3", json!({})),
        ("archs/olmo2", json!({})),
        ("archs-extra/llama-yarn", json!({})),
        (
            "archs-extra/gemma3",
            json!({"query_pre_attn_scalar": 8, "layer_types":
            ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]}),
        ),
        ("archs-extra/mistral3-wrapped", json!({})),
        ("archs-extra/granite", json!({})),
        ("archs-extra/glm4", json!({})),
        ("archs-extra/glm4-plain", json!({})),
        ("archs-extra/phi3-partial", json!({})),
        ("archs-extra/cohere2", json!({})),
        ("archs-extra/phi3-longrope-short", json!({})),
        ("archs-extra/olmo3-old-form", json!({})),
        ("archs-extra/smollm3", json!({"no_rope_layers": null, "no_rope_layer_interval": 4})),
        ("archs-extra/deepseek-v3", json!({})),
        ("archs-extra/gpt-oss", json!({"swiglu_limit": 7.0})),
        ("archs-extra/llama4", llama4()),
        ("zoo/base-a", json!({})),
        ("zoo/c-chat", json!({})),
    ]
}

#[test]
fn a_model_that_is_exported_and_imported_again_has_the_same_weights() {
    for (name, change) in supported() {
        let directory = tempfile::tempdir().unwrap();
        let source = changed(name, &change, directory.path());
        let (file, back) = (directory.path().join("model.gguf"), directory.path().join("back"));
        let report =
            export(&source, &file, &f32_options(), &NoProgress).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(fs::metadata(&file).unwrap().len(), report.n_bytes, "{name}");
        import(&file, &back, &ImportOptions::default(), &NoProgress).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (source, back) = (Checkpoint::open(&source).unwrap(), Checkpoint::open(&back).unwrap());
        let mut n_compared = 0;
        for view in source.views().filter(|view| !report.left_out.iter().any(|left_out| left_out == view.name())) {
            let inner = view.name().strip_prefix("language_model.").unwrap_or(view.name());
            let (expected, found) = (values(&source, view.name()), values(&back, inner));
            // Gemma's norms have lost the bits that adding 1 takes.
            let shifted = name.contains("gemma") && inner.contains("norm");
            let tolerance = if shifted { 1e-6 } else { 0.0 };
            let equal = expected.iter().zip(&found).all(|(a, b)| (a - b).abs() <= tolerance);
            assert!(equal && expected.len() == found.len(), "{name}: {inner}");
            assert_eq!(back.info(inner).unwrap().shape, view.shape(), "{name}: {inner}");
            n_compared += 1;
        }
        assert_eq!(back.tensors().len(), n_compared, "{name}");
    }
}

#[test]
fn a_model_that_is_exported_imported_and_exported_again_gives_the_same_file() {
    for (name, change) in supported() {
        let directory = tempfile::tempdir().unwrap();
        let source = changed(name, &change, directory.path());
        let (first, second) = (directory.path().join("model.gguf"), directory.path().join("second.gguf"));
        let back = directory.path().join("2/model");
        export(&source, &first, &f32_options(), &NoProgress).unwrap();
        import(&first, &back, &ImportOptions::default(), &NoProgress).unwrap();
        export(&back, &second, &f32_options(), &NoProgress).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (first, second) = (GgufFile::open(first).unwrap(), GgufFile::open(second).unwrap());
        let sorted = |file: &GgufFile| {
            let mut keys: Vec<(String, glue_gguf::container::Value)> =
                file.metadata().iter().map(|(key, value)| (key.to_string(), value.clone())).collect();
            keys.sort_by(|a, b| a.0.cmp(&b.0));
            keys
        };
        for (a, b) in sorted(&first).into_iter().zip(sorted(&second)) {
            assert_eq!(a, b, "{name}");
        }
        assert_eq!(first.metadata().iter().len(), second.metadata().iter().len(), "{name}");
        assert_eq!(first.tensors(), second.tensors(), "{name}");
    }
}

#[test]
fn query_rows_of_llama_alternate_between_the_halves_of_a_head() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.gguf");
    export(model("archs/llama2"), &file, &f32_options(), &NoProgress).unwrap();
    let (file, source) = (GgufFile::open(&file).unwrap(), Checkpoint::open(model("archs/llama2")).unwrap());
    let tensor = file.tensor("blk.1.attn_q.weight").unwrap();
    let mut found = Vec::new();
    file.read(tensor, 0, tensor.n_elements(), &mut found).unwrap();
    let expected = values(&source, "model.layers.1.self_attn.q_proj.weight");
    // Heads of 8 rows and 32 columns: row 3 of the second head is row 5 of its first half's neighbour.
    for (row, from) in [(0, 0), (1, 4), (2, 1), (3, 5), (8, 8), (9, 12), (11, 13)] {
        assert_eq!(found[row * 32..][..32], expected[from * 32..][..32], "row {row}");
    }
}

#[test]
fn a_multimodal_model_loses_what_is_no_language_model_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let change = json!({"query_pre_attn_scalar": 8, "layer_types": null, "sliding_window_pattern": 2});
    let source = changed("archs-extra/gemma3-wrapped", &change, directory.path());
    let (plan, _) = planned(&source, &f32_options());
    assert!(
        plan.report().left_out.iter().all(|name| name.starts_with("vision_tower") || name.starts_with("multi_modal"))
    );
    assert!(plan.report().left_out.len() > 10);
    assert_eq!(plan.report().architecture, "gemma3");
}

#[test]
fn types_follow_the_wish_and_sizes_are_known_beforehand() {
    for (file_type, matrix) in [
        (FileType::F32, GgmlType::F32),
        (FileType::F16, GgmlType::F16),
        (FileType::Bf16, GgmlType::Bf16),
        (FileType::Q8_0, GgmlType::Q8_0),
        (FileType::Q4KM, GgmlType::Q5_0),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        let (plan, mut source) = planned(model("zoo/base-a"), &ExportOptions::new(file_type));
        let n_bytes = plan.report().n_bytes;
        plan.write(&mut source, &path, false, &NoProgress).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), n_bytes);
        let file = GgufFile::open(&path).unwrap();
        assert_eq!(file.tensor("blk.0.attn_q.weight").unwrap().kind, matrix);
        assert_eq!(file.tensor("blk.0.attn_norm.weight").unwrap().kind, GgmlType::F32);
    }
}

#[test]
fn a_file_has_the_type_of_the_weights_unless_another_is_asked_for() {
    let (plan, _) = planned(model("zoo/base-a"), &ExportOptions::default());
    assert_eq!(plan.report().file_type, FileType::F16);
    let (plan, _) = planned(model("archs/llama2"), &ExportOptions::default());
    assert_eq!(plan.report().file_type, FileType::F32);
}

#[test]
fn values_are_widened_to_the_type_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    export(model("zoo/base-a"), &path, &ExportOptions::new(FileType::Q8_0), &NoProgress).unwrap();
    for (asked, expected) in [(None, Dtype::Bf16), (Some(Dtype::F16), Dtype::F16), (Some(Dtype::F32), Dtype::F32)] {
        let out = directory.path().join(format!("{expected}"));
        let mut options = ImportOptions::default();
        options.dtype = asked;
        let report = import(&path, &out, &options, &NoProgress).unwrap();
        assert!(report.quantised && report.has_tokenizer);
        let checkpoint = Checkpoint::open(&out).unwrap();
        assert!(checkpoint.tensors().iter().all(|tensor| tensor.dtype == expected));
        assert_eq!(Config::open(out.join("config.json")).unwrap().dtype(), Some(expected));
        let source = Checkpoint::open(model("zoo/base-a")).unwrap();
        let (a, b) = (values(&source, "lm_head.weight"), values(&checkpoint, "lm_head.weight"));
        let largest = a.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Half a step of Q8_0, and the rounding to bfloat16.
        assert!(worst > 0.0 && worst < largest / 100.0, "{worst} of {largest}");
    }
    let mut options = ImportOptions::default();
    options.dtype = Some(Dtype::F64);
    assert!(words(import(&path, directory.path().join("x"), &options, &NoProgress)).contains("float type"));
}

#[test]
fn what_llama_cpp_cannot_compute_is_refused_by_the_name_of_the_key() {
    for (name, change, expected) in [
        ("archs/gemma2", json!({"query_pre_attn_scalar": 5}), "query_pre_attn_scalar"),
        ("archs/llama2", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("archs/llama2", json!({"quantization_config": {"bits": 4}}), "quantization_config"),
        ("archs/llama2", json!({"rms_norm_eps": null}), "rms_norm_eps"),
        ("archs/llama2", json!({"rms_norm_eps": "small"}), "rms_norm_eps"),
        ("archs/llama2", json!({"model_type": "rwkv"}), "`rwkv`"),
        ("archs/llama2", json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        ("archs/llama2", json!({"num_attention_heads": 70_000}), "more than any model"),
        ("archs/llama2", json!({"head_dim": 1u64 << 62}), "at most"),
        ("archs-extra/deepseek-v3", json!({"qk_nope_head_dim": u64::MAX}), "at most"),
        ("archs/llama2", json!({"head_dim": 16}), "expected 4 heads of 16 rows"),
        ("archs/llama2", json!({"num_hidden_layers": 2}), "config.json has 2 layers"),
        ("archs/llama2", json!({"num_hidden_layers": 4}), "model.layers.3.input_layernorm.weight"),
        ("archs/llama2", json!({"intermediate_size": 65}), "expected shape [65, 32]"),
        ("archs-extra/llama-dynamic", json!({}), "dynamic"),
        ("archs-extra/llama-yarn-untruncated", json!({}), "truncate"),
        ("archs-extra/qwen2-moe", json!({}), "mlp_only_layers"),
        ("archs-extra/qwen2-moe-normed", json!({"mlp_only_layers": [], "decoder_sparse_step": 1}), "norm_topk_prob"),
        ("archs-extra/qwen3-bias", json!({"attention_bias": null}), "k_proj.bias"),
        ("archs-extra/cohere2-bias", json!({"layer_types": null}), "tie_word_embeddings"),
        ("archs-extra/gpt-oss", json!({}), "swiglu_limit"),
        ("archs-extra/gpt-oss-mxfp4", json!({}), "quantization_config"),
        ("archs-extra/llama4", json!({}), "attention_chunk_size"),
        ("archs-extra/llama4-two", json!({}), "use_qk_norm"),
        ("archs-extra/deepseek-v2-lite", json!({}), "q_lora_rank"),
        ("archs-extra/deepseek-v2", json!({}), "n_group"),
        ("archs-extra/deepseek-v3-halves", json!({}), "rope_interleave"),
        ("archs-extra/smollm3", json!({"no_rope_layers": [0, 1, 1, 1]}), "no_rope_layers"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let source = changed(name, &change, directory.path());
        let file = directory.path().join("model.gguf");
        let error = words(export(&source, &file, &f32_options(), &NoProgress));
        assert!(error.contains(expected), "{name} {change}: expected {expected:?}, found {error}");
        assert!(!file.exists());
    }
}

#[test]
fn nothing_is_left_when_an_export_or_an_import_is_cancelled_or_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("model.gguf");
    let cancelled = Cancelled;
    let error = words(export(model("archs/llama2"), &file, &f32_options(), &cancelled));
    assert!(error.contains("cancelled"), "{error}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);

    export(model("archs/llama2"), &file, &f32_options(), &NoProgress).unwrap();
    let error = words(export(model("archs/llama2"), &file, &f32_options(), &NoProgress));
    assert!(error.contains("exists already"), "{error}");
    let (plan, mut source) = planned(model("archs/llama2"), &f32_options());
    plan.write(&mut source, &file, true, &NoProgress).unwrap();

    let out = directory.path().join("out");
    assert!(words(import(&file, &out, &ImportOptions::default(), &cancelled)).contains("cancelled"));
    assert!(!out.exists());
    fs::create_dir(&out).unwrap();
    fs::write(out.join("x"), "").unwrap();
    assert!(words(import(&file, &out, &ImportOptions::default(), &NoProgress)).contains("not empty"));
}

#[test]
fn a_window_that_llama_cpp_does_not_have_ends_the_context() {
    let (plan, _) = planned(model("archs/mistral-window"), &f32_options());
    assert!(plan.report().notes.iter().any(|note| note.contains("sliding window")), "{:?}", plan.report().notes);
}

/// A file as it was written before llama.cpp folded attention through a latent into the queries: exported from
/// `archs-extra/deepseek-v3` with `attn_kv_b` as one tensor.
#[test]
fn an_older_file_of_deepseek_gives_the_same_model() {
    let directory = tempfile::tempdir().unwrap();
    let back = directory.path().join("back");
    import(data("deepseek-v3-older.gguf"), &back, &ImportOptions::default(), &NoProgress).unwrap();
    let (source, back) =
        (Checkpoint::open(model("archs-extra/deepseek-v3")).unwrap(), Checkpoint::open(&back).unwrap());
    for tensor in back.tensors() {
        assert!(values(&source, &tensor.name) == values(&back, &tensor.name), "{}", tensor.name);
    }
    assert!(back.get("model.layers.2.self_attn.kv_b_proj.weight").is_some());
}
