//! Products of rounded activations with grouped matrices.

use super::matrix::{BLOCK_ROWS, LAYOUT};
use super::{GroupedActivations, GroupedMatrix, ScaleType};
use crate::kernel::{Block, Kernels, MANY_TOKENS, MAX_TOKENS};
use crate::layout::GROUP;
use crate::linear::MAX_JOBS;
use crate::pool::{Pool, SharedSlice};
use crate::simd::{Lanes, lanes, per_isa};

/// Groups of rows of a block.
const BLOCK_GROUPS: usize = BLOCK_ROWS / GROUP;

/// Groups of rows that are multiplied with many tokens at once: their sums are to stay in the second-level cache.
const MANY_GROUPS: usize = 2;

/// Vectors of sums that a kernel makes at once, for few rows of activations and for many.
const FEW_SUMS: usize = BLOCK_GROUPS * MAX_TOKENS;
const MANY_SUMS: usize = MANY_GROUPS * MANY_TOKENS;

/// One matrix of a call to [`linear`].
pub struct GroupedJob<'a> {
    /// The matrix, `[rows, cols]`.
    pub weight: &'a GroupedMatrix,
    /// `[tokens, rows]`.
    pub out: &'a mut [f32],
    /// Add to what `out` holds (a residual stream) instead of overwriting it.
    pub add: bool,
}

/// Multiplies the same activations with each job's matrix, in one parallel region: for each group of columns
/// `out[t, r] += (Σ w · q) · (d[r, group] · scale[t, group])`, the sum exact and then the nearest float, rounded once with
/// the addition, groups in their order. The result does not depend on kernels or threads.
///
/// # Panics
/// If a matrix has other columns or groups than the activations, an output another length than tokens × rows, there are
/// more than [`MAX_JOBS`] jobs, or the kernels are not those of [`GroupedMatrix`]'s layout or not those that the activations
/// were rounded for.
pub fn linear(pool: &Pool, kernels: &Kernels, acts: &GroupedActivations, jobs: &mut [GroupedJob<'_>]) {
    assert!(jobs.len() <= MAX_JOBS, "grouped linear: number of jobs");
    assert_eq!(kernels.layout(), LAYOUT, "grouped linear: layout of the kernels");
    for job in jobs.iter() {
        assert_eq!(job.weight.cols(), acts.cols(), "grouped linear: columns");
        assert_eq!(job.weight.group(), acts.group(), "grouped linear: columns of a group");
        assert_eq!(job.out.len(), acts.tokens() * job.weight.rows(), "grouped linear: length of the output");
    }
    let mut shared: [Option<Job<'_>>; MAX_JOBS] = Default::default();
    for (shared, job) in shared.iter_mut().zip(jobs) {
        *shared = Some(Job { weight: job.weight, add: job.add, out: SharedSlice::new(job.out) });
    }
    let blocks: usize = shared.iter().flatten().map(|job| job.weight.row_blocks()).sum();
    // Tokens are shared where there are few blocks for the threads.
    let rows_at_once = kernels.at_once(acts.tokens() * acts.precision().planes());
    let at_once = rows_at_once / acts.precision().planes();
    let steps = acts.tokens().div_ceil(at_once);
    let shares = if pool.threads() == 1 { 1 } else { (4 * pool.threads()).div_ceil(blocks.max(1)).min(steps.max(1)) };
    let share = steps.div_ceil(shares) * at_once;
    let shares = acts.tokens().div_ceil(share.max(1));
    pool.run_in_order(blocks * shares, &|task, _| {
        let (mut block, first) = (task % blocks, task / blocks * share);
        let tokens = first..acts.tokens().min(first + share);
        for job in shared.iter().flatten() {
            if block < job.weight.row_blocks() {
                if rows_at_once == MAX_TOKENS {
                    job.multiply::<FEW_SUMS, BLOCK_GROUPS>(kernels, acts, block, tokens, at_once);
                } else {
                    job.multiply::<MANY_SUMS, MANY_GROUPS>(kernels, acts, block, tokens, at_once);
                }
                return;
            }
            block -= job.weight.row_blocks();
        }
    });
}

/// A job as its tasks see it.
struct Job<'a> {
    weight: &'a GroupedMatrix,
    add: bool,
    out: SharedSlice<'a, f32>,
}

impl Job<'_> {
    /// A block of rows with some tokens, of which the kernel takes `at_once`, with `GROUPS` groups of rows.
    fn multiply<const SUMS: usize, const GROUPS: usize>(
        &self,
        kernels: &Kernels,
        acts: &GroupedActivations,
        block: usize,
        tokens: std::ops::Range<usize>,
        at_once: usize,
    ) {
        let (mut sums, mut results) = ([[0i32; GROUP]; SUMS], [[0.0f32; GROUP]; SUMS]);
        let (groups, planes) = (GROUPS, acts.precision().planes());
        let group_bytes = LAYOUT.bytes(GROUP, self.weight.group());
        for token in tokens.clone().step_by(at_once) {
            let count = at_once.min(tokens.end - token);
            for first in (0..BLOCK_GROUPS).step_by(groups) {
                let results = &mut results[..groups * count];
                results.fill([0.0; GROUP]);
                for (piece, (tiles, scales)) in self.weight.block(block).enumerate() {
                    let (operand, padded) = acts.operand(kernels, token, count, piece);
                    let tiles = &tiles[first * group_bytes..(first + groups) * group_bytes];
                    let sums = &mut sums[..groups * padded];
                    let prefetch = if token == tokens.start { kernels.tuning().prefetch } else { 0 };
                    let block = Block { tiles, group_bytes, operand, tokens: padded, prefetch, alone: false };
                    kernels.multiply(block, sums);
                    for i in 0..count {
                        let part = Part {
                            sums: &sums[planes * i..],
                            planes,
                            padded,
                            offset: acts.sum(token + i, piece),
                            scale: acts.scales(token + i)[piece],
                            scales,
                            first,
                        };
                        let results = &mut results[i * groups..(i + 1) * groups];
                        match self.weight.scale_type() {
                            ScaleType::F16 => accumulate_f16(kernels.isa(), &part, results),
                            ScaleType::F32 => accumulate_f32(kernels.isa(), &part, results),
                        }
                    }
                }
                for (i, results) in results.chunks_exact(groups).enumerate() {
                    self.store(token + i, block * BLOCK_ROWS + first * GROUP, results.as_flattened());
                }
            }
        }
    }

    /// Puts the results of a token, for the rows from `first`, where they belong.
    fn store(&self, token: usize, first: usize, results: &[f32]) {
        let rows = self.weight.rows();
        if first >= rows {
            return;
        }
        // SAFETY: each row of a matrix, with each share of the tokens, belongs to one task.
        let out = unsafe { self.out.range(token * rows + first, results.len().min(rows - first)) };
        match self.add {
            true => out.iter_mut().zip(results).for_each(|(out, result)| *out += result),
            false => out.copy_from_slice(&results[..out.len()]),
        }
    }
}

/// The sums of a token over one group of columns, and what they are multiplied with.
struct Part<'a> {
    /// The sums of the planes of the first 16 rows; those of the next 16 rows are `padded` further on.
    sums: &'a [[i32; GROUP]],
    planes: usize,
    padded: usize,
    /// What all sums have too much, since codes are `w + 1`.
    offset: i32,
    /// The activations' scale.
    scale: f32,
    /// The scales of the block's rows.
    scales: &'a [u8],
    /// The first group of 16 rows.
    first: usize,
}

per_isa! {
    /// Adds the products of a group of columns to the results of some rows, whose scales are in half precision.
    fn accumulate_f16(part: &Part<'_>, results: &mut [[f32; GROUP]]) = accumulate_f16_body;
}

#[inline(always)]
fn accumulate_f16_body<S: Lanes>(part: &Part<'_>, results: &mut [[f32; GROUP]]) {
    let scales: &[u16] = bytemuck::cast_slice(part.scales);
    accumulate::<S>(part, results, |group| S::load_f16(lanes(&scales[group * GROUP..])));
}

per_isa! {
    /// The same with scales in single precision.
    fn accumulate_f32(part: &Part<'_>, results: &mut [[f32; GROUP]]) = accumulate_f32_body;
}

#[inline(always)]
fn accumulate_f32_body<S: Lanes>(part: &Part<'_>, results: &mut [[f32; GROUP]]) {
    let scales: &[f32] = bytemuck::cast_slice(part.scales);
    accumulate::<S>(part, results, |group| S::load(lanes(&scales[group * GROUP..])));
}

#[inline(always)]
fn accumulate<S: Lanes>(part: &Part<'_>, results: &mut [[f32; GROUP]], scales: impl Fn(usize) -> S::F) {
    let (by, offset) = (S::splat(part.scale), S::splat_i32(part.offset.wrapping_neg()));
    for (group, result) in results.iter_mut().enumerate() {
        let rows = &part.sums[group * part.padded..][..part.planes];
        // What overflows on the way comes back: the sum of the group itself fits.
        let mut sum = S::load_i32(&rows[0]);
        for row in &rows[1..] {
            sum = S::add_i32(S::shl_i32::<8>(sum), S::load_i32(row));
        }
        let sum = S::to_f32(S::add_i32(sum, offset));
        S::store(S::fma(sum, S::mul(scales(part.first + group), by), S::load(result)), result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grouped::{Precision, Rounding};
    use crate::{Isa, Readers};
    use proptest::prelude::*;

    const FLOAT_128: Rounding = Rounding { group: 128, precision: Precision::Float };

    fn value(seed: u64, row: usize, col: usize) -> i8 {
        let x = ((row * 8191 + col) as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        (x % 3) as i8 - 1
    }

    /// A scale that half precision holds.
    fn scale(row: usize, piece: usize) -> f32 {
        (1 + (row * 7 + piece * 13) % 50) as f32 / 64.0
    }

    fn matrix(rows: usize, cols: usize, group: usize, scales: ScaleType, seed: u64) -> GroupedMatrix {
        let pool = Pool::new(1);
        let near = Readers { pool: &pool, before: 0, all: rows };
        GroupedMatrix::pack_near(near, rows, cols, group, scales, |row, values, of_groups| {
            values.iter_mut().enumerate().for_each(|(col, v)| *v = value(seed, row, col));
            of_groups.iter_mut().enumerate().for_each(|(piece, d)| *d = scale(row, piece));
            Ok::<(), ()>(())
        })
        .expect("rows that cannot fail")
    }

    #[test]
    fn rows_come_back() {
        for (rows, cols, group) in [(1, 1, 64), (130, 200, 128), (300, 512, 256)] {
            for scales in [ScaleType::F16, ScaleType::F32] {
                let matrix = matrix(rows, cols, group, scales, 5);
                assert_eq!(matrix.bytes(), GroupedMatrix::bytes_of(rows, cols, group, scales));
                let (mut values, mut of_groups) = (vec![0; cols], vec![0.0; cols.div_ceil(group)]);
                for row in 0..rows {
                    matrix.unpack_row(row, &mut values, &mut of_groups);
                    assert!((0..cols).all(|col| values[col] == value(5, row, col)));
                    assert!((0..of_groups.len()).all(|piece| of_groups[piece] == scale(row, piece)));
                }
            }
        }
    }

    #[test]
    fn rounding_is_within_half_a_step_and_nonsense_is_defined() {
        let (pool, cols) = (Pool::new(1), 200);
        let x: Vec<f32> =
            (0..cols).map(|i| ((i * 37 % 101) as f32 - 50.0) * if i < 128 { 1.0 } else { 1e-3 }).collect();
        for isa in Isa::available() {
            let (kernels, mut acts) = (Kernels::with(isa, LAYOUT), GroupedActivations::default());
            acts.quantize(&pool, &kernels, &x, cols, FLOAT_128, None);
            let (values, scales) = acts.row(0);
            for (i, value) in values.enumerate() {
                let scale = scales[i / 128];
                let error = f64::from(value) * f64::from(scale) - f64::from(x[i]);
                assert!(error.abs() <= 1.01 * f64::from(scale), "{isa} {i}: {error} {scale}");
                assert!(value.abs() <= 8_355_711);
            }
            assert!(scales[1] < 2e-3 * scales[0]);
            for nonsense in [[f32::NAN, 1.0], [f32::INFINITY, 1.0], [0.0, 0.0], [1e-40, -1e-42]] {
                let rounding = Rounding { group: 64, ..FLOAT_128 };
                acts.quantize(&pool, &kernels, &nonsense.repeat(32), 64, rounding, None);
                let (values, scales) = acts.row(0);
                let want = if nonsense[0].is_nan() { 8_355_711 } else { 0 };
                assert!(values.zip([0, want].into_iter().cycle()).all(|(value, want)| value == want), "{nonsense:?}");
                assert!(scales[0].is_finite());
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10))]
        #[test]
        fn every_isa_and_thread_count_gives_the_definition(
            rows in 1usize..200, cols in 1usize..400, tokens in 1usize..80, group in 1usize..4, wide: bool,
            int8: bool, seed: u64,
        ) {
            let group = 64 << (group - 1);
            let rounding = Rounding { group, precision: if int8 { Precision::Int8 } else { Precision::Float } };
            let scales = if wide { ScaleType::F32 } else { ScaleType::F16 };
            let (a, b) = (matrix(rows, cols, group, scales, seed), matrix(rows.div_ceil(3), cols, group, scales, !seed));
            let x: Vec<f32> = (0..tokens * cols).map(|i| (((i as u64 * 7919) ^ seed) % 2001) as f32 - 1000.0).collect();
            let mut acts = GroupedActivations::default();
            acts.quantize(&Pool::new(1), &Kernels::with(Isa::Scalar, LAYOUT), &x, cols, rounding, None);
            let definition = |seed: u64, row: usize, token: usize| {
                let (values, scales) = acts.row(token);
                let values: Vec<i32> = values.collect();
                values.chunks(group).zip(scales).enumerate().fold(0.0f32, |result, (piece, (values, by))| {
                    let weights = (piece * group..).map(|col| i32::from(value(seed, row, col)));
                    let sum: i32 = values.iter().zip(weights).map(|(q, w)| q * w).sum();
                    (sum as f32).mul_add(scale(row, piece) * by, result)
                })
            };
            let want: Vec<f32> =
                (0..tokens * rows).map(|i| 1.5 + definition(seed, i % rows, i / rows)).collect();
            let want_b = definition(!seed, b.rows() - 1, tokens - 1);
            for (isa, threads) in Isa::available().flat_map(|isa| (1..=3).map(move |threads| (isa, threads))) {
                let (pool, kernels) = (Pool::new(threads), Kernels::with(isa, LAYOUT));
                let mut acts = GroupedActivations::default();
                acts.quantize(&pool, &kernels, &x, cols, rounding, None);
                let (mut out_a, mut out_b) = (vec![1.5f32; tokens * rows], vec![9.0; tokens * b.rows()]);
                let mut jobs = [
                    GroupedJob { weight: &a, out: &mut out_a, add: true },
                    GroupedJob { weight: &b, out: &mut out_b, add: false },
                ];
                linear(&pool, &kernels, &acts, &mut jobs);
                prop_assert!(out_a == want, "{isa} {threads} threads");
                prop_assert_eq!(out_b[out_b.len() - 1], want_b);
            }
        }
    }
}
