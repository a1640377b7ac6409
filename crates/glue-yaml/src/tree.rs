//! YAML as a tree in which every node knows its line and column.

use crate::{At, Position, YamlError, refusal};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;
use std::fmt;

/// A node of the tree.
pub type Node = At<Tree>;

/// What a node holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Nothing, or `null`.
    Null,
    /// `true` or `false`.
    Flag(bool),
    /// A whole number.
    Integer(i128),
    /// Another finite number.
    Number(f64),
    /// A word or a text.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// A mapping, in the order of the text; no key comes twice.
    Map(Vec<(At<String>, Node)>),
}

impl Tree {
    /// What this is, for an error: the value when it is short, else its kind.
    pub fn describe(&self) -> String {
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

/// Reads all documents of `text`, which comes from `origin`, that are not empty.
///
/// # Errors
/// It is not YAML, or a key is no word.
pub fn documents(text: &str, origin: &str) -> Result<Vec<Node>, YamlError> {
    let options = serde_saphyr::options! { with_snippet: false, strict_booleans: true };
    let nodes: Vec<Positioned> = serde_saphyr::from_multiple_with_options(text, options).map_err(|error| {
        let YamlError { place, message } = refusal(&error, origin);
        YamlError { place, message: format!("not valid YAML: {message}") }
    })?;
    Ok(nodes.into_iter().map(|node| node.0).collect())
}

struct Positioned(Node);

impl<'de> Deserialize<'de> for Positioned {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Tree>::deserialize(deserializer)?;
        Ok(Self(At::new(spanned.value, Position::from(spanned.referenced))))
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
