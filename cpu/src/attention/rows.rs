//! The rows of one task: every query of a few tokens that reads the same key-value head.

use super::BLOCK_LEN;

/// Rows are numbered token by token, then head by head of the group.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    /// The queries of the whole batch, `[tokens, heads · head_dim]`.
    pub(super) q: &'a [f32],
    /// Numbers of a token in `q`.
    pub(super) width: usize,
    /// Width of a head.
    pub(super) head_dim: usize,
    /// Query heads of a key-value head.
    pub(super) group: usize,
    /// The key-value head.
    pub(super) kv_head: usize,
    /// The first token, as a row of `q`.
    pub(super) token: usize,
    /// Number of tokens.
    pub(super) tokens: usize,
    /// Position of the first token.
    pub(super) position: usize,
    /// Multiplies the scores.
    pub(super) scale: f32,
    /// Positions that a row sees at most, its own included.
    pub(super) window: usize,
}

impl<'a> Rows<'a> {
    /// Number of rows.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.tokens * self.group
    }

    /// Where row `row` starts in `q` and in the output.
    #[inline(always)]
    pub(super) fn start(&self, row: usize) -> usize {
        (self.token + row / self.group) * self.width + (self.kv_head * self.group + row % self.group) * self.head_dim
    }

    /// The query of row `row`.
    #[inline(always)]
    pub(super) fn query(&self, row: usize) -> &'a [f32] {
        &self.q[self.start(row)..][..self.head_dim]
    }

    /// Positions at the beginning of block `block` that are too old for row `row`, at most [`BLOCK_LEN`].
    #[inline(always)]
    pub(super) fn forgotten(&self, row: usize, block: usize) -> usize {
        let first = (self.position + row / self.group + 1).saturating_sub(self.window);
        first.saturating_sub(block * BLOCK_LEN).min(BLOCK_LEN)
    }

    /// Positions of block `block` up to the latest that row `row` sees, at most [`BLOCK_LEN`].
    #[inline(always)]
    pub(super) fn seen(&self, row: usize, block: usize) -> usize {
        (self.position + row / self.group + 1).saturating_sub(block * BLOCK_LEN).min(BLOCK_LEN)
    }
}
