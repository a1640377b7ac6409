//! YAML whose every value knows its line and column, and errors that say them.
//!
//! Two ways to read a config. [`documents`] gives a tree of [`Node`]s: for a dialect whose keys depend on each
//! other, and whose values are checked long after they were read. [`read`] gives any type that serde can fill. Both
//! refuse a key that comes twice, and take `yes` and `on` for words. Errors begin with the [`FilePosition`]:
//! origin, line and column.
//!
//! ```
//! use glue_yaml::{Tree, documents};
//!
//! let nodes = documents("models:\n  - a\n", "config.yml")?;
//! let Tree::Map(entries) = &nodes[0].value else { panic!("a mapping") };
//! let (key, models) = &entries[0];
//! assert_eq!((key.value.as_str(), models.at.line, models.at.column), ("models", 2, 3));
//! # Ok::<(), glue_yaml::YamlError>(())
//! ```

mod tree;
mod value;

pub use tree::{Node, Tree, documents};
pub use value::{positive, positive_count};

use serde::de::DeserializeOwned;
use serde_saphyr::{DefaultMessageFormatter, Error, Localizer, Location, MessageFormatter};
use std::borrow::Cow;
use std::fmt;

/// Line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

impl Position {
    /// The same in the text that was read from `origin`.
    pub fn of(self, origin: &str) -> FilePosition {
        FilePosition { origin: origin.into(), line: self.line, column: self.column }
    }
}

impl From<Location> for Position {
    fn from(location: Location) -> Self {
        Position { line: location.line().max(1), column: location.column().max(1) }
    }
}

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct At<T> {
    /// The value.
    pub value: T,
    /// Where it stands.
    pub at: Position,
}

impl<T> At<T> {
    /// `value`, which stands at `at`.
    pub fn new(value: T, at: Position) -> Self {
        Self { value, at }
    }
}

/// A place in a text, written as editors and compilers do: `config.yml:2:3`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePosition {
    /// What the text was read from: a path, usually.
    pub origin: String,
    /// Line, counted from 1.
    pub line: u64,
    /// Column, counted from 1 in characters.
    pub column: u64,
}

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.origin, self.line, self.column)
    }
}

/// Why a text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {message}")]
pub struct YamlError {
    /// Where reading stopped.
    pub place: FilePosition,
    /// What is wrong.
    pub message: String,
}

/// Reads the one document of `text`, which comes from `origin`, into a type of its own.
///
/// # Errors
/// It is not YAML, or not what the type takes: an unknown key, a value of another kind.
pub fn read<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, YamlError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let YamlError { place, message } = refusal(&error, origin);
        let key = key_at(text, place.line, place.column);
        // Some name it themselves.
        let unnamed = key.filter(|key| !message.contains(&format!("`{}`", key.rsplit('.').next().unwrap_or_default())));
        YamlError { place, message: unnamed.map_or(message.clone(), |key| format!("`{key}`: {message}")) }
    })
}

/// Where the value of `key` stands in `text`, which comes from `origin`; keys inside of others are written with dots,
/// as in `budget.seconds`. Of a key that is not there, the place of what it would be in.
pub fn place_of(text: &str, origin: &str, key: &str) -> FilePosition {
    let mut nodes = documents(text, origin).unwrap_or_default();
    let mut at = nodes.first().map_or(Position { line: 1, column: 1 }, |node| node.at);
    let mut node = (!nodes.is_empty()).then(|| nodes.swap_remove(0));
    for part in key.split('.') {
        let Some(At { value: Tree::Map(entries), .. }) = node else { break };
        node = entries.into_iter().find(|(key, _)| key.value == part).map(|(_, value)| value);
        at = node.as_ref().map_or(at, |node| node.at);
    }
    at.of(origin)
}

/// The key that stands at a place of `text`, or whose value, a single one, does.
fn key_at(text: &str, line: u64, column: u64) -> Option<String> {
    let place = Position { line, column };
    let mut open: Vec<(String, Node)> =
        documents(text, "").ok()?.into_iter().map(|node| (String::new(), node)).collect();
    while let Some((outer, node)) = open.pop() {
        let Tree::Map(entries) = node.value else { continue };
        for (key, value) in entries {
            let name = if outer.is_empty() { key.value } else { format!("{outer}.{}", key.value) };
            let single = !matches!(value.value, Tree::Map(_) | Tree::List(_));
            if key.at == place || (single && value.at == place) {
                return Some(name);
            }
            open.push((name, value));
        }
    }
    None
}

/// The error of the parser, with its position in front.
fn refusal(error: &Error, origin: &str) -> YamlError {
    let at = error.location().map_or(Position { line: 1, column: 1 }, Position::from);
    let message = match error.without_snippet() {
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("key `{key}` comes twice"),
        Error::NonFiniteFloat { value, .. } => format!("`{value}` is not a finite number"),
        Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor that refers to itself".into(),
        other => other.render_with_formatter(&WithoutPosition),
    };
    YamlError { place: at.of(origin), message }
}

/// The messages of the parser, without the line and column that it appends.
struct WithoutPosition;

impl MessageFormatter for WithoutPosition {
    fn localizer(&self) -> &dyn Localizer {
        self
    }

    fn format_message<'a>(&self, error: &'a Error) -> Cow<'a, str> {
        DefaultMessageFormatter.format_message(error)
    }
}

impl Localizer for WithoutPosition {
    fn attach_location<'a>(&self, message: Cow<'a, str>, _: Location) -> Cow<'a, str> {
        message
    }

    fn alias_defined_at(&self, _: Location) -> String {
        String::new()
    }

    fn alias_used_at(&self, _: Location) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    //! Places and words of refusals.
    use super::*;
    use std::collections::BTreeMap;

    fn says(text: &str) -> String {
        read::<BTreeMap<String, f64>>(text, "x.yml").expect_err(text).to_string()
    }

    #[test]
    fn a_refusal_begins_with_its_place() {
        assert_eq!(says("a: 1\na: 2\n"), "x.yml:2:1: key `a` comes twice");
        assert!(says("a: 1\nb: [\n").starts_with("x.yml:"), "{}", says("a: 1\nb: [\n"));
        assert!(says("a: 1\nb: word\n").starts_with("x.yml:2:4: "), "{}", says("a: 1\nb: word\n"));
        assert!(!says("a: 1\nb: word\n").contains(" at line "));
    }

    #[test]
    fn a_refusal_keeps_words_that_look_like_its_position() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Empty {}
        let error = read::<Empty>("\"x at line y\": 1\n", "x.yml").expect_err("an unknown key").to_string();
        assert!(error.starts_with("x.yml:1:1: ") && error.contains("`x at line y`"), "{error}");
    }

    #[test]
    fn a_refusal_of_an_alias_has_one_position() {
        let error = says("a: &word text\nb: *word\n");
        assert!(error.starts_with("x.yml:") && !error.contains(" at line "), "{error}");
    }

    #[test]
    fn a_refusal_names_the_key_and_keys_have_places() {
        assert!(says("a: 1\nb: word\n").starts_with("x.yml:2:4: `b`: "), "{}", says("a: 1\nb: word\n"));
        let text = "a:\n  b: {c: 1}\n  d: [2]\n";
        for (key, place) in
            [("a.b.c", "x.yml:2:10"), ("a.d", "x.yml:3:6"), ("a.b.none", "x.yml:2:6"), ("none", "x.yml:1:1")]
        {
            assert_eq!(place_of(text, "x.yml", key).to_string(), place, "{key}");
        }
        assert_eq!(place_of("", "x.yml", "a").to_string(), "x.yml:1:1");
    }

    #[test]
    fn a_type_is_filled() {
        let read: BTreeMap<String, f64> = read("a: 1\nb: 2.5\n", "x.yml").expect("a mapping");
        assert_eq!(read, BTreeMap::from([("a".into(), 1.0), ("b".into(), 2.5)]));
    }
}
