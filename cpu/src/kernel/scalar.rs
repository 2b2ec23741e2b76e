//! The portable kernel: the definition that all others must equal.

use super::Block;
use crate::layout::{TILE, TILE_BYTES};

/// See [`super::Kernels::multiply`].
pub(super) fn multiply(block: Block<'_>, sums: &mut [[i32; TILE]]) {
    let group_bytes = block.col_tiles * TILE_BYTES;
    for (tiles, sums) in block.tiles.chunks_exact(group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        sums.fill([0; TILE]);
        for (t, tile) in tiles.chunks_exact(TILE_BYTES).enumerate() {
            for f in 0..4 {
                // The codes of columns 4f … 4f + 3 of all rows.
                let mut codes = [0i16; TILE_BYTES];
                for (code, byte) in codes.iter_mut().zip(tile) {
                    *code = i16::from(byte >> (2 * f) & 3);
                }
                for (token, sum) in sums.iter_mut().enumerate() {
                    let q = &block.q[token * block.stride + t * TILE + 4 * f..][..4];
                    for (sum, codes) in sum.iter_mut().zip(codes.chunks_exact(4)) {
                        *sum += (0..4).map(|b| i32::from(codes[b] * i16::from(q[b]))).sum::<i32>();
                    }
                }
            }
        }
    }
}
