//! Counts, sizes and times in words, the same in a report and on the command line. Prefixes are decimal, as in the
//! names of shards on model hubs.

/// A count in full, in groups of three: `1,235,814,400`.
pub fn count(n: u64) -> String {
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
pub fn things(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", count(n as u64), if n == 1 { one } else { many })
}

/// A count in short, as numbers of parameters are given: `999`, `722 K`, `1.24 B`.
pub fn short(n: u64) -> String {
    scaled(n, &["", " K", " M", " B", " T"])
}

/// `n` bytes with three digits: `999 B`, `1.23 GB`.
pub fn bytes(n: u64) -> String {
    scaled(n, &[" B", " kB", " MB", " GB", " TB", " PB", " EB"])
}

/// `n` in the largest unit that leaves a digit before the point; below 1000 `n` itself.
fn scaled(n: u64, units: &[&str]) -> String {
    let mut value = n as f64;
    let mut unit = 0;
    // What rounds to 1000 belongs to the next unit.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
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

/// A time in seconds: `0.42 s`, `12.3 s`, `3 min 20 s`, `2 h 05 min`. What is no time, below 0 or not a number, is 0.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0);
    let whole = seconds.round() as u64;
    match seconds {
        s if s < 9.995 => format!("{s:.2} s"),
        s if s < 59.95 => format!("{s:.1} s"),
        _ if whole < 3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", count(whole / 3600), whole % 3600 / 60),
    }
}

/// `a`, `a and b`, `a, b and c`.
pub fn list<S: AsRef<str>>(names: &[S]) -> String {
    match names {
        [] => String::new(),
        [one] => one.as_ref().to_string(),
        [first @ .., last] => {
            let first: Vec<&str> = first.iter().map(AsRef::as_ref).collect();
            format!("{} and {}", first.join(", "), last.as_ref())
        }
    }
}

#[cfg(test)]
mod tests {
    //! Words at the ends of their ranges.
    use super::*;

    #[test]
    fn names_are_listed() {
        assert_eq!(list::<&str>(&[]), "");
        assert_eq!((list(&["a"]), list(&["a", "b"])), ("a".into(), "a and b".into()));
        assert_eq!(list(&["a", "b", "c"]), "a, b and c");
    }

    #[test]
    fn numbers_are_written() {
        let check = |found: String, expected: &str| assert_eq!(found, expected);
        check(count(0), "0");
        check(count(1_234), "1,234");
        check(count(123_456), "123,456");
        check(count(1_234_567), "1,234,567");
        check(things(1, "file", "files"), "1 file");
        check(things(1_000, "file", "files"), "1,000 files");
        check(short(12), "12");
        check(short(722_048), "722 K");
        check(short(7_241_732_096), "7.24 B");
        check(short(5_000_000_000_000_000), "5000 T");
    }

    #[test]
    fn sizes_are_decimal() {
        let check = |n, expected: &str| assert_eq!(bytes(n), expected);
        check(0, "0 B");
        check(999, "999 B");
        check(1_000, "1.00 kB");
        check(1_024, "1.02 kB");
        check(999_999, "1.00 MB");
        check(2_471_645_608, "2.47 GB");
        check(49_400_000_000, "49.4 GB");
        check(494_000_000_000, "494 GB");
        check(u64::MAX, "18.4 EB");
    }

    #[test]
    fn times_are_written() {
        let check = |seconds, expected: &str| assert_eq!(duration(seconds), expected);
        check(0.42, "0.42 s");
        check(12.34, "12.3 s");
        check(59.99, "1 min 00 s");
        check(200.0, "3 min 20 s");
        check(7500.0, "2 h 05 min");
        check(4.0e6, "1,111 h 06 min");
        check(-1.0, "0.00 s");
        check(f64::NAN, "0.00 s");
    }
}
