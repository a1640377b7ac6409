//! Which expert was chosen for which task and skill: as table, JSON and charts.

use crate::failure::{Failure, of_file};
use crate::pictures;
use crate::table::{Align, Table};
use glue_lm::{GateLoad, RoutingLog};
use glue_router::report::RoutingTable;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The decisions of the gates of a mixture in each task. A task whose scores came from a cache has none.
pub(crate) struct RoutingLoads {
    /// The running counts.
    pub(crate) log: Arc<RoutingLog>,
    /// The names of the experts.
    experts: Vec<String>,
    /// In the order they were scored.
    tasks: Vec<TaskLoads>,
}

struct TaskLoads {
    name: String,
    skill: String,
    /// One per gate.
    gates: Vec<GateLoad>,
}

impl RoutingLoads {
    /// Without tasks.
    pub(crate) fn new(log: Arc<RoutingLog>, experts: Vec<String>) -> Self {
        Self { log, experts, tasks: Vec::new() }
    }

    /// Adds the decisions of the gates in the task `name`, which tests `skill`.
    pub(crate) fn add(&mut self, name: &str, skill: String, gates: Vec<GateLoad>) {
        self.tasks.push(TaskLoads { name: name.to_owned(), skill, gates });
    }

    /// How often each expert was chosen, by task or by skill: the confusion matrix of routing, of one gate or of all.
    fn counts(&self, by_skill: bool, gate: Option<usize>) -> RoutingTable {
        let mut rows: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for task in &self.tasks {
            let name = if by_skill { &task.skill } else { &task.name };
            let row = rows.entry(name).or_insert_with(|| vec![0.0; self.experts.len()]);
            let loads = task.gates.iter().enumerate().filter(|(number, _)| gate.is_none_or(|gate| gate == *number));
            for (_, load) in loads {
                row.iter_mut().zip(&load.chosen).for_each(|(sum, &count)| *sum += count as f64);
            }
        }
        let rows_are = if by_skill { "skill" } else { "task" }.to_owned();
        let rows = rows.into_iter().map(|(name, row)| (name.to_owned(), row)).collect();
        RoutingTable { rows_are, experts: self.experts.clone(), rows }
    }

    /// Writes charts into `directory`: `experts.task.svg` and `experts.skill.svg` for all gates together, and the same
    /// for each gate, named by its layer, if there are several.
    pub(crate) fn write_pictures(&self, directory: &Path) -> Result<(), Failure> {
        std::fs::create_dir_all(directory).map_err(|error| Failure::failed(of_file(directory, error)))?;
        let write = |name: &str, title: &str, gate: Option<usize>| {
            [false, true].into_iter().try_for_each(|by_skill| {
                let table = self.counts(by_skill, gate);
                let picture = pictures::routing(format!("{title} by {}", table.rows_are), &table);
                pictures::write_in(directory, &format!("{name}.{}.svg", table.rows_are), picture)
            })
        };
        write("experts", "Experts chosen", None)?;
        let gates = self.tasks.first().map_or(&[][..], |task| &task.gates);
        if gates.len() < 2 {
            return Ok(());
        }
        gates.iter().enumerate().try_for_each(|(number, gate)| {
            let layer = format!("layer-{}", gate.layer);
            write(&layer, &format!("Experts chosen in layer {}", gate.layer), Some(number))
        })
    }

    /// The fraction of all choices that went to each expert; `None` if there were none.
    fn shares(&self, loads: &[GateLoad]) -> Option<Vec<f64>> {
        let chosen = |expert: usize| loads.iter().filter_map(|load| load.chosen.get(expert)).sum::<u64>();
        let counts: Vec<u64> = (0..self.experts.len()).map(chosen).collect();
        let total = counts.iter().sum::<u64>();
        (total > 0).then(|| counts.into_iter().map(|count| count as f64 / total as f64).collect())
    }

    /// `{"experts": [...], "tasks": {"NAME": {"skill", "shares": [...], "gates": [{"layer", "decisions", "chosen",
    /// "probability"}]}}, "confusion": {"rows": "skill", "experts", "counts": {"SKILL": [...]}, "load"}}`
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
        let task = |task: &TaskLoads| {
            let gates: Vec<Value> = task.gates.iter().map(gate).collect();
            let entry = json!({ "skill": task.skill, "shares": self.shares(&task.gates), "gates": gates });
            (task.name.clone(), entry)
        };
        json!({
            "experts": self.experts,
            "tasks": self.tasks.iter().map(task).collect::<Map<_, _>>(),
            "confusion": self.counts(true, None).to_json(),
        })
    }

    /// A row per task, a column per expert: its fraction of the choices. The same by skill, unless there is one skill
    /// per task.
    pub(crate) fn text(&self, heading: impl Fn(&str) -> String) -> String {
        let tasks = self.tasks.iter().map(|task| (task.name.clone(), self.shares(&task.gates))).collect::<Vec<_>>();
        let text = self.table("EXPERTS BY TASK", &tasks).render(&heading);
        let skills = self.counts(true, None);
        if skills.rows.len() == self.tasks.len() {
            return text;
        }
        let shares = skills.rows.iter().zip(skills.shares());
        let of_row = |((name, counts), shares): (&(String, Vec<f64>), Vec<f64>)| {
            (name.clone(), counts.iter().any(|&count| count > 0.0).then_some(shares))
        };
        text + "\n" + &self.table("EXPERTS BY SKILL", &shares.map(of_row).collect::<Vec<_>>()).render(&heading)
    }

    fn table(&self, title: &str, rows: &[(String, Option<Vec<f64>>)]) -> Table {
        let experts = self.experts.iter().map(|name| (name.as_str(), Align::Right));
        let columns: Vec<(&str, Align)> = [(title, Align::Left)].into_iter().chain(experts).collect();
        let mut table = Table::with_header(&columns);
        for (name, shares) in rows {
            let cell = |expert: usize| match shares {
                Some(shares) => format!("{:.1} %", 100.0 * shares[expert]),
                None => "–".to_owned(),
            };
            table.row([name.clone()].into_iter().chain((0..self.experts.len()).map(cell)));
        }
        table
    }
}
