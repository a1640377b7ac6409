//! Line plots in SVG, for the pages of the docs.
//!
//! A plot has a white ground of its own, so that it is the same on a dark page; colours are those of Okabe and
//! Ito (*Color Universal Design*, 2008), which people with any colour vision tell apart, and each line has a
//! shape of its own besides.

use std::fmt::Write;

/// A plot with some lines over one axis.
pub(super) struct Plot<'a> {
    /// What is along the horizontal axis.
    pub(super) x: &'a str,
    /// What is along the vertical axis.
    pub(super) y: &'a str,
    /// Lines through points, from left to right.
    pub(super) lines: Vec<Line>,
    /// Levels to compare with, drawn from side to side.
    pub(super) levels: Vec<(String, f64)>,
}

/// A named line.
pub(super) struct Line {
    /// Its name in the legend.
    pub(super) name: String,
    /// Its points, ascending in the first coordinate.
    pub(super) points: Vec<(f64, f64)>,
}

/// Okabe and Ito without black, which levels have, and without yellow, which is too pale on white.
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/// Size of the picture, and the frame of the plot in it: left, top, right, bottom.
const SIZE: (f64, f64) = (800.0, 450.0);
const FRAME: (f64, f64, f64, f64) = (70.0, 16.0, 560.0, 395.0);

impl Plot<'_> {
    /// The plot as the text of a file.
    pub(super) fn svg(&self) -> String {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (left, right) = span(points().map(|(x, _)| *x), 0.0);
        let (low, high) = span(points().map(|(_, y)| *y).chain(self.levels.iter().map(|(_, y)| *y)), 0.06);
        let at = |(x, y): (f64, f64)| {
            let share = |v: f64, from: f64, to: f64| (v - from) / (to - from);
            let across = FRAME.0 + 20.0 + share(x, left, right) * (FRAME.2 - FRAME.0 - 40.0);
            (across, FRAME.3 - share(y, low, high) * (FRAME.3 - FRAME.1))
        };
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" \
             font-family=\"sans-serif\" font-size=\"13\" fill=\"#000\">\n<rect width=\"{0}\" height=\"{1}\" fill=\"#fff\"/>\n",
            SIZE.0, SIZE.1
        );
        for y in ticks(low, high) {
            let (_, height) = at((left, y));
            let _ = writeln!(
                text,
                "<path d=\"M{} {height:.1}H{}\" stroke=\"#ccc\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                FRAME.0,
                FRAME.2,
                FRAME.0 - 6.0,
                height + 4.5,
                number(y)
            );
        }
        let mut columns: Vec<f64> = points().map(|(x, _)| *x).collect();
        columns.sort_by(f64::total_cmp);
        columns.dedup();
        for x in columns {
            let (across, _) = at((x, low));
            let _ = writeln!(
                text,
                "<text x=\"{across:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
                FRAME.3 + 18.0,
                number(x)
            );
        }
        let _ = writeln!(
            text,
            "<path d=\"M{0} {1}V{3}H{2}\" stroke=\"#000\" fill=\"none\"/>\n<text x=\"{4}\" y=\"{5}\" \
             text-anchor=\"middle\">{6}</text>\n<text transform=\"translate(18 {7}) rotate(-90)\" \
             text-anchor=\"middle\">{8}</text>",
            FRAME.0,
            FRAME.1,
            FRAME.2,
            FRAME.3,
            (FRAME.0 + FRAME.2) / 2.0,
            SIZE.1 - 14.0,
            escaped(self.x),
            (FRAME.1 + FRAME.3) / 2.0,
            escaped(self.y)
        );
        let mut legend = FRAME.1 + 12.0;
        for (number, (name, y)) in self.levels.iter().enumerate() {
            let (_, height) = at((left, *y));
            let dash = format!("stroke=\"#000\" stroke-dasharray=\"{} 4\"", 3 + 5 * number);
            let _ = writeln!(text, "<path d=\"M{} {height:.1}H{}\" {dash}/>", FRAME.0, FRAME.2);
            key(&mut text, legend, &format!("<path d=\"M0 0H24\" {dash}/>"), name);
            legend += 20.0;
        }
        for (number, line) in self.lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let path: Vec<String> = line.points.iter().map(|p| at(*p)).map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = writeln!(
                text,
                "<path d=\"M{}\" stroke=\"{colour}\" stroke-width=\"2\" fill=\"none\"/>",
                path.join("L")
            );
            for point in &line.points {
                let (x, y) = at(*point);
                let _ = writeln!(text, "<g transform=\"translate({x:.1} {y:.1})\">{}</g>", mark(number, colour));
            }
            let sample = format!(
                "<path d=\"M0 0H24\" stroke=\"{colour}\" stroke-width=\"2\"/><g transform=\"translate(12 0)\">{}</g>",
                mark(number, colour)
            );
            key(&mut text, legend, &sample, &line.name);
            legend += 20.0;
        }
        text + "</svg>\n"
    }
}

/// A line of the legend.
fn key(text: &mut String, height: f64, sample: &str, name: &str) {
    let (sample_at, name_at) = (FRAME.2 + 16.0, FRAME.2 + 48.0);
    let _ = writeln!(
        text,
        "<g transform=\"translate({sample_at} {height})\">{sample}</g><text x=\"{name_at}\" y=\"{}\">{}</text>",
        height + 4.5,
        escaped(name)
    );
}

/// A shape for the points of a line, around the origin.
fn mark(number: usize, colour: &str) -> String {
    let shape = match number % 6 {
        0 => "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0 -10 0",
        1 => "M-5 -5H5V5H-5Z",
        2 => "M0 -6L6 5H-6Z",
        3 => "M0 -6L6 0L0 6L-6 0Z",
        4 => "M0 6L6 -5H-6Z",
        _ => "M-5 -5L5 5M5 -5L-5 5",
    };
    let fill = if number % 6 == 5 { "none" } else { colour };
    format!("<path d=\"{shape}\" fill=\"{fill}\" stroke=\"{colour}\" stroke-width=\"1.5\"/>")
}

/// The least and the greatest value, with `room` of their distance on both sides; never a single point.
fn span(values: impl Iterator<Item = f64>, room: f64) -> (f64, f64) {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    if low > high {
        return (0.0, 1.0);
    }
    let room = if high > low { (high - low) * room } else { 0.5 };
    (low - room, high + room)
}

/// Round numbers from `low` to `high`, at most eight.
fn ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].iter().map(|m| m * power).find(|step| *step >= rough).unwrap_or(rough);
    let first = (low / step).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|tick| *tick <= high + step * 1e-9).collect()
}

/// A number as short as it can be read.
fn number(x: f64) -> String {
    let text = format!("{x:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    //! What is drawn lies where it should.
    use super::*;

    #[test]
    fn every_line_is_drawn_and_named() {
        let line = |name: &str, points: &[(f64, f64)]| Line { name: name.into(), points: points.into() };
        let plot = Plot {
            x: "dense layers",
            y: "score <test>",
            lines: vec![line("a & b", &[(0.0, 0.5), (1.0, 0.7)]), line("c", &[(0.0, 0.9)])],
            levels: vec![("best single".into(), 0.6)],
        };
        let svg = plot.svg();
        for words in ["a &amp; b", ">c<", "best single", "score &lt;test>", "dense layers", ">0.7<"] {
            assert!(svg.contains(words), "{words} in {svg}");
        }
        assert_eq!(
            svg.matches("<g transform").count(),
            3 + 1 + 2 * 2,
            "points, and in the legend a sample each with a mark"
        );
        let path =
            svg.split("<path d=\"M").find(|path| path.contains('L') && path.contains(COLOURS[0])).expect("a line");
        let path = path.split('"').next().expect("its points").replace('L', " ");
        let numbers: Vec<f64> = path.split(' ').map(|number| number.parse().expect("a number")).collect();
        let [x0, y0, x1, y1] = numbers[..] else { panic!("{path}") };
        assert!(FRAME.0 < x0 && x0 < x1 && x1 < FRAME.2, "{path}: from left to right");
        assert!(FRAME.1 < y1 && y1 < y0 && y0 < FRAME.3, "{path}: the greater score is further up");
    }

    #[test]
    fn ticks_are_round_and_inside() {
        for (low, high, expected) in
            [(0.0, 1.0, &[0.0, 0.2, 0.4, 0.6, 0.8, 1.0][..]), (0.71, 0.77, &[0.71, 0.72, 0.73, 0.74, 0.75, 0.76, 0.77])]
        {
            let found = ticks(low, high);
            // Multiples of a step that has no exact binary form.
            let near = found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-9);
            assert!(found.len() == expected.len() && near, "{found:?}");
        }
        assert_eq!(span([0.5].into_iter(), 0.1), (0.0, 1.0));
        assert_eq!(span([].into_iter(), 0.1), (0.0, 1.0));
    }
}
