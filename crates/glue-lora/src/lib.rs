//! LoRA adapters, in the layout of PEFT: extracted from a fine-tuned checkpoint and its base, matrix by matrix at low
//! rank, and merged with each other.
//!
//! # Extraction
//! For each matrix with the difference Δ = U·diag(s)·Vᵀ, the best approximation of rank r in the Frobenius norm keeps
//! the first r singular triples (Eckart and Young, *The approximation of one matrix by another of lower rank*,
//! Psychometrika 1 (1936)). The factors are B = U√s and A = √s Vᵀ, and α = r: the scale α/r is 1 for every rank.
//!
//! The rank is the same for all matrices ([`RankRule::Fixed`]), or for each matrix the smallest that keeps a
//! fraction of the energy, the sum of the squared singular values ([`RankRule::Energy`]).
//!
//! | module | holds |
//! |---|---|
//! | [`options`] | what to extract, and at what rank |
//! | [`plan()`] | the list of matrices, from the headers of two models; no weight is read |
//! | [`extract()`] | the decompositions, and the adapter written |
//! | [`report`] | rank, energy and error of each module; tensors that differ and are in no module |
//! | [`merge`] | adapters merged to one by any operator on task vectors, without the matrices that they change |
//!
//! Memory of an extraction: each thread holds one difference and its decomposition, [`ExtractPlan::memory`]. Factors
//! are written to disk as they are found; the disk holds the adapter twice until the directory appears.
//!
//! **Invariant:** a tensor that differs and is not in the adapter is reported.
//!
//! **Invariant:** results do not depend on the number of threads; there is no randomness.
//!
//! ```no_run
//! use glue_lora::{ExtractOptions, RankRule, extract, plan};
//! use glue_progress::NoProgress;
//! use glue_tensor::ModelDir;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (base, fine) = (ModelDir::open("base")?, ModelDir::open("math")?);
//! let rank = RankRule::Energy { fraction: 0.9, max_rank: Some(64) };
//! let options = ExtractOptions { rank, ..ExtractOptions::default() };
//! let report = extract(&plan(&base, &fine, &options)?, "math-adapter", &NoProgress)?;
//! println!("{} modules, {} parameters", report.modules.len(), report.parameters);
//! # Ok(())
//! # }
//! ```
//!
//! # Merging
//! ```no_run
//! use glue_lora::merge::{self, MergeOptions, ModuleSite};
//! use glue_merge::Registry;
//! use glue_progress::NoProgress;
//! use glue_tensor::Adapter;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let adapters = [Adapter::open("math-adapter")?, Adapter::open("code-adapter")?];
//! let ties = Registry::builtin().operator("ties", None)?;
//! let params = |_: ModuleSite<'_>| ties.params(2).set("density", 0.5).each("weight", [0.6, 0.4]).check();
//! let plan = merge::plan(&adapters, ties, &MergeOptions::default(), &params)?;
//! let report = merge::run(&plan, "merged-adapter", &NoProgress)?;
//! println!("{} modules", report.modules.len());
//! # Ok(())
//! # }
//! ```

mod core_space;
mod difference;
mod error;
mod extract;
mod factors;
pub mod merge;
pub mod options;
mod plan;
pub mod report;
mod spool;

pub use error::LoraError;
pub use extract::extract;
pub use factors::rank_for_energy;
pub use options::{Decomposition, ExtractOptions, RankRule};
pub use plan::{ExtractPlan, ModuleCandidate, plan};
pub use report::{Extraction, ModuleReport, OtherReport};

/// The example of the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
