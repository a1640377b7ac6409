//! Makes text from others safe to print: names of tensors, tasks and files, messages of templates.
//!
//! A terminal obeys control characters, and a line break or a change of direction can fake a message. Everything that
//! is printed as text passes through [`visible`], which prints control characters as `\u{1b}`. Callers that must keep a
//! text on its line use [`one_line`] and [`indented`].

use std::borrow::Cow;

/// The longest piece of an error that is printed whole, in bytes.
const LONGEST_CAUSE: usize = 4096;

/// The styles of this program and of clap: reset, bold, underlined, and four colours.
const STYLES: [&str; 7] = ["\x1b[0m", "\x1b[1m", "\x1b[4m", "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"];

/// `text` with every control character but line break and tab as `\u{…}`, also those that change the direction of text.
/// With `styled`, the program's own styles stay.
pub(crate) fn visible(text: &str, styled: bool) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let style = STYLES.iter().find(|style| styled && rest.starts_with(**style));
        match style {
            Some(style) => shown.push_str(style),
            None if is_hidden(c) => shown.extend(c.escape_unicode()),
            None => shown.push(c),
        }
        rest = &rest[style.map_or(c.len_utf8(), |style| style.len())..];
    }
    Cow::Owned(shown)
}

fn is_hidden(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        // Separators of lines, marks and overrides of direction.
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

/// `text` as it may stand within a line: a line break is `\n`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    if text.contains('\n') { Cow::Owned(text.replace('\n', "\\n")) } else { Cow::Borrowed(text) }
}

/// A message with its further lines indented, so none looks like a separate message. A very long one is cut in the
/// middle.
pub(crate) fn indented(message: &str) -> String {
    let mut text = Cow::Borrowed(message);
    if message.len() > LONGEST_CAUSE {
        let head = message.floor_char_boundary(LONGEST_CAUSE * 3 / 4);
        let tail = message.ceil_char_boundary(message.len() - LONGEST_CAUSE / 4);
        let left_out = tail - head;
        text = Cow::Owned(format!("{} … ({left_out} bytes left out) … {}", &message[..head], &message[tail..]));
    }
    text.replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_shown_and_text_is_left_alone() {
        for plain in ["weights θ\n\tλ", "", "日本語 🦀"] {
            assert!(matches!(visible(plain, false), Cow::Borrowed(text) if text == plain));
        }
        for (text, shown) in [
            ("a\x1b[31mb", "a\\u{1b}[31mb"),
            ("a\x1b]0;title\x07", "a\\u{1b}]0;title\\u{7}"),
            ("a\rb\u{7f}\u{9b}31m", "a\\u{d}b\\u{7f}\\u{9b}31m"),
            ("a\u{202e}b\u{2066}\u{200f}\u{2028}", "a\\u{202e}b\\u{2066}\\u{200f}\\u{2028}"),
        ] {
            assert_eq!(visible(text, false), shown);
        }
    }

    #[test]
    fn own_styles_stay_where_there_are_colours() {
        let styled = "\x1b[1m\x1b[31merror:\x1b[0m a\x1b[5mb";
        assert_eq!(visible(styled, true), "\x1b[1m\x1b[31merror:\x1b[0m a\\u{1b}[5mb");
        assert!(!visible(styled, false).contains('\x1b'));
    }

    #[test]
    fn a_name_makes_no_line_and_no_flood() {
        assert_eq!(one_line("a\nerror: b"), "a\\nerror: b");
        assert_eq!(indented("a\nerror: b"), "a\n    error: b");
        let long = indented(&format!("tensor `{}`: wrong", "é".repeat(1 << 20)));
        assert!(long.len() < LONGEST_CAUSE + 64 && long.starts_with("tensor `é") && long.ends_with("é`: wrong"));
        assert!(long.contains("bytes left out"));
    }
}
