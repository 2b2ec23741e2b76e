//! Products of quantized activations with ternary matrices.

use crate::kernel::{Block, Kernels, MAX_TOKENS};
use crate::layout::{GROUP, TernaryMatrix};
use crate::pool::{Pool, SharedSlice};
use crate::quant::Activations;

/// Groups of 16 rows that a kernel is given at once: pairs, so that two share the activations.
const STEP: usize = 2;

/// One matrix of a call to [`linear`].
pub struct LinearJob<'a> {
    /// The matrix, `[rows, cols]`.
    pub weight: &'a TernaryMatrix,
    /// Its scale: W = t · scale.
    pub scale: f32,
    /// `[tokens, rows]`.
    pub out: &'a mut [f32],
    /// Add to what `out` holds (a residual stream) instead of overwriting it.
    pub add: bool,
}

/// Multiplies the same activations with each job's matrix, in one parallel region:
/// `out[t, r] = (Σ w · q) · (scale / acts.scale(t))`, the sum exact. The result does not depend on kernels or threads.
///
/// # Panics
/// If a matrix has other columns than the activations or another layout than the kernels, an output another length than
/// tokens × rows, or if the activations were quantized for kernels that read another form.
pub fn linear(pool: &Pool, kernels: &Kernels, acts: &Activations, jobs: &mut [LinearJob<'_>]) {
    for job in jobs.iter() {
        assert_eq!(job.weight.cols(), acts.cols(), "linear: columns");
        assert_eq!(job.weight.layout(), kernels.layout(), "linear: layout");
        assert_eq!(job.out.len(), acts.tokens() * job.weight.rows(), "linear: length of the output");
    }
    if acts.tokens() == 0 || acts.cols() == 0 {
        return;
    }
    let groups: usize = jobs.iter().map(|job| job.weight.row_groups()).sum();
    let group_bytes = kernels.layout().bytes(GROUP, acts.cols());
    // At least four tasks a thread, as far as there are groups.
    let fair = groups.div_ceil(4 * pool.threads());
    let chunk = (kernels.tuning().task_bytes / group_bytes).clamp(1, fair.max(1)).next_multiple_of(STEP);
    let shared: Vec<_> =
        jobs.iter_mut().map(|job| (job.weight, job.scale, job.add, SharedSlice::new(job.out))).collect();
    let tasks = shared.iter().map(|(weight, ..)| weight.row_groups().div_ceil(chunk)).sum();
    pool.run(tasks, &|mut task| {
        for (weight, scale, add, out) in &shared {
            let count = weight.row_groups().div_ceil(chunk);
            if task < count {
                let first = task * chunk;
                let last = (first + chunk).min(weight.row_groups());
                let output = Output { out, scale: *scale, add: *add };
                for group in (first..last).step_by(STEP) {
                    multiply(kernels, acts, weight, group, STEP.min(last - group), &output);
                }
                return;
            }
            task -= count;
        }
    });
}

/// Where the products of a job go.
struct Output<'a> {
    out: &'a SharedSlice<'a, f32>,
    scale: f32,
    add: bool,
}

/// All tokens with `count` groups of a matrix from `first`.
fn multiply(
    kernels: &Kernels,
    acts: &Activations,
    weight: &TernaryMatrix,
    first: usize,
    count: usize,
    output: &Output<'_>,
) {
    let tiles = weight.groups(first, count);
    let mut sums = [[0i32; GROUP]; STEP * MAX_TOKENS];
    let mut token = 0;
    while token < acts.tokens() {
        let tokens = kernels.tokens().min(acts.tokens() - token);
        let operand = acts.operand(kernels, token);
        let (group_bytes, prefetch) = (weight.group_bytes(), kernels.tuning().prefetch);
        let block = Block { tiles, group_bytes, operand, tokens, prefetch };
        let sums = &mut sums[..count * tokens];
        kernels.multiply(block, sums);
        for (i, sums) in sums.iter().enumerate() {
            let (group, token) = (first + i / tokens, token + i % tokens);
            let row = group * GROUP;
            let rows = GROUP.min(weight.rows() - row);
            // SAFETY: each row of a matrix belongs to one task.
            let out = unsafe { output.out.range(token * weight.rows() + row, rows) };
            let factor = output.scale / acts.scale(token);
            for (out, sum) in out.iter_mut().zip(sums) {
                let value = (sum - acts.sum(token)) as f32 * factor;
                *out = if output.add { *out + value } else { value };
            }
        }
        token += tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::layout::Layout;
    use proptest::prelude::*;

    fn matrix(layout: Layout, rows: usize, cols: usize, seed: u64) -> TernaryMatrix {
        TernaryMatrix::pack(layout, rows, cols, |row, out| {
            for (col, v) in out.iter_mut().enumerate() {
                let x = ((row * 8191 + col) as u64 ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                *v = (x % 3) as i8 - 1;
            }
            Ok::<(), ()>(())
        })
        .expect("rows that cannot fail")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_isa_layout_and_thread_count_gives_the_definition(
            rows in 1usize..150, cols in 1usize..200, tokens in 1usize..30, seed: u64,
        ) {
            let x: Vec<f32> = (0..tokens * cols).map(|i| (((i as u64 * 7919) ^ seed) % 2001) as f32 - 1000.0).collect();
            for layout in Layout::ALL {
                let (a, b) = (matrix(layout, rows, cols, seed), matrix(layout, rows.div_ceil(3), cols, !seed));
                let mut acts = Activations::default();
                acts.quantize(&Pool::new(1), &Kernels::with(Isa::Scalar, layout), &x, cols, None);
                let mut weights = vec![0i8; cols];
                let mut want = vec![1.5f32; tokens * rows];
                let sum = |weights: &[i8], q: &[i8]| {
                    weights.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum::<i32>() as f32
                };
                for row in 0..rows {
                    a.unpack_row(row, &mut weights);
                    for token in 0..tokens {
                        want[token * rows + row] += sum(&weights, acts.row(token)) * (0.25 / acts.scale(token));
                    }
                }
                b.unpack_row(0, &mut weights);
                let want_b = sum(&weights, acts.row(0)) * (0.5 / acts.scale(0));
                for (isa, threads) in Isa::available().flat_map(|isa| (1..=3).map(move |threads| (isa, threads))) {
                    let (pool, kernels) = (Pool::new(threads), Kernels::with(isa, layout));
                    acts.quantize(&pool, &kernels, &x, cols, None);
                    let (mut out_a, mut out_b) = (vec![1.5f32; tokens * rows], vec![9.0; tokens * b.rows()]);
                    let mut jobs = [
                        LinearJob { weight: &a, scale: 0.25, out: &mut out_a, add: true },
                        LinearJob { weight: &b, scale: 0.5, out: &mut out_b, add: false },
                    ];
                    linear(&pool, &kernels, &acts, &mut jobs);
                    prop_assert!(out_a == want, "{isa} {layout} {threads} threads");
                    prop_assert_eq!(out_b[0], want_b);
                }
            }
        }
    }
}
