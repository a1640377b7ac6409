//! Where items were sent: load of experts by task, and skills against experts, as table and JSON.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How often things of one kind were sent to each expert.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingTable {
    /// What stands in the rows: `task` or `skill`.
    pub rows_are: String,
    /// Columns.
    pub experts: Vec<String>,
    /// Rows in the order of their names: a name, and for each expert how much was sent there. Counts of items, or sums
    /// of shares.
    pub rows: Vec<(String, Vec<f64>)>,
}

impl RoutingTable {
    /// Counts the experts that items were sent to; `names` and `routes` are one for each item.
    pub fn of_routes(rows_are: &str, names: &[&str], routes: &[usize], experts: &[String]) -> RoutingTable {
        let mut rows: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (name, &route) in names.iter().zip(routes) {
            let row = rows.entry(name).or_insert_with(|| vec![0.0; experts.len()]);
            if let Some(count) = row.get_mut(route) {
                *count += 1.0;
            }
        }
        let rows = rows.into_iter().map(|(name, row)| (name.to_owned(), row)).collect();
        RoutingTable { rows_are: rows_are.to_owned(), experts: experts.to_vec(), rows }
    }

    /// For each row its part of each expert, from 0 to 1; zeros for a row without anything.
    pub fn shares(&self) -> Vec<Vec<f64>> {
        let of_row = |row: &[f64]| {
            let sum: f64 = row.iter().sum();
            row.iter().map(|count| if sum > 0.0 { count / sum } else { 0.0 }).collect()
        };
        self.rows.iter().map(|(_, row)| of_row(row)).collect()
    }

    /// For each expert its part of everything.
    pub fn load(&self) -> Vec<f64> {
        let sums: Vec<f64> =
            (0..self.experts.len()).map(|expert| self.rows.iter().map(|(_, row)| row[expert]).sum()).collect();
        let total: f64 = sums.iter().sum();
        sums.into_iter().map(|sum| if total > 0.0 { sum / total } else { 0.0 }).collect()
    }

    /// `{"rows": …, "experts": […], "counts": {row: […]}, "load": […]}`
    pub fn to_json(&self) -> Value {
        let counts: serde_json::Map<String, Value> =
            self.rows.iter().map(|(name, row)| (name.clone(), json!(row))).collect();
        json!({ "rows": self.rows_are, "experts": self.experts, "counts": counts, "load": self.load() })
    }

    /// Cells of a table for people: a header, a row of counts for each name, and the load of the experts.
    pub fn cells(&self) -> Vec<Vec<String>> {
        let header = std::iter::once(self.rows_are.clone()).chain(self.experts.iter().cloned()).collect();
        let number = |count: &f64| if count.fract() == 0.0 { format!("{count}") } else { format!("{count:.2}") };
        let row =
            |(name, row): &(String, Vec<f64>)| std::iter::once(name.clone()).chain(row.iter().map(number)).collect();
        let load = std::iter::once("load".to_owned())
            .chain(self.load().into_iter().map(|share| format!("{:.1} %", 100.0 * share)));
        let rows = self.rows.iter().map(row);
        std::iter::once(header).chain(rows).chain(std::iter::once(load.collect())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RoutingTable {
        let experts = ["chat<1>".to_owned(), "math".to_owned()];
        RoutingTable::of_routes("skill", &["b", "a & z", "b", "b"], &[1, 0, 1, 0], &experts)
    }

    #[test]
    fn counts_shares_and_load() {
        let table = table();
        assert_eq!(table.rows, [("a & z".to_owned(), vec![1.0, 0.0]), ("b".to_owned(), vec![1.0, 2.0])]);
        assert_eq!(table.load(), [0.5, 0.5]);
        assert_eq!(table.shares()[0], [1.0, 0.0]);
        assert!((table.shares()[1][1] - 2.0 / 3.0).abs() < 1e-15);
        assert_eq!(table.to_json()["counts"]["b"], json!([1.0, 2.0]));
        let cells = table.cells();
        assert_eq!(cells[0], ["skill", "chat<1>", "math"]);
        assert_eq!(cells[2], ["b", "1", "2"]);
        assert_eq!(cells[3], ["load", "50.0 %", "50.0 %"]);
    }
}
