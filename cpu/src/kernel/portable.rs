//! The portable kernels, for every machine and as the last resort of each layout.
//!
//! Written so that the compiler makes vector code of them with the least that a 64-bit CPU has: codes and activations
//! are multiplied in lanes of 16 bits, and the sums are widened before they can overflow.

use super::{Block, Operand};
use crate::layout::{GROUP, t16, t16x5};

/// Bytes of a tile.
const TILE: usize = 64;

/// Bytes of a tile that are worked on at once: four rows.
const PART: usize = 16;

/// Tiles whose sums fit into 16 bits: a field adds at most 2 · 128 = 256 to a lane.
const fn tiles_of_one_sum(fields: usize) -> usize {
    127 / fields
}

/// [`super::Kernel`] for [`crate::Layout::T16`].
pub(super) fn t16(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply::<4>(block, sums, t16::codes);
}

/// [`super::Kernel`] for [`crate::Layout::T16x5`].
pub(super) fn t16x5(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply::<5>(block, sums, t16x5::codes);
}

#[inline(always)]
fn multiply<const FIELDS: usize>(block: Block<'_>, sums: &mut [[i32; GROUP]], codes: impl Fn(u8) -> [u8; FIELDS]) {
    let Operand::Rows { q, stride } = block.operand else { unreachable!("the block was checked") };
    let run = tiles_of_one_sum(FIELDS);
    for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        for (token, sums) in sums.iter_mut().enumerate() {
            sums.fill(0);
            let q = q[token * stride..].as_chunks::<4>().0.as_chunks::<FIELDS>().0;
            for (tiles, q) in tiles.as_chunks::<TILE>().0.chunks(run).zip(q.chunks(run)) {
                add(tiles, q, sums, &codes);
            }
        }
    }
}

/// Adds the products of some tiles with the activations of their columns.
#[inline(always)]
fn add<const FIELDS: usize>(
    tiles: &[[u8; TILE]],
    q: &[[[i8; 4]; FIELDS]],
    sums: &mut [i32; GROUP],
    codes: impl Fn(u8) -> [u8; FIELDS],
) {
    for (part, sums) in sums.as_chunks_mut::<{ PART / 4 }>().0.iter_mut().enumerate() {
        let mut lanes = [0i16; PART];
        for (tile, q) in tiles.iter().zip(q) {
            let bytes: &[u8; PART] = &tile.as_chunks().0[part];
            let codes = bytes.map(&codes);
            for (field, q) in q.iter().enumerate() {
                for i in 0..PART {
                    lanes[i] += i16::from(codes[i][field]) * i16::from(q[i % 4]);
                }
            }
        }
        for (sum, lanes) in sums.iter_mut().zip(lanes.as_chunks::<4>().0) {
            *sum += lanes.iter().map(|&lane| i32::from(lane)).sum::<i32>();
        }
    }
}
