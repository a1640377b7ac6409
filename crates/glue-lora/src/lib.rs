//! Extraction of LoRA adapters: the difference of a fine-tuned checkpoint and its base, matrix by matrix at low rank, in
//! the layout of PEFT.
//!
//! For each matrix with the difference Δ = U·diag(s)·Vᵀ, the best approximation of rank r in the Frobenius norm keeps the
//! first r singular triples (Eckart and Young, *The approximation of one matrix by another of lower rank*, Psychometrika 1
//! (1936)). The factors are B = U√s and A = √s Vᵀ, and α = r, so that the scale α/r is 1 whatever the rank.
//!
//! The rank is the same for all matrices ([`RankRule::Fixed`]), or in each the smallest whose singular values hold a share
//! of the energy, the sum of their squares ([`RankRule::Energy`]).
//!
//! | module | holds |
//! |---|---|
//! | [`options`] | what to extract, and at what rank |
//! | [`plan()`] | two models' headers to the list of matrices; no weight is read |
//! | [`extract()`] | the decompositions, and the adapter written |
//! | [`report`] | rank, energy and error of each module, and what no module holds |
//!
//! Memory: each thread holds one difference and its decomposition, [`ExtractPlan::memory`]; factors go to the disk as they
//! come, so that the adapter is never held. The disk takes the adapter twice until the directory appears.
//!
//! **Invariant:** what differs and is not in the adapter is reported, never dropped in silence.
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
//! let options = ExtractOptions { rank: RankRule::Energy { share: 0.9, most: Some(64) }, ..ExtractOptions::default() };
//! let report = extract(&plan(&base, &fine, &options)?, "math-adapter", &NoProgress)?;
//! println!("{} modules, {} parameters", report.modules.len(), report.parameters);
//! # Ok(())
//! # }
//! ```

mod difference;
mod error;
mod extract;
mod factors;
pub mod options;
mod plan;
pub mod report;
mod spool;

pub use error::LoraError;
pub use extract::extract;
pub use factors::rank_for_energy;
pub use options::{Decomposition, ExtractOptions, RankRule};
pub use plan::{Candidate, ExtractPlan, plan};
pub use report::{Extraction, ModuleReport, OtherReport};
