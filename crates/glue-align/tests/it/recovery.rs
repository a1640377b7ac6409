//! Models permuted at random are brought back, and permutations are what they say they are.

use crate::support::{ARCHS, assert_same, data, noise, open, tensors, write};
use glue_align::{
    AlignOptions, Alignment, Correlation, GroupKind, GroupKinds, Method, Permutations, SiteKind, Symmetry,
    WriteOptions, activation_sites, align, permuted, write_aligned,
};
use glue_progress::NoProgress;
use glue_tensor::ModelDir;
use std::collections::BTreeMap;
use std::path::Path;

fn permute(model: &ModelDir, kinds: GroupKinds, seed: u64, out_dir: &Path) -> (Symmetry, Permutations, ModelDir) {
    let symmetry = Symmetry::derive(model.config(), model.checkpoint(), kinds).unwrap();
    let random = Permutations::random(&symmetry, seed);
    let record = Alignment::from_permutations(&symmetry, kinds, &random);
    write_aligned(model, &record, out_dir, &WriteOptions::default(), &NoProgress).unwrap();
    (symmetry, random, ModelDir::open(out_dir).unwrap())
}

/// Permutes, matches weights, and asserts that the permutation is undone to the last byte; so that the average with
/// the original is the original.
fn check_recovery(name: &str, kinds: GroupKinds, seed: u64) {
    let root = tempfile::tempdir().unwrap();
    let original = open(name);
    let (symmetry, random, moved) = permute(&original, kinds, seed, &root.path().join("moved"));
    assert!(!random.is_identity());
    let options = AlignOptions { kinds, ..AlignOptions::default() };
    let alignment = align(&original, &moved, Method::Weights, &options, &NoProgress).unwrap();
    assert_eq!(alignment.permutations(&symmetry).unwrap(), random.inverse(&symmetry), "{name}");
    assert!(alignment.converged, "{name}");
    assert!(alignment.cosine_after > 1.0 - 1e-12, "{name}: {}", alignment.cosine_after);
    assert!(alignment.cosine_before < alignment.cosine_after, "{name}");
    assert!(alignment.groups.iter().all(|group| group.after > 1.0 - 1e-12), "{name}");
    let back = root.path().join("back");
    write_aligned(&moved, &alignment, &back, &WriteOptions::default(), &NoProgress).unwrap();
    let back = ModelDir::open(back).unwrap();
    assert_same(&back, &original, name);
    for (mut a, b) in tensors(&back).into_iter().zip(tensors(&original)) {
        let mean: Vec<f32> = a.floats().iter().zip(b.floats()).map(|(a, b)| 0.5 * (a + b)).collect();
        a.set_floats(&mean);
        assert!(a.bytes == b.bytes, "{name}: {}", a.name);
    }
}

#[test]
fn every_architecture_is_recovered() {
    for (seed, arch) in ARCHS.into_iter().enumerate() {
        check_recovery(&format!("archs/{arch}"), GroupKinds::ALL, seed as u64);
    }
}

#[test]
fn trained_models_are_recovered() {
    for (seed, model) in ["base-a", "b-code", "c-chat"].into_iter().enumerate() {
        check_recovery(&format!("zoo/{model}"), GroupKinds::ALL, 100 + seed as u64);
        check_recovery(&format!("zoo/{model}"), GroupKinds::LAYERS, 200 + seed as u64);
    }
}

#[test]
fn every_kind_is_recovered_by_itself() {
    let none = GroupKinds::NONE;
    let kinds = [
        GroupKinds { neurons: true, ..none },
        GroupKinds { heads: true, ..none },
        GroupKinds { values: true, ..none },
        GroupKinds { residual: true, ..none },
        GroupKinds { heads: true, residual: true, ..none },
    ];
    for kinds in kinds {
        check_recovery("archs/phi3", kinds, 7);
        check_recovery("archs/mixtral", kinds, 8);
    }
    check_recovery("archs/mixtral", GroupKinds { experts: true, ..none }, 9);
    check_recovery("archs/mixtral", GroupKinds { experts: true, residual: true, ..none }, 10);
}

#[test]
fn noise_does_not_hide_a_permutation() {
    let root = tempfile::tempdir().unwrap();
    for (seed, name) in ["archs/qwen3", "archs/mixtral", "zoo/base-a"].into_iter().enumerate() {
        let seed = seed as u64;
        let original = open(name);
        let (symmetry, random, moved) =
            permute(&original, GroupKinds::ALL, seed, &root.path().join(format!("moved{seed}")));
        let mut noisy = tensors(&moved);
        for (t, tensor) in noisy.iter_mut().enumerate() {
            let mut values = tensor.floats();
            let norm = values.iter().map(|x| x * x).sum::<f32>() / values.len() as f32;
            for (i, value) in values.iter_mut().enumerate() {
                *value += 0.1 * norm.sqrt() * noise(seed, (t << 24 | i) as u64);
            }
            tensor.set_floats(&values);
        }
        let noisy = write(&noisy, &original, &[], &root.path().join(format!("noisy{seed}")));
        let alignment = align(&original, &noisy, Method::Weights, &AlignOptions::default(), &NoProgress).unwrap();
        assert_eq!(alignment.permutations(&symmetry).unwrap(), random.inverse(&symmetry), "{name}");
        // Noise of a tenth: the cosine is 1 / √1.01.
        assert!((alignment.cosine_after - 0.995).abs() < 2e-3, "{name}: {}", alignment.cosine_after);
    }
}

#[test]
fn a_fine_tune_stays_where_it_is() {
    let (base, tuned) = (open("zoo/base-a"), open("zoo/a-math"));
    let alignment = align(&base, &tuned, Method::Weights, &AlignOptions::default(), &NoProgress).unwrap();
    assert!(alignment.groups.iter().all(|group| group.permutation.is_identity()));
    assert_eq!(alignment.cosine_before, alignment.cosine_after);
}

#[test]
fn a_permuted_fine_tune_is_brought_back_to_its_base() {
    let root = tempfile::tempdir().unwrap();
    let (base, tuned) = (open("zoo/base-a"), open("zoo/a-math"));
    let (symmetry, random, moved) = permute(&tuned, GroupKinds::ALL, 21, &root.path().join("moved"));
    let alignment = align(&base, &moved, Method::Weights, &AlignOptions::default(), &NoProgress).unwrap();
    assert_eq!(alignment.permutations(&symmetry).unwrap(), random.inverse(&symmetry));
}

#[test]
fn identical_neurons_may_change_places_and_nothing_changes() {
    let root = tempfile::tempdir().unwrap();
    let base = open("archs/llama2");
    let mut twins = tensors(&base);
    for tensor in twins.iter_mut().filter(|tensor| tensor.name.contains("mlp.")) {
        let (columns, mut values) = (tensor.shape[1], tensor.floats());
        if tensor.name.contains("down_proj") {
            values.chunks_exact_mut(columns).for_each(|row| row.copy_within(0..columns / 2, columns / 2));
        } else {
            let half = values.len() / 2;
            values.copy_within(0..half, half);
        }
        tensor.set_floats(&values);
    }
    let twins = write(&twins, &base, &[], &root.path().join("twins"));
    let (_, _, moved) = permute(&twins, GroupKinds::ALL, 3, &root.path().join("moved"));
    let alignment = align(&twins, &moved, Method::Weights, &AlignOptions::default(), &NoProgress).unwrap();
    let back = root.path().join("back");
    write_aligned(&moved, &alignment, &back, &WriteOptions::default(), &NoProgress).unwrap();
    assert_same(&ModelDir::open(back).unwrap(), &twins, "twins");
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let (a, b) = (open("zoo/base-a"), open("zoo/base-b"));
    let run = |threads, max_bytes| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let options = AlignOptions { max_bytes, ..AlignOptions::default() };
        pool.install(|| align(&a, &b, Method::Weights, &options, &NoProgress)).unwrap()
    };
    let one = run(1, 0);
    assert_eq!(one, run(3, u64::MAX));
    assert!(one.converged && one.cosine_after > one.cosine_before);
    let text = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<Alignment>(&text).unwrap(), one);
}

#[test]
fn permuting_and_back_leaves_every_byte() {
    let root = tempfile::tempdir().unwrap();
    for (i, name) in ["zoo/base-a", "archs/mixtral", "archs/phi3"].into_iter().enumerate() {
        let original = open(name);
        let (symmetry, random, moved) = permute(&original, GroupKinds::ALL, 5, &root.path().join(format!("moved{i}")));
        assert!(tensors(&moved).iter().zip(tensors(&original)).any(|(a, b)| a.bytes != b.bytes));
        let inverse = Alignment::from_permutations(&symmetry, GroupKinds::ALL, &random.inverse(&symmetry));
        let back = root.path().join(format!("back{i}"));
        // Shards: the split must not matter.
        write_aligned(
            &moved,
            &inverse,
            &back,
            &WriteOptions { max_shard_bytes: 20_000, ..WriteOptions::default() },
            &NoProgress,
        )
        .unwrap();
        let back = ModelDir::open(back).unwrap();
        assert!(back.checkpoint().files().len() > 1);
        assert_same(&back, &original, name);
        assert_eq!(back.config(), original.config());
        assert_eq!(back.generation_config(), original.generation_config());
        assert_eq!(back.tokenizer().names(), original.tokenizer().names());
        let record = std::fs::read(back.path().join("alignment.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Alignment>(&record).unwrap(), inverse);
    }
}

#[test]
fn composition_is_application_in_turn() {
    let root = tempfile::tempdir().unwrap();
    for arch in ["mixtral", "phi3", "olmo2"] {
        let original = open(&format!("archs/{arch}"));
        for seed in 0..4 {
            let out = root.path().join(format!("{arch}{seed}"));
            let (symmetry, first, moved) = permute(&original, GroupKinds::ALL, seed, &out);
            let second = Permutations::random(&symmetry, 50 + seed);
            let both = second.after(&first, &symmetry);
            for info in original.checkpoint().tensors() {
                let at_once = permuted(original.checkpoint(), &symmetry, &both, &info.name).unwrap();
                let in_turn = permuted(moved.checkpoint(), &symmetry, &second, &info.name).unwrap();
                assert!(at_once == in_turn, "{arch}: {}", info.name);
            }
            assert!(first.inverse(&symmetry).after(&first, &symmetry).is_identity());
            assert!(first.after(&first.inverse(&symmetry), &symmetry).is_identity());
        }
    }
}

#[test]
fn activations_of_a_permuted_model_are_paired() {
    let model = open("zoo/base-a");
    let kinds = GroupKinds::ALL;
    let symmetry = Symmetry::derive(model.config(), model.checkpoint(), kinds).unwrap();
    let random = Permutations::random(&symmetry, 11);
    let root = tempfile::tempdir().unwrap();
    let (_, _, moved) = permute(&model, kinds, 11, &root.path().join("moved"));
    let mut statistics = BTreeMap::new();
    for (s, site) in activation_sites(&symmetry).unwrap().into_iter().enumerate() {
        // The tensor and the axis that read what is taken at the site.
        let tensor = match (site.kind, site.layer) {
            (SiteKind::Residual, _) => "lm_head.weight".to_string(),
            (SiteKind::AttentionOutput, Some(layer)) => format!("model.layers.{layer}.self_attn.o_proj.weight"),
            (_, layer) => format!("model.layers.{}.mlp.down_proj.weight", layer.unwrap()),
        };
        let sources = random.of_axis(&symmetry, symmetry.tensor(&tensor).unwrap(), 1).unwrap();
        assert_eq!(sources.len(), site.units);
        let mut correlation = Correlation::new(site.units);
        for batch in 0..3 {
            let samples = 40 + 7 * batch;
            let at = |i: usize| noise(s as u64, (batch * 1_000_000 + i) as u64) + 3.0;
            let reference: Vec<f32> = (0..samples * site.units).map(at).collect();
            let units = site.units;
            let theirs: Vec<f32> = (0..samples * units)
                .map(|i| 2.0 * reference[i / units * units + sources[i % units] as usize] + 0.1 * at(i + 500_000))
                .collect();
            correlation.add(&reference, &theirs).unwrap();
        }
        statistics.insert(site.name, correlation);
    }
    let options = AlignOptions { kinds, ..AlignOptions::default() };
    let found = align(&model, &moved, Method::Activations(&statistics), &options, &NoProgress).unwrap();
    assert_eq!(found.permutations(&symmetry).unwrap(), random.inverse(&symmetry));
    assert!(found.groups.iter().all(|group| group.before < 0.5 && group.after > 0.9));
    assert!(found.cosine_after > 1.0 - 1e-12);
    assert_eq!(found.moved(GroupKind::Neurons).1, 4 * 256);
}

#[test]
fn correlations_are_those_of_the_definition_in_any_batches() {
    let (units, samples) = (5, 60);
    let x: Vec<f32> = (0..units * samples).map(|i| 100.0 + noise(1, i as u64)).collect();
    let mut y: Vec<f32> = (0..units * samples).map(|i| noise(2, i as u64) - 0.5 * x[i]).collect();
    y.chunks_exact_mut(units).for_each(|sample| sample[4] = 7.0);
    let mut at_once = Correlation::new(units);
    at_once.add(&x, &y).unwrap();
    let mut in_parts = Correlation::new(units);
    for range in [0..10, 10..25, 25..25, 25..60] {
        let mut part = Correlation::new(units);
        part.add(&x[range.start * units..range.end * units], &y[range.start * units..range.end * units]).unwrap();
        in_parts.merge(&part).unwrap();
    }
    assert_eq!(in_parts.samples(), samples as u64);
    let column = |values: &[f32], unit: usize| -> Vec<f64> {
        let column: Vec<f64> = values.chunks_exact(units).map(|sample| f64::from(sample[unit])).collect();
        let mean = column.iter().sum::<f64>() / samples as f64;
        column.iter().map(|x| x - mean).collect()
    };
    for (found, parts) in [at_once.correlations(), in_parts.correlations()].iter().map(|c| (c, c.len())) {
        assert_eq!(parts, units * units);
        for i in 0..units {
            for j in 0..units {
                let (a, b) = (column(&x, i), column(&y, j));
                let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
                let norm = (dot(&a, &a) * dot(&b, &b)).sqrt();
                let expected = if j == 4 { 0.0 } else { dot(&a, &b) / norm };
                // Centred samples and their products are in f32: 60 terms of relative error 2^-24 each.
                assert!((found[i * units + j] - expected).abs() < 4e-6, "{i} {j}");
            }
        }
    }
}

#[test]
fn the_test_data_is_there() {
    assert!(ARCHS.iter().all(|arch| data("archs").join(arch).is_dir()));
}
