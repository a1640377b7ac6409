//! How the tokens of each task spread over the experts, as stacked bars whose segments have letters.

use super::letter;
use crate::data::Load;
use crate::format;
use crate::svg::{Anchor, BOLD, Svg};

const LABEL: f64 = 88.0;
const PLOT: f64 = 380.0;
const ROW: f64 = 30.0;
const THICK: f64 = 22.0;
const SIZE: f64 = 12.0;

/// The bars of all tasks.
pub(crate) fn load(id: &str, experts: &[String], loads: &[Load]) -> String {
    let mut svg = Svg::new();
    let bottom = ROW * loads.len() as f64;
    let mut described = Vec::new();
    for (row, load) in loads.iter().enumerate() {
        let y = ROW * row as f64 + (ROW - THICK) / 2.0;
        let short = Svg::fit(&load.task, LABEL - 8.0, SIZE);
        svg.label("t", Anchor::End, [LABEL - 8.0, y + THICK / 2.0 + 4.0], &short, Some(&load.task), false);
        let total: f64 = load.shares.iter().map(|share| share.max(0.0)).sum();
        let mut x = LABEL;
        for (k, share) in load.shares.iter().enumerate() {
            let share = if total > 0.0 { share.max(0.0) / total } else { 0.0 };
            let width = PLOT * share;
            if width <= 0.0 {
                continue;
            }
            let note = format!("{}: {} to {}", load.task, format::percent(share), experts[k]);
            svg.rect(&format!("segment s{}", k % 6), [x, y, width, THICK], Some(&note));
            let (name, shown) = (letter(k), format!("{} %", format::fixed(share * 100.0, 0)));
            let both = format!("{name} {shown}");
            let text = [both, name].into_iter().find(|text| Svg::width_of(text, SIZE) * BOLD + 4.0 < width);
            if let Some(text) = text {
                svg.text(&format!("t t-b o{}", k % 6), Anchor::Middle, [x + width / 2.0, y + THICK / 2.0 + 4.0], &text);
            }
            x += width;
        }
        let largest = load.shares.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
        if let Some((k, share)) = largest {
            described.push(format!("{} mostly to {} ({})", load.task, experts[k], format::percent(*share)));
        }
    }
    for mark in 0..=4 {
        let x = LABEL + PLOT * f64::from(mark) / 4.0;
        svg.line("axis", [x, bottom], [x, bottom + 4.0]);
        svg.text("t-s", Anchor::Middle, [x, bottom + 17.0], &format!("{} %", mark * 25));
    }
    let title = "Load of experts by task";
    svg.finish(id, "chart wide", [LABEL + PLOT + 20.0, bottom + 22.0], title, &format!("{}.", described.join("; ")))
}
