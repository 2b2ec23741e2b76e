//! The kernel over `smmla`: eight columns of two rows with two tokens.

use std::arch::aarch64::*;
use std::arch::asm;

use super::unpack::Unpack;
use super::{PARTS, Part, TILE, for_each_part};
use crate::kernel::Block;
use crate::kernel::operand::Source;
use crate::layout::GROUP;
use crate::prefetch::prefetch;

/// [`crate::kernel::Kernel`] for rows.
///
/// # Safety
/// The machine has `smmla`, and the block was checked.
#[inline(always)]
pub(super) unsafe fn multiply<L: Unpack>(block: Block<'_>, sums: &mut [[i32; GROUP]]) {
    // SAFETY: the caller's promise; a part has what it says, rounded up to four tokens.
    unsafe {
        for_each_part(block, sums, |part| match part.tokens {
            1 | 2 => tokens::<L, 1>(part),
            _ => tokens::<L, 2>(part),
        });
    }
}

/// Up to `P` pairs of tokens.
///
/// # Safety
/// The machine has `smmla`, and the part has what it says.
#[inline(always)]
unsafe fn tokens<L: Unpack, const P: usize>(part: Part) {
    // SAFETY: the caller's promise.
    unsafe {
        // For each pair of tokens and four rows: rows 0 and 1, rows 2 and 3; row by row, token by token.
        let mut sums = [[[vdupq_n_s32(0); 2]; PARTS]; P];
        for t in 0..part.count {
            let tile = part.tiles.add(t * TILE);
            prefetch(tile, part.ahead);
            for p in 0..PARTS {
                let codes = L::codes(vld1q_u8(tile.add(16 * p)));
                for field in (0..L::FIELDS).step_by(2) {
                    // The last of five fields stands alone: its neighbour is zero, whatever that is multiplied with.
                    let last = field + 1 == L::FIELDS;
                    let neighbour = if last { vdupq_n_s8(0) } else { codes[field + 1] };
                    let (first, second) = (vreinterpretq_s32_s8(codes[field]), vreinterpretq_s32_s8(neighbour));
                    let rows = [vzip1q_s32(first, second), vzip2q_s32(first, second)];
                    for pair in 0..P {
                        let at = |token| part.q.at(t * L::FIELDS + field, 2 * pair + token);
                        let q = vcombine_s8(eight(at(0), last), eight(at(1), last));
                        for half in 0..2 {
                            sums[pair][p][half] = smmla(sums[pair][p][half], vreinterpretq_s8_s32(rows[half]), q);
                        }
                    }
                }
            }
        }
        for pair in 0..P {
            for p in 0..PARTS {
                let [upper, lower] = sums[pair][p];
                let by_token = [vuzp1q_s32(upper, lower), vuzp2q_s32(upper, lower)];
                for (i, rows) in by_token.into_iter().enumerate() {
                    let token = 2 * pair + i;
                    if token < part.tokens {
                        vst1q_s32(part.sums.add(token * GROUP + 4 * p), rows);
                    }
                }
            }
        }
    }
}

/// Eight columns of a token, or four, twice, where there are no more.
///
/// # Safety
/// So many bytes at `q` are readable.
#[inline(always)]
unsafe fn eight(q: *const i8, only_four: bool) -> int8x8_t {
    // SAFETY: the caller's promise; the loads need no alignment.
    unsafe {
        match only_four {
            true => vreinterpret_s8_s32(vdup_n_s32(q.cast::<i32>().read_unaligned())),
            false => vld1_s8(q),
        }
    }
}

/// `smmla`, whose intrinsic is not stable yet.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut sums: int32x4_t, rows: int8x16_t, q: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction reads and writes registers only.
    unsafe {
        asm!("smmla {0:v}.4s, {1:v}.16b, {2:v}.16b", inout(vreg) sums, in(vreg) rows, in(vreg) q,
            options(pure, nomem, nostack, preserves_flags));
    }
    sums
}
