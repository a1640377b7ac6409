#![doc = include_str!("../README.md")]

mod cancel;
mod chain;

pub use cancel::CancelToken;
pub use chain::ErrorChain;

use std::fmt;

/// Receives the progress of long work and can cancel it.
///
/// Work consists of phases, one after another. Within a phase, all methods but [`begin`](Progress::begin) may be called
/// from several threads at once. By default nothing is shown and nothing is cancelled.
pub trait Progress: Send + Sync {
    /// A phase begins and replaces the one before; the count restarts at 0. `what` names it in a few words, such as
    /// `scoring answers`; `total` is how many units it has, or `None` if unknown.
    fn begin(&self, what: &str, unit: Unit, total: Option<u64>) {
        let _ = (what, unit, total);
    }

    /// The current phase turned out to have `more` units than announced.
    fn extend(&self, more: u64) {
        let _ = more;
    }

    /// So many more units of the current phase are done.
    fn advance(&self, units: u64) {
        let _ = units;
    }

    /// What the work is busy with, such as the name of a tensor. Replaces the item before, and is worth no line in a
    /// log: for results and notes there is [`message`](Progress::message).
    fn item(&self, name: &str) {
        let _ = name;
    }

    /// A result or a note worth a line in a log, in one sentence: a candidate with its score, the end of a sweep.
    fn message(&self, text: &str) {
        let _ = text;
    }

    /// A number worth plotting over time. `name` is that of its series, such as `average`, `best` or `loss`; `value`
    /// may be NaN. The last value of the series `evaluations` in a phase is the x-axis of the other series: report it
    /// first.
    fn metric(&self, name: &str, value: f64) {
        let _ = (name, value);
    }

    /// Whether the work should end early. Once true, it stays true. Asked often, so it has to be fast.
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// Shows nothing and never cancels.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProgress;

impl Progress for NoProgress {}

/// What a phase counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// Bytes read or written.
    Bytes,
    /// Elements of tensors.
    Weights,
    /// Requests to a model, and programs that it wrote.
    Requests,
    /// Sequences of tokens read by a model.
    Sequences,
    /// Passes over training data.
    Epochs,
    /// Evaluations of candidates.
    Evaluations,
    /// Anything else.
    Steps,
}

impl fmt::Display for Unit {
    /// The plural, in lower case: `requests`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Bytes => "bytes",
            Unit::Weights => "weights",
            Unit::Requests => "requests",
            Unit::Sequences => "sequences",
            Unit::Epochs => "epochs",
            Unit::Evaluations => "evaluations",
            Unit::Steps => "steps",
        })
    }
}
