//! Ternary matrices whose scales belong to groups of columns, and activations that are as good as floats.
//!
//! `W[r, g · group + j] = d[r, g] · t[r, g · group + j]`, as in the weight-only models: their activations were never
//! rounded to int8 in training. Here they are rounded to 24 bits with a scale for each group ([`GroupedActivations`]), by no
//! more than 2^-24 of a group's largest number, which is the precision of single floats, and go through the int8 kernels as
//! three planes of bytes ([`Precision`] has 8 bits too, in one plane). The sums of a group are exact integers; each meets its
//! scales in one multiply-add, group after group, so that results do not depend on kernels, threads or batches here either.

mod activations;
mod linear;
mod matrix;

pub use activations::{GroupedActivations, Rounding};
pub use linear::{GroupedJob, linear};
pub use matrix::{GroupedMatrix, ScaleType, is_group, pack_rows, read_row};

/// To how many bits activations are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// 8 bits: a third of the multiplications.
    Int8,
    /// 24 bits.
    #[default]
    Float,
}

impl Precision {
    /// Int8 rows that a token has: one, or its upper, its middle and its lower bytes.
    const fn planes(self) -> usize {
        match self {
            Precision::Int8 => 1,
            Precision::Float => 3,
        }
    }

    /// The largest magnitude of a rounded value: all its bytes are int8.
    const fn largest(self) -> f32 {
        match self {
            Precision::Int8 => 127.0,
            Precision::Float => 8_355_711.0,
        }
    }
}
