//! Where a router sent what it was given: rows such as skills or tasks against experts, and the load of each expert.

use super::drawing::{Drawing, Medium};
use super::{heat, letter};
use crate::data::Confusion;
use crate::format;
use crate::pictures::{Routing, RoutingRow};
use crate::svg::{Anchor, Svg};

const SIZE: f64 = 12.0;
const CELL: [f64; 2] = [58.0, 40.0];
/// Between the rows and their sum.
const GAP: f64 = 6.0;
/// The row of everything together.
const ALL: &str = "all";

impl From<&Confusion> for Routing {
    fn from(confusion: &Confusion) -> Routing {
        let rows = confusion.skills.iter().zip(&confusion.counts).zip(&confusion.right);
        let row = |((name, counts), right): ((&String, &Vec<u64>), &Option<usize>)| RoutingRow {
            name: name.clone(),
            amounts: counts.iter().map(|&count| count as f64).collect(),
            right: *right,
        };
        Routing {
            title: "Router confusion: skill by expert".to_string(),
            experts: confusion.experts.clone(),
            rows: rows.map(row).collect(),
        }
    }
}

/// The matrix, each row as fractions of its sum; the right expert of a row has a frame, and the last row is the load of
/// the experts. On a page columns have the letters that the text beside it spells out.
pub(crate) fn routing(medium: Medium, routing: &Routing) -> Drawing {
    let mut svg = Svg::new();
    let [width, height] = CELL;
    let max_chars = medium.max_chars(13);
    let left = Svg::widest(routing.rows.iter().map(|row| row.name.as_str()).chain([ALL]), max_chars, SIZE) + 8.0;
    let x_of = |column: usize| left + width * column as f64;
    let top = match medium {
        Medium::Page => 32.0,
        Medium::File => Svg::widest(routing.experts.iter().map(String::as_str), max_chars, SIZE) + 10.0,
    };
    for (column, expert) in routing.experts.iter().enumerate() {
        let middle = x_of(column) + width / 2.0;
        match medium {
            Medium::Page => {
                let short = Svg::fit(expert, width - 4.0, 11.0);
                svg.label("t t-b", Anchor::Middle, [middle, 12.0], &letter(column), Some(expert), false);
                svg.label("t-s", Anchor::Middle, [middle, 26.0], &short, Some(expert), false);
            }
            Medium::File => {
                let short = format::middle(expert, max_chars);
                svg.label("t", Anchor::Start, [middle + 4.0, top - 6.0], &short, Some(expert), true);
            }
        }
    }
    let mut described = Vec::new();
    let mut y = top;
    for row in &routing.rows {
        described.extend(draw_row(&mut svg, routing, row, [left, y], max_chars));
        y += height;
    }
    if !routing.rows.is_empty() {
        let sum = |expert: usize| routing.rows.iter().map(|row| row.amounts[expert]).sum();
        let amounts = (0..routing.experts.len()).map(sum).collect();
        let all = RoutingRow { name: ALL.to_string(), amounts, right: None };
        y += GAP;
        described.extend(draw_row(&mut svg, routing, &all, [left, y], max_chars));
        y += height;
    }
    let mut notes = vec!["Each row: fractions of the experts, and the amounts behind them.".to_string()];
    if routing.rows.iter().any(|row| row.right.is_some()) {
        notes.push("A frame: the right expert.".to_string());
    }
    Drawing {
        svg,
        class: "chart",
        size: [x_of(routing.experts.len()) + 2.0, y + 2.0],
        title: routing.title.clone(),
        description: format!("{} {}", notes.join(" "), described.join("; ")),
        notes,
        series: false,
    }
}

/// Draws a row from its left upper corner on; what it shows, in words.
fn draw_row(
    svg: &mut Svg,
    routing: &Routing,
    row: &RoutingRow,
    [left, y]: [f64; 2],
    max_chars: usize,
) -> Option<String> {
    let ([width, height], name) = (CELL, &row.name);
    let short = format::middle(name, max_chars);
    svg.label("t", Anchor::End, [left - 8.0, y + height / 2.0 + 4.0], &short, Some(name), false);
    let total: f64 = row.amounts.iter().sum();
    let all = format::amount(total);
    for (column, (&amount, expert)) in row.amounts.iter().zip(&routing.experts).enumerate() {
        let x = left + width * column as f64;
        let share = if total > 0.0 { amount / total } else { 0.0 };
        let step = heat(share);
        let shown = format::amount(amount);
        svg.rect(
            &format!("cell h{step}"),
            [x, y, width, height],
            Some(&format!("{name} to {expert}: {shown} of {all}")),
        );
        let middle = x + width / 2.0;
        let percent = format!("{} %", format::fixed(share * 100.0, 0));
        svg.text(&format!("t i{step}"), Anchor::Middle, [middle, y + height / 2.0], &percent);
        svg.text(&format!("t-c i{step}"), Anchor::Middle, [middle, y + height / 2.0 + 13.0], &shown);
    }
    if let Some(right) = row.right {
        let x = left + width * right as f64;
        svg.rect("frame", [x + 1.5, y + 1.5, width - 3.0, height - 3.0], None);
    }
    // What most went to says less than what should have.
    let largest = || (0..row.amounts.len()).min_by(|a, b| row.amounts[*b].total_cmp(&row.amounts[*a]));
    let told = row.right.or_else(largest)?;
    Some(format!("{name}: {} of {all} to {}", format::amount(row.amounts[told]), routing.experts[told]))
}
