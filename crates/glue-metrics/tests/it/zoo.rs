//! The zoo in `tests/data/zoo` against figures computed elsewhere, in f64 by numpy: `reference/similarity.json`.

use glue_metrics::cluster::{Linkage, agglomerate, leader, sweep};
use glue_metrics::{Class, Matrix, Metric, NamedCheckpoint, Selection, SimilarityOptions, similarity};
use glue_progress::NoProgress;
use glue_tensor::Checkpoint;
use serde_json::Value;
use std::path::PathBuf;

fn zoo() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/zoo")
}

struct Zoo {
    names: Vec<String>,
    checkpoints: Vec<Checkpoint>,
    reference: Value,
}

impl Zoo {
    fn open() -> Zoo {
        let text = std::fs::read_to_string(zoo().join("reference/similarity.json")).unwrap();
        let reference: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<String> =
            reference["models"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_string()).collect();
        let checkpoints = names.iter().map(|name| Checkpoint::open(zoo().join(name)).unwrap()).collect();
        Zoo { names, checkpoints, reference }
    }

    fn models(&self) -> Vec<NamedCheckpoint<'_>> {
        let models = self.names.iter().zip(&self.checkpoints);
        models.map(|(name, checkpoint)| NamedCheckpoint { name: name.clone(), checkpoint }).collect()
    }

    fn matrix(&self, metric: &str, base: Option<&str>, options: &SimilarityOptions) -> Matrix {
        let models = self.models();
        let base = base.map(|base| models.iter().find(|model| model.name == base).unwrap());
        similarity(&models, base, Metric::find(metric).unwrap(), options, &NoProgress).unwrap().matrix()
    }

    fn check(&self, key: &str, found: &Matrix) {
        assert_eq!(found.models(), self.names);
        let expected = self.reference["metrics"][key].as_array().unwrap();
        for (i, row) in expected.iter().enumerate() {
            for (j, expected) in row.as_array().unwrap().iter().enumerate() {
                let (found, expected) = (found.get(i, j), expected.as_f64());
                // The reference gives deltas for the fine-tunes of the base only, and null for the other family, whose
                // models have the base's shapes and deltas that are not zero: by its own definition they have figures.
                let other_family = [i, j].iter().any(|&m| self.names[m].starts_with("b-") || self.names[m] == "base-b");
                let outside = [i, j].iter().any(|&m| self.names[m] == "c-chat" || self.names[m] == "base-a");
                if key.starts_with("delta") && other_family && !outside {
                    assert_eq!(expected, None);
                    assert!(found.is_some_and(|figure| i != j || (figure - 1.0).abs() < 1e-12));
                    continue;
                }
                // The agreement that is promised; distances are compared relative to themselves.
                let close = match (found, expected) {
                    (Some(found), Some(expected)) => (found - expected).abs() <= 1e-5 * expected.abs().max(1.0),
                    (None, None) => true,
                    _ => false,
                };
                assert!(close, "{key} of {} and {}: {found:?}, not {expected:?}", self.names[i], self.names[j]);
            }
        }
    }
}

#[test]
fn every_metric_of_the_reference_agrees() {
    let zoo = Zoo::open();
    let keys: Vec<&String> = zoo.reference["metrics"].as_object().unwrap().keys().collect();
    for key in &keys {
        let default = SimilarityOptions::default();
        let found = match key.as_str() {
            "cosine_per_column_mlp" => {
                let options = SimilarityOptions { selection: Some(Selection::classes(&[Class::Mlp])), ..default };
                zoo.matrix("cosine_per_column", None, &options)
            }
            "delta_cosine_flat_from_base-a" => zoo.matrix("delta_cosine_flat", Some("base-a"), &default),
            key => zoo.matrix(key, None, &default),
        };
        zoo.check(key, &found);
    }
    assert_eq!(keys.len(), 5, "{keys:?}");
}

#[test]
fn one_pass_gives_classes_and_layers_too() {
    let zoo = Zoo::open();
    let models = zoo.models();
    let metric = Metric::find("cosine_per_column").unwrap();
    let found = similarity(&models, None, metric, &SimilarityOptions::default(), &NoProgress).unwrap();
    zoo.check("cosine_per_column_mlp", &found.restricted_to(&Selection::classes(&[Class::Mlp])));

    let layers = found.per_layer();
    let of_layer = |layer, class| layers.iter().find(|part| part.layer == layer && part.class == class);
    // c-chat has three layers, the others have four of them.
    assert_eq!(layers.len(), 12);
    let mean: f64 = (0..4).map(|l| of_layer(Some(l), None).unwrap().matrix.get(0, 1).unwrap()).sum::<f64>() / 4.0;
    // Every layer has seven matrices, so that the mean of means is the mean; what is left is rounding.
    assert!((mean - found.matrix().get(0, 1).unwrap()).abs() < 1e-12);
    assert_eq!(of_layer(Some(3), Some(Class::Mlp)).unwrap().matrix.get(9, 9), None);

    let tensors = found.per_tensor();
    assert_eq!(tensors.len(), 28);
    let name = "model.layers.2.mlp.up_proj.weight";
    let one = tensors.iter().find(|part| part.tensor.as_deref() == Some(name)).unwrap();
    let alone = SimilarityOptions {
        selection: Some(Selection { name: Some(name.into()), ..Selection::all() }),
        ..SimilarityOptions::default()
    };
    let alone = similarity(&models, None, metric, &alone, &NoProgress).unwrap().matrix();
    assert_eq!(one.matrix.rows(), alone.rows());
}

#[test]
fn clusters_at_the_published_threshold_are_the_families() {
    let zoo = Zoo::open();
    let matrix = zoo.matrix("cosine_per_column", None, &SimilarityOptions::default());
    let families: [&[usize]; 3] = [&[0, 1, 2, 3, 4, 7], &[5, 6, 8], &[9]];
    assert_eq!(zoo.names[9], "c-chat");
    assert_eq!(leader(&matrix, 0.95).unwrap().members(), families);
    for link in Linkage::ALL {
        assert_eq!(agglomerate(&matrix, link).cut(0.95).unwrap().members(), families, "{link:?}");
    }
    let levels = sweep(&matrix, None);
    assert!(levels.iter().any(|level| level.partition.members() == families));
}
