//! Causal attention over the paged key-value cache.
//!
//! Canonical order: every `BLOCK_LEN` positions are a block of its own with its maximum, sum of exponentials and
//! weighted values; blocks are merged from the first to the last with the online softmax
//! (<https://arxiv.org/abs/1805.02867>). A block's result does not depend on who computes it, so neither batches nor
//! threads change a bit.
//!
//! Where a token sees the latest positions only, the scores of older ones are minus infinity, and a block of nothing else has no
//! part in the result.
//!
//! The query heads of a key-value head, and the tokens of a prompt, go through a page together. Few tokens with a long
//! past are spread over the threads by runs of blocks; whoever finishes the last run of a head merges them.

mod float;
mod int8;
mod rows;
mod softmax;

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::kv::{KvLayer, KvSpan, PAGE_LEN, Store, padded_dim};
use crate::pool::{Pool, SharedSlice};
use float::Element;
use rows::Rows;
use softmax::{merge_rows, normalize, result_len};

/// Pages in a block.
const BLOCK_PAGES: usize = 4;

/// Positions in a block.
const BLOCK_LEN: usize = BLOCK_PAGES * PAGE_LEN;

/// Rows that go through a page together, if there are as many: they share what it costs to read it.
const TASK_ROWS: usize = 64;

/// Tasks with up to this many rows are split into runs of blocks.
const SPLIT_ROWS: usize = 32;

/// Tasks per thread that they are split into: enough to share the work evenly, few enough that preparing the queries is
/// cheap.
const TASKS: usize = 8;

/// Memory for intermediate results, kept between calls.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    tasks: Vec<Task>,
    /// Tasks still to be done of those whose results are merged.
    left: Vec<AtomicUsize>,
    /// For each thread: scores, a widened page, running results and those of a block.
    floats: AlignedBuf<f32>,
    /// For each thread: sums of weighted values.
    ints: AlignedBuf<i32>,
    /// For each thread: rounded queries and weights.
    bytes: AlignedBuf<u8>,
    /// For each thread: scales of the rounded queries.
    scales: Vec<int8::QueryScale>,
    /// Results of blocks that are merged.
    partials: AlignedBuf<f32>,
}

/// Some tokens of a span and one key-value head.
#[derive(Clone, Copy, Debug)]
struct Task {
    span: usize,
    /// First token, counted in the batch and in the span.
    token: usize,
    in_span: usize,
    tokens: usize,
    kv_head: usize,
    /// Blocks that the task computes.
    first_block: usize,
    end_block: usize,
    /// Where the result goes, if it is a part.
    part: Option<Part>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    /// Number of the first block's results and how many blocks there are.
    first: usize,
    blocks: usize,
    /// Which counter tells that all are there.
    counter: usize,
}

/// What all tasks of a call share.
struct Shape<'a> {
    q: &'a [f32],
    layer: &'a KvLayer,
    spans: &'a [KvSpan<'a>],
    heads: usize,
    group: usize,
    scale: f32,
    window: usize,
}

/// Lengths of a thread's memory.
#[derive(Clone, Copy)]
struct Lengths {
    rows: usize,
    result: usize,
    page: usize,
    query: usize,
    dims: usize,
}

impl Lengths {
    const fn floats(&self) -> usize {
        (self.rows * (BLOCK_LEN + 2 * self.result) + self.page).next_multiple_of(16)
    }

    const fn bytes(&self) -> usize {
        (self.rows * (self.query + 2 * BLOCK_LEN)).next_multiple_of(64)
    }
}

/// A thread's memory.
struct Memory<'a> {
    floats: &'a mut [f32],
    ints: &'a mut [i32],
    bytes: &'a mut [u8],
    scales: &'a mut [int8::QueryScale],
}

/// Attention of the tokens of `spans`, whose keys and values are in `layer`: `q` and `out` are
/// `[tokens, heads · head_dim]`, `scale` multiplies the scores, a token sees the latest `window` positions, its own included
/// (`usize::MAX` for all). Consecutive heads share a key-value head
/// (`heads / kv_heads` each).
///
/// # Panics
/// If the lengths do not agree, the heads are no multiple of the key-value heads, or a span has too few pages.
#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
pub fn attention(
    pool: &Pool,
    isa: Isa,
    q: &[f32],
    layer: &KvLayer,
    spans: &[KvSpan<'_>],
    heads: usize,
    scale: f32,
    window: usize,
    scratch: &mut AttentionScratch,
    out: &mut [f32],
) {
    let (kv_heads, head_dim) = (layer.kv_heads(), layer.head_dim());
    assert!(heads.is_multiple_of(kv_heads), "attention: heads are no multiple of the kv heads");
    let tokens: usize = spans.iter().map(|span| span.tokens).sum();
    assert!(q.len() == tokens * heads * head_dim && out.len() == q.len(), "attention: q and out have a row per token");
    for span in spans {
        assert!((span.position + span.tokens).div_ceil(PAGE_LEN) <= span.pages.len(), "attention: too few pages");
    }
    let shape = Shape { q, layer, spans, heads, group: heads / kv_heads, scale, window };
    let (rows, parts) = plan(&shape, pool.threads(), &mut scratch.tasks, &mut scratch.left);
    let lengths = Lengths {
        rows,
        result: result_len(head_dim),
        page: float::page_len(head_dim),
        query: int8::query_len(head_dim),
        dims: padded_dim(head_dim),
    };
    let slots = pool.threads().min(scratch.tasks.len());
    scratch.floats.resize(slots * lengths.floats());
    let int8 = matches!(layer.data(), Store::Int8(_));
    if int8 {
        scratch.ints.resize(slots * rows * lengths.dims);
        scratch.bytes.resize(slots * lengths.bytes());
        scratch.scales.resize((slots * rows).max(scratch.scales.len()), int8::QueryScale::default());
    }
    scratch.partials.resize(parts * lengths.result);
    let AttentionScratch { tasks, left, floats, ints, bytes, scales, partials } = scratch;
    let (floats, ints, bytes) = (SharedSlice::new(floats), SharedSlice::new(ints), SharedSlice::new(bytes));
    let (scales, partials, out) = (SharedSlice::new(scales), SharedSlice::new(partials), SharedSlice::new(out));
    pool.run_in_order(tasks.len(), &|index, slot| {
        let task = &tasks[index];
        let per_slot = |len: usize| if int8 { (slot * len, len) } else { (0, 0) };
        let (ints_at, bytes_at, scales_at) = (per_slot(rows * lengths.dims), per_slot(lengths.bytes()), per_slot(rows));
        // SAFETY: a slot belongs to one thread at a time.
        let memory = unsafe {
            Memory {
                floats: floats.range(slot * lengths.floats(), lengths.floats()),
                ints: ints.range(ints_at.0, ints_at.1),
                bytes: bytes.range(bytes_at.0, bytes_at.1),
                scales: scales.range(scales_at.0, scales_at.1),
            }
        };
        run_task(isa, &shape, task, &lengths, memory, left, &partials, &out);
    });
}

/// Cuts a call into tasks; returns the most rows of a task and the number of partial results.
fn plan(shape: &Shape<'_>, threads: usize, tasks: &mut Vec<Task>, left: &mut Vec<AtomicUsize>) -> (usize, usize) {
    tasks.clear();
    left.clear();
    let (mut token, mut most, mut parts) = (0, 0, 0);
    let blocks_of = |span: &KvSpan<'_>| (span.position + span.tokens).div_ceil(BLOCK_LEN);
    let all_blocks = shape.layer.kv_heads() * shape.spans.iter().map(blocks_of).sum::<usize>();
    let fair = (all_blocks / (TASKS * threads)).max(1);
    for (index, span) in shape.spans.iter().enumerate() {
        let step = (TASK_ROWS / shape.group).max(1);
        for in_span in (0..span.tokens).step_by(step) {
            let tokens = step.min(span.tokens - in_span);
            let (rows, blocks) = (tokens * shape.group, (span.position + in_span + tokens).div_ceil(BLOCK_LEN));
            most = most.max(rows);
            for kv_head in 0..shape.layer.kv_heads() {
                let task = Task {
                    span: index,
                    token: token + in_span,
                    in_span,
                    tokens,
                    kv_head,
                    first_block: 0,
                    end_block: blocks,
                    part: None,
                };
                let runs = blocks.div_ceil(fair);
                if threads == 1 || runs == 1 || rows > SPLIT_ROWS {
                    // Blocks that the first token does not see, no token sees; merging them would change nothing.
                    let first = (span.position + in_span + 1).saturating_sub(shape.window);
                    tasks.push(Task { first_block: first / BLOCK_LEN, ..task });
                    continue;
                }
                let part = Part { first: parts, blocks, counter: left.len() };
                left.push(AtomicUsize::new(runs));
                parts += blocks * rows;
                tasks.extend((0..runs).map(|run| Task {
                    first_block: run * blocks / runs,
                    end_block: (run + 1) * blocks / runs,
                    part: Some(part),
                    ..task
                }));
            }
        }
        token += span.tokens;
    }
    (most, parts)
}

/// Computes the blocks of a task and, if they are all or the last that was missing, the output.
#[allow(clippy::too_many_arguments, reason = "what one task needs")]
fn run_task(
    isa: Isa,
    shape: &Shape<'_>,
    task: &Task,
    lengths: &Lengths,
    memory: Memory<'_>,
    left: &[AtomicUsize],
    partials: &SharedSlice<'_, f32>,
    out: &SharedSlice<'_, f32>,
) {
    let span = &shape.spans[task.span];
    let head_dim = shape.layer.head_dim();
    let rows = Rows {
        q: shape.q,
        width: shape.heads * head_dim,
        head_dim,
        group: shape.group,
        kv_head: task.kv_head,
        token: task.token,
        tokens: task.tokens,
        position: span.position + task.in_span,
        scale: shape.scale,
        window: shape.window,
    };
    let results = rows.len() * lengths.result;
    let Some(part) = task.part else {
        let (running, floats) = memory.floats.split_at_mut(results);
        blocks(isa, shape.layer, &rows, span.pages, task, lengths, Memory { floats, ..memory }, running);
        write_rows(isa, &rows, running, lengths.result, out);
        return;
    };
    let at = |block: usize| (part.first + block * rows.len()) * lengths.result;
    // SAFETY: the results of a block belong to the task that computes it, until it is counted.
    let own = unsafe { partials.range(at(task.first_block), (task.end_block - task.first_block) * results) };
    blocks(isa, shape.layer, &rows, span.pages, task, lengths, memory, own);
    if left[part.counter].fetch_sub(1, Ordering::AcqRel) > 1 {
        return;
    }
    // SAFETY: all tasks are counted, so none uses the results of a block but this one.
    let all = unsafe { partials.range(at(0), part.blocks * results) };
    let (running, others) = all.split_at_mut(results);
    for other in others.chunks_exact(results) {
        merge_rows(isa, running, other, lengths.result);
    }
    write_rows(isa, &rows, running, lengths.result, out);
}

/// The blocks of a task: merged into `results`, or one behind the other if the task is a part.
#[allow(clippy::too_many_arguments, reason = "what one task needs")]
fn blocks(
    isa: Isa,
    layer: &KvLayer,
    rows: &Rows<'_>,
    pages: &[u32],
    task: &Task,
    lengths: &Lengths,
    memory: Memory<'_>,
    results: &mut [f32],
) {
    match layer.data() {
        Store::F16(store) => float_blocks(isa, layer, store, rows, pages, task, lengths, memory.floats, results),
        Store::F32(store) => float_blocks(isa, layer, store, rows, pages, task, lengths, memory.floats, results),
        Store::Int8(store) => int8_blocks(isa, layer, store, rows, pages, task, lengths, memory, results),
    }
}

/// Has `compute` find the results of each block of a task, which are merged into `results`, with the help of `memory`, or
/// put one behind the other if the task is a part.
fn each_block(
    isa: Isa,
    task: &Task,
    rows: usize,
    result_len: usize,
    memory: &mut [f32],
    results: &mut [f32],
    mut compute: impl FnMut(usize, &mut [f32]),
) {
    let len = rows * result_len;
    if task.part.is_some() {
        (task.first_block..task.end_block)
            .zip(results.chunks_exact_mut(len))
            .for_each(|(block, own)| compute(block, own));
        return;
    }
    compute(task.first_block, results);
    let next = &mut memory[..len];
    for block in task.first_block + 1..task.end_block {
        compute(block, next);
        merge_rows(isa, results, next, result_len);
    }
}

/// The pages of a block, and those behind it.
fn block_pages<'a>(rows: &Rows<'_>, pages: &'a [u32], block: usize) -> (&'a [u32], &'a [u32]) {
    let used = (rows.position + rows.tokens).div_ceil(PAGE_LEN);
    pages[block * BLOCK_PAGES..used].split_at(BLOCK_PAGES.min(used - block * BLOCK_PAGES))
}

#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
fn float_blocks<E: Element>(
    isa: Isa,
    layer: &KvLayer,
    store: &[E],
    rows: &Rows<'_>,
    pages: &[u32],
    task: &Task,
    lengths: &Lengths,
    floats: &mut [f32],
    results: &mut [f32],
) {
    let (page, floats) = floats.split_at_mut(lengths.page);
    let (scores, next) = floats.split_at_mut(rows.len() * BLOCK_LEN);
    each_block(isa, task, rows.len(), lengths.result, next, results, |block, results| {
        let (pages, after) = block_pages(rows, pages, block);
        float::block(isa, layer, store, rows, block, pages, after, scores, page, results, lengths.result);
    });
}

#[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
fn int8_blocks(
    isa: Isa,
    layer: &KvLayer,
    store: &[u8],
    rows: &Rows<'_>,
    pages: &[u32],
    task: &Task,
    lengths: &Lengths,
    memory: Memory<'_>,
    results: &mut [f32],
) {
    let count = rows.len();
    let (scores, next) = memory.floats.split_at_mut(count * BLOCK_LEN);
    let (queries, weights) = memory.bytes.split_at_mut(count * lengths.query);
    let mut memory = int8::Memory {
        queries,
        scales: &mut memory.scales[..count],
        scores,
        weights: &mut weights[..count * 2 * BLOCK_LEN],
        sums: &mut memory.ints[..count * lengths.dims],
    };
    int8::round_queries(isa, rows, &mut memory);
    each_block(isa, task, count, lengths.result, next, results, |block, results| {
        let (pages, after) = block_pages(rows, pages, block);
        int8::block(isa, layer, store, rows, block, pages, after, &mut memory, results, lengths.result);
    });
}

/// Writes the output of a task's rows.
fn write_rows(isa: Isa, rows: &Rows<'_>, results: &[f32], result_len: usize, out: &SharedSlice<'_, f32>) {
    for (row, result) in results.chunks_exact(result_len).enumerate() {
        // SAFETY: each token and key-value head belongs to one task, or to the last of its parts.
        normalize(isa, result, unsafe { out.range(rows.start(row), rows.head_dim) });
    }
}

#[cfg(test)]
mod tests;
