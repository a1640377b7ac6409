#![doc = include_str!("../README.md")]

pub mod container;
mod error;
mod export;
mod family;
mod import;
mod k_quant;
mod mapping;
mod parts;
pub mod quant;
mod source;
mod type_mix;
mod vocabulary;

pub use error::GgufError;
pub use export::{ExportOptions, ExportPlan, ExportReport, export};
pub use import::{ImportOptions, ImportPlan, ImportReport, import};
pub use quant::GgmlType;
pub use source::{ExportModel, ExportTokenizer, TensorSource};
pub use type_mix::FileType;
