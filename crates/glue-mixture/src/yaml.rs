//! YAML as a tree whose nodes know where they stand.

use crate::error::{MixError, Place};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// Line and column of a text, counted from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column.
    pub column: u64,
}

/// A value of YAML and its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Tree,
    pub(crate) at: Position,
}

/// A value of YAML.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Null,
    Flag(bool),
    Whole(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Position, Node)>),
}

impl Tree {
    /// The value in an error: itself when it is short, else what it is.
    pub(crate) fn describe(&self) -> String {
        match self {
            Tree::Null => "nothing".into(),
            Tree::Flag(flag) => flag.to_string(),
            Tree::Whole(number) => number.to_string(),
            Tree::Number(number) => number.to_string(),
            Tree::Text(text) if text.chars().count() > 60 => {
                format!("`{}…`", text.chars().take(60).collect::<String>().escape_debug())
            }
            Tree::Text(text) => format!("`{}`", text.escape_debug()),
            Tree::List(list) if list.is_empty() => "an empty list".into(),
            Tree::List(list) => format!("a list of {}", list.len()),
            Tree::Map(_) => "a mapping".into(),
        }
    }
}

/// The one document of `text`.
pub(crate) fn document(text: &str, origin: &str) -> Result<Node, MixError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let documents = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let (line, column) = error.location().map_or((1, 1), |at| (at.line().max(1), at.column().max(1)));
        let message = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { key: Some(key), .. } => format!("key `{key}` comes twice"),
            // The place goes in front, as in every other error.
            other => other.to_string().split(" at line ").next().unwrap_or_default().trim().to_string(),
        };
        MixError::Yaml { place: Place { origin: origin.into(), line, column }, message }
    })?;
    let found = documents.len();
    let mut documents = documents.into_iter();
    match (documents.next(), documents.next()) {
        (Some(node), None) => Ok(node),
        _ => Err(MixError::Documents { origin: origin.into(), found }),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        let (line, column) = (spanned.referenced.line().max(1), spanned.referenced.column().max(1));
        Ok(Node { value: spanned.value, at: Position { line, column } })
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(Shape)
    }
}

struct Shape;

impl<'de> Visitor<'de> for Shape {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar, a list or a mapping")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Tree, D::Error> {
        Tree::deserialize(inner)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Tree, E> {
        Ok(Tree::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Tree, E> {
        Ok(Tree::Whole(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Tree, E> {
        Ok(Tree::Whole(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Tree, E> {
        Ok(Tree::Number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Tree, E> {
        Ok(Tree::Text(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(node) = entries.next_element()? {
            list.push(node);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Node>()? {
            let Tree::Text(name) = key.value else {
                return Err(de::Error::custom(format!("a key must be a word, and this is {}", key.value.describe())));
            };
            map.push((name, key.at, entries.next_value()?));
        }
        Ok(Tree::Map(map))
    }
}
