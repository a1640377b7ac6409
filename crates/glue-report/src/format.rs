//! Numbers and names as they are shown, the same in every table and picture.

use crate::data::Score;
use glue_text::{printable, words};

/// What stands where there is no figure.
pub(crate) const NONE: &str = "–";

/// A score: three decimals, with a true minus sign.
pub(crate) fn score(value: f64) -> String {
    fixed(value, 3)
}

/// A score with its standard error: `0.852 ± 0.022`.
pub(crate) fn with_error(score: Score) -> String {
    match score.stderr {
        Some(stderr) => format!("{} ± {}", fixed(score.value, 3), fixed(stderr, 3)),
        None => fixed(score.value, 3),
    }
}

/// A difference of scores in points, hundredths of a score, with its standard error: `+12.4 ± 1.3 points`.
pub(crate) fn points(difference: Score) -> String {
    let stderr = difference.stderr.map_or(String::new(), |stderr| format!(" ± {}", fixed(stderr * 100.0, 1)));
    format!("{}{stderr} points", signed(difference.value * 100.0, 1))
}

/// A number with so many decimals and a true minus sign; nothing is shown as minus zero.
pub(crate) fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(rest) if rest.chars().all(|c| matches!(c, '0' | '.')) => rest.to_string(),
        Some(rest) => format!("−{rest}"),
        None => text,
    }
}

/// A difference with its sign: `+18.7`.
pub(crate) fn signed(value: f64, decimals: usize) -> String {
    let text = fixed(value, decimals);
    if text.starts_with('−') { text } else { format!("+{text}") }
}

/// A figure of similarity with so many decimals and without the zero before its point, for small cells: `.987`, `1`,
/// `−.020`. What needs more than two digits before its point is as in [`significant`].
pub(crate) fn short(value: f64, decimals: usize) -> String {
    if value.abs() >= 99.9995 {
        return significant(value, 3);
    }
    let text = fixed(value, decimals);
    match text.split_once('.') {
        Some((whole, rest)) if rest.bytes().all(|digit| digit == b'0') => whole.to_string(),
        _ => without_zero(&text),
    }
}

/// A figure with three decimals and without the zero before its point: `.031`.
pub(crate) fn bare(value: f64) -> String {
    without_zero(&fixed(value, 3))
}

/// A number without the zero before its point.
pub(crate) fn without_zero(text: &str) -> String {
    let (sign, rest) = text.strip_prefix('−').map_or(("", text), |rest| ("−", rest));
    format!("{sign}{}", rest.strip_prefix('0').filter(|rest| rest.starts_with('.')).unwrap_or(rest))
}

/// A figure of any size with so many digits, two at least: `0.0123`, `15.2`; with one less and a power of ten where it
/// is large or tiny: `1.2e5`, `4.0e−5`.
pub(crate) fn significant(value: f64, digits: usize) -> String {
    let magnitude = value.abs();
    if magnitude < f64::MIN_POSITIVE {
        return "0".to_string();
    }
    if !(0.001..99_999.5).contains(&magnitude) {
        let decimals = digits.saturating_sub(2);
        return format!("{value:.decimals$e}").replace('-', "−");
    }
    let decimals = digits as f64 - 1.0 - magnitude.log10().floor();
    fixed(value, decimals.max(0.0) as usize)
}

/// A number as it was given, where that is short: `0.95`.
pub(crate) fn plain(value: f64) -> String {
    let text = value.to_string();
    if text.len() <= 8 { text.replace('-', "−") } else { significant(value, 4) }
}

/// An amount: a count in full, a long one in short, a sum of fractions with two decimals.
pub(crate) fn amount(value: f64) -> String {
    match value {
        v if v >= 9_999_999.5 => words::short(v as u64),
        v if v.fract() == 0.0 || v >= 999.995 => words::count(v.round() as u64),
        v => fixed(v, 2),
    }
}

/// A fraction as `98.1 %`.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{} %", fixed(fraction * 100.0, 1))
}

/// At most `limit` characters of a name: long names lose their middle, since related names differ at their ends.
pub(crate) fn middle(name: &str, limit: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= limit {
        return name.to_string();
    }
    let kept = limit.saturating_sub(1);
    let head = kept.div_ceil(2);
    let tail = chars.len() - (kept - head);
    chars[..head].iter().chain(&['…']).chain(&chars[tail..]).collect()
}

/// At most `limit` characters of a sentence, cut after a clause where there is one that is not too short, else after a
/// word, and never inside of parentheses.
pub(crate) fn start(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_string();
    }
    let mut cut: &str = &text.chars().take(limit.saturating_sub(1)).collect::<String>();
    let unclosed = unclosed(cut);
    cut = &cut[..unclosed.unwrap_or(cut.len())];
    let clause = cut.rfind(['.', ';', ',']).filter(|end| *end > cut.len() / 2 && cut[*end + 1..].starts_with(' '));
    let word = || cut.rfind(' ').filter(|end| *end > cut.len() / 2 && unclosed.is_none());
    let end = clause.or_else(word).unwrap_or(cut.len());
    format!("{}…", cut[..end].trim_end_matches(['.', ',', ';', ':', ' ']))
}

/// Where the first parenthesis opens that never closes.
fn unclosed(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    for (at, c) in text.char_indices() {
        match c {
            '(' => open.push(at),
            ')' => drop(open.pop()),
            _ => {}
        }
    }
    open.first().copied()
}

/// The last `limit` characters of a text, from the beginning of a word on.
pub(crate) fn end(text: &str, limit: usize) -> String {
    let chars = text.chars().count();
    if chars <= limit {
        return text.to_string();
    }
    let cut: String = text.chars().skip(chars - limit.saturating_sub(1)).collect();
    let from = cut.find(char::is_whitespace).filter(|from| *from < cut.len() / 2).unwrap_or(0);
    format!("…{}", cut[from..].trim_start())
}

/// `text` with a capital letter at its start.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `text` as character data or in a quoted attribute of XML and HTML. Characters that XML has no place for become
/// U+FFFD.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(printable(c)),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    //! Words and numbers.
    use super::*;

    #[test]
    fn numbers_are_written() {
        let check = |found: String, expected: &str| assert_eq!(found, expected);
        check(score(0.85249), "0.852");
        check(score(-0.0001), "0.000");
        check(score(-0.25), "−0.250");
        check(signed(0.187, 1), "+0.2");
        check(signed(-3.04, 1), "−3.0");
        check(short(0.98669, 3), ".987");
        check(short(0.98669, 5), ".98669");
        check(short(0.99999, 3), "1");
        check(short(-0.02, 3), "−.020");
        check(short(0.0, 3), "0");
        check(short(-1.0, 3), "−1");
        check(short(12.5, 3), "12.500");
        check(short(123_456.0, 3), "1.2e5");
        check(significant(0.0, 3), "0");
        check(significant(-0.0, 3), "0");
        check(significant(15.25, 3), "15.2");
        check(significant(0.012_34, 3), "0.0123");
        check(significant(1.0, 3), "1.00");
        check(significant(12_345.6, 3), "12346");
        check(significant(-123_456.0, 3), "−1.2e5");
        check(significant(0.000_04, 3), "4.0e−5");
        check(significant(0.000_04, 6), "4.0000e−5");
        check(without_zero(&significant(-0.5, 3)), "−.500");
        check(without_zero("0"), "0");
        check(plain(0.95), "0.95");
        check(plain(-1.0), "−1");
        check(plain(0.1 + 0.2), "0.3000");
        check(plain(1e300), "1.00e300");
        check(amount(0.0), "0");
        check(amount(1_234.0), "1,234");
        check(amount(2.5), "2.50");
        check(amount(1234.56), "1,235");
        check(amount(12_345_678.0), "12.3 M");
        check(bare(0.0), ".000");
        check(percent(0.9809), "98.1 %");
        check(with_error(Score { value: 0.5, stderr: Some(0.0316), n: None }), "0.500 ± 0.032");
    }

    #[test]
    fn names_are_shortened() {
        assert_eq!(middle("a-chat", 8), "a-chat");
        assert_eq!(middle("meta-llama/Llama-2-7b-chat-hf", 11), "meta-…at-hf");
        assert_eq!(middle("äöüäöüäöü", 4), "äö…ü");
        assert_eq!(middle("abc", 0), "…");
        assert_eq!(start("one two three four", 12), "one two…");
        assert_eq!(start("onetwothreefour", 4), "one…");
        assert_eq!(start("far below the median (modified z-score −4)", 34), "far below the median…");
        assert_eq!(start("an outlier, far below the median", 24), "an outlier, far below…");
        assert_eq!(start("its score is an outlier; so is its norm", 32), "its score is an outlier…");
        assert_eq!(end("one two three four", 12), "…three four");
        assert_eq!(end("onetwothreefour", 5), "…four");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&'</a>\u{1}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;\u{fffd}");
    }
}
