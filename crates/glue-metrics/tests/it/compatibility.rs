//! Verdicts on the zoo in `tests/data/zoo`, and on small models made for each reason there is.

use glue_metrics::compatibility::{Compatibility, Verdict, compatibility};
use glue_tensor::{CheckpointWriter, Dtype, Layout, ModelDir, Staging, TensorSpec};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[test]
fn the_families_of_the_zoo_can_be_merged_and_the_odd_one_only_mixed() {
    let zoo = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo");
    let names = ["a-chat", "a-math", "base-a", "b-code", "c-chat"];
    let dirs: Vec<ModelDir> = names.iter().map(|name| ModelDir::open(zoo.join(name)).unwrap()).collect();
    let models: Vec<_> = names.iter().map(|name| name.to_string()).zip(&dirs).collect();
    let found = compatibility(&models).unwrap();
    assert_eq!(found.groups, [vec![0, 1, 2, 3], vec![4]]);
    assert_eq!(found.pairs.len(), 10);
    let pair = found.pair(4, 1).unwrap();
    assert_eq!((pair.first, pair.second, pair.verdict), (1, 4, Verdict::MixtureOnly));
    let aspects: Vec<&str> = pair.reasons.iter().map(|reason| reason.aspect.as_str()).collect();
    for expected in ["layers", "hidden size", "vocabulary size"] {
        assert!(aspects.contains(&expected), "{aspects:?}");
    }
    assert!(pair.notes.iter().any(|note| note.to_string() == "model type: llama and mistral"), "{:?}", pair.notes);
    let summary = &found.models[0];
    assert_eq!(
        (summary.layers, summary.hidden_size, summary.heads, summary.kv_heads),
        (Some(4), Some(128), Some(4), Some(2))
    );
    assert_eq!(summary.dtypes, BTreeMap::from([("F16".to_string(), 39)]));
    assert_eq!(summary.tokenizer_hash, found.models[3].tokenizer_hash);
    assert_ne!(summary.tokenizer_hash, found.models[4].tokenizer_hash);
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!(json["pairs"][0]["verdict"], "mergeable");
}

/// A model with one layer, as far as headers go.
struct Sketch {
    config: Value,
    dtype: Dtype,
    /// Name, rows, columns.
    tensors: Vec<(&'static str, usize, usize)>,
    vocabulary: Option<Vec<&'static str>>,
}

fn sketch() -> Sketch {
    Sketch {
        config: json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 4, "rope_theta": 10000.0, "tie_word_embeddings": false
        }),
        dtype: Dtype::Bf16,
        tensors: vec![
            ("model.embed_tokens.weight", 4, 8),
            ("model.layers.0.self_attn.q_proj.weight", 8, 8),
            ("lm_head.weight", 4, 8),
        ],
        vocabulary: Some(vec!["a", "b", "c", "d"]),
    }
}

impl Sketch {
    fn write(&self, directory: &Path) -> ModelDir {
        let spec = |(name, rows, columns): &(&str, usize, usize)| TensorSpec {
            name: name.to_string(),
            dtype: self.dtype,
            shape: vec![*rows, *columns],
        };
        let layout = Layout::new(self.tensors.iter().map(spec).collect(), u64::MAX, "model").unwrap();
        let staging = Staging::create(directory).unwrap();
        let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
        for (i, (_, rows, columns)) in self.tensors.iter().enumerate() {
            writer.write_at(i, 0, &vec![0; rows * columns * self.dtype.size()]).unwrap();
        }
        writer.finish().unwrap();
        staging.commit().unwrap();
        std::fs::write(directory.join("config.json"), self.config.to_string()).unwrap();
        if let Some(tokens) = &self.vocabulary {
            let vocab: BTreeMap<&str, usize> = tokens.iter().copied().zip(0..).collect();
            let tokenizer = json!({ "model": { "type": "BPE", "vocab": vocab, "merges": [] } });
            std::fs::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        }
        ModelDir::open(directory).unwrap()
    }
}

fn compare(change: impl FnOnce(&mut Sketch)) -> Compatibility {
    let root = tempfile::tempdir().unwrap();
    let first = sketch().write(&root.path().join("first"));
    let mut changed = sketch();
    change(&mut changed);
    let second = changed.write(&root.path().join("second"));
    compatibility(&[("first".to_string(), &first), ("second".to_string(), &second)]).unwrap()
}

fn check(change: impl FnOnce(&mut Sketch), verdict: Verdict, reasons: &[&str], notes: &[&str]) {
    let found = compare(change);
    let pair = &found.pairs[0];
    let words = |list: &[glue_metrics::compatibility::Difference]| -> Vec<String> {
        list.iter().map(|difference| difference.to_string()).collect()
    };
    assert_eq!((pair.verdict, words(&pair.reasons), words(&pair.notes)), (verdict, own(reasons), own(notes)));
    assert_eq!(found.groups.len(), if verdict == Verdict::Mergeable { 1 } else { 2 });
}

fn own(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| text.to_string()).collect()
}

#[test]
fn equal_models_have_nothing_to_note() {
    check(|_| {}, Verdict::Mergeable, &[], &[]);
}

#[test]
fn what_does_not_prevent_a_merge_is_noted() {
    let notes = [
        "stored type: BF16 and F32",
        "rotary embedding: theta 10000 and theta 500000, linear, factor 2.0",
        "head: separate and tied to the embedding",
    ];
    let change = |sketch: &mut Sketch| {
        sketch.dtype = Dtype::F32;
        sketch.config["rope_theta"] = json!(500_000.0);
        sketch.config["rope_scaling"] = json!({ "rope_type": "linear", "factor": 2.0 });
        sketch.config["tie_word_embeddings"] = json!(true);
        sketch.tensors.pop();
    };
    check(change, Verdict::Mergeable, &[], &notes);
}

#[test]
fn other_vocabularies_must_be_aligned() {
    let reasons = ["token \"c\": id 2 and id 3"];
    let change = |sketch: &mut Sketch| sketch.vocabulary = Some(vec!["a", "b", "d", "c"]);
    check(change, Verdict::WithVocabularyAlignment, &reasons, &[]);

    let reasons = [
        "vocabulary size: 4 and 5",
        "rows of `lm_head.weight`: [4, 8] and [5, 8]",
        "rows of `model.embed_tokens.weight`: [4, 8] and [5, 8]",
        "token \"e\": absent and id 4",
    ];
    let change = |sketch: &mut Sketch| {
        sketch.config["vocab_size"] = json!(5);
        sketch.tensors[0].1 = 5;
        sketch.tensors[2].1 = 5;
        sketch.vocabulary = Some(vec!["a", "b", "c", "d", "e"]);
    };
    check(change, Verdict::WithVocabularyAlignment, &reasons, &[]);
}

#[test]
fn a_missing_tokenizer_is_noted() {
    let notes = ["tokenizer files: present and none (ids are taken to mean the same tokens)"];
    check(|sketch| sketch.vocabulary = None, Verdict::Mergeable, &[], &notes);
}

#[test]
fn other_bodies_can_only_be_mixed() {
    let reasons = ["`model.layers.0.self_attn.q_proj.weight`: [8, 8] and [16, 8]"];
    check(|sketch| sketch.tensors[1].1 = 16, Verdict::MixtureOnly, &reasons, &[]);

    let reasons = ["`model.layers.0.mlp.down_proj.weight`: absent and [8, 8] (and 1 more tensor differs)"];
    let change = |sketch: &mut Sketch| {
        sketch.tensors.push(("model.layers.0.mlp.down_proj.weight", 8, 8));
        sketch.tensors.push(("model.layers.0.mlp.up_proj.weight", 8, 8));
    };
    check(change, Verdict::MixtureOnly, &reasons, &[]);
}

#[test]
fn equal_shapes_with_other_heads_are_not_the_same() {
    let reasons = ["attention heads: 2 and 4", "key and value heads: 2 and 4", "head dimension: 4 and 2"];
    check(|sketch| sketch.config["num_attention_heads"] = json!(4), Verdict::MixtureOnly, &reasons, &[]);
}

#[test]
fn quantised_weights_cannot_be_merged() {
    let pair = compare(|sketch| sketch.dtype = Dtype::I8).pairs[0].clone();
    assert_eq!(pair.verdict, Verdict::MixtureOnly);
    let expected = "weights: floats and integers in `lm_head.weight` (quantised weights cannot be merged)";
    assert!(pair.reasons.iter().any(|reason| reason.to_string() == expected), "{:?}", pair.reasons);
}

#[test]
fn an_empty_list_and_a_name_given_twice_are_refused() {
    assert!(compatibility(&[]).unwrap_err().to_string().contains("no models"));
    let root = tempfile::tempdir().unwrap();
    let model = sketch().write(&root.path().join("m"));
    let twice = [("m".to_string(), &model), ("m".to_string(), &model)];
    assert!(compatibility(&twice).unwrap_err().to_string().contains("`m`"));
}
