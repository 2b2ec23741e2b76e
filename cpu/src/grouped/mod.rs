//! Ternary matrices whose scales belong to groups of columns, and activations that are as good as floats.
//!
//! `W[r, g · group + j] = d[r, g] · t[r, g · group + j]`, as in the weight-only models: their activations were never
//! rounded to int8 in training. Here they are rounded to 24 bits with a scale for each group ([`GroupedActivations`]), by no
//! more than 2^-24 of a group's largest number, which is the precision of single floats, and go through the int8 kernels as
//! three planes of bytes. The sums of a group are exact integers; each meets its scales in one multiply-add, group after
//! group, so that results do not depend on kernels, threads or batches here either.

mod activations;
mod linear;
mod matrix;

pub use activations::GroupedActivations;
pub use linear::{GroupedJob, linear};
pub use matrix::{GroupedMatrix, ScaleType, is_group, pack_rows, read_row};

/// Int8 rows that a token has: its upper bytes, its middle ones, its lower ones.
const PLANES: usize = 3;
