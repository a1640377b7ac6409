//! What is refused, and in which words.

use crate::support::{Tensor, open, tensors, write};
use glue_align::{
    AlignError, AlignOptions, Alignment, Correlation, GroupKinds, Method, Permutations, Symmetry, WriteOptions,
    activation_sites, align, write_aligned,
};
use glue_progress::{ErrorChain, NoProgress, Progress};
use glue_tensor::{Dtype, ModelDir};
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn derive(model: &ModelDir) -> Result<Symmetry, AlignError> {
    Symmetry::derive(model.config(), model.checkpoint(), GroupKinds::ALL)
}

fn zeros(name: &str, shape: &[usize]) -> Tensor {
    let dtype = Dtype::F32;
    let bytes = vec![0; shape.iter().product::<usize>() * dtype.size()];
    Tensor { name: name.to_string(), dtype, shape: shape.to_vec(), bytes }
}

type Change = fn(&mut Vec<Tensor>);
/// A model, what is done to its tensors and to its configuration, and the words expected.
type Row<'a> = (&'a str, Change, &'a [(&'a str, Value)], &'a str);

#[test]
fn models_of_unknown_structure_are_refused_by_the_name_of_the_tensor() {
    let table: [Row<'_>; 12] = [
        (
            "archs/llama2",
            |tensors| tensors.push(zeros("model.layers.1.self_attn.sinks", &[4])),
            &[],
            "tensor `model.layers.1.self_attn.sinks` of shape [4] is not one whose symmetries are known",
        ),
        (
            "archs/llama2",
            |tensors| tensors.push(zeros("model.vision.proj.weight", &[7, 32])),
            &[],
            "tensor `model.vision.proj.weight`",
        ),
        (
            "archs/llama2",
            |tensors| tensors.push(zeros("model.layers.0.mlp.down_proj.weight_scale_inv", &[2, 2])),
            &[],
            "tensor `model.layers.0.mlp.down_proj.weight_scale_inv`",
        ),
        (
            "archs/llama2",
            |tensors| {
                let gate = tensors.iter_mut().find(|t| t.name.contains("1.mlp.gate_proj")).unwrap();
                *gate = zeros(&gate.name, &[48, 32]);
            },
            &[],
            "tensor `model.layers.1.mlp.gate_proj.weight` should have shape 64 (neurons of the layer) on axis 0, but has [48, 32]",
        ),
        ("archs/qwen2", |_| {}, &[("num_attention_heads", json!(2))], "should have shape 32"),
        ("archs/qwen2", |_| {}, &[("num_key_value_heads", json!(3))], "`num_key_value_heads` is 3"),
        ("archs/qwen2", |_| {}, &[("num_attention_heads", json!(null))], "does not say `num_attention_heads`"),
        ("archs/qwen2", |_| {}, &[("hidden_size", json!(64))], "(hidden_size) on axis"),
        (
            "archs/qwen2",
            |_| {},
            &[("alibi", json!(true))],
            "`alibi` is true in the configuration, under which attention heads",
        ),
        ("archs/qwen2", |_| {}, &[("num_kv_shared_layers", json!(1))], "`num_kv_shared_layers` is 1"),
        (
            "archs/mixtral",
            |tensors| tensors.retain(|tensor| !tensor.name.contains("1.block_sparse_moe.experts.2.w3")),
            &[],
            "tensor `model.layers.1.block_sparse_moe.experts.2.w3.weight` is missing",
        ),
        (
            "archs/phi3",
            |tensors| {
                let fused = tensors.iter_mut().find(|t| t.name.contains("qkv_proj")).unwrap();
                *fused = zeros(&fused.name, &[62, 32]);
            },
            &[],
            "should have shape 64 ((num_attention_heads + 2 · num_key_value_heads) · head_dim) on axis 0",
        ),
    ];
    let root = tempfile::tempdir().unwrap();
    for (row, (base, change, keys, expected)) in table.into_iter().enumerate() {
        let base = open(base);
        let mut changed = tensors(&base);
        change(&mut changed);
        let model = write(&changed, &base, keys, &root.path().join(row.to_string()));
        let error = derive(&model).unwrap_err().chain();
        assert!(error.contains(expected), "row {row}: {error}");
    }
}

#[test]
fn a_scalar_beside_the_weights_is_no_obstacle() {
    let root = tempfile::tempdir().unwrap();
    let base = open("archs/llama2");
    let mut more = tensors(&base);
    more.push(zeros("model.layers.0.self_attn.k_scale", &[1]));
    let model = write(&more, &base, &[], &root.path().join("scalar"));
    assert_eq!(derive(&model).unwrap(), derive(&base).unwrap());
}

#[test]
fn models_that_differ_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let base = open("archs/llama2");
    let refuse = |reference: &ModelDir, model: &ModelDir, options: &AlignOptions| {
        align(reference, model, Method::Weights, options, &NoProgress).unwrap_err().chain()
    };
    let options = AlignOptions::default();
    let error = refuse(&base, &open("archs/qwen2"), &options);
    assert!(error.contains("only models of the same shapes"), "{error}");
    let error = refuse(&open("zoo/base-a"), &open("zoo/c-chat"), &options);
    assert!(error.contains("in the reference"), "{error}");

    let mut broken = tensors(&base);
    let up = broken.iter_mut().find(|tensor| tensor.name.contains("2.mlp.up_proj")).unwrap();
    let mut values = up.floats();
    values[77] = f32::NAN;
    up.set_floats(&values);
    let broken = write(&broken, &base, &[], &root.path().join("nan"));
    let error = refuse(&base, &broken, &options);
    assert_eq!(error, "tensor `model.layers.2.mlp.up_proj.weight` of the model holds values that are not finite");
    let error = refuse(&broken, &base, &options);
    assert!(error.contains("of the reference"), "{error}");

    let error = refuse(&base, &base, &AlignOptions { max_units: 40, ..options });
    assert!(error.starts_with("group `layers.0.neurons` has 64 units; the limit is 40"), "{error}");
    let error = refuse(&base, &base, &AlignOptions { kinds: GroupKinds::NONE, ..options });
    assert!(error.contains("no kind at all"), "{error}");
    let error =
        refuse(&base, &base, &AlignOptions { kinds: GroupKinds { experts: true, ..GroupKinds::NONE }, ..options });
    assert!(error.ends_with("in this model: experts"), "{error}");
}

#[test]
fn records_of_other_models_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let (llama, qwen) = (open("archs/llama2"), open("archs/qwen2"));
    let symmetry = derive(&llama).unwrap();
    let record = Alignment::from_permutations(&symmetry, GroupKinds::ALL, &Permutations::random(&symmetry, 1));
    let out = root.path().join("out");
    let error = write_aligned(&qwen, &record, &out, &WriteOptions::default(), &NoProgress).unwrap_err();
    assert!(matches!(&error, AlignError::Group { .. }), "{error}");
    assert!(!out.exists());
    let mut short = record.clone();
    short.groups.pop();
    let error = short.permutations(&symmetry).unwrap_err().chain();
    assert!(error.contains("expected") && error.ends_with("found none"), "{error}");
    let mut twice = record;
    twice.groups.push(twice.groups[0].clone());
    let error = twice.permutations(&symmetry).unwrap_err().chain();
    assert!(error.contains("`residual`"), "{error}");
}

#[test]
fn activations_that_do_not_fit_are_refused() {
    let base = open("archs/llama2");
    let symmetry = derive(&base).unwrap();
    let run = |statistics: &BTreeMap<String, Correlation>| {
        align(&base, &base, Method::Activations(statistics), &AlignOptions::default(), &NoProgress)
            .unwrap_err()
            .to_string()
    };
    let mut statistics = BTreeMap::new();
    assert_eq!(run(&statistics), "activations of `residual`: expected statistics of 32 units, found none");
    for site in activation_sites(&symmetry).unwrap() {
        statistics.insert(site.name, Correlation::new(site.units));
    }
    assert!(run(&statistics).ends_with("expected 32 units and two samples or more, found 32 units and 0 samples"));
    let mut correlation = Correlation::new(3);
    assert!(correlation.add(&[1.0; 6], &[1.0; 3]).unwrap_err().chain().contains("as many of both models"));
    assert!(correlation.add(&[1.0; 4], &[1.0; 4]).is_err());
    assert!(correlation.add(&[f32::INFINITY; 3], &[1.0; 3]).unwrap_err().chain().contains("not finite"));
    assert_eq!(correlation, Correlation::new(3));
    let error = activation_sites(&derive(&open("archs/mixtral")).unwrap()).unwrap_err().to_string();
    assert!(error.contains("layers.0.experts"), "{error}");
}

#[test]
fn a_stopped_run_leaves_nothing() {
    struct Stopped;
    impl Progress for Stopped {
        fn is_cancelled(&self) -> bool {
            true
        }
    }
    let root = tempfile::tempdir().unwrap();
    let base = open("archs/llama2");
    let symmetry = derive(&base).unwrap();
    let record = Alignment::from_permutations(&symmetry, GroupKinds::ALL, &Permutations::identity(&symmetry));
    let out = root.path().join("out");
    let error = write_aligned(&base, &record, &out, &WriteOptions::default(), &Stopped).unwrap_err();
    assert!(matches!(error, AlignError::Stopped), "{error}");
    let error = align(&base, &base, Method::Weights, &AlignOptions::default(), &Stopped).unwrap_err();
    assert!(matches!(error, AlignError::Stopped), "{error}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}
