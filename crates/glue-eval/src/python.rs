//! What Python does, where task files written for a Python program depend on it.
//!
//! A list that a template printed is read back as Python reads it; a regular expression is in the dialect of Python's
//! `re`; examples for a prompt are drawn by Python's generator.

pub(crate) mod literal;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod regex;

/// Whether `str.isspace` holds for this character alone.
pub(crate) fn is_space(character: char) -> bool {
    // The separators of ASCII count as white space in Python, not in Unicode's property.
    character.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&character)
}

/// `str.strip`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.isdigit` for what an index can be written with.
pub(crate) fn is_index(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripping_is_that_of_python() {
        for (text, expected) in
            [(" a b\t\n", "a b"), ("\u{1f}x\u{a0}", "x"), ("\u{3000}", ""), ("\u{200b}x", "\u{200b}x")]
        {
            assert_eq!(strip(text), expected, "{text:?}");
        }
        assert!(is_index("012") && !is_index("") && !is_index("-1") && !is_index("1.0"));
    }
}
