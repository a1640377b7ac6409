//! The built-in operators, one file each.

pub mod breadcrumbs;
mod combination;
pub mod dare;
pub mod della;
pub mod karcher;
pub mod linear;
pub mod model_stock;
pub mod multislerp;
pub mod nearswap;
pub mod nuslerp;
pub mod passthrough;
pub mod slerp;
mod task;
pub mod task_arithmetic;
mod threshold;
pub mod ties;

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
    &model_stock::DEF,
    &nearswap::DEF,
    &passthrough::DEF,
];
