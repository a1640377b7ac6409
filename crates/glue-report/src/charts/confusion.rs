//! Where a router sent the samples of each skill.

use super::{heat, letter};
use crate::data::Confusion;
use crate::format;
use crate::svg::{Anchor, Svg};

const LABEL: f64 = 96.0;
const SIZE: f64 = 12.0;
const CELL: [f64; 2] = [58.0, 40.0];
const TOP: f64 = 24.0;

/// The matrix, rows as shares of their samples; the right expert of each skill has a frame. Columns have the letters
/// that the table beside it spells out.
pub(crate) fn confusion(id: &str, confusion: &Confusion) -> String {
    let mut svg = Svg::new();
    let [width, height] = CELL;
    for (column, expert) in confusion.experts.iter().enumerate() {
        let x = LABEL + width * (column as f64 + 0.5);
        let short = format::middle(expert, Svg::fitting(width, 11.0));
        svg.label("t t-b", Anchor::Middle, [x, 12.0], &letter(column), Some(expert), false);
        svg.label("t-s", Anchor::Middle, [x, TOP + 2.0], &short, Some(expert), false);
    }
    let mut described = Vec::new();
    for (row, (skill, counts)) in confusion.skills.iter().zip(&confusion.counts).enumerate() {
        let y = TOP + 8.0 + height * row as f64;
        let short = format::middle(skill, Svg::fitting(LABEL - 8.0, SIZE));
        svg.label("t", Anchor::End, [LABEL - 8.0, y + height / 2.0 + 4.0], &short, Some(skill), false);
        let total: u64 = counts.iter().sum();
        for (column, &count) in counts.iter().enumerate() {
            let x = LABEL + width * column as f64;
            let share = if total > 0 { count as f64 / total as f64 } else { 0.0 };
            let step = heat(share);
            let expert = &confusion.experts[column];
            let note = format!("{skill} to {expert}: {} of {}", format::count(count), format::count(total));
            svg.rect(&format!("cell h{step}"), [x, y, width, height], Some(&note));
            let middle = x + width / 2.0;
            let shown = format!("{} %", format::fixed(share * 100.0, 0));
            svg.text(&format!("t i{step}"), Anchor::Middle, [middle, y + height / 2.0], &shown);
            svg.text(&format!("t-c i{step}"), Anchor::Middle, [middle, y + height / 2.0 + 13.0], &format::count(count));
        }
        if let Some(right) = confusion.right[row].filter(|right| *right < counts.len()) {
            let x = LABEL + width * right as f64;
            svg.rect("frame", [x + 1.5, y + 1.5, width - 3.0, height - 3.0], None);
            let expert = &confusion.experts[right];
            described.push(format!("{skill}: {} of {} to {expert}", counts[right], total));
        }
    }
    let size =
        [LABEL + width * confusion.experts.len() as f64 + 2.0, TOP + 10.0 + height * confusion.skills.len() as f64];
    let description = format!("Samples by skill and expert; frames mark the right expert. {}.", described.join("; "));
    svg.finish(id, "chart", size, "Router confusion: skill by expert", &description)
}
