//! Ternary matrices whose scales belong to groups of columns, and activations that are as good as floats.
//!
//! `W[r, g · group + j] = d[r, g] · t[r, g · group + j]`, as in the weight-only models: their activations were never
//! rounded to int8 in training. Here they are rounded to 16 bits with a scale for each group ([`GroupedActivations`]),
//! which differs from single precision by no more than 2^-16 of a group's largest number, and go through the int8 kernels
//! as two planes of bytes. The sums of a group are exact integers; each meets its scales in one multiply-add, group after
//! group, so that results do not depend on kernels, threads or batches here either.

mod activations;
mod linear;
mod matrix;

pub use activations::GroupedActivations;
pub use linear::{GroupedJob, linear};
pub use matrix::{GroupedMatrix, ScaleType, is_group, pack_rows, read_row};

/// Int8 rows that a token has: its upper and its lower bytes.
const PLANES: usize = 2;
