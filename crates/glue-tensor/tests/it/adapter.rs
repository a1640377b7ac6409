//! Adapters: what is written is read, and every tensor is accounted for.

use glue_progress::ErrorChain;
use glue_tensor::adapter::{Adapter, AdapterWriter, Change, ModuleKind, NewAdapter, NewModule};
use glue_tensor::{
    AdapterError, Checkpoint, CheckpointWriter, Dtype, Layout, ModelDir, ModelDirError, Staging, TensorSpec, narrow,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tempfile::TempDir;

fn spec(name: &str, shape: &[usize]) -> TensorSpec {
    TensorSpec { name: name.to_string(), dtype: Dtype::F32, shape: shape.to_vec() }
}

/// A checkpoint of these tensors in `directory`, all zeros.
fn zeros(directory: &Path, base_name: &str, tensors: Vec<TensorSpec>, config: (&str, &Value)) {
    let staging = Staging::create(directory).unwrap();
    let sizes: Vec<usize> =
        tensors.iter().map(|spec| spec.shape.iter().product::<usize>() * spec.dtype.size()).collect();
    let layout = Layout::new(tensors, u64::MAX, base_name).unwrap();
    let writer = CheckpointWriter::create(&staging, layout, &BTreeMap::new()).unwrap();
    for (i, size) in sizes.into_iter().enumerate() {
        writer.write_at(i, 0, &vec![0; size]).unwrap();
    }
    writer.finish().unwrap();
    staging.write_file(config.0, config.1.to_string().as_bytes()).unwrap();
    staging.commit().unwrap();
}

/// An adapter whose tensors are these, all zeros.
fn adapter(tensors: &[(&str, &[usize])], config: &Value) -> (TempDir, Result<Adapter, AdapterError>) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adapter");
    let tensors = tensors.iter().map(|(name, shape)| spec(&format!("base_model.model.{name}"), shape)).collect();
    zeros(&path, "adapter_model", tensors, ("adapter_config.json", config));
    let opened = Adapter::open(&path);
    (directory, opened)
}

fn model(tensors: &[(&str, &[usize])]) -> (TempDir, Checkpoint) {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("model");
    let tensors = tensors.iter().map(|(name, shape)| spec(name, shape)).collect();
    zeros(&path, "model", tensors, ("config.json", &json!({})));
    let checkpoint = Checkpoint::open(&path).unwrap();
    (directory, checkpoint)
}

#[test]
fn what_is_written_is_read() {
    let module = |name: &str, kind, inputs, outputs, rank, alpha| NewModule {
        module: name.to_string(),
        kind,
        inputs,
        outputs,
        rank,
        alpha,
    };
    let new = NewAdapter {
        base_model: "models/base".to_string(),
        task_type: Some("CAUSAL_LM".to_string()),
        fan_in_fan_out: false,
        dtype: Dtype::Bf16,
        rank: 2,
        alpha: 2.0,
        target_modules: vec!["q".to_string(), "embed".to_string()],
        target_parameters: Vec::new(),
        modules: vec![
            module("layers.1.q", ModuleKind::Linear, 4, 3, 2, 2.0),
            module("layers.11.q", ModuleKind::Linear, 4, 3, 1, 0.5),
            module("embed", ModuleKind::Embedding, 7, 4, 3, 3.0),
        ],
        full: vec![spec("norm.weight", &[4]), spec("layers.1.q.bias", &[3])],
    };
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adapter");
    let staging = Staging::create(&path).unwrap();
    let writer = AdapterWriter::create(&staging, &new, &new.config().unwrap()).unwrap();
    for (i, module) in new.modules.iter().enumerate() {
        let write = |n: usize, start: f32| {
            let values: Vec<f32> = (0..n).map(|j| start + j as f32).collect();
            let mut bytes = vec![0; 2 * n];
            narrow(Dtype::Bf16, &values, &mut bytes).unwrap();
            bytes
        };
        writer.write_a(i, 0, &write(module.rank * module.inputs, 0.0)).unwrap();
        writer.write_b(i, 0, &write(module.rank * module.outputs, 100.0)).unwrap();
    }
    writer.write_full(0, 0, &[1; 16]).unwrap();
    writer.write_full(1, 0, &[2; 12]).unwrap();
    writer.finish().unwrap();
    staging.commit().unwrap();

    let read = Adapter::open(&path).unwrap();
    assert_eq!(read.config().to_value(), new.config().unwrap().to_value());
    let found: Vec<_> = read.changes().keys().map(String::as_str).collect();
    assert_eq!(found, ["embed.weight", "layers.1.q.bias", "layers.1.q.weight", "layers.11.q.weight", "norm.weight"]);
    let check = |name: &str, rank: usize, scale: f64, transposed: bool| {
        let low_rank = read.change(name).and_then(|change| change.low_rank.clone()).unwrap();
        assert_eq!((low_rank.rank, low_rank.scale, low_rank.transposed), (rank, scale, transposed), "{name}");
        assert_eq!(read.tensor(&low_rank.a).data()[2..4], [0x80, 0x3f], "1.0 is the second number of A");
        assert_eq!(read.tensor(&low_rank.b).data()[..2], [0xc8, 0x42], "100.0 is the first of B");
    };
    check("layers.1.q.weight", 2, 1.0, false);
    check("layers.11.q.weight", 1, 0.5, false);
    check("embed.weight", 3, 1.0, true);
    let full = |name: &str| read.tensor(read.change(name).unwrap().full.as_ref().unwrap()).data()[0];
    assert_eq!((full("norm.weight"), full("layers.1.q.bias")), (1, 2));
    assert_eq!(read.config().modules_to_save, ["norm"]);
    assert_eq!(read.n_bytes(read.change("norm.weight").unwrap()), 16);
    assert_eq!(read.n_bytes(read.change("embed.weight").unwrap()), 2 * 3 * (7 + 4));

    let (_other, fits) = model(&[
        ("embed.weight", &[7, 4]),
        ("layers.1.q.weight", &[3, 4]),
        ("layers.1.q.bias", &[3]),
        ("layers.11.q.weight", &[3, 4]),
        ("norm.weight", &[4]),
        ("other.weight", &[9]),
    ]);
    read.fit(&fits, None).unwrap();
}

const Q: [(&str, &[usize]); 2] = [("q.lora_A.weight", &[8, 4]), ("q.lora_B.weight", &[3, 8])];

#[test]
fn wrapped_names_are_the_same_tensors() {
    let tensors = [
        Q[0],
        Q[1],
        ("head.modules_to_save.weight", &[5, 4][..]),
        ("q.base_layer.bias", &[3][..]),
        ("norm.weight", &[4][..]),
    ];
    let (_kept, opened) = adapter(&tensors, &json!({ "peft_type": "LORA" }));
    let opened = opened.unwrap();
    let names: Vec<_> = opened.changes().keys().map(String::as_str).collect();
    assert_eq!(names, ["head.weight", "norm.weight", "q.bias", "q.weight"]);
    let both = adapter(&[Q[0], Q[1], ("q.base_layer.weight", &[3, 4])], &json!({ "peft_type": "LORA" })).1.unwrap();
    let change: &Change = both.change("q.weight").unwrap();
    assert!(change.full.is_some() && change.low_rank.is_some(), "a new weight, and a change to it");
}

#[test]
fn every_tensor_is_accounted_for() {
    let check = |tensors: &[(&str, &[usize])], says: &str| {
        let message = adapter(tensors, &json!({ "peft_type": "LORA" })).1.unwrap_err().chain();
        assert!(message.contains(says), "{message}\nlacks: {says}");
    };
    check(&[], "no tensor in it");
    check(&[Q[0]], "`base_model.model.q.lora_A.weight` is there, but B, the other factor, is not");
    check(&[Q[0], Q[1], ("q.lora_magnitude_vector", &[3])], "`base_model.model.q.lora_magnitude_vector`");
    check(&[Q[0], Q[1], ("q.lora_B.bias", &[3])], "`base_model.model.q.lora_B.bias`");
    check(&[Q[0], Q[1], ("q.lora_A.default.weight", &[8, 4])], "lora_A.default.weight");
    check(&[("e.token_adapter.trainable_tokens_delta", &[3])], "trainable_tokens_delta");
    check(&[("q.lora_A.weight", &[7, 4]), ("q.lora_B.weight", &[3, 7])], "[rank, inputs] with rank 8");
    check(&[Q[0], ("q.lora_B.weight", &[3, 7])], "[outputs, rank] with rank 8");
    check(&[Q[0], Q[1], ("q.lora_embedding_A", &[8, 4]), ("q.lora_embedding_B", &[3, 8])], "for the same tensor");
    check(&[("q.bias", &[3]), ("q.base_layer.bias", &[3])], "for the same tensor");

    let directory = TempDir::new().unwrap();
    let path = directory.path().join("adapter");
    let config = json!({ "peft_type": "LORA" });
    zeros(&path, "adapter_model", vec![spec("model.q.lora_A.weight", &[8, 4])], ("adapter_config.json", &config));
    let message = Adapter::open(&path).unwrap_err().chain();
    assert!(message.contains("`model.q.lora_A.weight` is neither"), "{message}");
}

#[test]
fn an_adapter_for_another_model_is_refused() {
    let (_kept, opened) = adapter(&Q, &json!({ "peft_type": "LORA" }));
    let opened = opened.unwrap();
    let check = |tensors: &[(&str, &[usize])], says: &str| {
        let message = opened.fit(&model(tensors).1, None).unwrap_err().chain();
        assert!(message.contains(says) && message.contains("another model"), "{message}");
    };
    check(&[("model.q.weight", &[3, 4])], "changes `q.weight`, which");
    check(&[("q.weight", &[4, 3])], "[3, 4]");
    check(&[("q.weight", &[12])], "[12]");
}

#[test]
fn an_adapter_is_told_from_a_model() {
    let (kept, opened) = adapter(&Q, &json!({ "peft_type": "LORA" }));
    let path = opened.unwrap().path().to_path_buf();
    assert!(Adapter::is_at(&path));
    assert!(matches!(ModelDir::open(&path), Err(ModelDirError::IsAdapter { .. })));
    let model = kept.path().join("model");
    zeros(&model, "model", vec![spec("q.weight", &[3, 4])], ("config.json", &json!({})));
    assert!(!Adapter::is_at(&model));
    assert!(matches!(Adapter::open(&model), Err(AdapterError::NoConfig { .. })));
    let both = format!("{}+{}", model.display(), path.display());
    match ModelDir::open(&both) {
        Err(ModelDirError::WithAdapter { model: found, adapter, .. }) => assert_eq!((found, adapter), (model, path)),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ModelDir::open(format!("{both}x")), Err(ModelDirError::NotFound { .. })));
}

/// Factors of rank 2 for 3 experts: `inputs` columns of A, `outputs` rows of B.
fn of_experts(name: &'static str, inputs: usize, outputs: usize) -> [(String, Vec<usize>); 2] {
    [(format!("{name}.lora_A.weight"), vec![6, inputs]), (format!("{name}.lora_B.weight"), vec![outputs, 6])]
}

#[test]
fn parameters_of_experts_are_told_apart_by_nesting_and_shape() {
    let config =
        json!({ "peft_type": "LORA", "r": 2, "target_parameters": ["experts.gate_up_proj", "experts.down_proj"] });
    let opened = |(hidden, neurons): (usize, usize)| {
        let factors =
            [of_experts("mlp.experts", neurons, hidden), of_experts("mlp.experts.base_layer", hidden, 2 * neurons)]
                .concat();
        let tensors: Vec<_> = factors.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
        adapter(&tensors, &config)
    };
    // The hidden size, the neurons of an expert: of the second, down is square, of the third gate and up.
    for (hidden, neurons) in [(4, 3), (4, 4), (8, 4)] {
        let (_kept, adapter) = opened((hidden, neurons));
        let adapter = adapter.unwrap();
        let names: Vec<_> = adapter.changes().keys().map(String::as_str).collect();
        assert_eq!(names, ["mlp.experts.down_proj", "mlp.experts.gate_up_proj"]);
        for in_out in [false, true] {
            let matrix = |rows, columns| if in_out { vec![3, columns, rows] } else { vec![3, rows, columns] };
            let (gate_up, down) = (matrix(2 * neurons, hidden), matrix(hidden, neurons));
            let (_kept, model) = model(&[("mlp.experts.gate_up_proj", &gate_up), ("mlp.experts.down_proj", &down)]);
            adapter.fit(&model, None).unwrap();
            for (name, change) in adapter.changes() {
                let low_rank = change.low_rank.as_ref().unwrap();
                assert_eq!((low_rank.experts, low_rank.rank), (3, 2));
                assert_eq!(adapter.is_transposed(name, low_rank, &model), in_out, "{name} {hidden} {neurons}");
            }
        }
    }
    let (_kept, adapter) = opened((4, 3));
    let (_also, other) = model(&[("mlp.experts.gate_up_proj", &[2, 6, 4]), ("mlp.experts.down_proj", &[2, 4, 3])]);
    let message = adapter.unwrap().fit(&other, None).unwrap_err().chain();
    assert!(message.contains("[3, 4, 3]") && message.contains("[2, 4, 3]"), "{message}");
}
