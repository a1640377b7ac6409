//! The stages of a run, one file for each kind of work.

pub(crate) mod compare;
pub(crate) mod finish;
pub(crate) mod frontier;
pub(crate) mod known;
pub(crate) mod mixture;
pub(crate) mod select;
pub(crate) mod test;
