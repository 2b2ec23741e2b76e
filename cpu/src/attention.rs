//! Causal attention over the paged key-value cache.
//!
//! Canonical order: every page of 64 positions is a block of its own with its maximum, sum of exponentials and weighted
//! values; blocks are merged from the first to the last with the online softmax
//! (<https://arxiv.org/abs/1805.02867>). A block's result does not depend on who computes it, so neither batches nor
//! threads change a bit.

use crate::buffer::AlignedBuf;
use crate::kv::{KvLayer, PAGE_LEN};
use crate::math::exp;
use crate::pool::{Pool, SharedSlice};
use crate::simd::{Lanes, per_isa, reduce};

/// One token: where the keys and values of its sequence are, and its position.
#[derive(Clone, Copy, Debug)]
pub struct AttentionQuery<'a> {
    /// Pages of the sequence: position p is slot `p % PAGE_LEN` of page `pages[p / PAGE_LEN]`.
    pub pages: &'a [u32],
    /// The token sees positions 0 to this one.
    pub position: usize,
}

/// Memory for intermediate results, kept between calls.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// For each task, a widened page and the running results.
    tasks: AlignedBuf<f32>,
    /// Blocks of long sequences that are computed apart and merged afterwards.
    partials: AlignedBuf<f32>,
}

/// Queries that one task handles together, so that a page is widened once for all of them.
const QUERY_BLOCK: usize = 16;

/// Pages that one task handles when a single query is spread over threads.
const SPLIT_PAGES: usize = 4;

/// Attention of `queries` to the cache: `q` and `out` are `[tokens, heads · head_dim]`, `scale` multiplies the scores.
/// Consecutive heads share a key-value head (`heads / kv_heads` each).
///
/// # Panics
/// If the lengths do not agree, the heads are no multiple of the key-value heads, or a page table is too short.
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
pub fn attention(
    pool: &Pool,
    isa: crate::Isa,
    q: &[f32],
    layer: &KvLayer,
    queries: &[AttentionQuery<'_>],
    heads: usize,
    scale: f32,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let shape = Shape { heads, group: heads / layer.kv_heads(), head_dim: layer.head_dim(), scale };
    assert!(heads.is_multiple_of(layer.kv_heads()), "attention: heads are no multiple of the kv heads");
    assert!(
        q.len() == queries.len() * heads * shape.head_dim && out.len() == q.len(),
        "attention: q and out have a row per query"
    );
    for query in queries {
        assert!(query.position / PAGE_LEN < query.pages.len(), "attention: page table is too short");
    }
    if queries.len() == 1 && pool.threads() > 1 && queries[0].position / PAGE_LEN >= SPLIT_PAGES {
        split_over_pages(pool, isa, q, layer, queries[0], &shape, scratch, out);
        return;
    }
    let kv_heads = layer.kv_heads();
    let tasks = queries.len().div_ceil(QUERY_BLOCK) * kv_heads;
    let task_len = layer.scratch_len() + QUERY_BLOCK.min(queries.len()) * shape.group * shape.partial_len();
    scratch.tasks.resize(tasks.min(pool.threads()) * task_len);
    let (memory, out) = (SharedSlice::new(&mut scratch.tasks), SharedSlice::new(out));
    pool.run_with_slot(tasks, &|task, slot| {
        let (block, kv_head) = (task / kv_heads, task % kv_heads);
        let first = block * QUERY_BLOCK;
        let queries = &queries[first..(first + QUERY_BLOCK).min(queries.len())];
        // SAFETY: a slot belongs to one thread at a time.
        let memory = unsafe { memory.range(slot * task_len, task_len) };
        let (page, running) = memory.split_at_mut(layer.scratch_len());
        let running = &mut running[..queries.len() * shape.group * shape.partial_len()];
        query_block(isa, q, layer, queries, first, kv_head, &shape, page, running);
        for (row, partial) in running.chunks_exact(shape.partial_len()).enumerate() {
            let (query, head) = (first + row / shape.group, kv_head * shape.group + row % shape.group);
            // SAFETY: each pair of query and head belongs to one task.
            let out = unsafe { out.range((query * heads + head) * shape.head_dim, shape.head_dim) };
            normalize(partial, out);
        }
    });
}

/// What all tasks of a call share.
struct Shape {
    heads: usize,
    /// Query heads of a key-value head.
    group: usize,
    head_dim: usize,
    scale: f32,
}

impl Shape {
    /// A running result: maximum, sum, weighted values.
    fn partial_len(&self) -> usize {
        2 + self.head_dim
    }
}

/// One query of a long sequence: pages are computed apart, then merged in order.
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
fn split_over_pages(
    pool: &Pool,
    isa: crate::Isa,
    q: &[f32],
    layer: &KvLayer,
    query: AttentionQuery<'_>,
    shape: &Shape,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let pages = query.position / PAGE_LEN + 1;
    let splits = pages.div_ceil(SPLIT_PAGES);
    let tasks = splits * layer.kv_heads();
    let (page_len, row_len) = (layer.scratch_len(), shape.group * shape.partial_len());
    scratch.tasks.resize(tasks.min(pool.threads()) * page_len);
    scratch.partials.resize(layer.kv_heads() * pages * row_len);
    let memory = SharedSlice::new(&mut scratch.tasks);
    let partials = SharedSlice::new(&mut scratch.partials);
    pool.run_with_slot(tasks, &|task, slot| {
        let (kv_head, split) = (task / splits, task % splits);
        // SAFETY: a slot belongs to one thread at a time.
        let page_memory = unsafe { memory.range(slot * page_len, page_len) };
        for page in split * SPLIT_PAGES..((split + 1) * SPLIT_PAGES).min(pages) {
            // SAFETY: each pair of key-value head and page belongs to one task.
            let partial = unsafe { partials.range((kv_head * pages + page) * row_len, row_len) };
            one_page(isa, q, layer, query, page, kv_head, shape, page_memory, partial);
        }
    });
    let partial_len = shape.partial_len();
    for head in 0..shape.heads {
        let (kv_head, row) = (head / shape.group, head % shape.group);
        let start = |page| (kv_head * pages + page) * row_len + row * partial_len;
        let (first, rest) = scratch.partials.split_at_mut(start(0) + partial_len);
        let running = &mut first[start(0)..];
        for page in 1..pages {
            let at = start(page) - start(0) - partial_len;
            merge(isa, running, &rest[at..at + partial_len]);
        }
        normalize(running, &mut out[head * shape.head_dim..][..shape.head_dim]);
    }
}

per_isa! {
    /// A page's results for the heads of one query that share a key-value head.
    fn one_page(
        q: &[f32],
        layer: &KvLayer,
        query: AttentionQuery<'_>,
        page: usize,
        kv_head: usize,
        shape: &Shape,
        page_memory: &mut [f32],
        partials: &mut [f32],
    ) = one_page_body;
}

#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
#[inline(always)]
fn one_page_body<S: Lanes>(
    q: &[f32],
    layer: &KvLayer,
    query: AttentionQuery<'_>,
    page: usize,
    kv_head: usize,
    shape: &Shape,
    page_memory: &mut [f32],
    partials: &mut [f32],
) {
    let positions = (query.position + 1 - page * PAGE_LEN).min(PAGE_LEN);
    let (keys, values) = layer.read::<S>(query.pages[page], kv_head, positions, page_memory);
    for (row, partial) in partials.chunks_exact_mut(shape.partial_len()).enumerate() {
        let q = &q[(kv_head * shape.group + row) * shape.head_dim..][..shape.head_dim];
        block(q, keys, values, positions, shape.scale, partial);
    }
}

per_isa! {
    /// All pages of a block of queries of one key-value head, merged into `running`.
    fn query_block(
        q: &[f32],
        layer: &KvLayer,
        queries: &[AttentionQuery<'_>],
        first: usize,
        kv_head: usize,
        shape: &Shape,
        page_memory: &mut [f32],
        running: &mut [f32],
    ) = query_block_body;
}

#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
#[inline(always)]
fn query_block_body<S: Lanes>(
    q: &[f32],
    layer: &KvLayer,
    queries: &[AttentionQuery<'_>],
    first: usize,
    kv_head: usize,
    shape: &Shape,
    page_memory: &mut [f32],
    running: &mut [f32],
) {
    let width = shape.heads * shape.head_dim;
    let partial_len = shape.partial_len();
    let mut partial_memory = [0.0f32; 2 + MAX_HEAD_DIM];
    assert!(shape.head_dim <= MAX_HEAD_DIM, "attention: heads wider than {MAX_HEAD_DIM} are not supported");
    let partial = &mut partial_memory[..partial_len];
    let last_page = queries.iter().map(|query| query.position / PAGE_LEN).max().unwrap_or(0);
    for page in 0..=last_page {
        let mut start = 0;
        // Neighbours that share the page (a prompt's tokens) are served by one widened copy.
        while start < queries.len() {
            let Some(&number) = queries[start].pages.get(page) else {
                start += 1;
                continue;
            };
            let shares = |query: &&AttentionQuery<'_>| query.pages.get(page) == Some(&number);
            let end = start + queries[start..].iter().take_while(shares).count();
            let seen = |query: &AttentionQuery<'_>| (query.position + 1).saturating_sub(page * PAGE_LEN).min(PAGE_LEN);
            let most = queries[start..end].iter().map(seen).max().unwrap_or(0);
            let (keys, values) = layer.read::<S>(number, kv_head, most, page_memory);
            for (index, query) in queries[start..end].iter().enumerate() {
                let positions = seen(query);
                if positions == 0 {
                    continue;
                }
                for row in 0..shape.group {
                    let at = (first + start + index) * width + (kv_head * shape.group + row) * shape.head_dim;
                    let q = &q[at..at + shape.head_dim];
                    let running = &mut running[((start + index) * shape.group + row) * partial_len..][..partial_len];
                    if page == 0 {
                        block(q, keys, values, positions, shape.scale, running);
                    } else {
                        block(q, keys, values, positions, shape.scale, partial);
                        merge_body::<S>(running, partial);
                    }
                }
            }
            start = end;
        }
    }
}

/// Widest head that is supported; bounds the memory on the stack.
const MAX_HEAD_DIM: usize = 512;

/// One query against one page: `partial` becomes maximum, sum of exponentials, weighted values.
#[inline(always)]
fn block(q: &[f32], keys: &[f32], values: &[f32], positions: usize, scale: f32, partial: &mut [f32]) {
    let mut scores = [f32::NEG_INFINITY; PAGE_LEN];
    for (lanes, scores) in scores[..positions.next_multiple_of(16)].chunks_exact_mut(16).enumerate() {
        // Four partial sums hide the latency of the multiply-add: element d goes to sum d % 4.
        let mut sums = [[0.0f32; 16]; 4];
        for (d, q) in q.iter().enumerate() {
            let keys = &keys[d * PAGE_LEN + lanes * 16..][..16];
            let sum = &mut sums[d % 4];
            for i in 0..16 {
                sum[i] = q.mul_add(keys[i], sum[i]);
            }
        }
        for i in 0..16 {
            scores[i] = ((sums[0][i] + sums[1][i]) + (sums[2][i] + sums[3][i])) * scale;
        }
    }
    scores[positions..].fill(f32::NEG_INFINITY);
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut sums = [0.0f32; 16];
    for chunk in scores.chunks_exact_mut(16) {
        for i in 0..16 {
            chunk[i] = exp(chunk[i] - max);
            sums[i] += chunk[i];
        }
    }
    let (head, weighted) = partial.split_at_mut(2);
    head[0] = max;
    head[1] = reduce(sums);
    let dim = weighted.len();
    // Sixteen elements of the output at a time stay in a register while the positions go by.
    let mut chunks = weighted.chunks_exact_mut(16);
    for (i, out) in chunks.by_ref().enumerate() {
        let mut sum = [0.0f32; 16];
        for (position, &weight) in scores[..positions].iter().enumerate() {
            let values = &values[position * dim + i * 16..][..16];
            for lane in 0..16 {
                sum[lane] = weight.mul_add(values[lane], sum[lane]);
            }
        }
        out.copy_from_slice(&sum);
    }
    let tail = chunks.into_remainder();
    let start = dim - tail.len();
    for (lane, out) in tail.iter_mut().enumerate() {
        let mut sum = 0.0f32;
        for (position, &weight) in scores[..positions].iter().enumerate() {
            sum = weight.mul_add(values[position * dim + start + lane], sum);
        }
        *out = sum;
    }
}

per_isa! {
    fn merge(running: &mut [f32], partial: &[f32]) = merge_body;
}

/// Merges the next block into the running result.
#[inline(always)]
fn merge_body<S: Lanes>(running: &mut [f32], partial: &[f32]) {
    let max = running[0].max(partial[0]);
    let (old, new) = (exp(running[0] - max), exp(partial[0] - max));
    running[0] = max;
    running[1] = running[1].mul_add(old, partial[1] * new);
    for (sum, value) in running[2..].iter_mut().zip(&partial[2..]) {
        *sum = sum.mul_add(old, value * new);
    }
}

/// Divides the weighted values by the sum of the weights.
fn normalize(partial: &[f32], out: &mut [f32]) {
    for (out, value) in out.iter_mut().zip(&partial[2..]) {
        *out = value / partial[1];
    }
}
