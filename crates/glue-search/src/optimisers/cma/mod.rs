//! Evolution strategies with an adapted normal distribution. What the variants share is in [`evolution`]; how each
//! keeps its covariance is a file of its own.

mod cma_es;
mod evolution;
mod latent;
mod restart;
mod sep_cma_es;
mod stopping;
mod weights;

pub use cma_es::CMA_ES;
pub use sep_cma_es::SEP_CMA_ES;
