//! Text for people, the same in a report, in a model card and on the command line.
//!
//! | module | holds |
//! |---|---|
//! | [`markdown`] | names and texts of others, escaped |
//! | [`words`] | counts, sizes and times in words |
//! | [`size`](mod@size) | sizes as a user writes them: `4GiB` |
//! | [`names`] | short names for models |
//!
//! [`printable`] replaces characters that are not safe to show.
//!
//! ```
//! use glue_text::{markdown, names, size, words};
//!
//! assert_eq!(markdown::inline("my_model"), "my\\_model");
//! assert_eq!(words::bytes(2_471_645_608), "2.47 GB");
//! assert_eq!(size::parse("4GiB"), Ok(4 << 30));
//! assert_eq!(names::short(&["zoo/chat", "zoo/math"]), ["chat", "math"]);
//! ```
//!
//! **Invariant:** `glue-text` depends on the standard library alone.

pub mod markdown;
pub mod names;
pub mod size;
pub mod words;

/// `c`, or U+FFFD for control characters, for characters that XML does not allow, and for those that would reverse the
/// direction of the text around them. Tabs and line ends stay.
pub fn printable(c: char) -> char {
    match c {
        '\t' | '\n' | '\r' => c,
        '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '\u{fffd}',
        c => c,
    }
}

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
