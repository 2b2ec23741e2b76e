//! Rounding queries and weights, each into two halves of a byte.

use super::{Memory, most_rows};
use crate::attention::BLOCK_LEN;
use crate::attention::float::rows_at_once;
use crate::attention::rows::Rows;
use crate::attention::softmax::row_max;
use crate::kv::int8::{Codes, KEY_OFFSET};
use crate::kv::{PAGE_LEN, padded};
use crate::math::{ROUND, exp_negative, rounded};
use crate::simd::{Lanes, absmax, lanes, lanes_mut, largest, per_isa, reduce};

/// The largest number of 64 · high + low with |high| <= 63 and low from -32 to 31.
const QUERY_MAX: f32 = 4063.0;
/// The largest number of 128 · high + low with halves of 7 bits.
const WEIGHT_MAX: f32 = 16383.0;
/// Below this, a scale's inverse overflows; what it scales counts as 0.
const SMALLEST: f32 = 1e-30;

/// A row's query in two halves, the factor that its scores get, and what they have too much.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::attention) struct QueryScale {
    pub(super) factor: f32,
    pub(super) excess: i32,
}

/// Bytes of a row's query.
pub(in crate::attention) const fn query_len(head_dim: usize) -> usize {
    2 * head_dim.next_multiple_of(4)
}

per_isa! {
    /// Rounds the queries of all rows.
    pub(in crate::attention) fn round_queries(rows: &Rows<'_>, memory: &mut Memory<'_>) = round_queries_body;
}

#[inline(always)]
fn round_queries_body<S: Lanes>(rows: &Rows<'_>, memory: &mut Memory<'_>) {
    let len = query_len(rows.head_dim);
    let (queries, _) = memory.queries.as_chunks_mut::<4>();
    let mut first = 0;
    while first < rows.len() {
        let count = rows_at_once(most_rows::<S>(), rows.len() - first);
        let queries = &mut queries[first * len / 4..][..count * len / 4];
        for row in 0..count {
            let q = rows.query(first + row);
            let max = absmax(q);
            let (step, inverse) = if max > SMALLEST { (max / QUERY_MAX, QUERY_MAX / max) } else { (0.0, 0.0) };
            let mut sums = [0; 16];
            for (i, q) in q.chunks(16).enumerate() {
                let (high, low) = halves(&padded(q), inverse, &mut sums);
                let quads = high.as_chunks::<4>().0.iter().zip(low.as_chunks::<4>().0);
                for (quad, (high, low)) in quads.enumerate().take(q.len().div_ceil(4)) {
                    let at = ((4 * i + quad) * count + row) * 2;
                    (queries[at], queries[at + 1]) = (*high, *low);
                }
            }
            let sum: i32 = sums.iter().sum();
            memory.scales[first + row] = QueryScale { factor: step * rows.scale, excess: KEY_OFFSET * sum };
        }
        first += count;
    }
}

/// The high and low halves of 16 numbers of a query, which are added to `sums`.
#[inline(always)]
fn halves(q: &[f32; 16], inverse: f32, sums: &mut [i32; 16]) -> ([u8; 16], [u8; 16]) {
    let (mut high, mut low) = ([0; 16], [0; 16]);
    for i in 0..16 {
        // No change by the clamp, except where q is not a number.
        let rounded = rounded(q[i].mul_add(inverse, ROUND)).clamp(-(QUERY_MAX as i32), QUERY_MAX as i32);
        let upper = (rounded + 32) >> 6;
        high[i] = upper as i8 as u8;
        low[i] = (rounded - (upper << 6)) as i8 as u8;
        sums[i] += rounded;
    }
    (high, low)
}

/// Turns the first `seen` (at least 1) scores of a row into weights, times the scales of the values, and rounds them into
/// `halves`. Returns the maximum of the scores, the sum of the weights, and what a rounded weight of 1 stands for.
#[inline(always)]
pub(super) fn round_weights<S: Lanes>(
    scores: &mut [f32],
    seen: usize,
    values: &[Codes<'_>],
    halves: &mut [u8],
) -> (f32, f32, f32) {
    let max = row_max::<S>(scores, seen);
    let (splat, mut sum, mut most) = (S::splat(max), S::splat(0.0), S::splat(0.0));
    // Behind the last position are weights of 0 up to a multiple of 16.
    let used = seen.next_multiple_of(16);
    for (scores, values) in scores[..used].chunks_mut(PAGE_LEN).zip(values) {
        for (scores, scales) in scores.chunks_exact_mut(16).zip(values.scales.chunks_exact(16)) {
            let weights = exp_negative::<S>(S::sub(S::load(lanes(scores)), splat));
            sum = S::add(sum, weights);
            let scaled = S::mul(weights, S::load(lanes(scales)));
            most = S::max(scaled, most);
            S::store(scaled, lanes_mut(scores));
        }
    }
    let most = largest(S::array(most));
    let (step, inverse) = if most > SMALLEST { (most / WEIGHT_MAX, WEIGHT_MAX / most) } else { (0.0, 0.0) };
    let (high, low) = halves.split_at_mut(BLOCK_LEN);
    let (inverse, round) = (S::splat(inverse), S::splat(ROUND));
    for ((weights, high), low) in
        scores[..used].chunks_exact(16).zip(high.chunks_exact_mut(16)).zip(low.chunks_exact_mut(16))
    {
        let rounded = S::bits(S::fma(S::load(lanes(weights)), inverse, round));
        *lanes_mut(high) = S::seven_bits::<7>(rounded);
        *lanes_mut(low) = S::seven_bits::<0>(rounded);
    }
    high[used..].fill(0);
    low[used..].fill(0);
    (max, reduce(S::array(sum)), step)
}
