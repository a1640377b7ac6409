//! Compatibility from headers, similarity of weights, clusters.

use crate::config::ClusterConfig;
use crate::error::PipelineError;
use crate::figures;
use crate::zoo::Zoo;
use glue_metrics::cluster::{Linkage, agglomerate, leader};
use glue_metrics::compatibility::{self, ModelSummary, compatibility};
use glue_metrics::{Matrix, Metric, NamedCheckpoint, SimilarityOptions, similarity};
use glue_progress::Progress;
use glue_report as report;
use glue_tensor::write_atomic;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The compatibility of all models, from headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Compatible {
    pub(crate) models: Vec<report::Model>,
    pub(crate) pairs: Vec<report::Pair>,
}

impl Compatible {
    /// Whether two models of the zoo can be merged without changes.
    pub(crate) fn mergeable(&self, a: &str, b: &str) -> bool {
        let same =
            |pair: &&report::Pair| (pair.first == a && pair.second == b) || (pair.first == b && pair.second == a);
        a == b || self.pairs.iter().find(same).is_some_and(|pair| pair.verdict == report::Verdict::Mergeable)
    }
}

impl Compatible {
    /// Number of parameters of a model of the zoo.
    pub(crate) fn parameters(&self, name: &str) -> u64 {
        self.models.iter().find(|model| model.name == name).map_or(0, |model| model.parameters)
    }
}

impl Clusters {
    /// The cluster of a model.
    pub(crate) fn of(&self, name: &str) -> Option<&report::Cluster> {
        self.clustering.clusters.iter().find(|cluster| cluster.members.iter().any(|member| member == name))
    }
}

pub(crate) fn compare_headers(zoo: &Zoo) -> Result<Compatible, PipelineError> {
    let named: Vec<_> = zoo.models.iter().map(|model| (model.name.clone(), &model.dir)).collect();
    let found = compatibility(&named)?;
    let models = found.models.iter().zip(&zoo.models).map(|(summary, model)| report::Model {
        name: model.name.clone(),
        path: model.path.display().to_string(),
        family: summary.model_type.clone().unwrap_or_else(|| "unknown".into()),
        architecture: shape(summary),
        parameters: summary.parameters,
        dtype: summary.dtypes.iter().max_by_key(|(_, n)| **n).map(|(dtype, _)| dtype.clone()).unwrap_or_default(),
        vocab_size: summary.vocab_size,
        tokenizer: summary.tokenizer_hash.as_deref().map(|hash| hash.chars().take(8).collect()),
        base: model.base,
    });
    let models = models.collect();
    let name = |i: usize| zoo.models[i].name.clone();
    let pairs = found.pairs.iter().map(|pair| report::Pair {
        first: name(pair.first),
        second: name(pair.second),
        verdict: match pair.verdict {
            compatibility::Verdict::Mergeable => report::Verdict::Mergeable,
            compatibility::Verdict::WithVocabularyAlignment => report::Verdict::WithVocabularyAlignment,
            compatibility::Verdict::MixtureOnly => report::Verdict::MixtureOnly,
        },
        reasons: pair.reasons.iter().map(ToString::to_string).collect(),
        notes: pair.notes.iter().map(ToString::to_string).collect(),
    });
    Ok(Compatible { models, pairs: pairs.collect() })
}

/// Groups of models that could be merged, from headers; bases are left out.
pub(crate) fn mergeable_groups(zoo: &Zoo) -> Result<Vec<Vec<usize>>, PipelineError> {
    let named: Vec<_> = zoo.models.iter().map(|model| (model.name.clone(), &model.dir)).collect();
    let groups = compatibility(&named)?.groups;
    let members = |group: Vec<usize>| group.into_iter().filter(|&i| !zoo.models[i].base).collect();
    Ok(groups.into_iter().map(members).collect())
}

/// The shape of a model in words.
fn shape(summary: &ModelSummary) -> String {
    let known = |value: Option<usize>| value.map_or("?".to_string(), |value| value.to_string());
    let heads = match (summary.heads, summary.kv_heads) {
        (Some(heads), Some(kv)) if kv != heads => format!("{heads} heads ({kv} kv)"),
        (heads, _) => format!("{} heads", known(heads)),
    };
    format!("{} layers × {}, {heads}", known(summary.layers), known(summary.hidden_size))
}

pub(crate) fn measure(
    zoo: &Zoo,
    config: &ClusterConfig,
    place: &Path,
    progress: &dyn Progress,
) -> Result<Matrix, PipelineError> {
    let models: Vec<NamedCheckpoint<'_>> = zoo
        .models
        .iter()
        .map(|model| NamedCheckpoint { name: model.name.clone(), checkpoint: model.dir.checkpoint() })
        .collect();
    let metric = Metric::find(&config.metric)?;
    let matrix = similarity(&models, None, metric, &SimilarityOptions::default(), progress)?.matrix();
    write_atomic(place.join("similarity.csv"), matrix.to_csv().as_bytes())?;
    Ok(matrix)
}

/// Groups of models.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Clusters {
    pub(crate) clustering: report::Clustering,
    pub(crate) dendrogram: report::Dendrogram,
}

pub(crate) fn group(matrix: &Matrix, config: &ClusterConfig) -> Result<Clusters, PipelineError> {
    let link = if config.method == "leader" { Linkage::Average } else { Linkage::parse(&config.method)? };
    let tree = agglomerate(matrix, link);
    let partition = match config.method.as_str() {
        "leader" => leader(matrix, config.threshold)?,
        _ => tree.cut(config.threshold)?,
    };
    Ok(Clusters {
        clustering: report::Clustering {
            method: config.method.clone(),
            threshold: config.threshold,
            clusters: figures::clusters(&partition, matrix),
        },
        dendrogram: figures::dendrogram(&tree),
    })
}
