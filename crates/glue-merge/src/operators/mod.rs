//! The built-in operators, one file each.

pub mod aim;
pub mod arcee_fusion;
pub mod breadcrumbs;
mod combination;
pub mod consensus_ta;
pub mod dare;
pub mod della;
pub mod expo;
pub mod fisher;
pub mod karcher;
pub mod linear;
pub mod lines;
pub mod localize_and_stitch;
pub mod model_stock;
pub mod multislerp;
pub mod nearswap;
pub mod nuslerp;
pub mod passthrough;
pub mod pcb;
pub mod ram;
pub mod sce;
pub mod slerp;
mod task;
pub mod task_arithmetic;
#[cfg(test)]
mod testing;
mod threshold;
pub mod ties;
mod wrapper;

use crate::def::OperatorDef;

/// Every built-in operator, in the order of the reference.
pub const ALL: &[&OperatorDef] = &[
    &linear::DEF,
    &slerp::DEF,
    &nuslerp::DEF,
    &multislerp::DEF,
    &karcher::DEF,
    &task_arithmetic::DEF,
    &ties::DEF,
    &dare::LINEAR,
    &dare::TIES,
    &della::LINEAR,
    &della::TIES,
    &breadcrumbs::DEF,
    &breadcrumbs::TIES,
    &sce::DEF,
    &model_stock::DEF,
    &nearswap::DEF,
    &arcee_fusion::DEF,
    &ram::DEF,
    &ram::PLUS_TL,
    &passthrough::DEF,
    &consensus_ta::DEF,
    &pcb::DEF,
    &localize_and_stitch::DEF,
    &expo::DEF,
    &lines::DEF,
    &fisher::DEF,
    &aim::DEF,
];
