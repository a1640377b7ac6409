//! Sizes, counts and times, from and into words. Decimal prefixes, as in the names of shards on model hubs.

use std::time::Duration;

/// Suffixes of a size and what they multiply by.
const SUFFIXES: &[(&str, u64)] = &[
    ("", 1),
    ("k", 1_000),
    ("kb", 1_000),
    ("m", 1_000_000),
    ("mb", 1_000_000),
    ("g", 1_000_000_000),
    ("gb", 1_000_000_000),
    ("t", 1_000_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// A size in bytes: `5GB`, `500MB`, `2GiB`, `1.5 GB`, or a plain number of bytes.
///
/// # Errors
/// Anything else, in words. `5B` too: elsewhere it means billions.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, suffix) = (&text[..end], text[end..].trim().to_ascii_lowercase());
    if suffix == "b" {
        return Err(format!("`B` could mean bytes or billions; write `{number}GB` or `{number}`"));
    }
    let unit = SUFFIXES.iter().find(|(name, _)| *name == suffix);
    let value: Option<f64> = number.parse().ok();
    let (Some((_, unit)), Some(value)) = (unit, value) else {
        return Err("a size is a number with KB, MB, GB, TB, KiB, MiB, GiB or TiB".to_string());
    };
    // Below 2^53, so that every whole number of bytes is one in f64 as well.
    let bytes = (value * *unit as f64).round();
    if bytes < 1.0 || bytes > (1u64 << 53) as f64 {
        return Err("a size is at least one byte and at most 9 PB".to_string());
    }
    Ok(bytes as u64)
}

/// `n` bytes with three digits or more: `999 B`, `1.23 GB`.
pub(crate) fn bytes(n: u64) -> String {
    match scaled(n, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]) {
        Ok(text) => text,
        Err(n) => format!("{n} B"),
    }
}

/// A count in short: `999`, `1.24 B`.
pub(crate) fn short(n: u64) -> String {
    match scaled(n, &["", "K", "M", "B", "T"]) {
        Ok(text) => text,
        Err(n) => n.to_string(),
    }
}

/// `n` in the largest unit that leaves a digit before the point; below 1000 `n` itself.
fn scaled(n: u64, units: &[&str]) -> Result<String, u64> {
    let mut value = n as f64;
    let mut unit = 0;
    // What rounds to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        return Err(n);
    }
    let digits = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    Ok(format!("{value:.digits$} {}", units[unit]))
}

/// A count in full, in groups of three: `1,235,814,400`.
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

/// A count in full, and in short where that is shorter: `1,235,814,400 (1.24 B)`.
pub(crate) fn parameters(n: u64) -> String {
    if n < 10_000 { count(n) } else { format!("{} ({})", count(n), short(n)) }
}

/// `n things`, in the singular for one.
pub(crate) fn things(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as u64), if n == 1 { one } else { many })
}

/// A time: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`.
pub(crate) fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    //! Words and numbers.
    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, expected: u64| assert_eq!(parse_size(text), Ok(expected), "{text}");
        check("5GB", 5_000_000_000);
        check("500MB", 500_000_000);
        check("2GiB", 2 << 30);
        check("1.5 gb", 1_500_000_000);
        check("64KiB", 65_536);
        check("10k", 10_000);
        check("123", 123);
        check(" 1T ", 1_000_000_000_000);
    }

    #[test]
    fn other_sizes_are_refused() {
        for text in ["", "GB", "5B", "5 XB", "-1GB", "1e9", "0", "0.0001KB", "99999TB", "1.2.3", "∞"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_size("5B").unwrap_err().contains("`5GB`"));
    }

    #[test]
    fn numbers_are_written() {
        let check = |found: String, expected: &str| assert_eq!(found, expected);
        check(bytes(0), "0 B");
        check(bytes(999), "999 B");
        check(bytes(1_000), "1.00 kB");
        check(bytes(999_999), "1.00 MB");
        check(bytes(2_471_645_608), "2.47 GB");
        check(bytes(49_400_000_000), "49.4 GB");
        check(bytes(494_000_000_000), "494 GB");
        check(bytes(u64::MAX), "18.4 EB");
        check(count(0), "0");
        check(count(1_234), "1,234");
        check(count(123_456), "123,456");
        check(parameters(1_235_814_400), "1,235,814,400 (1.24 B)");
        check(parameters(128), "128");
        check(things(1, "file", "files"), "1 file");
        check(things(1_000, "file", "files"), "1,000 files");
        check(duration(Duration::from_millis(420)), "0.42 s");
        check(duration(Duration::from_secs(200)), "3 min 20 s");
        check(duration(Duration::from_secs(7500)), "2 h 05 min");
    }
}
