//! SVG with a title and a description. Colours are classes, whose values the style sheet has for light and dark.

use crate::format::{self, escape};
use std::fmt::Write;

/// Width of a narrow character, in parts of the font size.
const NARROW: f64 = 0.41;
/// How much wider bold letters are.
pub(crate) const BOLD: f64 = 1.12;

/// Width of a character in parts of the font size, in the widest of the usual sans-serifs: which one a reader has is
/// not known.
fn advance(c: char) -> f64 {
    match c {
        'f' | 'i' | 'j' | 'l' | 'r' | 't' | 'I' | 'J' | ' ' | '.' | ',' | ':' | ';' | '!' | '|' | '\'' => NARROW,
        '/' | '\\' | '-' | '(' | ')' | '[' | ']' => NARROW,
        'm' | 'w' | 'M' | 'W' | '%' | '@' | '&' | '#' | '+' | '=' | '<' | '>' | '~' => 1.0,
        'A'..='Z' => 0.79,
        c if c.is_ascii() => 0.64,
        '\u{80}'..='\u{10ff}' => 0.8,
        // Signs of East Asia fill a square, and more in some fonts.
        _ => 1.1,
    }
}

/// Where a text is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture that is being drawn.
#[derive(Debug)]
pub(crate) struct Svg {
    body: String,
}

impl Svg {
    pub(crate) fn new() -> Svg {
        Svg { body: String::new() }
    }

    /// Width that a text has at most.
    pub(crate) fn width_of(text: &str, size: f64) -> f64 {
        text.chars().map(advance).sum::<f64>() * size
    }

    /// Width that the longest of some names has at most, so many characters of them being shown.
    pub(crate) fn widest<'a>(names: impl Iterator<Item = &'a str>, max_chars: usize, size: f64) -> f64 {
        names.map(|name| Svg::width_of(&format::middle(name, max_chars), size)).fold(0.0, f64::max)
    }

    /// As much of a name as fits into a width, one character at least.
    pub(crate) fn fit(name: &str, width: f64, size: f64) -> String {
        let max_chars = name.chars().count().min((width / (size * NARROW)).max(1.0) as usize);
        let shortened = (1..=max_chars).rev().map(|n| format::middle(name, n));
        let fits = |text: &String| Svg::width_of(text, size) <= width;
        shortened.into_iter().find(fits).unwrap_or_else(|| format::middle(name, 1))
    }

    /// A rectangle, never with a negative size. A note shows when a pointer rests on it.
    pub(crate) fn rect(&mut self, class: &str, [x, y, width, height]: [f64; 4], note: Option<&str>) {
        let (x, y, width, height) = (c(x), c(y), c(width.max(0.0)), c(height.max(0.0)));
        let _ = write!(self.body, r#"<rect class="{class}" x="{x}" y="{y}" width="{width}" height="{height}""#);
        self.close("rect", note);
    }

    pub(crate) fn line(&mut self, class: &str, from: [f64; 2], to: [f64; 2]) {
        let ([x1, y1], [x2, y2]) = (from.map(c), to.map(c));
        let _ = writeln!(self.body, r#"<line class="{class}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" />"#);
    }

    /// Straight lines through points; nothing for fewer than two.
    pub(crate) fn path(&mut self, class: &str, points: &[[f64; 2]]) {
        if points.len() < 2 {
            return;
        }
        let mut d = String::new();
        for (i, [x, y]) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if i == 0 { 'M' } else { 'L' }, c(*x), c(*y));
        }
        let _ = writeln!(self.body, r#"<path class="{class}" d="{d}" />"#);
    }

    /// A mark whose form tells series apart as well as its colour does: the forms repeat after six.
    pub(crate) fn mark(&mut self, class: &str, form: usize, [x, y]: [f64; 2], size: f64, note: Option<&str>) {
        let corners: &[[f64; 2]] = match form % 6 {
            0 => {
                let _ = write!(self.body, r#"<circle class="{class}" cx="{}" cy="{}" r="{}""#, c(x), c(y), c(size));
                return self.close("circle", note);
            }
            1 => &[[-0.9, -0.9], [0.9, -0.9], [0.9, 0.9], [-0.9, 0.9]],
            2 => &[[0.0, -1.2], [1.15, 0.9], [-1.15, 0.9]],
            3 => &[[0.0, -1.3], [1.3, 0.0], [0.0, 1.3], [-1.3, 0.0]],
            4 => &[[0.0, 1.2], [1.15, -0.9], [-1.15, -0.9]],
            _ => &[
                [-1.2, -0.4],
                [-0.4, -0.4],
                [-0.4, -1.2],
                [0.4, -1.2],
                [0.4, -0.4],
                [1.2, -0.4],
                [1.2, 0.4],
                [0.4, 0.4],
                [0.4, 1.2],
                [-0.4, 1.2],
                [-0.4, 0.4],
                [-1.2, 0.4],
            ],
        };
        let points: Vec<String> =
            corners.iter().map(|[dx, dy]| format!("{},{}", c(x + dx * size), c(y + dy * size))).collect();
        let _ = write!(self.body, r#"<polygon class="{class}" points="{}""#, points.join(" "));
        self.close("polygon", note);
    }

    /// A text with its baseline at a point.
    pub(crate) fn text(&mut self, class: &str, anchor: Anchor, at: [f64; 2], text: &str) {
        self.label(class, anchor, at, text, None, false);
    }

    /// A text whose full form shows when a pointer rests on it; may be turned to read upwards.
    pub(crate) fn label(
        &mut self,
        class: &str,
        anchor: Anchor,
        [x, y]: [f64; 2],
        text: &str,
        full: Option<&str>,
        upwards: bool,
    ) {
        let (x, y) = (c(x), c(y));
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(self.body, r#"<text class="{class}" text-anchor="{anchor}" x="{x}" y="{y}""#);
        if upwards {
            let _ = write!(self.body, r#" transform="rotate(-90 {x} {y})""#);
        }
        self.body.push('>');
        if let Some(full) = full.filter(|full| *full != text) {
            let _ = write!(self.body, "<title>{}</title>", escape(full));
        }
        let _ = writeln!(self.body, "{}</text>", escape(text));
    }

    fn close(&mut self, element: &str, note: Option<&str>) {
        let _ = match note {
            Some(note) => writeln!(self.body, "><title>{}</title></{element}>", escape(note)),
            None => writeln!(self.body, " />"),
        };
    }

    /// Everything that is drawn in `other`, on top of what is here.
    pub(crate) fn append(&mut self, other: Svg) {
        self.body.push_str(&other.body);
    }

    /// The picture inside a page. `id` must be unique in the page; the description says in words what the picture
    /// shows.
    pub(crate) fn finish(
        self,
        id: &str,
        class: &str,
        [width, height]: [f64; 2],
        title: &str,
        description: &str,
    ) -> String {
        let attributes = format!(r#"class="{class}" style="--w:{}px""#, c(width));
        self.element(&attributes, id, [0.0, 0.0, width, height], [title, description], "")
    }

    /// The picture as a file of its own with its style sheet. `view` is the part of the plane that it shows: left, top,
    /// width, height.
    pub(crate) fn file(self, view: [f64; 4], words: [&str; 2], style: &str) -> String {
        let style = format!("<style>\n{style}</style>\n");
        self.element(r#"class="chart" font-family="system-ui,sans-serif""#, "picture", view, words, &style)
    }

    fn element(
        self,
        attributes: &str,
        id: &str,
        view: [f64; 4],
        [title, description]: [&str; 2],
        style: &str,
    ) -> String {
        let ([left, top, width, height], title, description) = (view.map(c), escape(title), escape(description));
        format!(
            concat!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-labelledby="{id}-t {id}-d" {attributes} "#,
                r#"viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">"#,
                "\n<title id=\"{id}-t\">{title}</title>\n<desc id=\"{id}-d\">{description}</desc>\n{style}{body}</svg>\n"
            ),
            id = id,
            attributes = attributes,
            left = left,
            top = top,
            width = width,
            height = height,
            title = title,
            description = description,
            style = style,
            body = self.body
        )
    }
}

/// A coordinate, to a tenth of a pixel. What is not finite is refused before anything is drawn.
fn c(x: f64) -> String {
    let text = format!("{x:.1}");
    let text = text.strip_suffix(".0").unwrap_or(&text);
    if text == "-0" { "0".to_string() } else { text.to_string() }
}

/// A name as an id of the page: letters and digits, everything else as a number, so that no two names give the same id.
pub(crate) fn slug(name: &str) -> String {
    let mut slug = String::new();
    for character in name.chars() {
        if character.is_ascii_alphanumeric() || character == '-' {
            slug.push(character);
        } else {
            let _ = write!(slug, "_{:x}_", u32::from(character));
        }
    }
    slug
}

/// About `wanted` round numbers from `low` to `high`, and the number of decimals they need.
pub(crate) fn ticks(low: f64, high: f64, wanted: usize) -> (Vec<f64>, usize) {
    let span = high - low;
    if span <= 0.0 || !span.is_finite() {
        return (vec![low], 3);
    }
    let rough = span / wanted.max(1) as f64;
    let power = rough.log10().floor();
    let unit = 10f64.powf(power);
    let step = unit * [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|step| step * unit >= rough).unwrap_or(10.0);
    // 2.5 needs one decimal more than the others.
    let quarter = ((step / unit) * 2.0).round() == 5.0;
    let decimals = (f64::from(u8::from(quarter)) - step.log10().floor()).max(0.0) as usize;
    // Half a millionth of a step forgives the rounding of the division.
    let first = (low / step - 5e-7).ceil() as i64;
    let last = (high / step + 5e-7).floor() as i64;
    ((first..=last).map(|k| k as f64 * step).collect(), decimals)
}

#[cfg(test)]
mod tests {
    //! Coordinates and ticks.
    use super::*;

    #[test]
    fn coordinates_are_short() {
        assert_eq!([c(1.0), c(-0.04), c(12.345)], ["1", "0", "12.3"]);
    }

    #[test]
    fn ticks_are_round() {
        let check = |low, high, wanted, expected: &[f64], decimals: usize| {
            let (found, digits) = ticks(low, high, wanted);
            assert_eq!(digits, decimals, "{low} to {high}");
            assert_eq!(found.len(), expected.len(), "{found:?}");
            // The steps are exact to a few units in the last place.
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{found:?}");
        };
        check(0.0, 1.0, 2, &[0.0, 0.5, 1.0], 1);
        check(0.0, 1.0, 4, &[0.0, 0.25, 0.5, 0.75, 1.0], 2);
        check(0.66, 0.74, 4, &[0.66, 0.68, 0.70, 0.72, 0.74], 2);
        check(0.0, 120.0, 4, &[0.0, 50.0, 100.0], 0);
        check(0.0, 96.0, 4, &[0.0, 25.0, 50.0, 75.0], 0);
        check(0.5, 0.5, 4, &[0.5], 3);
    }

    #[test]
    fn names_are_cut_to_their_room() {
        let check = |name: &str, width, expected: &str| assert_eq!(Svg::fit(name, width, 10.0), expected);
        check("", 5.0, "");
        check("illi", 20.0, "illi");
        check("mmmm", 39.0, "m…m");
        check("a-long-name", 45.0, "a-l…me");
        check("abc", 1.0, "…");
        assert!(Svg::width_of("模型", 10.0) >= 20.0, "two squares");
        // At most as many characters of the longest as are shown.
        assert_eq!(Svg::widest(["a", "abcdefgh"].into_iter(), 3, 10.0), Svg::width_of("a…h", 10.0));
    }

    #[test]
    fn ids_do_not_collide() {
        assert_eq!(slug("a b"), "a_20_b");
        assert_ne!(slug("a b"), slug("a_b"));
    }
}
