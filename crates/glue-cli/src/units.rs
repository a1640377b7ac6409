//! Sizes, counts and times as text: those of the report, and parsing for the command line.

pub(crate) use glue_text::size::parse as parse_size;
pub(crate) use glue_text::words::{bytes, count, duration, short, things};

/// A count in full, and in short where that is shorter: `1,235,814,400 (1.24 B)`.
pub(crate) fn parameters(n: u64) -> String {
    if n < 10_000 { count(n) } else { format!("{} ({})", count(n), short(n)) }
}

#[cfg(test)]
mod tests {
    //! Numbers of parameters.
    use super::*;

    #[test]
    fn parameters_are_in_short_too_where_that_is_shorter() {
        assert_eq!(parameters(1_235_814_400), "1,235,814,400 (1.24 B)");
        assert_eq!(parameters(128), "128");
    }
}
