//! Intervals that hold the exact logits.

use super::products::Integers;
use super::{Int8Rows, RowBound};
use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::head::token::Tokens;
use crate::pool::{Pool, SharedSlice};
use crate::simd::per_isa;

/// The intervals of all rows and some tokens, laid out task by task, `[tokens, rows of the task]` each.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    low: AlignedBuf<f32>,
    high: AlignedBuf<f32>,
    /// The largest of each task, `[tasks, tokens]`.
    top: Vec<Top>,
    rows: usize,
    tokens: usize,
    /// Rows of a task; the last one may have fewer.
    chunk: usize,
}

/// The largest ends of the intervals of a task.
#[derive(Clone, Copy, Debug, Default)]
struct Top {
    low: f32,
    high: f32,
}

/// Bytes of int8 rows that one task reads: one stream, long enough to hide what claiming it costs.
const CHUNK_BYTES: usize = 256 << 10;

/// Tokens that a row is multiplied with at once.
const STEP: usize = 4;

impl Intervals {
    /// Computes the intervals of all rows of `head` for `tokens`.
    pub(super) fn set(&mut self, pool: &Pool, isa: Isa, head: &Int8Rows, tokens: &Tokens) {
        let (rows, count) = (head.rows(), tokens.bounds.len());
        let chunk = (CHUNK_BYTES / head.stride().max(1)).clamp(1, rows.div_ceil(pool.threads() * 4).max(1));
        let tasks = rows.div_ceil(chunk);
        (self.rows, self.tokens, self.chunk) = (rows, count, chunk);
        self.low.resize(rows * count);
        self.high.resize(rows * count);
        self.top.resize(tasks * count, Top::default());
        let (low, high) = (SharedSlice::new(&mut self.low), SharedSlice::new(&mut self.high));
        let top = SharedSlice::new(&mut self.top);
        pool.run_in_order(tasks, &|task, _| {
            let first = task * chunk;
            let last = (first + chunk).min(rows);
            let part = Part {
                values: &head.values[first * head.stride()..last * head.stride()],
                bounds: &head.bounds[first..last],
                tokens,
            };
            // SAFETY: each row and each task is used by one thread.
            let (low, high, top) = unsafe {
                let len = (last - first) * count;
                (low.range(first * count, len), high.range(first * count, len), top.range(task * count, count))
            };
            intervals(isa, &part, low, high, top);
        });
    }

    /// The largest lower ends of the tasks of token `token`.
    pub(super) fn low_tops(&self, token: usize) -> impl ExactSizeIterator<Item = f32> {
        (0..self.tasks()).map(move |task| self.top[task * self.tokens + token].low)
    }

    /// Calls `found` with each row of token `token` whose lower end is at least `floor`, and that end.
    pub(super) fn low_from(&self, token: usize, floor: f32, mut found: impl FnMut(u32, f32)) {
        for task in 0..self.tasks() {
            if self.top[task * self.tokens + token].low >= floor {
                let first = task * self.chunk;
                for (row, &low) in self.part(&self.low, task, token).iter().enumerate() {
                    if low >= floor {
                        found((first + row) as u32, low);
                    }
                }
            }
        }
    }

    /// Calls `found` with each row of token `token` whose upper end is at least `floor`.
    pub(super) fn high_from(&self, token: usize, floor: f32, mut found: impl FnMut(u32)) {
        for task in 0..self.tasks() {
            if self.top[task * self.tokens + token].high >= floor {
                let first = task * self.chunk;
                for (row, &high) in self.part(&self.high, task, token).iter().enumerate() {
                    if high >= floor {
                        found((first + row) as u32);
                    }
                }
            }
        }
    }

    /// First row, lower and upper ends of token `token`, task by task.
    pub(super) fn parts(&self, token: usize) -> impl Iterator<Item = (usize, &[f32], &[f32])> {
        (0..self.tasks())
            .map(move |task| (task * self.chunk, self.part(&self.low, task, token), self.part(&self.high, task, token)))
    }

    fn tasks(&self) -> usize {
        self.rows.div_ceil(self.chunk.max(1))
    }

    fn part<'a>(&self, ends: &'a [f32], task: usize, token: usize) -> &'a [f32] {
        let first = task * self.chunk;
        let count = self.chunk.min(self.rows - first);
        &ends[first * self.tokens + token * count..][..count]
    }
}

/// Some rows and all tokens.
struct Part<'a> {
    values: &'a [i8],
    bounds: &'a [RowBound],
    tokens: &'a Tokens,
}

per_isa! { dot
    /// The intervals of a part, `[tokens, rows]`, and the largest of each token.
    fn intervals(part: &Part<'_>, low: &mut [f32], high: &mut [f32], top: &mut [Top]) = intervals_body;
}

#[inline(always)]
fn intervals_body<S: Integers>(part: &Part<'_>, low: &mut [f32], high: &mut [f32], top: &mut [Top]) {
    let (rows, stride, count) = (part.bounds.len(), part.tokens.stride, part.tokens.bounds.len());
    let groups = part.values.chunks(GROUP * stride).zip(part.bounds.chunks(GROUP));
    for (group, (values, bounds)) in groups.enumerate() {
        let group = Group { first: group * GROUP, rows, values, bounds: WideBounds::new(bounds) };
        // All tokens while the rows are in the cache.
        for token in (0..count).step_by(STEP) {
            match count - token {
                1 => few_tokens::<S, 1>(&group, part.tokens, token, low, high),
                2 => few_tokens::<S, 2>(&group, part.tokens, token, low, high),
                3 => few_tokens::<S, 3>(&group, part.tokens, token, low, high),
                _ => few_tokens::<S, STEP>(&group, part.tokens, token, low, high),
            }
        }
    }
    for ((low, high), top) in low.chunks_exact(rows).zip(high.chunks_exact(rows)).zip(top) {
        *top = Top { low: largest(low), high: largest(high) };
    }
}

/// Rows whose intervals are computed together.
pub(super) const GROUP: usize = 8;

/// At most [`GROUP`] rows of a part.
struct Group<'a> {
    /// The first of them, in the part.
    first: usize,
    /// Rows of the part.
    rows: usize,
    values: &'a [i8],
    bounds: WideBounds,
}

/// What [`RowBound`] says of the rows of a group.
#[derive(Default)]
pub(super) struct WideBounds {
    pub(super) scale: [f64; GROUP],
    pub(super) error: [f64; GROUP],
    pub(super) worst: [f64; GROUP],
    pub(super) norm: [f64; GROUP],
}

impl WideBounds {
    #[inline(always)]
    fn new(rows: &[RowBound]) -> WideBounds {
        let mut wide = WideBounds::default();
        for (i, row) in rows.iter().enumerate() {
            let row = [row.scale, row.error, row.worst, row.norm].map(f64::from);
            [wide.scale[i], wide.error[i], wide.worst[i], wide.norm[i]] = row;
        }
        wide
    }
}

/// The intervals of a group and `T` tokens from `first` on.
#[inline(always)]
fn few_tokens<S: Integers, const T: usize>(
    group: &Group<'_>,
    tokens: &Tokens,
    first: usize,
    low: &mut [f32],
    high: &mut [f32],
) {
    let values = &tokens.values[first * tokens.stride..];
    let mut sums = [[0.0f64; GROUP]; T];
    // With one token it is memory that counts, and that likes one stream; with more, rows share the reads of the tokens,
    // as many as there are registers for the sums.
    match (T, S::WIDE) {
        (1, _) => products::<S, 1, T>(group.values, values, tokens.stride, &mut sums),
        (_, false) => products::<S, 2, T>(group.values, values, tokens.stride, &mut sums),
        (_, true) => products::<S, 4, T>(group.values, values, tokens.stride, &mut sums),
    }
    let count = group.values.len() / tokens.stride;
    for ((t, token), sums) in (first..).zip(&tokens.bounds[first..]).zip(&sums) {
        let rows = t * group.rows + group.first..t * group.rows + group.first + count;
        let [lows, highs] = S::ends(&group.bounds, token, sums);
        low[rows.clone()].copy_from_slice(&lows[..count]);
        high[rows].copy_from_slice(&highs[..count]);
    }
}

/// The products of the rows of a group, `R` at a time, with `T` tokens.
#[inline(always)]
fn products<S: Integers, const R: usize, const T: usize>(
    rows: &[i8],
    tokens: &[i16],
    stride: usize,
    sums: &mut [[f64; GROUP]; T],
) {
    let blocks = rows.chunks_exact(R * stride);
    let rest = blocks.remainder();
    let done = rows.len() / stride / R * R;
    for (first, block) in (0..).step_by(R).zip(blocks) {
        let products = S::products::<R, T>(block, tokens, stride);
        sums.iter_mut().zip(products).for_each(|(sums, products)| sums[first..first + R].copy_from_slice(&products));
    }
    for (row, values) in (done..).zip(rest.chunks_exact(stride)) {
        let products = S::products::<1, T>(values, tokens, stride);
        sums.iter_mut().zip(products).for_each(|(sums, [product])| sums[row] = product);
    }
}

/// The largest of some numbers, none of which is NaN.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (whole, rest) = x.as_chunks::<16>();
    let mut lanes = [f32::NEG_INFINITY; 16];
    for x in whole {
        lanes = std::array::from_fn(|i| larger(lanes[i], x[i]));
    }
    lanes.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, larger)
}
