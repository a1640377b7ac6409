//! Merge operators for neural network weights: contract, built-in methods, deterministic driver
