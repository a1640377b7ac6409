//! Time, memory and disk of a run. They differ between equal runs, and are therefore not part of `report.json`.

use serde::{Deserialize, Serialize};

/// Time, memory and disk of a run: the contents of `cost.json`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Cost {
    /// The machine in words: processor, hardware threads, memory.
    pub machine: Option<String>,
    /// Threads used.
    pub threads: Option<usize>,
    /// The stages, in order.
    pub stages: Vec<StageCost>,
    /// The strategies of selective merging.
    pub strategies: Vec<StrategyCost>,
    /// How fast models answered the test items.
    #[serde(default)]
    pub throughput: Vec<Throughput>,
}

/// Time, memory and disk of a stage.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StageCost {
    /// Name of the stage.
    pub stage: String,
    /// Time, in seconds.
    pub seconds: f64,
    /// Peak of resident memory, in bytes.
    pub peak_bytes: Option<u64>,
    /// Bytes it left on disk.
    pub disk_bytes: Option<u64>,
    /// Whether it was reused from an earlier start of the run, which the figures are from.
    pub resumed: bool,
}

/// Time of a strategy.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct StrategyCost {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the strategy.
    pub strategy: String,
    /// Time, in seconds.
    pub seconds: f64,
}

/// How fast a model answered the test items.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Throughput {
    /// Name of the model, that of its row in the test.
    pub name: String,
    /// Items per second, all tasks together.
    pub items_per_second: f64,
}

impl Cost {
    /// Time of all stages, in seconds.
    pub fn seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.seconds).sum()
    }

    /// The highest peak of memory, in bytes.
    pub fn peak_bytes(&self) -> Option<u64> {
        self.stages.iter().filter_map(|stage| stage.peak_bytes).max()
    }

    /// Bytes on disk, all stages together; `None` if none of them knows.
    pub fn disk_bytes(&self) -> Option<u64> {
        let known: Vec<u64> = self.stages.iter().filter_map(|stage| stage.disk_bytes).collect();
        (!known.is_empty()).then(|| known.iter().fold(0u64, |sum, bytes| sum.saturating_add(*bytes)))
    }

    /// Items per second of a model in the test; `None` where that was not measured.
    pub fn items_per_second(&self, name: &str) -> Option<f64> {
        self.throughput.iter().find(|found| found.name == name).map(|found| found.items_per_second)
    }

    /// Time of a strategy in a cluster, in seconds.
    pub fn strategy(&self, cluster: &str, strategy: &str) -> Option<f64> {
        let found = self.strategies.iter().find(|cost| cost.cluster == cluster && cost.strategy == strategy);
        found.map(|cost| cost.seconds)
    }
}
