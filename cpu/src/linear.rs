//! Products of quantized activations with ternary matrices.

use crate::kernel::{Block, Kernels, MANY_TOKENS, MAX_TOKENS};
use crate::layout::{GROUP, Layout, TernaryMatrix};
use crate::pool::{Pool, SharedSlice};
use crate::prefetch::prefetch;
use crate::quant::Activations;
use crate::simd::{Lanes, per_isa};

/// Most matrices of a call to [`linear`].
pub const MAX_JOBS: usize = 4;

/// Sums of 16 rows that a kernel makes at once: two groups of 16 with as many tokens as it takes, few or many.
const FEW_SUMS: usize = 2 * MAX_TOKENS;
const MANY_SUMS: usize = 2 * MANY_TOKENS;

/// Tasks per thread when there are many tokens: enough to share the work evenly, few enough that each reads its
/// activations from the second-level cache many times.
const TASKS: usize = 8;

/// Bytes that a thread fetches of what comes next.
const AHEAD: usize = 16 << 10;

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
/// `next` are the matrices of the next call with as many tokens, if they are known: the threads begin to fetch them when
/// they are done.
///
/// # Panics
/// If a matrix has other columns than the activations or another layout than the kernels, an output another length than
/// tokens × rows, if there are more than [`MAX_JOBS`] jobs, or if the activations were quantized for kernels that read
/// another form.
pub fn linear(pool: &Pool, kernels: &Kernels, acts: &Activations, jobs: &mut [LinearJob<'_>], next: &[&TernaryMatrix]) {
    for job in jobs.iter() {
        assert_eq!(job.weight.cols(), acts.cols(), "linear: columns");
        assert_eq!(job.weight.layout(), kernels.layout(), "linear: layout");
        assert_eq!(job.out.len(), acts.tokens() * job.weight.rows(), "linear: length of the output");
    }
    assert!(jobs.len() <= MAX_JOBS, "linear: number of jobs");
    if acts.tokens() == 0 || acts.cols() == 0 {
        return;
    }
    let plan = Plan::new(pool, kernels, acts.tokens(), acts.cols(), jobs.iter().map(|job| job.weight.row_groups()));
    let ahead = |slot| first_read(pool, kernels, acts.tokens(), next, slot);
    pool.read_ahead(ahead);
    let mut shared: [Option<Job<'_>>; MAX_JOBS] = Default::default();
    for (shared, job) in shared.iter_mut().zip(jobs) {
        *shared = Some(Job { weight: job.weight, scale: job.scale, add: job.add, out: SharedSlice::new(job.out) });
    }
    pool.run_in_runs(plan.tasks, plan.run, &|run, _| {
        // Share after share, so that its tokens stay in the second-level cache while all rows pass by.
        let (share, of_share) = (run.start / plan.row_tasks, run.start / plan.row_tasks * plan.row_tasks);
        let run = run.start - of_share..run.end - of_share;
        let mut before = 0;
        for job in shared.iter().flatten() {
            let (groups, chunks) = (job.weight.row_groups(), job.weight.row_groups().div_ceil(plan.chunk));
            let chunk = |of: usize| of.saturating_sub(before).min(chunks);
            let (first, end) = (chunk(run.start) * plan.chunk, (chunk(run.end) * plan.chunk).min(groups));
            if first < end {
                if kernels.at_once(acts.tokens()) <= MAX_TOKENS {
                    job.multiply::<FEW_SUMS>(kernels, acts, &plan, first, end - first, share);
                } else {
                    job.multiply::<MANY_SUMS>(kernels, acts, &plan, first, end - first, share);
                }
            }
            before += chunks;
        }
    });
    let own = ahead(0);
    for at in (0..own.len()).step_by(64) {
        prefetch(own.as_ptr(), at);
    }
}

/// What the thread in `slot` reads first when `tokens` are multiplied with `matrices`; nothing if the time does not
/// depend on it.
fn first_read<'a>(
    pool: &Pool,
    kernels: &Kernels,
    tokens: usize,
    matrices: &[&'a TernaryMatrix],
    slot: usize,
) -> &'a [u8] {
    let Some(first) = matrices.first().filter(|_| tokens <= kernels.few_tokens()) else { return &[] };
    let plan = Plan::new(pool, kernels, tokens, first.cols(), matrices.iter().map(|matrix| matrix.row_groups()));
    let mut chunk = pool.first_task(plan.tasks, slot);
    for matrix in matrices {
        let chunks = matrix.row_groups().div_ceil(plan.chunk);
        if chunk < chunks {
            let group = chunk * plan.chunk;
            let tiles = matrix.groups(group, matrix.row_groups() - group);
            return &tiles[..tiles.len().min(AHEAD)];
        }
        chunk -= chunks;
    }
    &[]
}

/// How the work is cut.
struct Plan {
    /// Groups of rows of a task.
    chunk: usize,
    /// Tasks that a thread takes at a time; 1 if the tokens are shared.
    run: usize,
    /// Tasks of a share of the tokens.
    row_tasks: usize,
    /// Tokens of a share.
    share: usize,
    tasks: usize,
    /// Whether there is one thread only.
    alone: bool,
}

/// Groups of rows that a kernel should be given at once: pairs of 16, which some kernels multiply side by side.
fn together(layout: Layout) -> usize {
    2usize.div_ceil(layout.parts())
}

impl Plan {
    fn new(
        pool: &Pool,
        kernels: &Kernels,
        tokens: usize,
        cols: usize,
        groups: impl Iterator<Item = usize> + Clone,
    ) -> Plan {
        let tuning = kernels.tuning();
        let all_groups: usize = groups.clone().sum();
        let together = together(kernels.layout());
        let alone = pool.threads() == 1;
        let chunks = |chunk: usize| groups.clone().map(|groups| groups.div_ceil(chunk)).sum::<usize>();
        if tokens <= kernels.few_tokens() {
            // A stream of weights.
            let chunk = if tokens == 1 { 1 } else { together };
            let task_bytes = chunk * kernels.layout().bytes(kernels.layout().group_rows(), cols);
            // With more than two tokens it is multiplying that takes the time, and shorter runs share it more evenly.
            let run = (tuning.task_bytes / (task_bytes * tokens.div_ceil(2)).max(1)).max(1);
            return Plan { chunk, run, row_tasks: chunks(chunk), share: tokens, tasks: chunks(chunk), alone };
        }
        let chunk = (all_groups / (TASKS * pool.threads())).clamp(together, 32).next_multiple_of(together);
        let row_tasks = chunks(chunk);
        // What stays in the cache; less if there are few rows for many threads.
        let steps = tokens.div_ceil(kernels.step());
        let most = (tuning.block_bytes / cols / kernels.step()).max(1);
        let shares = if alone { 1 } else { (4 * pool.threads()).div_ceil(row_tasks).min(steps) };
        let share = steps.div_ceil(shares.max(steps.div_ceil(most))) * kernels.step();
        Plan { chunk, run: 1, row_tasks, share, tasks: row_tasks * tokens.div_ceil(share), alone }
    }
}

/// A job as its tasks see it.
struct Job<'a> {
    weight: &'a TernaryMatrix,
    scale: f32,
    add: bool,
    out: SharedSlice<'a, f32>,
}

impl Job<'_> {
    /// `count` groups of the matrix from `first`, with a share of the tokens.
    fn multiply<const SUMS: usize>(
        &self,
        kernels: &Kernels,
        acts: &Activations,
        plan: &Plan,
        first: usize,
        count: usize,
        share: usize,
    ) {
        let mut sums = [[0i32; GROUP]; SUMS];
        let share = share * plan.share..acts.tokens().min((share + 1) * plan.share);
        let at_once = kernels.at_once(acts.tokens());
        // As many groups as there is room for.
        let (parts, together) = (kernels.layout().parts(), together(kernels.layout()));
        let (_, padded) = acts.operand(kernels, share.start, share.len().min(at_once));
        let step = SUMS / padded / parts / together * together;
        let group_bytes = self.weight.group_bytes();
        for group in (first..first + count).step_by(step) {
            let groups = step.min(first + count - group);
            let tiles = self.weight.groups(group, groups);
            for token in share.clone().step_by(at_once) {
                let tokens = at_once.min(share.end - token);
                let (operand, padded) = acts.operand(kernels, token, tokens);
                // The next groups are asked for once; the others of the share find these in the caches.
                let prefetch = if token == share.start { kernels.tuning().prefetch } else { 0 };
                // The outputs of more tokens would not stay in the cache until they are stored.
                if at_once <= MAX_TOKENS {
                    self.prefetch_outputs(group * parts, groups * parts, token..token + tokens);
                }
                let sums = &mut sums[..groups * parts * padded];
                let alone = plan.alone;
                kernels.multiply(Block { tiles, group_bytes, operand, tokens: padded, prefetch, alone }, sums);
                store(kernels.isa(), self, acts, sums, padded, group * parts * GROUP, token..token + tokens);
            }
        }
    }

    /// Asks for the outputs of `count` times 16 rows, lines that are far apart.
    fn prefetch_outputs(&self, first: usize, count: usize, tokens: std::ops::Range<usize>) {
        let rows = self.weight.rows();
        for token in tokens {
            for part in first..first + count {
                self.out.prefetch(token * rows + part * GROUP);
            }
        }
    }
}

/// Of many tokens, outputs are asked for so many tokens before they are stored.
const STORES_AHEAD: usize = 16;

per_isa! {
    /// Scales the sums of some tokens, of `padded`, with the rows from `first`, and puts them where they belong.
    fn store(
        job: &Job<'_>,
        acts: &Activations,
        sums: &[[i32; GROUP]],
        padded: usize,
        first: usize,
        tokens: std::ops::Range<usize>,
    ) = store_body;
}

#[inline(always)]
fn store_body<S: Lanes>(
    job: &Job<'_>,
    acts: &Activations,
    sums: &[[i32; GROUP]],
    padded: usize,
    first: usize,
    tokens: std::ops::Range<usize>,
) {
    let rows = job.weight.rows();
    let (groups, many) = (sums.len() / padded, tokens.len() > MAX_TOKENS);
    for (i, token) in tokens.clone().enumerate() {
        if many {
            job.prefetch_outputs(first / GROUP, groups, token + STORES_AHEAD..token + STORES_AHEAD + 1);
        }
        let (sum, factor) = (acts.sum(token), job.scale / acts.scale(token));
        let sums = sums.iter().skip(i).step_by(padded);
        for (row, sums) in (first..rows).step_by(GROUP).zip(sums) {
            // SAFETY: each row of a matrix, with each share of the tokens, belongs to one task.
            let out = unsafe { job.out.range(token * rows + row, GROUP.min(rows - row)) };
            if let Some(out) = out.first_chunk_mut() {
                put(out, sums, sum, factor, job.add);
            } else {
                let mut rows = [0.0; GROUP];
                rows[..out.len()].copy_from_slice(out);
                put(&mut rows, sums, sum, factor, job.add);
                out.copy_from_slice(&rows[..out.len()]);
            }
        }
    }
}

/// The rows of one group and token.
#[inline(always)]
fn put(out: &mut [f32; GROUP], sums: &[i32; GROUP], sum: i32, factor: f32, add: bool) {
    let mut values = sums.map(|of| (of - sum) as f32 * factor);
    if add {
        values = std::array::from_fn(|i| out[i] + values[i]);
    }
    *out = values;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
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
            rows in 1usize..150, cols in 1usize..200, tokens in 1usize..40, seed: u64,
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
                    linear(&pool, &kernels, &acts, &mut jobs, &[&b, &a]);
                    prop_assert!(out_a == want, "{isa} {layout} {threads} threads");
                    prop_assert_eq!(out_b[0], want_b);
                }
            }
        }
    }
}
