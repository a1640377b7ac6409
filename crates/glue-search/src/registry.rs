//! The definitions that a program knows, by name.

use crate::def::OptimiserDef;

/// A constant that a [`Registry`] finds by its name.
pub trait Definition: Sized + 'static {
    /// What such constants are called in messages: `optimiser`.
    const KIND: &'static str;
    /// Those that come with the project, in the order of the documentation.
    const BUILTIN: &'static [&'static Self];

    /// Its name in a config.
    fn name(&self) -> &'static str;
}

/// Definitions by name. Filled by hand: what is not listed is not there.
#[derive(Debug, Clone)]
pub struct Registry<D: 'static> {
    defs: Vec<&'static D>,
}

/// The optimisers that a program knows.
pub type OptimiserRegistry = Registry<OptimiserDef>;

/// No definition has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no {kind} is called `{name}`; there are {known}")]
pub struct UnknownName {
    /// What was looked for: [`Definition::KIND`].
    pub kind: &'static str,
    /// The name that was given.
    pub name: String,
    /// The known names, separated by commas.
    pub known: String,
}

impl<D> Default for Registry<D> {
    /// Without a definition.
    fn default() -> Self {
        Self { defs: Vec::new() }
    }
}

impl<D: Definition> Registry<D> {
    /// The definitions that come with the project.
    pub fn builtin() -> Self {
        Self { defs: D::BUILTIN.to_vec() }
    }

    /// The same with these added. One of the same name replaces the one that was there.
    #[must_use]
    pub fn with(mut self, defs: &[&'static D]) -> Self {
        for def in defs {
            self.defs.retain(|known| known.name() != def.name());
            self.defs.push(def);
        }
        self
    }

    /// All of them, in the order they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &'static D> + '_ {
        self.defs.iter().copied()
    }

    /// The definition of this name.
    ///
    /// # Errors
    /// [`UnknownName`], with the names there are.
    pub fn get(&self, name: &str) -> Result<&'static D, UnknownName> {
        self.iter().find(|def| def.name() == name).ok_or_else(|| {
            let known: Vec<_> = self.iter().map(D::name).collect();
            UnknownName { kind: D::KIND, name: name.into(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_a_later_one_replaces() {
        static OTHER: OptimiserDef = OptimiserDef { summary: "Another.", ..crate::RANDOM };
        let registry = OptimiserRegistry::builtin();
        let n = registry.iter().count();
        for def in registry.iter() {
            assert_eq!(registry.iter().filter(|d| d.name == def.name).count(), 1, "{}", def.name);
            let documented = |text: &str| !text.is_empty() && text.ends_with('.');
            assert!(documented(def.summary) && !def.reference.is_empty(), "{}", def.name);
            assert!(def.params.iter().all(|p| documented(p.doc)), "{}", def.name);
        }
        let replaced = registry.with(&[&OTHER]);
        assert_eq!(replaced.iter().count(), n);
        assert_eq!(replaced.get("random").unwrap().summary, "Another.");
        let error = OptimiserRegistry::default().with(&[&OTHER]).get("cma").unwrap_err();
        assert_eq!(error.to_string(), "no optimiser is called `cma`; there are random");
    }
}
