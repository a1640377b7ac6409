//! A chart for a page or for a separate file.

use super::{CHART_STYLE, SERIES_STYLE};
use crate::format;
use crate::palette;
use crate::svg::{Anchor, BOLD, Svg};

/// Maximum characters of a name in a file.
const MAX_CHARS: usize = 60;
/// Around the chart in a file.
const MARGIN: f64 = 16.0;
const HEADING: f64 = 14.0;
const NOTE: f64 = 11.0;
/// From one note to the next.
const LINE: f64 = 16.0;

/// Where a chart is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Medium {
    /// On the page of a report, with text around it, where names are shown in full under the pointer.
    Page,
    /// In a separate file, which has to explain itself.
    File,
}

impl Medium {
    /// Maximum characters of a name; `on_page` on a page.
    pub(crate) fn max_chars(self, on_page: usize) -> usize {
        match self {
            Medium::Page => on_page,
            Medium::File => MAX_CHARS,
        }
    }
}

/// A chart that has been drawn.
#[derive(Debug)]
pub(crate) struct Drawing {
    pub(crate) svg: Svg,
    /// Classes of its element on a page.
    pub(crate) class: &'static str,
    pub(crate) size: [f64; 2],
    pub(crate) title: String,
    /// What it shows, in words.
    pub(crate) description: String,
    /// What a reader of the chart alone needs to know: sentences.
    pub(crate) notes: Vec<String>,
    /// Whether it has the marks and colours of series instead of a scale of heat.
    pub(crate) series: bool,
}

impl Drawing {
    /// For a page, in which `id` is unique.
    pub(crate) fn inline(self, id: &str) -> String {
        self.svg.finish(id, self.class, self.size, &self.title, &self.description)
    }

    /// As a separate file: with a ground, a title above and notes below.
    pub(crate) fn file(self) -> String {
        let heading = format::middle(&self.title, 2 * MAX_CHARS);
        let notes = self.notes.iter().map(|note| Svg::width_of(note, NOTE));
        let words = notes.fold(Svg::width_of(&heading, HEADING) * BOLD, f64::max);
        let [width, height] = self.size;
        let top = MARGIN + HEADING + 12.0;
        let below = if self.notes.is_empty() { 0.0 } else { 6.0 + LINE * self.notes.len() as f64 };
        let view = [-MARGIN, -top, width.max(words) + 2.0 * MARGIN, top + height + below + MARGIN];
        let mut svg = Svg::new();
        svg.rect("ground", view, None);
        svg.label("t-h", Anchor::Start, [0.0, MARGIN + HEADING - 2.0 - top], &heading, Some(&self.title), false);
        svg.append(self.svg);
        for (k, note) in self.notes.iter().enumerate() {
            svg.text("t-s", Anchor::Start, [0.0, height + 6.0 + LINE * (k as f64 + 0.75)], note);
        }
        let style = if self.series { [CHART_STYLE, SERIES_STYLE].concat() } else { CHART_STYLE.to_string() };
        svg.file(view, [&self.title, &self.description], &palette::css_of_file(&style, self.series))
    }
}
