//! The portable kernels, for every machine and as the last resort of each layout.
//!
//! Written so that the compiler makes vector code of them with the least that a 64-bit CPU has: loops over the 64 bytes
//! of a tile, products in lanes of 16 bits, sums that are widened before they can overflow.

use super::{Block, Operand};
use crate::layout::{GROUP, t16, t16x5};

/// Bytes of a tile, and lanes of a sum.
const TILE: usize = 64;

/// Tiles whose sums fit into 16 bits: a field adds at most 2 · 128 = 256 to a lane.
const fn tiles_of_one_sum(fields: usize) -> usize {
    127 / fields
}

/// [`super::Kernel`] for [`crate::Layout::T16`].
pub(super) fn t16(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply(block, sums, add_t16);
}

/// [`super::Kernel`] for [`crate::Layout::T16x5`].
pub(super) fn t16x5(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    multiply(block, sums, add_t16x5);
}

/// Adds the products of some tiles with the activations of their columns.
type Add<const FIELDS: usize> = fn(&mut [i16; TILE], &[[u8; TILE]], &[[[i8; 4]; FIELDS]]);

fn multiply<const FIELDS: usize>(block: Block<'_>, sums: &mut [[i32; GROUP]], add: Add<FIELDS>) {
    let Operand::Rows { q, stride } = block.operand else { unreachable!("the block was checked") };
    let run = tiles_of_one_sum(FIELDS);
    for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        for (token, sums) in sums.iter_mut().enumerate() {
            sums.fill(0);
            let q = q[token * stride..].as_chunks::<4>().0.as_chunks::<FIELDS>().0;
            for (tiles, q) in tiles.as_chunks::<TILE>().0.chunks(run).zip(q.chunks(run)) {
                let mut lanes = [0; TILE];
                add(&mut lanes, tiles, q);
                for (sum, lanes) in sums.iter_mut().zip(lanes.as_chunks::<4>().0) {
                    *sum += lanes.iter().map(|&lane| i32::from(lane)).sum::<i32>();
                }
            }
        }
    }
}

// Not inlined: as arguments, the lanes are known to overlap nothing, which is what lets them be vectors.
#[inline(never)]
fn add_t16(lanes: &mut [i16; TILE], tiles: &[[u8; TILE]], q: &[[[i8; 4]; t16::COLS / 4]]) {
    for (tile, q) in tiles.iter().zip(q) {
        add_tile(lanes, t16::fields(tile), q);
    }
}

#[inline(never)]
fn add_t16x5(lanes: &mut [i16; TILE], tiles: &[[u8; TILE]], q: &[[[i8; 4]; t16x5::COLS / 4]]) {
    for (tile, q) in tiles.iter().zip(q) {
        add_tile(lanes, t16x5::fields(tile), q);
    }
}

#[inline(always)]
fn add_tile<const FIELDS: usize>(lanes: &mut [i16; TILE], codes: [[u8; TILE]; FIELDS], q: &[[i8; 4]; FIELDS]) {
    for (codes, q) in codes.iter().zip(q) {
        let q: [i16; 8] = std::array::from_fn(|i| i16::from(q[i % 4]));
        for (lanes, codes) in lanes.as_chunks_mut::<8>().0.iter_mut().zip(codes.as_chunks::<8>().0) {
            for i in 0..8 {
                lanes[i] += i16::from(codes[i]) * q[i];
            }
        }
    }
}
