//! One metric, one file: formula and source, the figure of a pair, and how all pairs are computed at once.

pub mod cosine_flat;
pub mod cosine_per_column;
pub mod cosine_per_row;
pub mod delta_cosine;
pub mod l2_distance;
pub mod linear_cka;
pub mod sign_agreement;
