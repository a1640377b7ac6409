//! Pictures of matrices and dendrograms, as SVG text that stands alone: dark on white, no script, no font of its own.

use crate::cluster::Dendrogram;
use crate::matrix::{Matrix, Scale};
use std::fmt::Write;

const CELL: f64 = 48.0;
const LINE: f64 = 22.0;
const MARGIN: f64 = 16.0;
const FONT: f64 = 12.0;
/// Advance of a character of the font, generously.
const ADVANCE: f64 = 7.5;
/// Ends of the colour scale: unlike and alike.
const PALE: [f64; 3] = [247.0, 251.0, 255.0];
const DEEP: [f64; 3] = [8.0, 64.0, 129.0];

/// A heatmap of `matrix` with a row and a column for each model in `order`, such as [`Dendrogram::order`]; numbers
/// beyond the matrix are left out. Deeper colour is more alike; a pair without a figure is a dash on grey.
pub fn heatmap(matrix: &Matrix, order: &[usize]) -> String {
    let order: Vec<usize> = order.iter().copied().filter(|&i| i < matrix.n()).collect();
    let label = label_width(matrix.models());
    let side = CELL * order.len() as f64;
    let (left, top) = (MARGIN + label + 8.0, MARGIN + LINE + label + 8.0);
    let (width, height) = ((left + side).max(left + 300.0) + MARGIN, top + side + 3.0 * LINE + MARGIN);
    let (low, high) = domain(matrix);
    let mut svg = open(width, height, &format!("{} of {} models", matrix.metric(), order.len()));
    text(&mut svg, MARGIN, MARGIN + FONT, "start", "", matrix.metric());
    for (row, &i) in order.iter().enumerate() {
        let middle = CELL * (row as f64 + 0.5) + FONT / 3.0;
        text(&mut svg, left - 8.0, top + middle, "end", "", &matrix.models()[i]);
        let (x, y) = (left + middle, top - 8.0);
        let turn = format!(r#" transform="rotate(-90 {x:.1} {y:.1})""#);
        text(&mut svg, x, y, "start", &turn, &matrix.models()[i]);
    }
    for (row, &i) in order.iter().enumerate() {
        for (column, &j) in order.iter().enumerate() {
            let (x, y) = (left + CELL * column as f64, top + CELL * row as f64);
            let likeness = matrix.get(i, j).map(|value| likeness(matrix.scale(), value, low, high));
            let fill = likeness.map_or("#e4e4e4".to_string(), colour);
            let _ = writeln!(
                svg,
                r##"<rect x="{x:.1}" y="{y:.1}" width="{CELL}" height="{CELL}" fill="{fill}" stroke="#ffffff"/>"##
            );
            let ink = if likeness.is_some_and(|likeness| likeness > 0.55) { r##" fill="#ffffff""## } else { "" };
            let shown = matrix.get(i, j).map_or("–".to_string(), |value| short(value, 3));
            text(&mut svg, x + CELL / 2.0, y + CELL / 2.0 + FONT / 3.0, "middle", ink, &shown);
        }
    }
    let (y, steps) = (top + side + LINE, 50);
    for step in 0..steps {
        let value = low + (high - low) * (f64::from(step) + 0.5) / f64::from(steps);
        let fill = colour(likeness(matrix.scale(), value, low, high));
        let x = left + 4.0 * f64::from(step);
        let _ = writeln!(svg, r#"<rect x="{x:.1}" y="{y:.1}" width="4.5" height="12" fill="{fill}"/>"#);
    }
    text(&mut svg, left, y + 12.0 + LINE * 0.7, "start", "", &short(low, 4));
    text(&mut svg, left + 200.0, y + 12.0 + LINE * 0.7, "end", "", &short(high, 4));
    svg + "</svg>\n"
}

/// The dendrogram, its models from top to bottom in [`Dendrogram::order`] and its axis in the matrix's figures. Models
/// that never join are drawn apart.
pub fn dendrogram(dendrogram: &Dendrogram) -> String {
    let order = dendrogram.order();
    let n = dendrogram.models.len();
    let label = label_width(&dendrogram.models);
    let (left, top, span) = (MARGIN + label + 8.0, MARGIN + LINE, 480.0);
    let bottom = top + LINE * order.len() as f64;
    let title = format!("dendrogram of {n} models, {} linkage", dendrogram.link.name());
    let mut svg = open(left + span + 4.0 * MARGIN, bottom + 2.0 * LINE + MARGIN, &title);
    text(&mut svg, MARGIN, MARGIN + FONT, "start", "", &title);

    let figures = || dendrogram.joins.iter().filter_map(|join| join.figure);
    // Leaves stand at full likeness; the axis goes a little beyond the last join.
    let (near, far) = match dendrogram.scale {
        Scale::Similarity => (1.0, figures().fold(1.0, f64::min)),
        Scale::Distance => (0.0, figures().fold(0.0, f64::max)),
    };
    let far = if far == near { near + if dendrogram.scale == Scale::Similarity { -1.0 } else { 1.0 } } else { far };
    let x_of = |figure: f64| left + span * 0.95 * (figure - near) / (far - near);

    // Where each node's branch ends: a model's at its label, a join's at its figure.
    let mut ends: Vec<Option<(f64, f64)>> = vec![None; n];
    for (row, &model) in order.iter().enumerate() {
        let y = top + LINE * (row as f64 + 0.5);
        ends[model] = Some((left, y));
        text(&mut svg, left - 8.0, y + FONT / 3.0, "end", "", &dendrogram.models[model]);
    }
    for join in &dendrogram.joins {
        let nodes = [join.first, join.second].map(|node| ends.get(node).copied().flatten());
        ends.push(match (join.figure, nodes) {
            (Some(figure), [Some((x1, y1)), Some((x2, y2))]) => {
                let x = x_of(figure);
                let _ = writeln!(
                    svg,
                    r##"<path d="M{x1:.1} {y1:.1}H{x:.1}V{y2:.1}H{x2:.1}" fill="none" stroke="#084081" stroke-width="1.5"/>"##
                );
                Some((x, (y1 + y2) / 2.0))
            }
            _ => None,
        });
    }
    let _ = writeln!(svg, r##"<path d="M{left:.1} {bottom:.1}H{:.1}" stroke="#222222"/>"##, left + span * 0.95);
    for step in 0..=4 {
        let figure = near + (far - near) * f64::from(step) / 4.0;
        let x = x_of(figure);
        let _ = writeln!(svg, r##"<path d="M{x:.1} {bottom:.1}V{:.1}" stroke="#222222"/>"##, bottom + 5.0);
        text(&mut svg, x, bottom + LINE, "middle", "", &short(figure, 4));
    }
    svg + "</svg>\n"
}

fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        concat!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0}" height="{h:.0}" viewBox="0 0 {w:.0} {h:.0}" "#,
            r##"font-family="sans-serif" font-size="{f}" fill="#222222">"##,
            "\n<title>{t}</title>\n",
            r##"<rect width="100%" height="100%" fill="#ffffff"/>"##,
            "\n"
        ),
        w = width,
        h = height,
        f = FONT,
        t = escape(title)
    )
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, attributes: &str, content: &str) {
    let content = escape(content);
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}"{attributes}>{content}</text>"#);
}

fn label_width(models: &[String]) -> f64 {
    ADVANCE * models.iter().map(|name| name.chars().count()).max().unwrap_or(0) as f64
}

/// Ends of the colour scale: a similarity from 0, or the lowest there is, to 1; a distance from 0 to the highest.
fn domain(matrix: &Matrix) -> (f64, f64) {
    let values = || matrix.rows().iter().flatten().flatten().copied();
    match matrix.scale() {
        Scale::Similarity => (values().fold(0.0, f64::min), values().fold(1.0, f64::max)),
        Scale::Distance => (0.0, Some(values().fold(0.0, f64::max)).filter(|high| *high > 0.0).unwrap_or(1.0)),
    }
}

/// 0 at the unlike end of the scale, 1 at the alike one.
fn likeness(scale: Scale, value: f64, low: f64, high: f64) -> f64 {
    let share = (value - low) / (high - low);
    match scale {
        Scale::Similarity => share,
        Scale::Distance => 1.0 - share,
    }
}

fn colour(likeness: f64) -> String {
    let mix = |c: usize| (PALE[c] + (DEEP[c] - PALE[c]) * likeness.clamp(0.0, 1.0)).round() as u8;
    format!("#{:02x}{:02x}{:02x}", mix(0), mix(1), mix(2))
}

/// A number in at most `digits` decimals, or in as many significant digits where it is large or tiny.
fn short(value: f64, digits: usize) -> String {
    let magnitude = value.abs();
    if magnitude >= 1000.0 || (magnitude > 0.0 && magnitude < 0.5 * 0.1_f64.powi(digits as i32)) {
        return format!("{value:.1e}");
    }
    let fixed = format!("{value:.digits$}");
    let trimmed = fixed.trim_end_matches('0').trim_end_matches('.');
    if trimmed == "-0" { "0".to_string() } else { trimmed.to_string() }
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
            '\'' => escaped += "&#39;",
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
    use crate::cluster::{Link, agglomerate};

    fn matrix(scale: Scale) -> Matrix {
        let models = vec!["a<b> & \"c\"".to_string(), "it's\u{1}".to_string(), "ünï".to_string()];
        let values = match scale {
            Scale::Similarity => {
                [[Some(1.0), Some(0.97), None], [Some(0.97), Some(1.0), None], [None, None, Some(1.0)]]
            }
            Scale::Distance => [[Some(0.0), Some(9.5), None], [Some(9.5), Some(0.0), None], [None, None, Some(0.0)]],
        };
        Matrix::new(models, "test", scale, values.map(|row| row.to_vec()).to_vec()).unwrap()
    }

    /// Whether tags nest, attributes are quoted and `&` and `<` start only what they may: a subset of XML's rules that
    /// whatever is written here has to keep.
    fn check_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg.trim_end();
        while let Some(start) = rest.find('<') {
            let content = &rest[..start];
            assert!(open.len() > 1 || content.trim().is_empty(), "text outside elements: {content}");
            check_entities(content);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert!(!tag.contains('<'), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else {
                let body = tag.trim_end_matches('/');
                let (name, attributes) = body.split_once(' ').unwrap_or((body, ""));
                let quoted: Vec<&str> = attributes.split('"').collect();
                assert_eq!(quoted.len() % 2, 1, "{tag}");
                for names in quoted[..quoted.len() - 1].iter().step_by(2) {
                    assert!(names.trim_start().ends_with('='), "{tag}");
                }
                check_entities(attributes);
                if !tag.ends_with('/') {
                    open.push(name);
                }
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.is_empty(), "{open:?} {rest}");
        assert!(svg.chars().all(|c| c == '\n' || c >= ' '));
    }

    fn check_entities(text: &str) {
        for part in text.split('&').skip(1) {
            let name = part.split(';').next().unwrap();
            assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "&{part}");
        }
    }

    #[test]
    fn pictures_are_well_formed_whatever_the_names() {
        for scale in [Scale::Similarity, Scale::Distance] {
            let matrix = matrix(scale);
            let tree = agglomerate(&matrix, Link::Average);
            let map = heatmap(&matrix, &tree.order());
            check_well_formed(&map);
            check_well_formed(&dendrogram(&tree));
            assert_eq!(map.matches("<rect").count(), 9 + 50 + 1);
            assert!(map.contains("a&lt;b&gt; &amp; &quot;c&quot;") && map.contains("it&#39;s\u{fffd}"));
            // One join: the third model is apart.
            assert_eq!(dendrogram(&tree).matches("fill=\"none\"").count(), 1);
        }
    }

    #[test]
    fn one_model_has_pictures_too() {
        let one = Matrix::new(vec!["a".into()], "m", Scale::Distance, vec![vec![Some(0.0)]]).unwrap();
        let tree = agglomerate(&one, Link::Single);
        check_well_formed(&heatmap(&one, &[0, 7]));
        check_well_formed(&dendrogram(&tree));
        assert!(!dendrogram(&tree).contains("NaN") && !heatmap(&one, &[0]).contains("NaN"));
    }

    #[test]
    fn numbers_are_short() {
        let check = |value, expected: &str| assert_eq!(short(value, 3), expected);
        check(1.0, "1");
        check(0.98765, "0.988");
        check(-0.0, "0");
        check(0.000_04, "4.0e-5");
        check(15.25, "15.25");
        check(123_456.0, "1.2e5");
    }

    #[test]
    fn deeper_is_more_alike() {
        assert_eq!(colour(0.0), "#f7fbff");
        assert_eq!(colour(1.0), "#084081");
        assert!(likeness(Scale::Distance, 1.0, 0.0, 4.0) > likeness(Scale::Distance, 3.0, 0.0, 4.0));
        assert!(likeness(Scale::Similarity, 0.3, 0.0, 1.0) < likeness(Scale::Similarity, 0.9, 0.0, 1.0));
    }
}
