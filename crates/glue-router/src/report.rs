//! Where items were sent: load of experts by task, and skills against experts, as table, JSON and SVG.

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write;

/// How often things of one kind were sent to each expert.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingTable {
    /// What stands in the rows: `task` or `skill`.
    pub rows_are: String,
    /// Columns.
    pub experts: Vec<String>,
    /// Rows in the order of their names: a name, and for each expert how much was sent there. Counts of items, or sums of
    /// shares.
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

    /// A picture that stands alone: a cell for each row and expert with its share in percent, deeper blue for more; readable on a
    /// light and on a dark ground, and without telling colours apart.
    pub fn to_svg(&self, title: &str) -> String {
        const CELL: f64 = 64.0;
        const LINE: f64 = 32.0;
        const MARGIN: f64 = 16.0;
        const FONT: f64 = 13.0;
        let left = MARGIN + width_of(self.rows.iter().map(|row| row.0.as_str())).max(8.0 * 4.0) + 8.0;
        let slanted = width_of(self.experts.iter().map(String::as_str));
        let top = MARGIN + LINE + slanted + 8.0;
        let rows = self.rows.len() + 1;
        let width =
            (left + CELL * self.experts.len() as f64 + MARGIN).max(8.0 * title.chars().count() as f64 + 2.0 * MARGIN);
        let height = top + LINE * rows as f64 + 8.0 + MARGIN;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" \
             font-family=\"sans-serif\" font-size=\"{FONT}\">\n<title>{0}</title>\n<style>.ink{{fill:#1f2328}}.ground{{fill:#ffffff}}\
             @media(prefers-color-scheme:dark){{.ink{{fill:#e6edf3}}.ground{{fill:#0d1117}}}}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>\n",
            escape(title)
        );
        let mut text = |x: f64, y: f64, anchor: &str, attributes: &str, content: &str| {
            let content = escape(content);
            let _ =
                writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" {attributes}>{content}</text>");
        };
        let ink = "class=\"ink\"";
        text(MARGIN, MARGIN + FONT, "start", ink, title);
        for (column, expert) in self.experts.iter().enumerate() {
            let (x, y) = (left + CELL * (column as f64 + 0.5) + FONT / 3.0, top - 8.0);
            text(x, y, "start", &format!("class=\"ink\" transform=\"rotate(-90 {x:.1} {y:.1})\""), expert);
        }
        let mut cells = String::new();
        let load = self.load();
        let shares = self.shares();
        let names = self.rows.iter().map(|row| row.0.as_str()).chain(std::iter::once("load"));
        for (row, (name, shares)) in names.zip(shares.iter().chain(std::iter::once(&load))).enumerate() {
            // The load is apart from the rows it sums up.
            let y = top + LINE * row as f64 + if row + 1 == rows { 8.0 } else { 0.0 };
            text(left - 8.0, y + LINE / 2.0 + FONT / 3.0, "end", ink, name);
            for (column, &share) in shares.iter().enumerate() {
                let x = left + CELL * column as f64;
                let _ = writeln!(
                    cells,
                    "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" fill=\"{}\"/>\n<text x=\"{:.1}\" y=\"{:.1}\" \
                     text-anchor=\"middle\" fill=\"{}\">{:.0} %</text>",
                    x + 1.0,
                    y + 1.0,
                    CELL - 2.0,
                    LINE - 2.0,
                    colour(share),
                    x + CELL / 2.0,
                    y + LINE / 2.0 + FONT / 3.0,
                    if share > 0.5 { "#ffffff" } else { "#1f2328" },
                    100.0 * share
                );
            }
        }
        svg + &cells + "</svg>\n"
    }
}

/// Of the widest of some names, generously.
fn width_of<'a>(names: impl Iterator<Item = &'a str>) -> f64 {
    8.0 * names.map(|name| name.chars().count()).max().unwrap_or(0) as f64
}

/// From pale to deep blue.
fn colour(share: f64) -> String {
    const PALE: [f64; 3] = [222.0, 235.0, 247.0];
    const DEEP: [f64; 3] = [8.0, 64.0, 129.0];
    let mix = |c: usize| (PALE[c] + (DEEP[c] - PALE[c]) * share.clamp(0.0, 1.0)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// Text as XML content; characters that XML 1.0 has no place for become U+FFFD.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\t' | '\n' | '\r' => escaped.push(' '),
            '\0'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
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

    #[test]
    fn the_picture_has_a_cell_for_each_share_and_is_xml() {
        let svg = table().to_svg("routing \"at\" layer 0");
        // Two rows and the load, two experts, and the ground.
        assert_eq!(svg.matches("<rect").count(), 7);
        assert!(svg.contains("chat&lt;1&gt;") && svg.contains("a &amp; z") && svg.contains("&quot;at&quot;"));
        assert!(svg.contains(">67 %<") && svg.contains("prefers-color-scheme:dark"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
        assert!(!svg.contains("NaN"));
        let empty = RoutingTable { rows_are: "task".into(), experts: Vec::new(), rows: Vec::new() };
        assert!(!empty.to_svg("").contains("NaN"));
    }
}
