//! Prints the similarity of checkpoints and their clusters: `compare MODEL MODEL …`.

use glue_metrics::cluster::{DEFAULT_THRESHOLD, leader};
use glue_metrics::{Metric, NamedCheckpoint, SimilarityOptions, similarity};
use glue_progress::NoProgress;
use glue_tensor::Checkpoint;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let checkpoints = names.iter().map(Checkpoint::open).collect::<Result<Vec<_>, _>>()?;
    let model = |(name, checkpoint): (&String, _)| NamedCheckpoint { name: name.clone(), checkpoint };
    let models: Vec<NamedCheckpoint<'_>> = names.iter().zip(&checkpoints).map(model).collect();
    let metric = Metric::find("cosine_per_column")?;
    let matrix = similarity(&models, None, metric, &SimilarityOptions::default(), &NoProgress)?.matrix();
    print!("{}", matrix.to_csv());
    for cluster in leader(&matrix, DEFAULT_THRESHOLD)?.names(&matrix) {
        println!("cluster: {}", cluster.join(", "));
    }
    Ok(())
}
