//! AVX-512 VNNI: `vpdpbusd` on 512 bits, a tile in one register.
//!
//! One token and small batches stream one group at a time, with a sum per field so that the dependent chains are short;
//! larger batches multiply two groups with up to 12 tokens, 24 sums in registers.

use std::arch::x86_64::*;

use super::{Block, Operand, for_tokens};
use crate::layout::GROUP;
use crate::layout::t16::COLS;

/// Bytes of a tile.
const TILE_BYTES: usize = 64;

/// Up to this many tokens, four sums a token fit into the registers.
const SMALL: usize = 6;

/// See [`super::Kernels::multiply`].
///
/// # Safety
/// The machine has AVX-512 F and VNNI, and the block was checked.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
pub(super) fn multiply(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    let Operand::Rows { q: rows, stride } = block.operand else { unreachable!("the block was checked") };
    if block.tokens <= SMALL {
        for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
            for_tokens!(block.tokens, [1, 2, 3, 4, 5, 6], small(tiles, rows, stride, sums));
        }
        return;
    }
    let mut pairs = block.tiles.chunks_exact(2 * block.group_bytes);
    let mut pair_sums = sums.chunks_exact_mut(2 * block.tokens);
    for (tiles, sums) in pairs.by_ref().zip(pair_sums.by_ref()) {
        for_tokens!(block.tokens, [7, 8, 9, 10, 11, 12], large(tiles, rows, stride, sums));
    }
    let (tiles, sums) = (pairs.remainder(), pair_sums.into_remainder());
    if !tiles.is_empty() {
        let (few, many) = sums.split_at_mut(SMALL);
        small::<SMALL>(tiles, rows, stride, few);
        let q = &rows[SMALL * stride..];
        for_tokens!(many.len(), [1, 2, 3, 4, 5, 6], small(tiles, q, stride, many));
    }
}

/// Four int8 values in every lane.
///
/// # Safety
/// Four bytes at `q` are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn broadcast(q: *const i8) -> __m512i {
    // SAFETY: the caller's promise; the load needs no alignment.
    _mm512_set1_epi32(unsafe { q.cast::<i32>().read_unaligned() })
}

/// One group of rows with `T` tokens. The fields are multiplied where they stand: field f gives `4^f` times its sum,
/// which is exact (|sum| <= 64 · 3 · 128 · columns / 16 fits into 32 bits up to 87,000 columns) and is shifted back at
/// the end.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn small<const T: usize>(tiles: &[u8], q: &[i8], stride: usize, sums: &mut [[i32; GROUP]]) {
    assert!(q.len() >= (T - 1) * stride + tiles.len() / TILE_BYTES * COLS && sums.len() == T);
    let masks = [0x03, 0x0c, 0x30, 0xc0u8].map(|mask| _mm512_set1_epi8(mask as i8));
    let mut acc = [[_mm512_setzero_si512(); 4]; T];
    for (t, tile) in tiles.chunks_exact(TILE_BYTES).enumerate() {
        // SAFETY: the tile has 64 bytes; a prefetch may name any address.
        let tile = unsafe {
            _mm_prefetch::<_MM_HINT_T0>(tile.as_ptr().wrapping_add(8192).cast());
            _mm512_loadu_si512(tile.as_ptr().cast())
        };
        for f in 0..4 {
            let codes = _mm512_and_si512(tile, masks[f]);
            for (token, acc) in acc.iter_mut().enumerate() {
                // SAFETY: in bounds by the assertion above.
                let four = unsafe { broadcast(q.as_ptr().add(token * stride + t * COLS + 4 * f)) };
                acc[f] = _mm512_dpbusd_epi32(acc[f], codes, four);
            }
        }
    }
    for (sums, acc) in sums.iter_mut().zip(acc) {
        let low = _mm512_add_epi32(acc[0], _mm512_srai_epi32::<2>(acc[1]));
        let high = _mm512_add_epi32(_mm512_srai_epi32::<4>(acc[2]), _mm512_srai_epi32::<6>(acc[3]));
        // SAFETY: 16 sums fill a register.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), _mm512_add_epi32(low, high)) };
    }
}

/// Two groups of rows with `T` tokens.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn large<const T: usize>(tiles: &[u8], q: &[i8], stride: usize, sums: &mut [[i32; GROUP]]) {
    let (first, second) = tiles.split_at(tiles.len() / 2);
    assert!(q.len() >= (T - 1) * stride + first.len() / TILE_BYTES * COLS && sums.len() == 2 * T);
    let mask = _mm512_set1_epi8(3);
    let mut acc = [[_mm512_setzero_si512(); T]; 2];
    for (t, (a, b)) in first.chunks_exact(TILE_BYTES).zip(second.chunks_exact(TILE_BYTES)).enumerate() {
        // SAFETY: the tiles have 64 bytes each.
        let tiles = unsafe { [_mm512_loadu_si512(a.as_ptr().cast()), _mm512_loadu_si512(b.as_ptr().cast())] };
        macro_rules! field {
            ($f:literal) => {
                let codes = tiles.map(|tile| _mm512_and_si512(_mm512_srli_epi16::<{ 2 * $f }>(tile), mask));
                for token in 0..T {
                    // SAFETY: in bounds by the assertion above.
                    let four = unsafe { broadcast(q.as_ptr().add(token * stride + t * COLS + 4 * $f)) };
                    acc[0][token] = _mm512_dpbusd_epi32(acc[0][token], codes[0], four);
                    acc[1][token] = _mm512_dpbusd_epi32(acc[1][token], codes[1], four);
                }
            };
        }
        field!(0);
        field!(1);
        field!(2);
        field!(3);
    }
    for (sums, acc) in sums.iter_mut().zip(acc.into_iter().flatten()) {
        // SAFETY: 16 sums fill a register.
        unsafe { _mm512_storeu_si512(sums.as_mut_ptr().cast(), acc) };
    }
}
