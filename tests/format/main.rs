//! Checkpoint formats: decoding against independent encoders, and files that are damaged or malicious.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "the builders are shared with another test")]

mod bad_files;
mod builders;
mod codecs;
#[path = "../common/mod.rs"]
mod common;
mod fixtures;
mod tl;
mod vocabulary;

use sterna::format::TernaryTensor;

/// All rows of a matrix.
fn decode(tensor: &TernaryTensor) -> Vec<i8> {
    let mut all = vec![0; tensor.rows() * tensor.cols()];
    for (row, out) in all.chunks_mut(tensor.cols()).enumerate() {
        tensor.read_row(row, out).unwrap();
    }
    all
}
