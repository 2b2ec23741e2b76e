//! A block of keys and values in 8 bits: both products are sums of integers, which are exact in any order.
//!
//! A query is rounded to 13 bits, 64 · high + low, the weights of a block to 14 bits, 128 · high + low, so that each half
//! is an operand of a four-way dot product of bytes on every instruction set. That is 32 times finer than the codes of the
//! cache.

#![allow(clippy::needless_range_loop, reason = "the indices number registers")]

use super::float::rows_at_once;
use super::rows::Rows;
use super::softmax::{row_max, set_header};
use super::{BLOCK_LEN, BLOCK_PAGES};
use crate::Isa;
use crate::kv::int8::{Codes, KEY_OFFSET, SCALE_BYTES, key_tile, value_tile};
use crate::kv::{KvLayer, PAGE_LEN, padded, padded_dim};
use crate::math::{ROUND, exp_negative};
use crate::prefetch::prefetch;
use crate::simd::{Lanes, absmax, lanes, lanes_mut, largest, per_isa, reduce};

/// The largest number of 64 · high + low with |high| <= 63 and low from -32 to 31.
const QUERY_MAX: f32 = 4063.0;
/// The largest number of 128 · high + low with halves of 7 bits.
const WEIGHT_MAX: f32 = 16383.0;
/// Below this, a scale's inverse overflows; what it scales counts as 0.
const SMALLEST: f32 = 1e-30;

/// A row's query in two halves, the factor that its scores get, and what they have too much.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueryScale {
    factor: f32,
    excess: i32,
}

/// Memory of a task.
pub(super) struct Memory<'a> {
    /// Rows that are multiplied together, four dimensions of each: high, then low halves. [`query_len`] bytes a row.
    pub(super) queries: &'a mut [u8],
    /// One for each row.
    pub(super) scales: &'a mut [QueryScale],
    /// [`BLOCK_LEN`] scores for each row.
    pub(super) scores: &'a mut [f32],
    /// High, then low halves of each row's weights, `2 · BLOCK_LEN` bytes a row.
    pub(super) weights: &'a mut [u8],
    /// Sums of weighted values, [`padded_dim`] for each row.
    pub(super) sums: &'a mut [i32],
}

/// Bytes of a row's query.
pub(super) const fn query_len(head_dim: usize) -> usize {
    2 * head_dim.next_multiple_of(4)
}

per_isa! {
    /// Rounds the queries of all rows.
    pub(super) fn round_queries(rows: &Rows<'_>, memory: &mut Memory<'_>) = round_queries_body;
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
        let rounded = (q[i].mul_add(inverse, ROUND).to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
        // No change, except where q is not a number.
        let rounded = rounded.clamp(-(QUERY_MAX as i32), QUERY_MAX as i32);
        let upper = (rounded + 32) >> 6;
        high[i] = upper as i8 as u8;
        low[i] = (rounded - (upper << 6)) as i8 as u8;
        sums[i] += rounded;
    }
    (high, low)
}

/// Computes the results of all rows for block `block`, whose pages are `pages`; `after` are the pages behind it. The
/// queries are rounded ([`round_queries`]).
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
pub(super) fn block(
    isa: Isa,
    layer: &KvLayer,
    store: &[u8],
    rows: &Rows<'_>,
    block: usize,
    pages: &[u32],
    after: &[u32],
    memory: &mut Memory<'_>,
    results: &mut [f32],
    len: usize,
) {
    let head = |page: u32| layer.int8(store, page, rows.kv_head);
    let count = pages.len();
    let mut order = [head(pages[0]).0; 2 * BLOCK_PAGES + AHEAD];
    for (index, &page) in pages.iter().enumerate() {
        (order[index], order[count + index]) = head(page);
    }
    for (index, &page) in after.iter().take(AHEAD).enumerate() {
        order[2 * count + index] = head(page).0;
    }
    let page = |place: usize| {
        let next = order[place + AHEAD].codes;
        for line in (next.len()..next.len() + SCALE_BYTES).step_by(64) {
            prefetch(next.as_ptr(), line);
        }
        Page { block, index: place % count, of: order[place], next: next.as_ptr() }
    };
    for index in 0..count {
        score_page(isa, rows, &page(index), memory);
    }
    weights(isa, rows, block, &order[count..2 * count], memory, results, len);
    for index in 0..count {
        weigh_page(isa, rows, &page(count + index), memory);
    }
    values(isa, memory, results, len);
}

/// How many pages of keys or values are asked for before they are read.
const AHEAD: usize = 2;

/// The keys or values of a head in a page.
struct Page<'a> {
    /// Which block the page belongs to, and which page of the block it is.
    block: usize,
    index: usize,
    of: Codes<'a>,
    /// Codes that will be read soon, for prefetching.
    next: *const u8,
}

impl Page<'_> {
    /// Positions of the page that row `row` sees.
    #[inline(always)]
    fn seen(&self, rows: &Rows<'_>, row: usize) -> usize {
        rows.seen(row, self.block).saturating_sub(self.index * PAGE_LEN).min(PAGE_LEN)
    }
}

per_isa! {
    /// Turns the scores of all rows into rounded weights; results become headers and, first, what a weight of 1 stands
    /// for.
    fn weights(
        rows: &Rows<'_>,
        block: usize,
        values: &[Codes<'_>],
        memory: &mut Memory<'_>,
        results: &mut [f32],
        len: usize,
    ) = weights_body;
}

#[inline(always)]
fn weights_body<S: Lanes>(
    rows: &Rows<'_>,
    block: usize,
    values: &[Codes<'_>],
    memory: &mut Memory<'_>,
    results: &mut [f32],
    len: usize,
) {
    memory.sums.fill(0);
    for (row, result) in results.chunks_exact_mut(len).enumerate() {
        let seen = rows.seen(row, block);
        let scores = &mut memory.scores[row * BLOCK_LEN..][..BLOCK_LEN];
        let halves = &mut memory.weights[row * 2 * BLOCK_LEN..][..2 * BLOCK_LEN];
        let (max, sum, step) = match seen {
            0 => (f32::NEG_INFINITY, 0.0, 0.0),
            _ => round_weights::<S>(scores, seen, values, halves),
        };
        result[0] = step;
        set_header(result, max, sum);
    }
}

per_isa! {
    /// Turns the sums of all rows into the values of the results.
    fn values(memory: &Memory<'_>, results: &mut [f32], len: usize) = values_body;
}

#[inline(always)]
fn values_body<S: Lanes>(memory: &Memory<'_>, results: &mut [f32], len: usize) {
    for (result, sums) in results.chunks_exact_mut(len).zip(memory.sums.chunks_exact(len - 16)) {
        let step = S::splat(result[0]);
        for (result, sums) in result.chunks_exact_mut(16).zip(sums.chunks_exact(16)) {
            S::store(S::mul(S::to_f32(S::load_i32(lanes(sums))), step), lanes_mut(result));
        }
    }
}

per_isa! { dot
    /// The scores of all rows with a page.
    fn score_page(rows: &Rows<'_>, page: &Page<'_>, memory: &mut Memory<'_>) = score_page_body;
}

#[inline(always)]
fn score_page_body<S: Lanes>(rows: &Rows<'_>, page: &Page<'_>, memory: &mut Memory<'_>) {
    let mut first = 0;
    while first < rows.len() {
        let count = rows_at_once(most_rows::<S>(), rows.len() - first);
        if S::WIDE && count == 4 {
            score_rows::<S, 4>(rows, first, page, memory);
        } else if S::ROWS >= 2 && count == 2 {
            score_rows::<S, 2>(rows, first, page, memory);
        } else {
            score_rows::<S, 1>(rows, first, page, memory);
        }
        first += count;
    }
}

per_isa! { dot
    /// Adds the weighted values of a page to the sums of all rows.
    fn weigh_page(rows: &Rows<'_>, page: &Page<'_>, memory: &mut Memory<'_>) = weigh_page_body;
}

#[inline(always)]
fn weigh_page_body<S: Lanes>(rows: &Rows<'_>, page: &Page<'_>, memory: &mut Memory<'_>) {
    let mut first = 0;
    while first < rows.len() {
        let count = rows_at_once(most_rows::<S>(), rows.len() - first);
        if S::WIDE && count == 4 {
            weigh_rows::<S, 4>(rows, first, page, memory);
        } else if S::ROWS >= 2 && count == 2 {
            weigh_rows::<S, 2>(rows, first, page, memory);
        } else {
            weigh_rows::<S, 1>(rows, first, page, memory);
        }
        first += count;
    }
}

/// Rows for which there are registers: each needs a sum for both halves.
#[inline(always)]
const fn most_rows<S: Lanes>() -> usize {
    if S::WIDE || S::ROWS < 2 { S::ROWS } else { 2 }
}

/// 16 times the same four bytes.
#[inline(always)]
fn splat<S: Lanes>(bytes: [u8; 4]) -> S::I {
    S::splat_i32(i32::from_le_bytes(bytes))
}

/// The 64 bytes of tile `tile`.
#[inline(always)]
fn tile<S: Lanes>(bytes: &[u8], tile: usize) -> S::I {
    S::load_bytes(bytes[64 * tile..].first_chunk().expect("a tile of 64 bytes"))
}

/// The scores of `R` rows with a page.
#[inline(always)]
fn score_rows<S: Lanes, const R: usize>(rows: &Rows<'_>, first: usize, page: &Page<'_>, memory: &mut Memory<'_>) {
    // Later rows see as much or more.
    let lanes = page.seen(rows, first + R - 1).div_ceil(16);
    if S::WIDE {
        for lane in (0..lanes).step_by(2) {
            score_lanes::<S, R, 2>(rows, first, page, lane, memory);
        }
    } else {
        for lane in 0..lanes {
            score_lanes::<S, R, 1>(rows, first, page, lane, memory);
        }
    }
}

/// `R` rows with `16 · L` positions of a page from `16 · lane`.
#[inline(always)]
fn score_lanes<S: Lanes, const R: usize, const L: usize>(
    rows: &Rows<'_>,
    first: usize,
    page: &Page<'_>,
    lane: usize,
    memory: &mut Memory<'_>,
) {
    let len = query_len(rows.head_dim);
    let queries = memory.queries[first * len..][..R * len].as_chunks::<4>().0;
    let words = len / 8;
    let mut sums = [[[S::splat_i32(0); 2]; L]; R];
    for (w, queries) in queries.chunks_exact(2 * R).enumerate() {
        let mut k = [S::splat_i32(0); L];
        for l in 0..L {
            let at = key_tile(lane + l, words, w);
            prefetch(page.next, 64 * at);
            k[l] = tile::<S>(page.of.codes, at);
        }
        for r in 0..R {
            let (high, low) = (splat::<S>(queries[2 * r]), splat::<S>(queries[2 * r + 1]));
            for l in 0..L {
                sums[r][l][0] = S::dot(sums[r][l][0], k[l], high);
                sums[r][l][1] = S::dot(sums[r][l][1], k[l], low);
            }
        }
    }
    for r in 0..R {
        let QueryScale { factor, excess } = memory.scales[first + r];
        for l in 0..L {
            let [high, low] = sums[r][l];
            let sum = S::add_i32(S::add_i32(S::shl_i32::<6>(high), low), S::splat_i32(-excess));
            let positions = 16 * (lane + l);
            let scale = S::mul(S::load(lanes(&page.of.scales[positions..])), S::splat(factor));
            let at = (first + r) * BLOCK_LEN + page.index * PAGE_LEN + positions;
            S::store(S::mul(S::to_f32(sum), scale), lanes_mut(&mut memory.scores[at..]));
        }
    }
}

/// Turns the first `seen` (at least 1) scores of a row into weights, times the scales of the values, and rounds them into
/// `halves`. Returns the maximum of the scores, the sum of the weights, and what a rounded weight of 1 stands for.
#[inline(always)]
fn round_weights<S: Lanes>(
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

/// Adds the weighted values of a page to the sums of `R` rows.
#[inline(always)]
fn weigh_rows<S: Lanes, const R: usize>(rows: &Rows<'_>, first: usize, page: &Page<'_>, memory: &mut Memory<'_>) {
    // Weights of what a row does not see are 0.
    let seen = page.seen(rows, first + R - 1);
    let columns = padded_dim(rows.head_dim) / 16;
    let mut column = 0;
    while column < columns {
        if S::WIDE && column + 1 < columns {
            weigh_lanes::<S, R, 2>(first, page, columns, column, seen, memory);
            column += 2;
        } else {
            weigh_lanes::<S, R, 1>(first, page, columns, column, seen, memory);
            column += 1;
        }
    }
}

/// `R` rows with `16 · C` dimensions from `16 · column`, of which there are `16 · columns`.
#[inline(always)]
fn weigh_lanes<S: Lanes, const R: usize, const C: usize>(
    first: usize,
    page: &Page<'_>,
    columns: usize,
    column: usize,
    seen: usize,
    memory: &mut Memory<'_>,
) {
    const TILES: usize = PAGE_LEN / 4;
    let mut weights: [[&[[u8; 4]]; 2]; R] = [[&[]; 2]; R];
    let used = seen.div_ceil(4);
    for (r, weights) in weights.iter_mut().enumerate() {
        let halves = memory.weights[(first + r) * 2 * BLOCK_LEN..][..2 * BLOCK_LEN].as_chunks::<4>().0;
        let start = page.index * TILES;
        *weights = [&halves[start..start + used], &halves[BLOCK_LEN / 4 + start..][..used]];
    }
    let mut sums = [[[S::splat_i32(0); 2]; C]; R];
    for w in 0..used {
        let mut v = [S::splat_i32(0); C];
        for c in 0..C {
            let at = value_tile(column + c, columns, w);
            prefetch(page.next, 64 * at);
            v[c] = tile::<S>(page.of.codes, at);
        }
        for r in 0..R {
            let (high, low) = (splat::<S>(weights[r][0][w]), splat::<S>(weights[r][1][w]));
            for c in 0..C {
                sums[r][c][0] = S::dot(sums[r][c][0], high, v[c]);
                sums[r][c][1] = S::dot(sums[r][c][1], low, v[c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            let at = ((first + r) * columns + column + c) * 16;
            let [high, low] = sums[r][c];
            let sum = S::add_i32(S::shl_i32::<7>(high), low);
            let total = S::add_i32(S::load_i32(lanes(&memory.sums[at..])), sum);
            S::store_i32(total, lanes_mut(&mut memory.sums[at..]));
        }
    }
}
