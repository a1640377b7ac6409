//! Similarities, dendrograms and clusters as the data of reports and pictures.

use glue_metrics::cluster::{self, Partition};
use glue_metrics::{Matrix, Scale};
use glue_report as report;

fn scale(scale: Scale) -> report::Scale {
    match scale {
        Scale::Similarity => report::Scale::Similarity,
        Scale::Distance => report::Scale::Distance,
    }
}

/// The figures of `matrix`.
pub fn similarity(matrix: &Matrix) -> report::Similarity {
    report::Similarity {
        metric: matrix.metric().into(),
        scale: scale(matrix.scale()),
        names: matrix.models().to_vec(),
        matrix: matrix.rows().to_vec(),
    }
}

/// The joins of `tree`.
pub fn dendrogram(tree: &cluster::Dendrogram) -> report::Dendrogram {
    let join = |join: &cluster::Join| report::Join { first: join.first, second: join.second, height: join.figure };
    report::Dendrogram {
        link: tree.link.name().into(),
        scale: scale(tree.scale),
        names: tree.models.clone(),
        joins: tree.joins.iter().map(join).collect(),
    }
}

/// The clusters of a partition of the models of `matrix`, named by their numbers from 1.
pub fn clusters(partition: &Partition, matrix: &Matrix) -> Vec<report::Cluster> {
    let cluster = |(i, members): (usize, Vec<String>)| report::Cluster {
        name: (i + 1).to_string(),
        first: members.first().cloned().unwrap_or_default(),
        members,
    };
    partition.names(matrix).into_iter().enumerate().map(cluster).collect()
}

#[cfg(test)]
mod tests {
    //! Everything is converted.
    use super::*;
    use glue_metrics::cluster::{Linkage, agglomerate, leader};

    #[test]
    fn figures_joins_and_clusters_are_carried_over() {
        let values = [[Some(0.0), Some(2.0), None], [Some(2.0), Some(0.0), None], [None, None, Some(0.0)]];
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let rows = values.map(|row| row.to_vec()).to_vec();
        let matrix = Matrix::new(names.clone(), "l2_distance", Scale::Distance, rows.clone()).unwrap();
        let found = similarity(&matrix);
        assert_eq!((found.metric.as_str(), found.scale), ("l2_distance", report::Scale::Distance));
        assert_eq!((found.names, found.matrix), (names, rows));
        let tree = dendrogram(&agglomerate(&matrix, Linkage::Single));
        assert_eq!((tree.link.as_str(), tree.scale), ("single", report::Scale::Distance));
        let heights: Vec<_> = tree.joins.iter().map(|join| (join.first, join.second, join.height)).collect();
        assert_eq!(heights, [(0, 1, Some(2.0)), (2, 3, None)]);
        let found = clusters(&leader(&matrix, 3.0).unwrap(), &matrix);
        assert_eq!(found[0].members, ["a", "b"]);
        assert_eq!((found[1].name.as_str(), found[1].first.as_str()), ("2", "c"));
    }
}
