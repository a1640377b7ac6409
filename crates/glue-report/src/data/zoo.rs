//! The zoo: models, compatibility, similarity and clusters.

use serde::{Deserialize, Serialize};

/// A model of the zoo.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Model {
    /// Its name; not `average`.
    pub name: String,
    /// Where it was read from.
    pub path: String,
    /// Its family, such as `llama`.
    pub family: String,
    /// Its shape in words, such as `4 layers × 128, 4 heads (2 kv)`.
    pub architecture: String,
    /// Number of parameters.
    pub parameters: u64,
    /// Stored type, such as `F16`.
    pub dtype: String,
    /// Size of the vocabulary.
    pub vocab_size: Option<usize>,
    /// A hash of its tokenizer.
    pub tokenizer: Option<String>,
    /// Whether it is a base that others were fine-tuned from.
    pub base: bool,
}

/// What can be done with a pair of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// They can be merged as they are.
    Mergeable,
    /// They can be merged once their vocabularies have been aligned.
    WithVocabularyAlignment,
    /// They can only stand side by side in a mixture. The default.
    #[default]
    MixtureOnly,
}

/// The verdict on a pair of models.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pair {
    /// Name of one model.
    pub first: String,
    /// Name of the other.
    pub second: String,
    /// What can be done with them.
    pub verdict: Verdict,
    /// Why no more can be done; empty for mergeable models. Parts of a sentence.
    pub reasons: Vec<String>,
    /// Differences that do not prevent a merge but may matter to it.
    pub notes: Vec<String>,
}

/// What a figure of similarity means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Higher is more similar, 1 is equal. The default.
    #[default]
    Similarity,
    /// Lower is more similar, 0 is equal.
    Distance,
}

/// The similarity of the models.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Similarity {
    /// Name of the metric.
    pub metric: String,
    /// What its figures mean.
    pub scale: Scale,
    /// The models, in the order of rows and columns.
    pub names: Vec<String>,
    /// The figures, a row for each model; `None` where there is none, such as between different shapes.
    pub matrix: Vec<Vec<Option<f64>>>,
}

/// One join of a dendrogram. Nodes are numbered: 0 to n − 1 are the models, n + k is the k-th join.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Join {
    /// One node.
    pub first: usize,
    /// The other.
    pub second: usize,
    /// The figure, on the scale of the similarity, at which they join; `None` if they have nothing in common.
    pub height: Option<f64>,
}

/// Models joined by similarity, the nearest first.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Dendrogram {
    /// How the distance of groups is counted, such as `average`.
    pub link: String,
    /// What the heights mean.
    pub scale: Scale,
    /// The models.
    pub names: Vec<String>,
    /// The joins.
    pub joins: Vec<Join>,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cluster {
    /// Its name, such as `1`.
    pub name: String,
    /// Its models.
    pub members: Vec<String>,
    /// The member that the others were compared with.
    pub first: String,
}

/// The clusters of the zoo.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Clustering {
    /// How clusters were found, such as `leader`.
    pub method: String,
    /// The figure that members must pass, on the scale of the similarity.
    pub threshold: f64,
    /// The clusters.
    pub clusters: Vec<Cluster>,
}
