//! Numbers and names as they are shown, the same in every table and picture.

use crate::data::Score;

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

/// A figure of similarity without the zero before its point, so that it fits a small cell: `.987`, `1`, `−.020`.
pub(crate) fn short(value: f64) -> String {
    let text = fixed(value, 3);
    if text.ends_with(".000") {
        return text.trim_end_matches(".000").to_string();
    }
    bare(value)
}

/// A figure with three decimals and without the zero before its point: `.031`.
pub(crate) fn bare(value: f64) -> String {
    let text = fixed(value, 3);
    match text.strip_prefix('−') {
        Some(rest) => format!("−{}", rest.strip_prefix('0').unwrap_or(rest)),
        None => text.strip_prefix('0').unwrap_or(&text).to_string(),
    }
}

/// A count in full, in groups of three: `722,048`.
pub(crate) fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `n things`, in the singular for one.
pub(crate) fn things(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as u64), if n == 1 { one } else { many })
}

/// A number of parameters in short: `722 K`, `7.24 B`.
pub(crate) fn parameters(n: u64) -> String {
    scaled(n, 1000.0, &["", " K", " M", " B", " T"])
}

/// Bytes: `999 B`, `1.38 MiB`, `13.5 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    scaled(n, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB", " PiB"])
}

/// `n` in the largest unit that leaves a digit before the point, in three digits.
fn scaled(n: u64, step: f64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // What rounds to a thousand belongs to the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    let digits = match value {
        _ if unit == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", units[unit])
}

/// A time: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match seconds.max(0.0) {
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", count(whole / 3600), whole % 3600 / 60),
    }
}

/// A share: `98.1 %`.
pub(crate) fn percent(share: f64) -> String {
    format!("{} %", fixed(share * 100.0, 1))
}

/// At most `limit` characters of a name: what is too long loses its middle, since relatives differ at their ends.
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

/// At most `limit` characters of a sentence, cut after a word.
pub(crate) fn start(text: &str, limit: usize) -> String {
    if text.chars().count() <= limit {
        return text.to_string();
    }
    let cut: String = text.chars().take(limit.saturating_sub(1)).collect();
    let end = cut.rfind(' ').filter(|end| *end > cut.len() / 2).unwrap_or(cut.len());
    format!("{}…", cut[..end].trim_end_matches([',', ';', ':', ' ']))
}

/// `text` with a capital letter at its start.
pub(crate) fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().collect::<String>() + chars.as_str())
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn list<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

/// `text` as character data or in a quoted attribute of XML and HTML. Characters that XML has no place for become U+FFFD.
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

/// `c`, or U+FFFD for what XML has no place for.
pub(crate) fn printable(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c => c,
    }
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
        check(short(0.98669), ".987");
        check(short(0.99999), "1");
        check(short(-0.02), "−.020");
        check(short(0.0), "0");
        check(short(-1.0), "−1");
        check(short(12.5), "12.500");
        check(bare(0.0), ".000");
        check(count(0), "0");
        check(count(1_234_567), "1,234,567");
        check(things(1, "model", "models"), "1 model");
        check(parameters(722_048), "722 K");
        check(parameters(7_241_732_096), "7.24 B");
        check(parameters(12), "12");
        check(bytes(999), "999 B");
        check(bytes(1000), "0.98 KiB");
        check(bytes(1_448_184), "1.38 MiB");
        check(bytes(14_483_464_192), "13.5 GiB");
        check(duration(0.42), "0.42 s");
        check(duration(200.0), "3 min 20 s");
        check(duration(7500.0), "2 h 05 min");
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
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
        assert_eq!(list::<&str>(&[]), "");
    }

    #[test]
    fn markup_is_escaped() {
        assert_eq!(escape("<a href=\"x\">&'</a>\u{1}"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;\u{fffd}");
    }
}
