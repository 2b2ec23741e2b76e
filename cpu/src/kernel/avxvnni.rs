//! AVX-VNNI: 256-bit `vpdpbusd`.
//!
//! The body is generic over the encoding of the instruction: machines with AVX-512 have the same one in EVEX form, so
//! the kernel is tested there too.

use std::arch::x86_64::*;

use super::{Block, Operand};
use crate::layout::GROUP;
use crate::layout::t16::COLS;

/// Bytes of a tile.
const TILE_BYTES: usize = 64;

/// Tokens that share an unpacked tile; more would not fit into the registers.
const MAX: usize = 6;

/// `vpdpbusd` on 256 bits.
trait DotProduct {
    /// `sum + Σ codes · q` in each lane of 32 bits.
    ///
    /// # Safety
    /// The machine has the instruction.
    unsafe fn add(sum: __m256i, codes: __m256i, q: __m256i) -> __m256i;
}

/// The VEX form of AVX-VNNI.
struct Vex;

impl DotProduct for Vex {
    #[inline(always)]
    unsafe fn add(sum: __m256i, codes: __m256i, q: __m256i) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_dpbusd_avx_epi32(sum, codes, q) }
    }
}

/// See [`super::Kernels::multiply`].
///
/// # Safety
/// The machine has AVX-VNNI, and the block was checked.
#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn multiply(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the instruction is there.
    unsafe { groups::<Vex>(block, sums) }
}

/// # Safety
/// The machine has the instruction of `D`, and AVX2.
#[inline(always)]
unsafe fn groups<D: DotProduct>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    let Operand::Rows { q: rows, stride } = block.operand else { unreachable!("the block was checked") };
    for (tiles, sums) in block.tiles.chunks_exact(block.group_bytes).zip(sums.chunks_exact_mut(block.tokens)) {
        for (i, sums) in sums.chunks_mut(MAX).enumerate() {
            let q = &rows[i * MAX * stride..];
            macro_rules! with {
                ($t:literal) => {
                    // SAFETY: the caller's promise.
                    unsafe { group::<D, $t>(tiles, q, stride, sums) }
                };
            }
            match sums.len() {
                1 => with!(1),
                2 => with!(2),
                3 => with!(3),
                4 => with!(4),
                5 => with!(5),
                _ => with!(6),
            }
        }
    }
}

/// One group of rows with `T` tokens.
///
/// # Safety
/// The machine has the instruction of `D`, and AVX2.
#[inline(always)]
unsafe fn group<D: DotProduct, const T: usize>(tiles: &[u8], q: &[i8], stride: usize, sums: &mut [[i32; GROUP]]) {
    assert!(q.len() >= (T - 1) * stride + tiles.len() / TILE_BYTES * COLS && sums.len() == T);
    // SAFETY: AVX2 is there; loads are of whole tiles and, by the assertion above, of activations in bounds, and need no
    // alignment; 16 sums take two stores of eight; a prefetch may name any address.
    unsafe {
        let mask = _mm256_set1_epi8(3);
        let mut acc = [[_mm256_setzero_si256(); 2]; T];
        for (t, tile) in tiles.chunks_exact(TILE_BYTES).enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(tile.as_ptr().wrapping_add(8192).cast());
            let halves = [_mm256_loadu_si256(tile.as_ptr().cast()), _mm256_loadu_si256(tile.as_ptr().add(32).cast())];
            macro_rules! field {
                ($f:literal) => {
                    let codes = halves.map(|half| _mm256_and_si256(_mm256_srli_epi16::<{ 2 * $f }>(half), mask));
                    for token in 0..T {
                        let four = q.as_ptr().add(token * stride + t * COLS + 4 * $f).cast::<i32>().read_unaligned();
                        let four = _mm256_set1_epi32(four);
                        for half in 0..2 {
                            acc[token][half] = D::add(acc[token][half], codes[half], four);
                        }
                    }
                };
            }
            field!(0);
            field!(1);
            field!(2);
            field!(3);
        }
        for (sums, acc) in sums.iter_mut().zip(acc) {
            _mm256_storeu_si256(sums.as_mut_ptr().cast(), acc[0]);
            _mm256_storeu_si256(sums.as_mut_ptr().add(8).cast(), acc[1]);
        }
    }
}
