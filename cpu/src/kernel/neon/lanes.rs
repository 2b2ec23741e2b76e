//! Kernels in which a lane is a row: `sdot` and `smlal`.

use std::arch::aarch64::*;
use std::arch::asm;

use super::unpack::Unpack;
use super::{PARTS, Part, TILE, for_each_part};
use crate::kernel::Block;
use crate::kernel::operand::Source;
use crate::layout::GROUP;
use crate::prefetch::prefetch;

/// How four columns of four rows are multiplied and added. The methods are unsafe because the machine must have the
/// instructions.
pub(super) trait Multiply {
    /// The sums of four rows.
    type Sums: Copy;
    unsafe fn zero() -> Self::Sums;
    /// Adds the products of a tile: codes and activations, field by field.
    unsafe fn add(sums: Self::Sums, codes: &[int8x16_t], q: &[int8x16_t]) -> Self::Sums;
    /// One sum for each row.
    unsafe fn finish(sums: Self::Sums) -> int32x4_t;
}

/// The dot product of four bytes in each lane.
pub(super) struct Sdot;

impl Multiply for Sdot {
    type Sums = int32x4_t;

    #[inline(always)]
    unsafe fn zero() -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vdupq_n_s32(0) }
    }

    #[inline(always)]
    unsafe fn add(mut sums: int32x4_t, codes: &[int8x16_t], q: &[int8x16_t]) -> int32x4_t {
        for (codes, q) in codes.iter().zip(q) {
            // SAFETY: the caller's promise.
            sums = unsafe { sdot(sums, *codes, *q) };
        }
        sums
    }

    #[inline(always)]
    unsafe fn finish(sums: int32x4_t) -> int32x4_t {
        sums
    }
}

/// `sdot`, whose intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sums: int32x4_t, codes: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes registers only.
    unsafe {
        asm!("sdot {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) codes, in(vreg) q,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}

/// Products in 16 bits, widened after each tile: five fields add at most 5 · 2 · 128.
pub(super) struct Smlal;

impl Multiply for Smlal {
    /// Two sums for each row.
    type Sums = [int32x4_t; 2];

    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe { [vdupq_n_s32(0); 2] }
    }

    #[inline(always)]
    unsafe fn add(sums: [int32x4_t; 2], codes: &[int8x16_t], q: &[int8x16_t]) -> [int32x4_t; 2] {
        // SAFETY: the caller's promise.
        unsafe {
            let (mut low, mut high) = (vdupq_n_s16(0), vdupq_n_s16(0));
            for (&codes, &q) in codes.iter().zip(q) {
                low = vmlal_s8(low, vget_low_s8(codes), vget_low_s8(q));
                high = vmlal_high_s8(high, codes, q);
            }
            [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)]
        }
    }

    #[inline(always)]
    unsafe fn finish(sums: [int32x4_t; 2]) -> int32x4_t {
        // SAFETY: the caller's promise.
        unsafe { vpaddq_s32(sums[0], sums[1]) }
    }
}

/// [`crate::kernel::Kernel`] for rows.
///
/// # Safety
/// The machine has what `M` needs, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<M: Multiply, L: Unpack>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise; a part has what it says, rounded up to four tokens.
    unsafe {
        for_each_part(block, sums, |part| match part.tokens {
            1 => tokens::<M, L, 1>(part),
            2 => tokens::<M, L, 2>(part),
            _ => tokens::<M, L, 4>(part),
        });
    }
}

/// Up to `T` tokens.
///
/// # Safety
/// The machine has what `M` needs, and the part has what it says.
#[inline(always)]
unsafe fn tokens<M: Multiply, L: Unpack, const T: usize>(part: Part) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut sums = [[M::zero(); PARTS]; T];
        for t in 0..part.count {
            let tile = part.tiles.add(t * TILE);
            prefetch(tile, part.ahead);
            let mut q = [[vdupq_n_s8(0); 5]; T];
            for token in 0..T {
                for field in 0..L::FIELDS {
                    let four = part.q.at(t * L::FIELDS + field, token);
                    q[token][field] = vreinterpretq_s8_s32(vdupq_n_s32(four.cast::<i32>().read_unaligned()));
                }
            }
            for p in 0..PARTS {
                let codes = L::codes(vld1q_u8(tile.add(16 * p)));
                for token in 0..T {
                    sums[token][p] = M::add(sums[token][p], &codes[..L::FIELDS], &q[token][..L::FIELDS]);
                }
            }
        }
        for token in 0..T.min(part.tokens) {
            for p in 0..PARTS {
                vst1q_s32(part.sums.add(token * GROUP + 4 * p), M::finish(sums[token][p]));
            }
        }
    }
}
