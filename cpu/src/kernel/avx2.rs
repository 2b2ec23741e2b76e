//! AVX2: `vpmaddubsw` into 16-bit sums, widened before they can overflow.

use std::arch::x86_64::*;

use super::{Block, Operand, for_tokens};
use crate::layout::GROUP;
use crate::layout::t16::COLS;

/// Bytes of a tile.
const TILE_BYTES: usize = 64;

/// Tiles whose sums fit into 16 bits: a field adds at most 2 · 2 · 128 = 512 a tile and lane, four fields 2048.
const FLUSH: usize = 15;

/// Tokens that share an unpacked tile; more would not fit into the registers.
const MAX: usize = 4;

/// See [`super::Kernels::multiply`].
///
/// # Safety
/// The machine has AVX2, and the block was checked.
#[target_feature(enable = "avx2")]
pub(super) fn multiply(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    let Operand::Rows { q: rows, stride } = block.operand else { unreachable!("the block was checked") };
    for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        for (i, sums) in sums.chunks_mut(MAX).enumerate() {
            let q = &rows[i * MAX * stride..];
            for_tokens!(sums.len(), [1, 2, 3, 4], group(tiles, q, stride, sums));
        }
    }
}

/// One group of rows with `T` tokens.
#[target_feature(enable = "avx2")]
fn group<const T: usize>(tiles: &[u8], q: &[i8], stride: usize, sums: &mut [[i32; GROUP]]) {
    assert!(q.len() >= (T - 1) * stride + tiles.len() / TILE_BYTES * COLS && sums.len() == T);
    let mask = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let mut wide = [[_mm256_setzero_si256(); 2]; T];
    for (run, tiles) in tiles.chunks(FLUSH * TILE_BYTES).enumerate() {
        let mut narrow = [[_mm256_setzero_si256(); 2]; T];
        for (t, tile) in tiles.chunks_exact(TILE_BYTES).enumerate() {
            let column = (run * FLUSH + t) * COLS;
            // SAFETY: the tile has 64 bytes; a prefetch may name any address.
            let halves = unsafe {
                _mm_prefetch::<_MM_HINT_T0>(tile.as_ptr().wrapping_add(8192).cast());
                [_mm256_loadu_si256(tile.as_ptr().cast()), _mm256_loadu_si256(tile.as_ptr().add(32).cast())]
            };
            macro_rules! field {
                ($f:literal) => {
                    let codes = halves.map(|half| _mm256_and_si256(_mm256_srli_epi16::<{ 2 * $f }>(half), mask));
                    for token in 0..T {
                        let four = q.as_ptr().wrapping_add(token * stride + column + 4 * $f).cast::<i32>();
                        // SAFETY: in bounds by the assertion above; the load needs no alignment.
                        let four = unsafe { four.read_unaligned() };
                        let four = _mm256_set1_epi32(four);
                        for half in 0..2 {
                            let product = _mm256_maddubs_epi16(codes[half], four);
                            narrow[token][half] = _mm256_add_epi16(narrow[token][half], product);
                        }
                    }
                };
            }
            field!(0);
            field!(1);
            field!(2);
            field!(3);
        }
        for (wide, narrow) in wide.iter_mut().zip(narrow) {
            for half in 0..2 {
                wide[half] = _mm256_add_epi32(wide[half], _mm256_madd_epi16(narrow[half], ones));
            }
        }
    }
    for (sums, wide) in sums.iter_mut().zip(wide) {
        // SAFETY: 16 sums take two stores of eight.
        unsafe {
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), wide[0]);
            _mm256_storeu_si256(sums.as_mut_ptr().add(8).cast(), wide[1]);
        }
    }
}
