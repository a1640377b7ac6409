//! Colours for light and dark, as variables of the style sheet.
//!
//! The series are the hues of Okabe and Ito (*Color Universal Design*, 2008), made darker or lighter until each stands
//! out from its ground; the tests below hold their contrast (WCAG 2.2) and, with the simulation of Machado, Oliveira
//! and Fernandes (2009), how well readers with a colour vision deficiency can tell them apart.

use crate::charts::HEAT_STEPS;
use std::fmt::Write;

/// A colour in light and in dark.
struct Colour {
    name: &'static str,
    light: &'static str,
    dark: &'static str,
}

const fn colour(name: &'static str, light: &'static str, dark: &'static str) -> Colour {
    Colour { name, light, dark }
}

const COLOURS: &[Colour] = &[
    colour("bg", "#f7f8f9", "#121518"),
    colour("surface", "#ffffff", "#1b1f23"),
    colour("sunk", "#eff2f4", "#252a2f"),
    colour("ink", "#1a1f24", "#e7eaed"),
    colour("muted", "#58626c", "#a4aeb8"),
    colour("line", "#d5dadf", "#39414a"),
    colour("axis", "#7d8791", "#78838e"),
    colour("accent", "#0068a8", "#4fa8e8"),
    colour("link", "#005a92", "#6cb8f0"),
    colour("good", "#00694b", "#45c79c"),
    colour("bad", "#a32f00", "#f08a5d"),
    colour("single", "#9aa4ae", "#6f7b87"),
    colour("best", "#4a545e", "#c3cad1"),
    colour("merged", "#009e73", "#129a72"),
    colour("final", "#0068a8", "#4fa8e8"),
    colour("s0", "#0068a8", "#4fa8e8"),
    colour("s1", "#c98200", "#f0b429"),
    colour("s2", "#009e73", "#129a72"),
    colour("s3", "#8e3b78", "#d98bbb"),
    colour("s4", "#b03a00", "#e0602a"),
    colour("s5", "#333a42", "#dfe4e8"),
];

/// Ends of the scale of heat: not similar, most similar.
const HEAT_LIGHT: [&str; 2] = ["#f3f7fb", "#0a3f7c"];
const HEAT_DARK: [&str; 2] = ["#20272e", "#a6d5f8"];
/// Inks for what stands on a colour; the one with more contrast is taken.
const INKS: [&str; 2] = ["#000000", "#ffffff"];
const SERIES: usize = 6;

/// The variables as CSS: light, dark where the reader prefers it, and light again on paper.
pub(crate) fn css() -> String {
    let (light, dark) = (variables(false), variables(true));
    format!(
        ":root{{color-scheme:light dark;{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n\
         @media print{{:root{{color-scheme:light;{light}}}}}\n{}{}",
        heat_classes(),
        series_classes()
    )
}

/// `css` and the classes of the scale of heat, or of series, for a picture in a file of its own: light, and dark on a
/// screen where the reader prefers it. Without variables, since many programs that show SVG files do not know them.
pub(crate) fn css_of_file(css: &str, series: bool) -> String {
    let css = format!("{css}{}\n", if series { series_classes() } else { heat_classes() });
    let with = |dark| {
        let value = |css: String, (name, value): (String, String)| css.replace(&format!("var(--{name})"), &value);
        entries(dark).into_iter().fold(css.clone(), value)
    };
    format!("{}@media screen and (prefers-color-scheme: dark){{\n{}}}\n", with(false), with(true))
}

fn variables(dark: bool) -> String {
    let mut css = String::new();
    for (name, value) in entries(dark) {
        let _ = write!(css, "--{name}:{value};");
    }
    css
}

/// Every variable and its colour.
fn entries(dark: bool) -> Vec<(String, String)> {
    let value = |colour: &Colour| if dark { colour.dark } else { colour.light };
    let mut entries: Vec<(String, String)> =
        COLOURS.iter().map(|colour| (colour.name.to_string(), value(colour).to_string())).collect();
    for step in 0..HEAT_STEPS {
        let [low, high] = if dark { HEAT_DARK } else { HEAT_LIGHT };
        let heat = mix(low, high, step as f64 / (HEAT_STEPS - 1) as f64);
        entries.push((format!("i{step}"), ink(&heat).to_string()));
        entries.push((format!("h{step}"), heat));
    }
    for (k, colour) in COLOURS.iter().filter(|colour| is_series(colour.name)).enumerate() {
        entries.push((format!("o{k}"), ink(value(colour)).to_string()));
    }
    entries
}

fn is_series(name: &str) -> bool {
    name.len() == 2 && name.starts_with('s')
}

/// Classes of the scale of heat and of the inks on it.
fn heat_classes() -> String {
    let mut css = String::new();
    for step in 0..HEAT_STEPS {
        let _ = write!(css, ".h{step}{{fill:var(--h{step})}}.chart .i{step}{{fill:var(--i{step})}}");
    }
    css
}

/// Classes of the series.
fn series_classes() -> String {
    let mut css = String::new();
    for k in 0..SERIES {
        let _ = write!(
            css,
            ".segment.s{k},.mark.s{k}{{fill:var(--s{k})}}.line.s{k},.mark-open.s{k}{{stroke:var(--s{k})}}\
             .chart .o{k}{{fill:var(--o{k})}}"
        );
    }
    css
}

/// The ink that stands out more from a ground.
fn ink(ground: &str) -> &'static str {
    let [dark, light] = INKS;
    if contrast(dark, ground) >= contrast(light, ground) { dark } else { light }
}

/// Red, green and blue, 0 to 1, of `#rrggbb`.
fn channels(hex: &str) -> [f64; 3] {
    [1, 3, 5].map(|i| {
        let byte = hex.get(i..i + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        f64::from(byte.unwrap_or(0)) / 255.0
    })
}

fn mix(low: &str, high: &str, share: f64) -> String {
    let (low, high) = (channels(low), channels(high));
    let [r, g, b] = [0, 1, 2].map(|i| ((low[i] + (high[i] - low[i]) * share) * 255.0).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Light of each channel, without the gamma of sRGB.
fn linear(hex: &str) -> [f64; 3] {
    channels(hex).map(|c| if c <= 0.04045 { c / 12.92 } else { ((c + 0.055) / 1.055).powf(2.4) })
}

/// Contrast of two colours after WCAG 2.2, 1 to 21.
fn contrast(a: &str, b: &str) -> f64 {
    let luminance = |hex| {
        let [r, g, b] = linear(hex);
        0.2126 * r + 0.7152 * g + 0.0722 * b
    };
    let (a, b) = (luminance(a), luminance(b));
    (a.max(b) + 0.05) / (a.min(b) + 0.05)
}

#[cfg(test)]
mod tests {
    //! Contrast, and what readers with a colour vision deficiency see.
    use super::*;
    use std::collections::BTreeMap;

    fn themes() -> [BTreeMap<String, String>; 2] {
        [false, true].map(|dark| entries(dark).into_iter().collect())
    }

    #[test]
    fn text_stands_out() {
        for theme in themes() {
            for text in ["ink", "muted", "link", "good", "bad"] {
                for ground in ["bg", "surface", "sunk"] {
                    let found = contrast(&theme[text], &theme[ground]);
                    // AA for text of normal size.
                    assert!(found >= 4.5, "{text} on {ground}: {found:.2}");
                }
            }
            for step in 0..HEAT_STEPS {
                let found = contrast(&theme[&format!("i{step}")], &theme[&format!("h{step}")]);
                assert!(found >= 4.5, "figure on heat {step}: {found:.2}");
            }
        }
    }

    #[test]
    fn marks_stand_out() {
        for theme in themes() {
            for mark in ["s0", "s1", "s2", "s3", "s4", "s5", "best", "merged", "final", "accent", "axis"] {
                let found = contrast(&theme[mark], &theme["surface"]);
                // AA for parts of pictures. Bars of single models are paler, but have an outline in the colour of the
                // axis.
                assert!(found >= 3.0, "{mark}: {found:.2}");
            }
            for k in 0..SERIES {
                let found = contrast(&theme[&format!("o{k}")], &theme[&format!("s{k}")]);
                // Letters on segments are bold and repeated in the table; 3 is AA for parts of pictures.
                assert!(found >= 3.0, "letter on series {k}: {found:.2}");
            }
        }
    }

    #[test]
    fn series_differ_for_every_reader() {
        // Machado et al. 2009, severity 1: what protanopes, deuteranopes and tritanopes see, and everybody else.
        const SIGHT: [[[f64; 3]; 3]; 4] = [
            [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
            [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
            [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
            [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
        ];
        for theme in themes() {
            for sight in SIGHT {
                for (a, b) in (0..SERIES).flat_map(|b| (0..b).map(move |a| (a, b))) {
                    let [x, y] = [a, b].map(|k| lab(seen(linear(&theme[&format!("s{k}")]), sight)));
                    let distance = x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt();
                    // A difference of 2 can just be seen; 15 is plain at a glance.
                    assert!(distance > 15.0, "series {a} and {b}: {distance:.1}");
                }
            }
        }
    }

    fn seen(light: [f64; 3], sight: [[f64; 3]; 3]) -> [f64; 3] {
        sight.map(|row| row.iter().zip(light).map(|(weight, light)| weight * light).sum::<f64>().clamp(0.0, 1.0))
    }

    /// CIE L*a*b* of linear sRGB.
    fn lab([r, g, b]: [f64; 3]) -> [f64; 3] {
        let f = |t: f64| if t > 0.008856 { t.cbrt() } else { 7.787 * t + 16.0 / 116.0 };
        let x = f((0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047);
        let y = f(0.2126 * r + 0.7152 * g + 0.0722 * b);
        let z = f((0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883);
        [116.0 * y - 16.0, 500.0 * (x - y), 200.0 * (y - z)]
    }
}
