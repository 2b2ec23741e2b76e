//! The portable kernels, for every machine and as the last resort of each layout.

use super::{Block, Operand};
use crate::layout::{GROUP, t16, t16x5};

/// Bytes of a tile.
const TILE_BYTES: usize = 64;

/// [`super::Kernel`] for [`crate::Layout::T16`].
pub(super) fn t16(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply(block, sums, t16::codes);
}

/// [`super::Kernel`] for [`crate::Layout::T16x5`].
pub(super) fn t16x5(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply(block, sums, t16x5::codes);
}

#[inline(always)]
fn multiply<const FIELDS: usize>(block: Block<'_>, sums: &mut [[i32; GROUP]], codes: impl Fn(u8) -> [u8; FIELDS]) {
    let Operand::Rows { q, stride } = block.operand else { unreachable!("the block was checked") };
    for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        sums.fill([0; GROUP]);
        for (t, tile) in tiles.as_chunks::<TILE_BYTES>().0.iter().enumerate() {
            let codes = tile.map(&codes);
            for f in 0..FIELDS {
                for (token, sum) in sums.iter_mut().enumerate() {
                    let q = &q[token * stride + 4 * (t * FIELDS + f)..][..4];
                    for (sum, codes) in sum.iter_mut().zip(codes.as_chunks::<4>().0) {
                        *sum += (0..4).map(|b| i32::from(codes[b][f]) * i32::from(q[b])).sum::<i32>();
                    }
                }
            }
        }
    }
}
