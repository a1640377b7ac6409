//! The list of optimisers a program knows.

use crate::def::OptimiserDef;
use crate::error::SearchError;
use crate::optimisers;

/// The optimisers a program knows, by name. Filled by hand: what is not named is not there.
#[derive(Debug, Clone, Default)]
pub struct Registry {
    defs: Vec<&'static OptimiserDef>,
}

impl Registry {
    /// The optimisers of this crate.
    pub fn builtin() -> Self {
        Self { defs: optimisers::ALL.to_vec() }
    }

    /// The same with these added. One of the same name replaces the one that was there.
    #[must_use]
    pub fn with(mut self, defs: &[&'static OptimiserDef]) -> Self {
        for def in defs {
            self.defs.retain(|d| d.name != def.name);
            self.defs.push(def);
        }
        self
    }

    /// All of them, in the order they were listed.
    pub fn iter(&self) -> impl Iterator<Item = &'static OptimiserDef> + '_ {
        self.defs.iter().copied()
    }

    /// The definition of this name.
    ///
    /// # Errors
    /// [`SearchError::UnknownOptimiser`], with the names there are.
    pub fn get(&self, name: &str) -> Result<&'static OptimiserDef, SearchError> {
        self.iter().find(|d| d.name == name).ok_or_else(|| {
            let known: Vec<_> = self.iter().map(|d| d.name).collect();
            SearchError::UnknownOptimiser { name: name.into(), known: known.join(", ") }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_a_later_one_replaces() {
        static OTHER: OptimiserDef = OptimiserDef { summary: "Another.", ..crate::RANDOM };
        let registry = Registry::builtin();
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
        let error = Registry::default().with(&[&OTHER]).get("cma").unwrap_err();
        assert_eq!(error.to_string(), "no optimiser is called `cma`; there are random");
    }
}
