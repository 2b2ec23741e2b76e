//! The softmax of a block of scores, and how the results of blocks are put together.
//!
//! A result is `[padded head_dim]` weighted values, then the maximum of the scores and the sum of the weights, filled up
//! to 16 numbers. A sum of 0 means that the row saw nothing of the block.

use crate::kv::padded_dim;
use crate::math::{exp, exp_negative};
use crate::simd::{Lanes, lanes, lanes_mut, larger, largest, per_isa, reduce};

/// Numbers in a result.
pub(super) const fn result_len(head_dim: usize) -> usize {
    padded_dim(head_dim) + 16
}

/// Where the maximum and the sum of a result are, behind its `dims` values.
#[inline(always)]
pub(super) fn set_header(result: &mut [f32], max: f32, sum: f32) {
    let dims = result.len() - 16;
    result[dims] = max;
    result[dims + 1] = sum;
}

/// Turns the first `count` (at least 1) of a row's scores into weights, the rest of their 16 into zeros; returns the
/// maximum and the sum of the weights.
#[inline(always)]
pub(super) fn softmax<S: Lanes>(scores: &mut [f32], count: usize) -> (f32, f32) {
    let max = row_max::<S>(scores, count);
    let (splat, mut sum) = (S::splat(max), S::splat(0.0));
    for chunk in scores[..count.next_multiple_of(16)].chunks_exact_mut(16) {
        let weights = exp_negative::<S>(S::sub(S::load(lanes(chunk)), splat));
        sum = S::add(sum, weights);
        S::store(weights, lanes_mut(chunk));
    }
    (max, reduce(S::array(sum)))
}

/// The largest of the first `count` (at least 1) scores; the rest of their 16 become minus infinity.
#[inline(always)]
pub(super) fn row_max<S: Lanes>(scores: &mut [f32], count: usize) -> f32 {
    let scores = &mut scores[..count.next_multiple_of(16)];
    scores[count..].fill(f32::NEG_INFINITY);
    let mut max = S::splat(f32::NEG_INFINITY);
    for chunk in scores.chunks_exact(16) {
        max = S::max(S::load(lanes(chunk)), max);
    }
    largest(S::array(max))
}

per_isa! {
    /// Merges the results of the next block into the running ones.
    pub(super) fn merge_rows(running: &mut [f32], next: &[f32], result_len: usize) = merge_rows_body;
}

#[inline(always)]
fn merge_rows_body<S: Lanes>(running: &mut [f32], next: &[f32], result_len: usize) {
    for (running, next) in running.chunks_exact_mut(result_len).zip(next.chunks_exact(result_len)) {
        merge::<S>(running, next);
    }
}

#[inline(always)]
fn merge<S: Lanes>(running: &mut [f32], next: &[f32]) {
    let dims = running.len() - 16;
    let ([old_max, old_sum], [new_max, new_sum]) = ([running[dims], running[dims + 1]], [next[dims], next[dims + 1]]);
    if new_sum == 0.0 {
        return;
    }
    let max = larger(old_max, new_max);
    let (old, new) = (exp(old_max - max), exp(new_max - max));
    let (by_old, by_new) = (S::splat(old), S::splat(new));
    for (running, next) in running[..dims].chunks_exact_mut(16).zip(next.chunks_exact(16)) {
        let next = S::mul(S::load(lanes(next)), by_new);
        S::store(S::fma(S::load(lanes(running)), by_old, next), lanes_mut(running));
    }
    set_header(running, max, old_sum.mul_add(old, new_sum * new));
}

per_isa! {
    /// Divides the weighted values of a result by the sum of the weights.
    pub(super) fn normalize(result: &[f32], out: &mut [f32]) = normalize_body;
}

#[inline(always)]
fn normalize_body<S: Lanes>(result: &[f32], out: &mut [f32]) {
    let sum = result[result.len() - 15];
    for (out, value) in out.iter_mut().zip(result) {
        *out = value / sum;
    }
}
