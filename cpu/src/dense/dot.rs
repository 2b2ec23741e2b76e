//! Blocks of dot products of dense rows and tokens, each in the canonical order: 16 striped partial sums of fused
//! multiply-adds, added up by the fixed tree.

use super::registers::Registers;
use crate::simd::{lanes, reduce};

/// Number types that are multiplied as they are read.
pub(super) trait Numbers {
    /// Bytes of a number.
    const BYTES: usize;
    /// Reads 16 numbers that start at `bytes[0]`.
    fn load<S: Registers>(bytes: &[u8]) -> S::Floats;
    /// Reads one.
    fn get(bytes: &[u8]) -> f32;
}

/// Half precision.
pub(super) struct F16;
/// The upper half of single precision.
pub(super) struct Bf16;
/// Single precision.
pub(super) struct F32;

impl Numbers for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Registers>(bytes: &[u8]) -> S::Floats {
        S::load_f16(chunk(bytes))
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        super::f16(bytes)
    }
}

impl Numbers for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Registers>(bytes: &[u8]) -> S::Floats {
        S::load_bf16(chunk(bytes))
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        super::bf16(bytes)
    }
}

impl Numbers for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<S: Registers>(bytes: &[u8]) -> S::Floats {
        let bytes: &[u8; 64] = chunk(bytes);
        S::load(&std::array::from_fn(|i| {
            f32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
        }))
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8]) -> &[u8; N] {
    // The callers hand in slices of at least `N` bytes.
    bytes.first_chunk().expect("16 numbers")
}

/// `R` rows of `bytes` with `T` tokens of `x`, `cols` numbers each. What follows the rows in memory is prefetched from
/// `next` on, as one stream, while the rows are multiplied.
///
/// # Panics
/// If there are fewer rows or tokens.
#[inline(always)]
pub(super) fn block<S: Registers, N: Numbers, const R: usize, const T: usize>(
    bytes: &[u8],
    cols: usize,
    x: &[f32],
    next: *const u8,
) -> [[f32; T]; R] {
    let row_bytes = cols * N::BYTES;
    let rows: [&[u8]; R] = std::array::from_fn(|r| &bytes[r * row_bytes..][..row_bytes]);
    let tokens: [&[f32]; T] = std::array::from_fn(|t| &x[t * cols..][..cols]);
    let mut sums = [[S::zero(); T]; R];
    let step = 16 * N::BYTES;
    for k in 0..cols / 16 {
        if T == 1 {
            for line in 0..(R * step).div_ceil(64) {
                S::prefetch(next.wrapping_add(k * R * step + line * 64));
            }
        }
        let weights: [S::Floats; R] = std::array::from_fn(|r| N::load::<S>(&rows[r][k * step..][..step]));
        for t in 0..T {
            let x = S::load(lanes(&tokens[t][k * 16..][..16]));
            for r in 0..R {
                sums[r][t] = S::mul_add(weights[r], x, sums[r][t]);
            }
        }
    }
    let tail = cols / 16 * 16;
    std::array::from_fn(|r| {
        std::array::from_fn(|t| {
            let mut sum = S::array(sums[r][t]);
            for (i, (sum, &x)) in sum.iter_mut().zip(&tokens[t][tail..]).enumerate() {
                *sum = N::get(&rows[r][(tail + i) * N::BYTES..]).mul_add(x, *sum);
            }
            reduce(sum)
        })
    })
}
