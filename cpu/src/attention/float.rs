//! A block of keys and values in single or half precision.
//!
//! A score is one chain of multiply-adds along the head, a weighted value one along the positions of the block.

#![allow(clippy::needless_range_loop, reason = "the indices number registers")]

use super::BLOCK_LEN;
use super::rows::Rows;
use super::softmax::{set_header, softmax};
use crate::Isa;
use crate::kv::{KvLayer, PAGE_LEN, VALUE_COLS, padded_dim};
use crate::prefetch::prefetch_far;
use crate::simd::{Lanes, lanes, lanes_mut, per_isa};

/// With more rows than this, a page of half-precision numbers is widened once for all of them.
const WIDEN_ROWS: usize = 8;

/// A number type of the cache.
pub(super) trait Element: Copy {
    /// 16 numbers in single precision.
    fn load<S: Lanes>(x: &[Self; 16]) -> S::F;
    /// The numbers in single precision, widened into the beginning of `memory` where they are not.
    fn widen<'a>(isa: Isa, x: &'a [Self], memory: &'a mut [f32]) -> &'a [f32];
    /// [`score_page`]
    fn score_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, Self>, scores: &mut [f32]);
    /// [`weigh_page`]
    fn weigh_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, Self>, weights: &[f32], results: &mut [f32], len: usize);
}

/// The keys or the values of a head in a page.
#[derive(Clone, Copy)]
pub(super) struct Page<'a, E> {
    /// Which block the page belongs to, and which page of the block it is.
    block: usize,
    index: usize,
    numbers: &'a [E],
    /// What will be read next, for prefetching; may be null.
    next: *const u8,
}

impl<E> Page<'_, E> {
    /// Positions of the page that row `row` sees.
    #[inline(always)]
    fn seen(&self, rows: &Rows<'_>, row: usize) -> usize {
        rows.seen(row, self.block).saturating_sub(self.index * PAGE_LEN).min(PAGE_LEN)
    }

    /// Where the page's scores of a row are.
    #[inline(always)]
    fn scores(&self, row: usize) -> usize {
        row * BLOCK_LEN + self.index * PAGE_LEN
    }

    /// Asks for as many numbers of what comes next.
    #[inline(always)]
    fn prefetch(&self, start: usize, count: usize) {
        if !self.next.is_null() {
            for line in (0..count * size_of::<E>()).step_by(64) {
                prefetch_far(self.next, start * size_of::<E>() + line);
            }
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Lanes>(x: &[f32; 16]) -> S::F {
        S::load(x)
    }

    fn widen<'a>(_isa: Isa, x: &'a [f32], _memory: &'a mut [f32]) -> &'a [f32] {
        x
    }

    fn score_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, f32>, scores: &mut [f32]) {
        per_isa! {
            fn run(rows: &Rows<'_>, page: &Page<'_, f32>, scores: &mut [f32]) = score_page, f32;
        }
        run(isa, rows, page, scores);
    }

    fn weigh_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, f32>, weights: &[f32], results: &mut [f32], len: usize) {
        per_isa! {
            fn run(rows: &Rows<'_>, page: &Page<'_, f32>, weights: &[f32], results: &mut [f32], len: usize) = weigh_page, f32;
        }
        run(isa, rows, page, weights, results, len);
    }
}

impl Element for u16 {
    #[inline(always)]
    fn load<S: Lanes>(x: &[u16; 16]) -> S::F {
        S::load_f16(x)
    }

    fn widen<'a>(isa: Isa, x: &'a [u16], memory: &'a mut [f32]) -> &'a [f32] {
        let memory = &mut memory[..x.len()];
        widen_f16(isa, x, memory);
        memory
    }

    fn score_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, u16>, scores: &mut [f32]) {
        per_isa! {
            fn run(rows: &Rows<'_>, page: &Page<'_, u16>, scores: &mut [f32]) = score_page, u16;
        }
        run(isa, rows, page, scores);
    }

    fn weigh_page(isa: Isa, rows: &Rows<'_>, page: &Page<'_, u16>, weights: &[f32], results: &mut [f32], len: usize) {
        per_isa! {
            fn run(rows: &Rows<'_>, page: &Page<'_, u16>, weights: &[f32], results: &mut [f32], len: usize) = weigh_page, u16;
        }
        run(isa, rows, page, weights, results, len);
    }
}

per_isa! {
    fn widen_f16(from: &[u16], to: &mut [f32]) = widen_f16_body;
}

#[inline(always)]
fn widen_f16_body<S: Lanes>(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.chunks_exact_mut(16).zip(from.chunks_exact(16)) {
        S::store(S::load_f16(lanes(from)), lanes_mut(to));
    }
}

/// Memory for a block: numbers of a widened page.
pub(super) const fn page_len(head_dim: usize) -> usize {
    PAGE_LEN * padded_dim(head_dim)
}

/// Computes the results of all rows for block `block`, whose pages are `pages`; `after` are the pages behind it.
///
/// `scores` has [`BLOCK_LEN`] numbers for each row, `page_memory` [`page_len`].
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
pub(super) fn block<E: Element>(
    isa: Isa,
    layer: &KvLayer,
    store: &[E],
    rows: &Rows<'_>,
    block: usize,
    pages: &[u32],
    after: &[u32],
    scores: &mut [f32],
    page_memory: &mut [f32],
    results: &mut [f32],
    len: usize,
) {
    let head = |page: &u32| layer.floats(store, *page, rows.kv_head);
    let share = rows.len() > WIDEN_ROWS;
    for (index, page) in pages.iter().enumerate() {
        let keys = head(page).0;
        if share {
            let numbers = E::widen(isa, keys, page_memory);
            f32::score_page(isa, rows, &Page { block, index, numbers, next: std::ptr::null() }, scores);
        } else {
            let next = pages.get(index + 1).map_or_else(|| head(&pages[0]).1, |page| head(page).0);
            E::score_page(isa, rows, &Page { block, index, numbers: keys, next: next.as_ptr().cast() }, scores);
        }
    }
    weights(isa, rows, block, scores, results, len);
    for (index, page) in pages.iter().enumerate() {
        let values = head(page).1;
        if share {
            let numbers = E::widen(isa, values, page_memory);
            let page = Page { block, index, numbers, next: std::ptr::null() };
            f32::weigh_page(isa, rows, &page, scores, results, len);
        } else {
            // Where nothing follows, the first keys are still in the cache.
            let next = pages.get(index + 1).map_or_else(|| head(after.first().unwrap_or(&pages[0])).0, |p| head(p).1);
            let next = next.as_ptr().cast();
            E::weigh_page(isa, rows, &Page { block, index, numbers: values, next }, scores, results, len);
        }
    }
}

per_isa! {
    /// Turns the scores of all rows into weights; results become headers without values.
    fn weights(rows: &Rows<'_>, block: usize, scores: &mut [f32], results: &mut [f32], len: usize) = weights_body;
}

#[inline(always)]
fn weights_body<S: Lanes>(rows: &Rows<'_>, block: usize, scores: &mut [f32], results: &mut [f32], len: usize) {
    for (row, (result, scores)) in results.chunks_exact_mut(len).zip(scores.chunks_exact_mut(BLOCK_LEN)).enumerate() {
        let (seen, forgotten) = (rows.seen(row, block), rows.forgotten(row, block));
        let (max, sum) = if seen > forgotten {
            scores[..forgotten].fill(f32::NEG_INFINITY);
            softmax::<S>(scores, seen)
        } else {
            scores[..seen].fill(0.0);
            (f32::NEG_INFINITY, 0.0)
        };
        result.fill(0.0);
        set_header(result, max, sum);
    }
}

/// How many of `left` rows are multiplied together.
#[inline(always)]
pub(super) fn rows_at_once(most: usize, left: usize) -> usize {
    if most >= 4 && left >= 4 {
        4
    } else if most >= 2 && left >= 2 {
        2
    } else {
        1
    }
}

/// The scores of all rows with the keys of a page.
#[inline(always)]
fn score_page<S: Lanes, E: Element>(rows: &Rows<'_>, page: &Page<'_, E>, scores: &mut [f32]) {
    let mut first = 0;
    while first < rows.len() {
        let count = rows_at_once(S::ROWS, rows.len() - first);
        if S::ROWS >= 4 && count == 4 {
            score_rows::<S, E, 4>(rows, first, page, scores);
        } else if S::ROWS >= 2 && count == 2 {
            score_rows::<S, E, 2>(rows, first, page, scores);
        } else {
            score_rows::<S, E, 1>(rows, first, page, scores);
        }
        first += count;
    }
}

/// `R` rows with a page.
#[inline(always)]
fn score_rows<S: Lanes, E: Element, const R: usize>(
    rows: &Rows<'_>,
    first: usize,
    page: &Page<'_, E>,
    scores: &mut [f32],
) {
    // Later rows see as much or more.
    let seen = page.seen(rows, first + R - 1);
    if S::WIDE && seen > 32 {
        score_lanes::<S, E, R, 4>(rows, first, page, 0, scores);
    } else if S::WIDE && seen > 0 {
        score_lanes::<S, E, R, 2>(rows, first, page, 0, scores);
    } else {
        for lane in (0..seen).step_by(16) {
            score_lanes::<S, E, R, 1>(rows, first, page, lane, scores);
        }
    }
}

/// `R` rows with `16 · L` positions of a page from `lane`.
#[inline(always)]
fn score_lanes<S: Lanes, E: Element, const R: usize, const L: usize>(
    rows: &Rows<'_>,
    first: usize,
    page: &Page<'_, E>,
    lane: usize,
    scores: &mut [f32],
) {
    let mut queries: [&[f32]; R] = [&[]; R];
    for (r, query) in queries.iter_mut().enumerate() {
        *query = rows.query(first + r);
    }
    let mut sums = [[S::splat(0.0); L]; R];
    for (d, keys) in page.numbers.chunks_exact(PAGE_LEN).take(rows.head_dim).enumerate() {
        if lane == 0 {
            page.prefetch(d * PAGE_LEN, PAGE_LEN);
        }
        let mut k = [S::splat(0.0); L];
        for l in 0..L {
            k[l] = E::load::<S>(lanes(&keys[lane + 16 * l..]));
        }
        for r in 0..R {
            let q = S::splat(queries[r][d]);
            for l in 0..L {
                sums[r][l] = S::fma(q, k[l], sums[r][l]);
            }
        }
    }
    let scale = S::splat(rows.scale);
    for r in 0..R {
        let scores = &mut scores[page.scores(first + r) + lane..][..16 * L];
        for (l, scores) in scores.chunks_exact_mut(16).enumerate() {
            S::store(S::mul(sums[r][l], scale), lanes_mut(scores));
        }
    }
}

/// Adds the weighted values of a page to the results of all rows.
#[inline(always)]
fn weigh_page<S: Lanes, E: Element>(
    rows: &Rows<'_>,
    page: &Page<'_, E>,
    weights: &[f32],
    results: &mut [f32],
    len: usize,
) {
    for start in (0..len - 16).step_by(VALUE_COLS) {
        let width = VALUE_COLS.min(len - 16 - start);
        let mut first = 0;
        while first < rows.len() {
            let count = rows_at_once(S::ROWS, rows.len() - first);
            // Positions that all of these rows see; later rows may see more.
            let shared = if count > 1 { page.seen(rows, first) } else { 0 };
            if S::ROWS >= 4 && count == 4 {
                weigh_rows::<S, E, 4>(first, page, start, width, 0..shared, weights, results, len);
            } else if S::ROWS >= 2 && count == 2 {
                weigh_rows::<S, E, 2>(first, page, start, width, 0..shared, weights, results, len);
            }
            for row in first..first + count {
                let seen = page.seen(rows, row);
                if seen > shared {
                    weigh_rows::<S, E, 1>(row, page, start, width, shared..seen, weights, results, len);
                }
            }
            first += count;
        }
    }
}

/// `R` rows with a column of a page, `width` dimensions from `start`, for the positions in `range`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
fn weigh_rows<S: Lanes, E: Element, const R: usize>(
    first: usize,
    page: &Page<'_, E>,
    start: usize,
    width: usize,
    range: std::ops::Range<usize>,
    weights: &[f32],
    results: &mut [f32],
    len: usize,
) {
    if S::WIDE && width == VALUE_COLS {
        weigh_lanes::<S, E, R, 4>(first, page, start, VALUE_COLS, 0, range, weights, results, len);
    } else {
        for lane in (0..width).step_by(16) {
            weigh_lanes::<S, E, R, 1>(first, page, start, width, lane, range.clone(), weights, results, len);
        }
    }
}

/// `R` rows with `16 · C` dimensions of a column from `lane`.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
fn weigh_lanes<S: Lanes, E: Element, const R: usize, const C: usize>(
    first: usize,
    page: &Page<'_, E>,
    start: usize,
    width: usize,
    lane: usize,
    range: std::ops::Range<usize>,
    weights: &[f32],
    results: &mut [f32],
    len: usize,
) {
    let column = &page.numbers[start * PAGE_LEN..][..width * PAGE_LEN];
    let mut of_rows: [&[f32]; R] = [&[]; R];
    let mut sums = [[S::splat(0.0); C]; R];
    for r in 0..R {
        of_rows[r] = &weights[page.scores(first + r)..][..range.end];
        let results = &results[(first + r) * len + start + lane..][..16 * C];
        for c in 0..C {
            sums[r][c] = S::load(lanes(&results[16 * c..]));
        }
    }
    for position in range {
        if lane == 0 {
            page.prefetch(start * PAGE_LEN + position * width, width);
        }
        let values = &column[position * width + lane..][..16 * C];
        let mut v = [S::splat(0.0); C];
        for c in 0..C {
            v[c] = E::load::<S>(lanes(&values[16 * c..]));
        }
        for r in 0..R {
            let weight = S::splat(of_rows[r][position]);
            for c in 0..C {
                sums[r][c] = S::fma(weight, v[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        let results = &mut results[(first + r) * len + start + lane..][..16 * C];
        for c in 0..C {
            S::store(sums[r][c], lanes_mut(&mut results[16 * c..]));
        }
    }
}
