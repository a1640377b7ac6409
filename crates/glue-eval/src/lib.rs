//! Scores of language models: tasks, prompts, metrics with standard errors, and what answers them.
//!
//! [`load_tasks`] reads tasks, as native tasks or as the YAML files of lm-evaluation-harness; [`evaluate`] asks a
//! [`LanguageModel`] all of their items and gives a [`Report`]. To ask many models, or only some items, tasks are
//! [`Prepared`] once.
//!
//! ```
//! use glue_eval::{EvalOptions, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest};
//! use glue_eval::{ModelError, evaluate, load_tasks};
//! use glue_progress::NoProgress;
//!
//! /// Thinks that short answers are likely, and has nothing else to say.
//! struct Terse;
//!
//! impl LanguageModel for Terse {
//!     fn name(&self) -> String {
//!         "terse".into()
//!     }
//!     fn loglikelihoods(
//!         &self,
//!         requests: &[LogLikelihoodRequest<'_>],
//!         progress: &(dyn Fn(usize) + Sync),
//!     ) -> Result<Vec<LogLikelihood>, ModelError> {
//!         progress(requests.len());
//!         let answer = |request: &LogLikelihoodRequest<'_>| {
//!             let n_tokens = request.continuation.len();
//!             LogLikelihood { logprob: -(n_tokens as f64), greedy: false, n_tokens, truncated: 0 }
//!         };
//!         Ok(requests.iter().map(answer).collect())
//!     }
//!     fn rolling(&self, _: &[&str], _: &(dyn Fn(usize) + Sync)) -> Result<Vec<LogLikelihood>, ModelError> {
//!         Err(ModelError::new("texts are not scored"))
//!     }
//!     fn generate(
//!         &self,
//!         _: &[GenerateRequest<'_>],
//!         _: &(dyn Fn(usize) + Sync),
//!     ) -> Result<Vec<Vec<Generation>>, ModelError> {
//!         Err(ModelError::new("nothing is generated"))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path();
//! std::fs::write(path.join("task.json"), r#"{"name": "sums", "kind": "multiple_choice"}"#)?;
//! let items = r#"{"context": "1 + 1 =", "choices": ["2", "seven"], "gold": 0}
//! {"context": "1 + 6 =", "choices": ["2", "seven"], "gold": 1}"#;
//! std::fs::write(path.join("test.jsonl"), items)?;
//!
//! let tasks = load_tasks(&[path])?;
//! let report = evaluate(&Terse, &tasks, &EvalOptions::default(), &NoProgress)?;
//! assert_eq!(report.tasks[0].metric("acc").map(|acc| (acc.value, acc.stderr)), Some((0.5, Some(0.5))));
//! assert_eq!(report.to_json()["tasks"]["sums"]["n"], 2);
//! # Ok(())
//! # }
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`error`] | what can be wrong, with file and line |
//! | [`sandbox`], [`pass_at_k`] | programs that a model wrote, run against tests; the chance to pass |
//! | [`external`] | other programs that evaluate models |
//! | [`number`](mod@number) | scores in files |
//! | [`decision`] | the rule by which models are chosen, and its test |
//! | [`routing`] | perfect routing of tasks to experts, and the candidates for a mixture |
//! | [`scale`] | what scores are measured in, and what makes them comparable |
//! | [`statistics`] | averages, gains and outliers, with standard errors: what decisions are made by |
//!
//! # Shares of splits
//! Wherever a split is named, `proxy[:60%]`, `proxy[60%:]` or `test[20%:40%]` name a share of its items, so that a task
//! with one split can serve for several purposes. The syntax is that of the `datasets` library, in whole percent; items
//! are chosen by a hash of their content, not by their place in the file. Let the n items of a split be sorted by hash:
//! `SPLIT[a%:b%]` has those from number ⌊n·a/100⌉ up to number ⌊n·b/100⌉. Shares that touch are disjoint and together
//! have every item. A share does not depend on the order of the file. Equal items are on the same side: a cut that
//! would separate some moves to the nearer end of their run. Items are equal if the fields that a native task reads are
//! equal; in a task of lm-evaluation-harness, whose templates may read any field, if all fields are. Few-shot examples
//! are drawn from the whole of their split.
//!
//! # Files
//! Tasks of lm-evaluation-harness are also found by name ([`TaskCatalog`]), with groups in groups and tags, and their
//! data in the layout of the Hugging Face hub ([`DataSources`]).
//!
//! Native tasks are directories with `task.json` and JSON Lines, Parquet or CSV for each split; README.md of this crate
//! has the keys. Files of lm-evaluation-harness 0.4 are read as they are: the same prompts with the same examples, the
//! same splitting of tokens, filters, metrics and standard errors of means. Standard errors of perplexities follow from
//! the delta method instead of a bootstrap, those of scores of all items together, such as BLEU, from the jackknife.
//! Functions that tasks take from Python files are evaluated here, without Python; what is beyond the part of the
//! language that is known is refused with its line, or run by the installed Python where
//! [`EvalOptions::allow_python`] says so.
//!
//! **Invariant:** what can be wrong with a task is found before the model is asked anything.
//!
//! **Invariant:** programs that a model wrote are run only if [`EvalOptions::allow_code_execution`] says so, and then
//! in a [`sandbox`]; a Python of the system runs functions of tasks only if [`EvalOptions::allow_python`] says so.

/// The examples of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
pub struct ReadmeExamples;

mod cache;
mod corpus;
mod data;
pub mod decision;
pub mod error;
mod evaluate;
pub mod external;
mod filters;
pub mod groups;
mod local;
mod metrics;
mod model;
pub mod number;
mod overlap;
pub mod pass_at_k;
mod preview;
mod prompts;
mod python;
mod question;
mod report;
pub mod results_layout;
mod routed;
pub mod routing;
pub mod sandbox;
pub mod scale;
mod split;
pub mod statistics;
mod task;
mod template;

pub use cache::Cache;
pub use data::DataSources;
pub use error::{EvalError, FilePosition, ModelError, SplitError, TaskError};
pub use evaluate::{EvalOptions, Prepared, evaluate};
pub use local::{ChatFormat, Encodings, LocalModel};
pub use model::{
    ChatMessage, GenerateRequest, Generation, LanguageModel, LogLikelihood, LogLikelihoodRequest, Sampling,
};
pub use overlap::{Overlap, overlap};
pub use preview::{Preview, preview};
pub use prompts::{Encode, EncodedPrompt, EncodedRequest, PromptEncoder};
pub use question::Question;
pub use report::{ItemScore, MetricReport, Report, Sample, TaskReport};
pub use routed::RoutedModel;
pub use split::SplitExpression;
pub use task::{
    Counts, Entry, EntryKind, Kind, Member, Status, Task, TaskCatalog, TaskGroup, TaskSet, TaskSources, load_task_set,
    load_tasks, select,
};
