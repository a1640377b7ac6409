//! Which expert worked for which task: a table of tasks and experts.

use crate::table::{Align, Table};
use glue_lm::{GateLoad, RoutingLog};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// What the gates of a mixture decided in each task. A task whose scores came from a cache shows no decisions.
pub(crate) struct RoutingLoads {
    /// Counts on.
    pub(crate) log: Arc<RoutingLog>,
    /// The names of the experts.
    experts: Vec<String>,
    /// For each task the loads of every gate.
    pub(crate) tasks: Vec<(String, Vec<GateLoad>)>,
}

impl RoutingLoads {
    /// Nothing so far.
    pub(crate) fn new(log: Arc<RoutingLog>, experts: Vec<String>) -> Self {
        Self { log, experts, tasks: Vec::new() }
    }

    /// The share of each expert in what all gates chose; `None` when nothing was.
    fn shares(&self, loads: &[GateLoad]) -> Option<Vec<f64>> {
        let chosen = |expert: usize| loads.iter().filter_map(|load| load.chosen.get(expert)).sum::<u64>();
        let counts: Vec<u64> = (0..self.experts.len()).map(chosen).collect();
        let total = counts.iter().sum::<u64>();
        (total > 0).then(|| counts.into_iter().map(|count| count as f64 / total as f64).collect())
    }

    /// `{"experts": [...], "tasks": {"NAME": {"shares": [...], "gates": [{"layer", "decisions", "chosen", "probability"}]}}}`
    pub(crate) fn to_json(&self) -> Value {
        let gate = |load: &GateLoad| {
            let mean = |sum: &f64| if load.decisions == 0 { Value::Null } else { json!(sum / load.decisions as f64) };
            json!({
                "layer": load.layer,
                "decisions": load.decisions,
                "chosen": load.chosen,
                "probability": load.probability.iter().map(mean).collect::<Vec<_>>(),
            })
        };
        let task = |(name, loads): &(String, Vec<GateLoad>)| {
            let gates: Vec<Value> = loads.iter().map(gate).collect();
            (name.clone(), json!({ "shares": self.shares(loads), "gates": gates }))
        };
        json!({ "experts": self.experts, "tasks": self.tasks.iter().map(task).collect::<Map<_, _>>() })
    }

    /// A row for each task, a column for each expert: its share in what was chosen.
    pub(crate) fn text(&self, heading: impl Fn(&str) -> String) -> String {
        let experts = self.experts.iter().map(|name| (name.as_str(), Align::Right));
        let columns: Vec<(&str, Align)> = [("EXPERTS BY TASK", Align::Left)].into_iter().chain(experts).collect();
        let mut table = Table::with_header(&columns);
        for (name, loads) in &self.tasks {
            let shares = self.shares(loads);
            let cell = |expert: usize| match &shares {
                Some(shares) => format!("{:.1} %", 100.0 * shares[expert]),
                None => "–".to_owned(),
            };
            table.row([name.clone()].into_iter().chain((0..self.experts.len()).map(cell)));
        }
        table.render(heading)
    }
}
