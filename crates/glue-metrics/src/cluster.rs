//! Clusters of models from a matrix of figures.
//!
//! *Leader* clustering is Model-GLUE's (arXiv 2410.05357), with threshold 0.95: models are taken in the order of the
//! zoo, and each joins the first cluster whose **first** member it is more similar to than the threshold, or else
//! opens a cluster. It depends on that order. *Agglomerative* clustering joins the two nearest clusters until one
//! remains (Müllner 2011, arXiv 1109.2378, as implemented by kodama), by 1 − similarity or by the distance, with
//! single, complete or average [`Linkage`]. Only ties depend on the order.
//!
//! A pair without a figure is infinitely far apart: such models never share a cluster.

use crate::error::MetricsError;
use crate::matrix::{Matrix, Scale};
use serde::{Deserialize, Serialize};

/// The threshold published with Model-GLUE, for mean per-column cosine.
pub const DEFAULT_THRESHOLD: f64 = 0.95;

/// Models in clusters, by their numbers in the matrix.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    clusters: Vec<Vec<usize>>,
}

impl Partition {
    /// The clusters; members in the order of the matrix, clusters in the order of their first members.
    pub fn members(&self) -> &[Vec<usize>] {
        &self.clusters
    }

    /// The clusters with the names that `matrix` has for them; numbers beyond it are left out.
    pub fn names(&self, matrix: &Matrix) -> Vec<Vec<String>> {
        let name = |&i: &usize| matrix.models().get(i).cloned();
        self.clusters.iter().map(|cluster| cluster.iter().filter_map(name).collect()).collect()
    }

    fn new(mut clusters: Vec<Vec<usize>>) -> Partition {
        for cluster in &mut clusters {
            cluster.sort_unstable();
        }
        clusters.sort_unstable();
        Partition { clusters }
    }
}

/// Leader clustering: more similar than `threshold`, or nearer where figures are distances.
///
/// # Errors
/// [`MetricsError::Threshold`] for NaN and infinities.
pub fn leader(matrix: &Matrix, threshold: f64) -> Result<Partition, MetricsError> {
    check_threshold(matrix.scale(), threshold)?;
    Ok(leader_at(matrix, threshold))
}

/// Refuses a threshold that no figure of the scale, or every one, is beyond: a similarity is from -1 to 1, and a
/// distance at least 0.
///
/// # Errors
/// [`MetricsError::Threshold`].
pub fn check_threshold(scale: Scale, threshold: f64) -> Result<(), MetricsError> {
    let (range, expected) = match scale {
        Scale::Similarity => (-1.0..=1.0, "a similarity from -1 to 1"),
        Scale::Distance => (0.0..=f64::MAX, "a distance of at least 0"),
    };
    if range.contains(&threshold) { Ok(()) } else { Err(MetricsError::Threshold { threshold, expected }) }
}

fn leader_at(matrix: &Matrix, threshold: f64) -> Partition {
    let mut clusters: Vec<Vec<usize>> = Vec::new();
    for model in 0..matrix.n() {
        let near = |cluster: &&mut Vec<usize>| {
            matrix.get(cluster[0], model).is_some_and(|figure| passes(matrix.scale(), figure, threshold))
        };
        match clusters.iter_mut().find(near) {
            Some(cluster) => cluster.push(model),
            None => clusters.push(vec![model]),
        }
    }
    Partition { clusters }
}

/// Whether a figure is on the near side of the threshold.
fn passes(scale: Scale, figure: f64, threshold: f64) -> bool {
    match scale {
        Scale::Similarity => figure > threshold,
        Scale::Distance => figure < threshold,
    }
}

/// The linkage criterion: the distance of two clusters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Linkage {
    /// The distance of the nearest members.
    Single,
    /// The distance of the farthest members.
    Complete,
    /// The mean distance of members.
    Average,
}

impl Linkage {
    /// Every linkage.
    pub const ALL: [Linkage; 3] = [Linkage::Single, Linkage::Complete, Linkage::Average];

    /// The name: `single`, `complete` or `average`.
    pub const fn name(self) -> &'static str {
        match self {
            Linkage::Single => "single",
            Linkage::Complete => "complete",
            Linkage::Average => "average",
        }
    }

    /// The linkage called `name`.
    ///
    /// # Errors
    /// [`MetricsError::Unknown`], with the known names.
    pub fn parse(name: &str) -> Result<Linkage, MetricsError> {
        Linkage::ALL.into_iter().find(|link| link.name() == name).ok_or_else(|| MetricsError::Unknown {
            what: "linkage",
            name: name.to_string(),
            known: Linkage::ALL.map(Linkage::name).join(", "),
        })
    }
}

/// A step of agglomerative clustering: two clusters that become one.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Join {
    /// The first: a model's number, or n + s for the cluster made in step s, both counted from 0.
    pub first: usize,
    /// The second, likewise; greater than the first.
    pub second: usize,
    /// The figure at which they join, on the matrix's scale; `None` where a pair has no figure.
    pub figure: Option<f64>,
    /// Models in both together.
    pub size: usize,
}

/// The result of agglomerative clustering: the steps in which models join into clusters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dendrogram {
    /// Names of the models.
    pub models: Vec<String>,
    /// The linkage criterion.
    pub link: Linkage,
    /// Whether figures are similarities or distances.
    pub scale: Scale,
    /// The steps, one fewer than there are models, nearest first.
    pub joins: Vec<Join>,
}

/// Agglomerative clustering of the models of `matrix`.
pub fn agglomerate(matrix: &Matrix, link: Linkage) -> Dendrogram {
    let n = matrix.n();
    let mut far = Vec::with_capacity(n * n.saturating_sub(1) / 2);
    for i in 0..n {
        for j in i + 1..n {
            far.push(matrix.dissimilarity(i, j).unwrap_or(f64::INFINITY));
        }
    }
    let method = match link {
        Linkage::Single => kodama::Method::Single,
        Linkage::Complete => kodama::Method::Complete,
        Linkage::Average => kodama::Method::Average,
    };
    let steps = if n < 2 { Vec::new() } else { kodama::linkage(&mut far, n, method).steps().to_vec() };
    let figure = |far: f64| match matrix.scale() {
        _ if far.is_infinite() => None,
        Scale::Similarity => Some(1.0 - far),
        Scale::Distance => Some(far),
    };
    let join = |step: &kodama::Step<f64>| Join {
        first: step.cluster1.min(step.cluster2),
        second: step.cluster1.max(step.cluster2),
        figure: figure(step.dissimilarity),
        size: step.size,
    };
    let joins = steps.iter().map(join).collect();
    Dendrogram { models: matrix.models().to_vec(), link, scale: matrix.scale(), joins }
}

impl Dendrogram {
    /// The clusters whose members join on the near side of `threshold`.
    ///
    /// # Errors
    /// [`MetricsError::Threshold`] for NaN and infinities.
    pub fn cut(&self, threshold: f64) -> Result<Partition, MetricsError> {
        check_threshold(self.scale, threshold)?;
        Ok(self.cut_at(threshold))
    }

    fn cut_at(&self, threshold: f64) -> Partition {
        let mut clusters: Vec<Option<Vec<usize>>> = (0..self.models.len()).map(|i| Some(vec![i])).collect();
        for join in &self.joins {
            // Once a step fails the threshold, all later ones do: their clusters are never missing here.
            let joined = match join.figure {
                Some(figure) if passes(self.scale, figure, threshold) => {
                    let parts = [join.first, join.second].map(|part| clusters.get_mut(part).and_then(Option::take));
                    Some(parts.into_iter().flatten().flatten().collect())
                }
                _ => None,
            };
            clusters.push(joined);
        }
        Partition::new(clusters.into_iter().flatten().filter(|cluster: &Vec<usize>| !cluster.is_empty()).collect())
    }
}

/// A range of thresholds that give the same clusters.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ThresholdRange {
    /// Lower end; `None` without one. Belongs to the range where figures are similarities.
    pub from: Option<f64>,
    /// Upper end; `None` without one. Belongs to the range where figures are distances.
    pub to: Option<f64>,
    /// The clusters.
    pub partition: Partition,
}

/// The clusters at every threshold, from the lowest threshold to the highest: by leaders, or by `link`. Neighbouring
/// levels differ.
pub fn sweep(matrix: &Matrix, link: Option<Linkage>) -> Vec<ThresholdRange> {
    let dendrogram = link.map(|link| agglomerate(matrix, link));
    let mut figures: Vec<f64> = match &dendrogram {
        Some(dendrogram) => dendrogram.joins.iter().filter_map(|join| join.figure).collect(),
        None => (0..matrix.n()).flat_map(|i| (0..i).filter_map(move |j| matrix.get(i, j))).collect(),
    };
    figures.sort_by(f64::total_cmp);
    figures.dedup();
    let at = |threshold| match &dendrogram {
        Some(dendrogram) => dendrogram.cut_at(threshold),
        None => leader_at(matrix, threshold),
    };
    let ends = || figures.iter().copied().map(Some);
    let froms = std::iter::once(None).chain(ends());
    let tos = ends().chain([None]);
    let mut levels: Vec<ThresholdRange> = Vec::new();
    for (from, to) in froms.zip(tos) {
        // A figure equal to the threshold does not pass: the range holds its lower end, or its upper one.
        let partition = match matrix.scale() {
            Scale::Similarity => at(from.unwrap_or(f64::NEG_INFINITY)),
            Scale::Distance => at(to.unwrap_or(f64::INFINITY)),
        };
        match levels.last_mut() {
            Some(last) if last.partition == partition => last.to = to,
            _ => levels.push(ThresholdRange { from, to, partition }),
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(scale: Scale, rows: &[&[f64]]) -> Matrix {
        let models = (0..rows.len()).map(|i| format!("m{i}")).collect();
        // NaN stands for a pair without a figure.
        let value = |x: &f64| (!x.is_nan()).then_some(*x);
        Matrix::new(models, "test", scale, rows.iter().map(|row| row.iter().map(value).collect()).collect()).unwrap()
    }

    const NO: f64 = f64::NAN;

    fn chain() -> Matrix {
        // 0–1 and 1–2 are near, 0–2 is not; 3 cannot be compared.
        let rows: [&[f64]; 4] =
            [&[1.0, 0.97, 0.90, NO], &[0.97, 1.0, 0.96, NO], &[0.90, 0.96, 1.0, NO], &[NO, NO, NO, 1.0]];
        matrix(Scale::Similarity, &rows)
    }

    #[test]
    fn a_leader_is_the_first_member_and_the_threshold_itself_is_too_little() {
        let members = |threshold| leader(&chain(), threshold).unwrap().members().to_vec();
        assert_eq!(members(0.95), [vec![0, 1], vec![2], vec![3]]);
        assert_eq!(members(0.97), [vec![0], vec![1], vec![2], vec![3]]);
        assert_eq!(members(0.5), [vec![0, 1, 2], vec![3]]);
        for beyond in [f64::NAN, 5.0, -1.5, f64::INFINITY] {
            let error = leader(&chain(), beyond).unwrap_err().to_string();
            assert!(error.ends_with("expected a similarity from -1 to 1"), "{error}");
        }
    }

    #[test]
    fn linkages_tell_a_chain_from_a_clique() {
        let cut = |link| agglomerate(&chain(), link).cut(0.95).unwrap().members().to_vec();
        assert_eq!(cut(Linkage::Single), [vec![0, 1, 2], vec![3]]);
        assert_eq!(cut(Linkage::Complete), [vec![0, 1], vec![2], vec![3]]);
        // Average of 0.90 and 0.96.
        assert_eq!(cut(Linkage::Average), [vec![0, 1], vec![2], vec![3]]);
        let joins = agglomerate(&chain(), Linkage::Average).joins;
        assert!((joins[1].figure.unwrap() - 0.93).abs() < 1e-12);
        assert_eq!((joins[2].figure, joins[2].size), (None, 4));
    }

    #[test]
    fn a_sweep_shows_where_clusters_split() {
        let levels = sweep(&chain(), Some(Linkage::Single));
        let ends: Vec<_> = levels.iter().map(|level| (level.from, level.to, level.partition.members().len())).collect();
        // kodama works on 1 − s, which costs the last digit.
        assert!((ends[0].1.unwrap() - 0.96).abs() < 1e-12 && (ends[1].1.unwrap() - 0.97).abs() < 1e-12);
        assert_eq!(ends.iter().map(|end| end.2).collect::<Vec<_>>(), [2, 3, 4]);
        assert_eq!((ends[0].0, ends[2].1), (None, None));
        for (level, next) in levels.iter().zip(&levels[1..]) {
            assert_eq!(level.to, next.from);
        }
        let leaders = sweep(&chain(), None);
        let at_ends: Vec<_> = leaders.iter().map(|level| level.from).collect();
        assert_eq!(at_ends, [None, Some(0.90), Some(0.97)]);
        for level in &leaders[1..] {
            assert_eq!(leader(&chain(), level.from.unwrap()).unwrap(), level.partition);
        }
    }

    #[test]
    fn distances_point_the_other_way() {
        let matrix = matrix(Scale::Distance, &[&[0.0, 1.0, 5.0], &[1.0, 0.0, 4.0], &[5.0, 4.0, 0.0]]);
        assert_eq!(leader(&matrix, 2.0).unwrap().members(), [vec![0, 1], vec![2]]);
        assert_eq!(leader(&matrix, 1.0).unwrap().members().len(), 3);
        assert!(leader(&matrix, -0.5).is_err());
        let sizes: Vec<_> = sweep(&matrix, None).iter().map(|level| level.partition.members().len()).collect();
        assert_eq!(sizes, [3, 2, 1]);
        assert_eq!(agglomerate(&matrix, Linkage::Complete).joins[1].figure, Some(5.0));
    }

    #[test]
    fn one_model_is_one_cluster() {
        let one = matrix(Scale::Similarity, &[&[1.0]]);
        assert_eq!(leader(&one, 0.95).unwrap().members(), [vec![0]]);
        let dendrogram = agglomerate(&one, Linkage::Average);
        assert_eq!(dendrogram.cut(0.95).unwrap().members(), [vec![0]]);
        assert_eq!(sweep(&one, None).len(), 1);
    }

    #[test]
    fn names_of_linkages_read_back() {
        for link in Linkage::ALL {
            assert_eq!(Linkage::parse(link.name()).unwrap(), link);
        }
        assert!(Linkage::parse("ward").unwrap_err().to_string().contains("single, complete, average"));
    }
}
