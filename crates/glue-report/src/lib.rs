//! From the data of a run to its report.
//!
//! A run from a zoo of models to one better model fills a [`Report`], and a [`Cost`] with what differs from run to run.
//! From these [`html()`] makes one self-contained page, [`markdown()`] the same facts in tables, and [`json()`] what
//! scripts read; [`from_json`] reads the data back. [`lines`] are the lines that each of them begins with,
//! [`size_table`] is the table of what can be used, and [`tries_csv`] has everything that was tried. [`compare`] puts
//! two runs side by side. [`pictures`] are some of the charts as separate files.
//!
//! Data that contradicts itself is refused; a stage that did not run is left out, and a run that is not finished has a
//! report too. Equal data gives equal bytes.
//!
//! ```
//! use glue_report::{Report, Role, Score, Task, TaskScore, Test, TestRow};
//!
//! let score = |value| vec![TaskScore { task: "facts".into(), score: Score { value, ..Score::default() } }];
//! let row = |name: &str, role, value| TestRow { name: name.into(), role, scores: score(value) };
//! let rows = vec![row("alone", Role::Single, 0.5), row("final", Role::Final, 0.75)];
//! let report = Report {
//!     tasks: vec![Task { name: "facts".into(), ..Task::default() }],
//!     test: Some(Test { rows, ..Test::default() }),
//!     ..Report::default()
//! };
//! assert_eq!(glue_report::summary(&report).gain.map(|gain| gain.value), Some(0.25));
//! assert!(glue_report::html(&report, None)?.contains("+25.0"));
//! # Ok::<(), glue_report::ReportError>(())
//! ```

mod charts;
mod check;
mod compare;
pub mod data;
mod document;
mod error;
mod format;
mod html;
mod json;
mod markdown;
mod palette;
pub mod pictures;
mod sections;
mod summary;
mod svg;
mod tries;

pub use compare::{Comparison, Side, compare};
#[doc(inline)]
pub use data::*;
pub use error::ReportError;
pub use html::html;
pub use json::{FORMAT, cost_json, from_json, json};
pub use markdown::markdown;
pub use sections::{TextTable, size_table};
pub use summary::{Best, Forgotten, Gain, Line, Oracle, Summary, lines, summary};
pub use tries::tries_csv;

/// The example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
