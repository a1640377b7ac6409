//! Sizes as a user writes them.

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
pub fn parse(text: &str) -> Result<u64, String> {
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

#[cfg(test)]
mod tests {
    //! Sizes, valid and invalid.
    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text: &str, expected: u64| assert_eq!(parse(text), Ok(expected), "{text}");
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
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse("5B").unwrap_err().contains("`5GB`"));
    }
}
