//! A block of keys and values in 8 bits: both products are sums of integers, which are exact in any order.
//!
//! A query is rounded to 13 bits, 64 · high + low, the weights of a block to 14 bits, 128 · high + low, so that each half
//! is an operand of a four-way dot product of bytes on every instruction set. That is 32 times finer than the codes of the
//! cache.

#![allow(clippy::needless_range_loop, reason = "the indices number registers")]

mod round;

use super::float::rows_at_once;
use super::rows::Rows;
use super::softmax::set_header;
use super::{BLOCK_LEN, BLOCK_PAGES};
use crate::Isa;
use crate::kv::int8::{Codes, SCALE_BYTES, key_tile, value_tile};
use crate::kv::{KvLayer, PAGE_LEN, padded_dim};
use crate::prefetch::prefetch_far;
use crate::simd::{Lanes, lanes, lanes_mut, per_isa};
use round::round_weights;
pub(super) use round::{QueryScale, query_len, round_queries};

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
            prefetch_far(next.as_ptr(), line);
        }
        Page { block, index: place % count, of: order[place], next: next.as_ptr() }
    };
    // The scales of all values are wanted first, by the weights.
    for values in &order[count..2 * count] {
        for line in (0..SCALE_BYTES).step_by(64) {
            prefetch_far(values.scales.as_ptr().cast(), line);
        }
    }
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
const AHEAD: usize = 1;

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
        let (seen, forgotten) = (rows.seen(row, block), rows.forgotten(row, block));
        let scores = &mut memory.scores[row * BLOCK_LEN..][..BLOCK_LEN];
        let halves = &mut memory.weights[row * 2 * BLOCK_LEN..][..2 * BLOCK_LEN];
        let (max, sum, step) = if seen > forgotten {
            scores[..forgotten].fill(f32::NEG_INFINITY);
            round_weights::<S>(scores, seen, values, halves)
        } else {
            // What is summed with the weights that are there is multiplied with 0.
            (f32::NEG_INFINITY, 0.0, 0.0)
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
            prefetch_far(page.next, 64 * at);
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
            prefetch_far(page.next, 64 * at);
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
/// Rows for which there are registers: each needs a sum for both halves.
#[inline(always)]
const fn most_rows<S: Lanes>() -> usize {
    if S::WIDE || S::ROWS < 2 { S::ROWS } else { 2 }
}
