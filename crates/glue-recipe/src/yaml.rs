//! YAML as a tree in which every node knows its line and column.

use crate::error::{Place, RecipeError};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Error, Location, Spanned};
use std::fmt;

/// Line and column, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
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
    pub(crate) fn new(value: T, at: Position) -> Self {
        Self { value, at }
    }
}

/// A node of the tree.
pub(crate) type Node = At<Tree>;

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tree {
    Null,
    Flag(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(At<String>, Node)>),
}

impl Tree {
    /// What this is, for an error: the value when it is short, else its kind.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".into(),
            Self::Flag(x) => x.to_string(),
            Self::Integer(x) => x.to_string(),
            Self::Number(x) => x.to_string(),
            Self::Text(x) if x.chars().count() > 60 => {
                format!("`{}…`", x.chars().take(60).collect::<String>().escape_debug())
            }
            Self::Text(x) => format!("`{}`", x.escape_debug()),
            Self::List(x) if x.is_empty() => "an empty list".into(),
            Self::List(x)
                if x.len() <= 4 && x.iter().all(|node| !matches!(node.value, Self::List(_) | Self::Map(_))) =>
            {
                format!("[{}]", x.iter().map(|node| node.value.describe()).collect::<Vec<_>>().join(", "))
            }
            Self::List(x) => format!("a list of {} entries", x.len()),
            Self::Map(_) => "a mapping".into(),
        }
    }
}

/// Reads all documents of `text` that are not empty.
pub(crate) fn documents(text: &str, origin: &str) -> Result<Vec<Node>, RecipeError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let nodes: Vec<Positioned> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let at = error.location().map_or(Position { line: 1, column: 1 }, position);
        let message = match error.without_snippet() {
            Error::DuplicateMappingKey { key: Some(key), .. } => format!("key `{key}` comes twice"),
            Error::NonFiniteFloat { value, .. } => format!("`{value}` is not a finite number"),
            Error::RecursiveReferencesRequireWeakTypes { .. } => "an anchor that refers to itself".into(),
            // The position goes in front, like everywhere.
            other => other
                .to_string()
                .split(" at line ")
                .next()
                .unwrap_or_default()
                .trim()
                .trim_start_matches("error: ")
                .into(),
        };
        RecipeError::Yaml { place: Place { origin: origin.into(), line: at.line, column: at.column }, message }
    })?;
    Ok(nodes.into_iter().map(|node| node.0).collect())
}

fn position(location: Location) -> Position {
    Position { line: location.line().max(1), column: location.column().max(1) }
}

struct Positioned(Node);

impl<'de> Deserialize<'de> for Positioned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self(At::new(spanned.value, position(spanned.referenced))))
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
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

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E>(self, x: bool) -> Result<Tree, E> {
        Ok(Tree::Flag(x))
    }

    fn visit_i64<E>(self, x: i64) -> Result<Tree, E> {
        Ok(Tree::Integer(x.into()))
    }

    fn visit_u64<E>(self, x: u64) -> Result<Tree, E> {
        Ok(Tree::Integer(x.into()))
    }

    fn visit_f64<E>(self, x: f64) -> Result<Tree, E> {
        Ok(Tree::Number(x))
    }

    fn visit_str<E>(self, x: &str) -> Result<Tree, E> {
        Ok(Tree::Text(x.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(Positioned(node)) = access.next_element()? {
            list.push(node);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut map = Vec::new();
        while let Some(Positioned(key)) = access.next_key()? {
            let key = match key.value {
                Tree::Text(text) => At::new(text, key.at),
                Tree::Flag(_) | Tree::Integer(_) | Tree::Number(_) => At::new(key.value.describe(), key.at),
                _ => return Err(de::Error::custom("a key must be a word")),
            };
            let Positioned(value) = access.next_value()?;
            map.push((key, value));
        }
        Ok(Tree::Map(map))
    }
}
