//! Intervals that hold the exact logits.

use super::products::Integers;
use super::token::TokenBound;
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

per_isa! {
    /// The intervals of a part, `[tokens, rows]`, and the largest of each token.
    fn intervals(part: &Part<'_>, low: &mut [f32], high: &mut [f32], top: &mut [Top]) = intervals_body;
}

#[inline(always)]
fn intervals_body<S: Integers>(part: &Part<'_>, low: &mut [f32], high: &mut [f32], top: &mut [Top]) {
    let (rows, count) = (part.bounds.len(), part.tokens.bounds.len());
    for token in (0..count).step_by(STEP) {
        let few = STEP.min(count - token);
        let ends = token * rows..(token + few) * rows;
        let (low, high) = (&mut low[ends.clone()], &mut high[ends]);
        match few {
            1 => few_tokens::<S, 1>(part, token, low, high),
            2 => few_tokens::<S, 2>(part, token, low, high),
            3 => few_tokens::<S, 3>(part, token, low, high),
            _ => few_tokens::<S, STEP>(part, token, low, high),
        }
    }
    for ((low, high), top) in low.chunks_exact(rows).zip(high.chunks_exact(rows)).zip(top) {
        *top = Top { low: largest(low), high: largest(high) };
    }
}

#[inline(always)]
fn few_tokens<S: Integers, const T: usize>(part: &Part<'_>, first: usize, low: &mut [f32], high: &mut [f32]) {
    let (rows, stride) = (part.bounds.len(), part.tokens.stride);
    let values = &part.tokens.values[first * stride..];
    let tokens: &[TokenBound; T] = part.tokens.bounds[first..].first_chunk().expect("T tokens");
    let groups = part.values.chunks(GROUP * stride).zip(part.bounds.chunks(GROUP));
    for (group, (values_of_rows, bounds)) in groups.enumerate() {
        let mut sums = [[0.0f64; GROUP]; T];
        // One token is a matter of memory, and one row at a time one stream; with more, two rows share the reads of the
        // tokens.
        let paired = if T == 1 { 0 } else { bounds.len() / 2 * 2 };
        let (pairs, rest) = values_of_rows.split_at(paired * stride);
        for (i, pair) in pairs.chunks_exact(2 * stride).enumerate() {
            let [first, second] = S::products::<2, T>(pair, values, stride);
            for (sums, (first, second)) in sums.iter_mut().zip(first.into_iter().zip(second)) {
                (sums[2 * i], sums[2 * i + 1]) = (first, second);
            }
        }
        for (i, row) in (paired..).zip(rest.chunks_exact(stride)) {
            let [row] = S::products::<1, T>(row, values, stride);
            sums.iter_mut().zip(row).for_each(|(sums, sum)| sums[i] = sum);
        }
        for (t, sums) in sums.iter().enumerate() {
            let ends = t * rows + group * GROUP..t * rows + group * GROUP + bounds.len();
            group_intervals(bounds, &tokens[t], sums, &mut low[ends.clone()], &mut high[ends]);
        }
    }
}

/// Rows whose intervals are computed together.
const GROUP: usize = 8;

/// Where the exact logits of some rows lie, `sums` being the exact products of the rounded rows and the rounded token.
#[inline(always)]
fn group_intervals(bounds: &[RowBound], token: &TokenBound, sums: &[f64; GROUP], low: &mut [f32], high: &mut [f32]) {
    let mut rows = [RowBound::default(); GROUP];
    rows[..bounds.len()].copy_from_slice(bounds);
    let (mut lows, mut highs) = ([0.0f32; GROUP], [0.0f32; GROUP]);
    for i in 0..GROUP {
        let row = rows[i];
        let [scale, error, worst, norm] = [row.scale, row.error, row.worst, row.norm].map(f64::from);
        let middle = sums[i] * (scale * token.scale);
        // The last term is for rounding the ends to f32.
        let bound = error * token.error
            + worst * token.worst
            + norm * token.norm
            + token.tiny
            + middle.abs() * (1.0 / f64::from(1 << 22));
        // Where a partial sum of the canonical product may overflow, or something is not finite, nothing is certain.
        let certain = (error + norm) * token.length < 1e38;
        lows[i] = if certain { (middle - bound) as f32 } else { f32::NEG_INFINITY };
        highs[i] = if certain { (middle + bound) as f32 } else { f32::INFINITY };
    }
    low.copy_from_slice(&lows[..bounds.len()]);
    high.copy_from_slice(&highs[..bounds.len()]);
}

/// The largest of some numbers, none of which is NaN.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 16];
    for x in x.chunks(16) {
        for (max, &x) in lanes.iter_mut().zip(x) {
            *max = if x > *max { x } else { *max };
        }
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}
