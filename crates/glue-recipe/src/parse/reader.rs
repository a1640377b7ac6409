//! What reading a document needs at hand: values of a kind, keys of a mapping, and the list of what is wrong.

use crate::error::{NoEffect, RecipeError};
use crate::keys::{self, Key};
use glue_merge::Registry;
use glue_yaml::{At, FilePosition, Node, Position, Tree};
use std::cell::RefCell;

pub(super) type Result<T> = std::result::Result<T, RecipeError>;

/// Reads the documents of one text. What is wrong is noted, and reading goes on: a user sees all errors at once.
pub(super) struct Reader<'a> {
    pub(super) origin: &'a str,
    pub(super) registry: &'a Registry,
    errors: RefCell<Vec<RecipeError>>,
    warnings: RefCell<Vec<NoEffect>>,
}

/// A mapping; its keys are all known.
pub(super) struct Entries<'a> {
    pub(super) at: Position,
    pub(super) inside: &'static str,
    entries: Vec<(&'static str, &'a At<String>, &'a Node)>,
    /// Keys that were probably meant where an unknown key stands.
    meant: Vec<&'static str>,
}

impl<'a> Entries<'a> {
    /// The value of `key`; null counts as absent.
    pub(super) fn get(&self, key: &str) -> Option<&'a Node> {
        let found = self.entries.iter().find(|(name, _, _)| *name == key);
        found.map(|(_, _, node)| *node).filter(|node| node.value != Tree::Null)
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(origin: &'a str, registry: &'a Registry) -> Self {
        Reader { origin, registry, errors: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn place(&self, at: Position) -> FilePosition {
        at.of(self.origin)
    }

    /// The value; `None`, with its error noted, if there is none.
    pub(super) fn keep<T>(&self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.refuse(error)).ok()
    }

    /// Notes an error.
    pub(super) fn refuse(&self, error: RecipeError) {
        self.errors.borrow_mut().push(error);
    }

    /// Notes that `what`, which stands at `at`, has no effect.
    pub(super) fn warn(&self, at: Position, what: &str, why: impl Into<String>) {
        let warning = NoEffect { place: self.place(at), what: what.into(), why: why.into() };
        self.warnings.borrow_mut().push(warning);
    }

    /// The warnings since the last call, in the order of the text.
    pub(super) fn take_warnings(&self) -> Vec<NoEffect> {
        let mut warnings = self.warnings.take();
        warnings.sort_by_key(|warning| (warning.place.line, warning.place.column));
        warnings
    }

    /// All errors, in the order of the text.
    pub(super) fn into_errors(self) -> Vec<RecipeError> {
        let mut errors = self.errors.into_inner();
        errors.sort_by_key(|error| error.place().map(|place| (place.line, place.column)));
        errors
    }

    pub(super) fn wrong<T>(&self, node: &Node, key: &str, expected: impl Into<String>) -> Result<T> {
        Err(RecipeError::WrongValue {
            place: self.place(node.at),
            key: key.into(),
            expected: expected.into(),
            found: node.value.describe(),
        })
    }

    /// The entries of a mapping with the keys `known`; `None` if `node` is none. Unknown keys are left out.
    pub(super) fn entries<'n>(
        &self,
        node: &'n Node,
        inside: &'static str,
        known: &'static [Key],
    ) -> Option<Entries<'n>> {
        let Tree::Map(map) = &node.value else {
            self.refuse(RecipeError::NotAMapping {
                place: self.place(node.at),
                inside,
                known: known.iter().map(|key| key.name).collect(),
                found: node.value.describe(),
            });
            return None;
        };
        let mut found = Entries { at: node.at, inside, entries: Vec::new(), meant: Vec::new() };
        for (key, value) in map {
            if let Some(known) = known.iter().find(|k| k.name == key.value) {
                found.entries.push((known.name, key, value));
            } else if let Some((_, why)) = keys::IGNORED.iter().find(|(name, _)| *name == key.value) {
                self.warn(key.at, &key.value, *why);
            } else if self.is_parameter(&key.value) && known.iter().any(|key| key.name == "parameters") {
                self.warn(key.at, &key.value, "it is a parameter, which belongs under `parameters`");
            } else {
                let nearest = glue_merge::registry::nearest(&key.value, known.iter().map(|k| k.name));
                found.meant.extend(nearest);
                self.refuse(RecipeError::UnknownKey {
                    place: self.place(key.at),
                    inside,
                    key: key.value.clone(),
                    nearest,
                    known: known.iter().map(|k| k.name).collect(),
                });
            }
        }
        Some(found)
    }

    /// Whether some operator has a parameter of this name.
    pub(super) fn is_parameter(&self, name: &str) -> bool {
        self.registry.iter().any(|def| def.params.iter().any(|spec| spec.name == name))
    }

    /// The value of a key; `None`, with an error, if there is none.
    pub(super) fn required<'n>(&self, entries: &Entries<'n>, key: &'static str) -> Option<&'n Node> {
        let found = entries.get(key);
        // A misspelt key has an error of its own.
        if found.is_none() && !entries.meant.contains(&key) {
            self.refuse(self.missing(entries, key));
        }
        found
    }

    /// The error that `entries` lack `key`: a key or a choice of keys.
    pub(super) fn missing(&self, entries: &Entries<'_>, key: &'static str) -> RecipeError {
        RecipeError::MissingKey { place: self.place(entries.at), inside: entries.inside, key }
    }

    /// Whether an unknown key of `entries` probably stands for one of `keys`.
    pub(super) fn misspelt(&self, entries: &Entries<'_>, keys: &[&str]) -> bool {
        keys.iter().any(|key| entries.meant.contains(key))
    }

    pub(super) fn text(&self, node: &Node, key: &str) -> Result<At<String>> {
        match &node.value {
            Tree::Text(text) if !text.is_empty() => Ok(At::new(text.clone(), node.at)),
            Tree::Flag(_) | Tree::Integer(_) | Tree::Number(_) => self.wrong(node, key, "text (put it in quotes)"),
            _ => self.wrong(node, key, "text"),
        }
    }

    pub(super) fn list<'n>(&self, node: &'n Node, key: &str) -> Result<&'n [Node]> {
        match &node.value {
            Tree::List(list) if !list.is_empty() => Ok(list),
            _ => self.wrong(node, key, "a list with at least one entry"),
        }
    }

    /// Every entry of a list, read; `None` if one could not be.
    pub(super) fn each<T>(&self, node: &Node, key: &str, read: impl Fn(&Node) -> Option<T>) -> Option<Vec<T>> {
        let list = self.keep(self.list(node, key))?;
        // All are read before the first failure counts.
        let read: Vec<Option<T>> = list.iter().map(read).collect();
        read.into_iter().collect()
    }

    pub(super) fn word<T: Copy>(&self, node: Option<&Node>, key: &str, words: &[(&str, T)]) -> Result<Option<T>> {
        let Some(node) = node else { return Ok(None) };
        let found = match &node.value {
            Tree::Text(text) => words.iter().find(|(word, _)| word == text),
            _ => None,
        };
        let names: Vec<_> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        found.map_or_else(|| self.wrong(node, key, names.join(", ")), |(_, value)| Ok(Some(*value)))
    }
}
