//! Whether a model fits: the bytes that stages will take, counted before anything is allocated.

use std::ops::Range;

use sterna_cpu::kv::PAGE_LEN;

use super::device::Gpu;
use super::head::GpuHead;
use super::kernels::{FEW_TOKENS, Shape};
use super::rows::DenseRows;
use super::workspace::{BLOCK_LEN, Capacity, Workspace, padded};
use super::{GpuError, GpuOptions, stage};
use crate::backend::{BackendError, KvOptions, free_memory};
use crate::graph::{BlockSpec, Graph, Layer};

/// Bytes that some stages take on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needed {
    /// Ternary weights and norms of the blocks.
    pub blocks: u64,
    /// Embedding, head and final norm.
    pub dense: u64,
    /// Key-value cache.
    pub cache: u64,
    /// Buffers between kernels, for the largest pass, and what the head answers.
    pub scratch: u64,
    /// The same for stages that hold nothing but blocks.
    pub block_scratch: u64,
    /// Number of blocks.
    pub block_count: u64,
}

impl Needed {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.blocks + self.dense + self.cache + self.scratch
    }

    /// What would fit into `budget` bytes.
    fn remedy(&self, budget: u64, pages: usize) -> String {
        let mut ways = Vec::new();
        let beside_cache = self.blocks + self.dense + self.scratch;
        if self.cache > 0 && beside_cache < budget {
            // Scratch shrinks with the cache; that is left as room.
            let pages = (budget - beside_cache) / (self.cache / pages as u64);
            if pages > 0 {
                ways.push(format!("a cache of {} positions (--ctx)", pages * PAGE_LEN as u64));
            }
        }
        let of_block = (self.blocks + self.cache) / self.block_count.max(1);
        let blocks = budget.saturating_sub(self.block_scratch).checked_div(of_block).unwrap_or(0).min(self.block_count);
        match blocks {
            0 => {}
            1 => ways.push("1 block (--placement embed=cpu,0=gpu,1-=cpu)".into()),
            n if n < self.block_count => ways.push(format!(
                "{n} blocks with embedding and head on the CPU (--placement embed=cpu,0-{}=gpu,{n}-=cpu)",
                n - 1
            )),
            n => ways.push(format!(
                "all {n} blocks with embedding and head on the CPU (--placement embed=cpu,0-=gpu,head=cpu)"
            )),
        }
        match ways.is_empty() {
            true => "no part of it would".into(),
            false => format!("{} would", ways.join(", or ")),
        }
    }
}

/// Bytes that `stages`, runs of layers, take.
///
/// # Errors
/// If the kernels cannot have the model, or the file lacks the embedding or head.
pub(super) fn needed(
    gpu: &Gpu,
    options: &GpuOptions,
    graph: &Graph,
    stages: &[Range<usize>],
    kv: KvOptions,
) -> Result<Needed, BackendError> {
    let config = graph.config();
    let shape = Shape::new(config, kv.kind, gpu.name())?;
    let mut needed = Needed::default();
    for layers in stages {
        let mut blocks = 0;
        for index in layers.clone() {
            match graph.layer(index) {
                Layer::Embed => {
                    needed.dense += DenseRows::bytes_of(graph.embedding_type()?, config.vocab_size, config.hidden_size)
                }
                Layer::Block(_, spec) => {
                    needed.blocks += block_bytes(graph, spec, &shape);
                    blocks += 1;
                }
                Layer::Head => {
                    if !(layers.contains(&0) && graph.is_tied()) {
                        needed.dense += DenseRows::bytes_of(graph.head_type()?, config.vocab_size, config.hidden_size);
                    }
                    needed.dense += 4 * padded(config.hidden_size) as u64;
                    needed.scratch += GpuHead::scratch_bytes(gpu, config, FEW_TOKENS);
                }
            }
        }
        needed.block_count += blocks;
        needed.cache += blocks * 2 * cache_bytes(&shape, kv.pages);
        let positions = kv.pages * PAGE_LEN;
        let tokens = stage::max_tokens(gpu, options, graph, &shape).min(positions);
        let hidden = 4 * (tokens * padded(config.hidden_size)) as u64;
        let capacity = Capacity { tokens, pages: kv.pages, blocks: positions.div_ceil(BLOCK_LEN) };
        let between = Workspace::bytes(config, &shape, Capacity::default().grown(&capacity));
        // Where no head follows, the hidden state is read.
        needed.scratch += between + if layers.end < graph.len() { hidden } else { 0 };
        needed.block_scratch += between + hidden;
    }
    Ok(needed)
}

/// Refuses what does not fit into the budget that is known, or whose cache no kernel could see.
///
/// # Errors
/// If it does not fit; the message has the numbers and what would fit.
pub(super) fn check(
    gpu: &Gpu,
    options: &GpuOptions,
    graph: &Graph,
    stages: &[Range<usize>],
    kv: KvOptions,
) -> Result<(), BackendError> {
    let needed = needed(gpu, options, graph, stages, kv)?;
    let shape = Shape::new(graph.config(), kv.kind, gpu.name())?;
    let of_block = cache_bytes(&shape, kv.pages);
    if needed.block_count > 0 && of_block > gpu.max_binding() {
        let positions = gpu.max_binding() / (of_block / kv.pages as u64) * PAGE_LEN as u64;
        return Err(BackendError::Gpu(GpuError::TooLarge {
            adapter: gpu.name().into(),
            what: "the key-value cache of a block".into(),
            needed: of_block,
            limit: gpu.max_binding(),
            remedy: format!("a cache of {positions} positions would fit (--ctx), or use the CPU"),
        }));
    }
    let Some(budget) = gpu.budget() else { return Ok(()) };
    let free = budget.bytes.saturating_sub(gpu.held());
    if needed.total() <= free {
        return Ok(());
    }
    Err(BackendError::Gpu(GpuError::DoesNotFit {
        adapter: gpu.name().into(),
        needed: Box::new(needed),
        free,
        source_of_budget: budget.source,
        remedy: needed.remedy(free, kv.pages),
    }))
}

/// Bytes of the keys, or values, of a block.
pub(super) fn cache_bytes(shape: &Shape, pages: usize) -> u64 {
    let pair = if shape.f16_cache() { 4 } else { 8 };
    (pages * PAGE_LEN * shape.kv_heads() * shape.pairs() * pair) as u64
}

/// Bytes of the weights and norms of a block.
fn block_bytes(graph: &Graph, spec: &BlockSpec, shape: &Shape) -> u64 {
    let config = graph.config();
    let tiles = |rows: usize, cols: usize| (rows.div_ceil(16) * cols.div_ceil(16) * 64) as u64;
    let norm = |cols: usize| 4 * padded(cols) as u64;
    let (hidden, heads, ffn) = (config.hidden_size, config.q_size(), config.intermediate_size);
    let sub_norms = spec.attention.sub_norm.as_ref().map_or(0, |_| norm(heads))
        + spec.ffn.sub_norm.as_ref().map_or(0, |_| norm(ffn));
    tiles(shape.q_rows() + 2 * shape.kv_rows(), hidden)
        + tiles(hidden, heads)
        + tiles(2 * ffn, hidden)
        + tiles(hidden, ffn)
        + 2 * norm(hidden)
        + sub_norms
}

/// How much memory a device has for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Bytes.
    pub bytes: u64,
    /// Who says so.
    pub source: &'static str,
}

/// What is known of a device's memory: what the user allows, or the free memory of the machine where the device has none
/// of its own. WebGPU does not tell how much a discrete GPU has.
pub(super) fn budget(allowed: Option<u64>, kind: &str) -> Option<Budget> {
    match allowed {
        Some(bytes) => Some(Budget { bytes, source: "--gpu-memory" }),
        None => shared_memory(kind).map(|bytes| Budget { bytes, source: "free memory of this machine" }),
    }
}

/// Whether a kind of device has no memory of its own.
pub(super) fn shares_memory(kind: &str) -> bool {
    matches!(kind, "integrated" | "software")
}

/// Free memory of the machine, for a kind of device that shares it.
pub(super) fn shared_memory(kind: &str) -> Option<u64> {
    if shares_memory(kind) { free_memory() } else { None }
}
