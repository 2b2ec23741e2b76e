//! Buffers that all blocks of a stage share: what travels between kernels, and what changes from pass to pass.

use wgpu::BufferUsages;

use super::GpuError;
use super::device::{Gpu, Memory};
use super::kernels::{FEW_TOKENS, Shape};
use crate::model::ModelConfig;

/// Positions of a block of attention.
pub(super) const BLOCK_LEN: usize = 256;

/// How much a workspace has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Rows of the hidden state.
    pub(super) tokens: usize,
    /// Entries of the page tables.
    pub(super) pages: usize,
    /// Blocks of attention of one token, when few tokens are computed.
    pub(super) blocks: usize,
}

impl Capacity {
    /// Whether `needed` has room.
    pub(super) fn holds(&self, needed: &Capacity) -> bool {
        needed.tokens <= self.tokens && needed.pages <= self.pages && needed.blocks <= self.blocks
    }

    /// The least powers of two that hold both.
    pub(super) fn grown(&self, needed: &Capacity) -> Capacity {
        let larger = |a: usize, b: usize| a.max(b.next_power_of_two());
        Capacity {
            tokens: larger(self.tokens, needed.tokens.max(FEW_TOKENS)),
            pages: larger(self.pages, needed.pages),
            blocks: larger(self.blocks, needed.blocks),
        }
    }
}

/// The buffers.
#[derive(Debug)]
pub(super) struct Workspace {
    pub(super) capacity: Capacity,
    /// The residual stream, `[tokens, hidden]`, rows padded to tiles of 16, as all rows here.
    pub(super) hidden: Memory,
    /// Quantized rows, and how they were quantized.
    pub(super) acts: Memory,
    pub(super) act_scales: Memory,
    /// Turned queries, in rotary pairs.
    pub(super) queries: Memory,
    pub(super) part_values: Memory,
    pub(super) part_stats: Memory,
    /// What attention gives, `[tokens, heads · head_dim]`.
    pub(super) attended: Memory,
    /// Gate times up, `[tokens, intermediate]`.
    pub(super) gated: Memory,
    /// Number of tokens and blocks of the pass.
    pub(super) batch: Memory,
    /// Token, position, first entry of the pages, place in the cache.
    pub(super) tokens: Memory,
    /// Cosine and sine, `[tokens, pairs]`.
    pub(super) rope: Memory,
    /// Page tables.
    pub(super) pages: Memory,
    /// Tiles of attention of many tokens.
    pub(super) tiles: Memory,
    /// Bound where a kernel has a norm that this model lacks.
    pub(super) nothing: Memory,
}

/// Numbers in a padded row.
pub(super) fn padded(cols: usize) -> usize {
    cols.next_multiple_of(16)
}

impl Workspace {
    pub(super) fn new(
        gpu: &Gpu,
        config: &ModelConfig,
        shape: &Shape,
        capacity: Capacity,
    ) -> Result<Workspace, GpuError> {
        let tokens = capacity.tokens;
        let (hidden, heads, ffn) = (padded(config.hidden_size), shape.q_rows(), padded(config.intermediate_size));
        let rows = |what: &str, bytes: usize| gpu.memory(what, (tokens * bytes) as u64);
        let few = FEW_TOKENS * capacity.blocks * shape.heads();
        Ok(Workspace {
            capacity,
            hidden: rows("the hidden state", 4 * hidden)?,
            acts: rows("quantized activations", hidden.max(heads).max(ffn))?,
            act_scales: rows("scales of activations", 8)?,
            queries: rows("queries", 4 * heads)?,
            part_values: gpu.memory("parts of attention", (few * shape.pairs() * 8) as u64)?,
            part_stats: gpu.memory("parts of attention", (few * 8) as u64)?,
            attended: rows("attention", 4 * heads)?,
            gated: rows("the feed-forward network", 4 * ffn)?,
            batch: gpu.buffer("the batch", 16, BufferUsages::UNIFORM | BufferUsages::COPY_DST)?,
            tokens: rows("tokens", 16)?,
            rope: rows("rotations", 8 * shape.pairs())?,
            pages: gpu.memory("page tables", 4 * capacity.pages as u64)?,
            tiles: rows("tiles of attention", 16)?,
            nothing: gpu.memory("nothing", 16)?,
        })
    }

    /// Bytes of a workspace.
    pub(super) fn bytes(config: &ModelConfig, shape: &Shape, capacity: Capacity) -> u64 {
        let (hidden, heads, ffn) = (padded(config.hidden_size), shape.q_rows(), padded(config.intermediate_size));
        let row = 4 * hidden + hidden.max(heads).max(ffn) + 8 + 8 * heads + 4 * ffn + 32 + 8 * shape.pairs();
        let few = FEW_TOKENS * capacity.blocks * shape.heads();
        (capacity.tokens * row + few * (shape.pairs() + 1) * 8 + 4 * capacity.pages) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_grow_to_powers_of_two() {
        let small = Capacity::default().grown(&Capacity { tokens: 1, pages: 3, blocks: 1 });
        assert_eq!(small, Capacity { tokens: 8, pages: 4, blocks: 1 });
        assert!(small.holds(&Capacity { tokens: 8, pages: 1, blocks: 1 }));
        let needed = Capacity { tokens: 300, pages: 1, blocks: 2 };
        assert!(!small.holds(&needed));
        assert_eq!(small.grown(&needed), Capacity { tokens: 512, pages: 4, blocks: 2 });
    }
}
