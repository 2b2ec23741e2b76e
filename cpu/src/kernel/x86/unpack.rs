//! From the bytes of a tile to codes, in vectors.

use std::arch::x86_64::*;

use super::simd::{Avx512, Simd};
use crate::layout::{t16, t16x5};

/// A layout with up to five fields of four columns, and how to get at them.
///
/// The methods are unsafe because the machine must have the instruction set of `S` (and of the implementation).
pub(super) trait Unpack<S: Simd>: Copy {
    /// Columns of a tile: four for each field.
    const COLS: usize;
    /// Fields of a byte.
    const FIELDS: usize = Self::COLS / 4;

    /// What is done once for a register of the tile.
    type Half: Copy;
    unsafe fn unpack(bytes: S::V) -> Self::Half;
    /// The codes of a field, 0 to 2.
    unsafe fn codes(half: Self::Half, field: usize) -> S::V;

    /// The same where it is cheaper to have the codes times some number; each field has its own sum.
    type Scaled: Copy;
    unsafe fn unpack_scaled(bytes: S::V) -> Self::Scaled;
    /// The codes of a field times the field's number, which [`Unpack::unscale`] knows.
    unsafe fn scaled(half: Self::Scaled, field: usize) -> S::V;
    /// The sum over all fields, from the sums of each. Those are multiples of the field's number, so that dividing is
    /// exact: at most 84 · 2 · 128 · columns / 5, which fits into 32 bits up to 490,000 columns.
    unsafe fn unscale(sums: [S::V; 5]) -> S::V;
}

/// [`crate::Layout::T16`]: field f is two bits, which a mask leaves in place: 4^f times the code.
#[derive(Clone, Copy)]
pub(super) struct T16;

impl<S: Simd> Unpack<S> for T16 {
    const COLS: usize = t16::COLS;
    type Half = S::V;
    type Scaled = S::V;

    #[inline(always)]
    unsafe fn unpack(bytes: S::V) -> S::V {
        bytes
    }

    #[inline(always)]
    unsafe fn codes(bytes: S::V, field: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::low_two_bits(if field == 0 { bytes } else { S::shift16(bytes, 2 * field as i32) }) }
    }

    #[inline(always)]
    unsafe fn unpack_scaled(bytes: S::V) -> S::V {
        bytes
    }

    #[inline(always)]
    unsafe fn scaled(bytes: S::V, field: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { S::and(bytes, S::bytes(3 << (2 * field))) }
    }

    #[inline(always)]
    unsafe fn unscale(sums: [S::V; 5]) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let low = S::add32(sums[0], S::shift32(sums[1], 2));
            S::add32(low, S::add32(S::shift32(sums[2], 4), S::shift32(sums[3], 6)))
        }
    }
}

/// [`crate::Layout::T16x5`] by arithmetic: `min(x, x - m)`, unsigned, is `x` less `m` if it is not below it.
#[derive(Clone, Copy)]
pub(super) struct T16x5;

impl<S: Simd> Unpack<S> for T16x5 {
    const COLS: usize = t16x5::COLS;
    type Half = [S::V; 5];
    type Scaled = [S::V; 5];

    #[inline(always)]
    unsafe fn unpack(bytes: S::V) -> [S::V; 5] {
        // SAFETY: the caller's promise.
        unsafe {
            let rest = remainder::<S>(bytes, 84);
            // 0, 84 or 168: the upper two bits are the code.
            let four = S::and(S::shift16(S::sub8(bytes, rest), 6), S::bytes(3));
            let (upper, rest) = (rest, remainder::<S>(rest, 27));
            // 0, 27 or 54: the lower four bits are 0, 11 or 6.
            let three = S::look_up([0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 0, 0], S::sub8(upper, rest));
            let (upper, rest) = (rest, remainder::<S>(rest, 9));
            // 0, 9 or 18: the lower four bits are 0, 9 or 2.
            let two = S::look_up([0, 0, 2, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], S::sub8(upper, rest));
            let one = S::look_up([0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 0, 0, 0, 0, 0, 0], rest);
            let zero = S::look_up([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0], rest);
            [zero, one, two, three, four]
        }
    }

    #[inline(always)]
    unsafe fn codes(codes: [S::V; 5], field: usize) -> S::V {
        codes[field]
    }

    #[inline(always)]
    unsafe fn unpack_scaled(bytes: S::V) -> [S::V; 5] {
        // SAFETY: the caller's promise.
        unsafe { <T16x5 as Unpack<S>>::unpack(bytes) }
    }

    #[inline(always)]
    unsafe fn scaled(codes: [S::V; 5], field: usize) -> S::V {
        codes[field]
    }

    #[inline(always)]
    unsafe fn unscale(sums: [S::V; 5]) -> S::V {
        // SAFETY: the caller's promise.
        unsafe {
            let low = S::add32(S::add32(sums[0], sums[1]), S::add32(sums[2], sums[3]));
            S::add32(low, sums[4])
        }
    }
}

/// The remainder of bytes below `3 · by`.
///
/// # Safety
/// The machine has the instruction set.
#[inline(always)]
unsafe fn remainder<S: Simd>(bytes: S::V, by: u8) -> S::V {
    // SAFETY: the caller's promise.
    unsafe {
        let below_two = S::min8(bytes, S::sub8(bytes, S::bytes(2 * by)));
        S::min8(below_two, S::sub8(below_two, S::bytes(by)))
    }
}

/// [`crate::Layout::T16x5`] by tables of AVX-512 VBMI: the upper six bits of a byte tell the last code, what is left
/// (below 81) tells the other four, two bits each as in T16.
#[derive(Clone, Copy)]
pub(super) struct T16x5Vbmi;

/// 84 · last code, by the upper six bits.
static LAST_84: [u8; 64] = last(84);
/// Last code, by the upper six bits.
static LAST: [u8; 64] = last(1);
/// Four codes of two bits, by the rest below 81.
static FOUR: [u8; 128] = {
    let mut table = [0; 128];
    let mut rest = 0;
    while rest < 81 {
        table[rest] = ((rest % 3) | ((rest / 3 % 3) << 2) | ((rest / 9 % 3) << 4) | ((rest / 27) << 6)) as u8;
        rest += 1;
    }
    table
};

const fn last(times: u8) -> [u8; 64] {
    let mut table = [0; 64];
    let mut i = 0;
    while i < 64 {
        table[i] = (i as u8 * 4) / 84 * times;
        i += 1;
    }
    table
}

impl T16x5Vbmi {
    /// Four codes of two bits in each byte, and 84 times the fifth.
    ///
    /// # Safety
    /// The machine has AVX-512 VBMI.
    #[inline(always)]
    unsafe fn split(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's promise; the tables have the lengths that are loaded.
        unsafe {
            // `vpermb` ignores the two upper bits of an index, which the shift fills from the neighbour.
            let last = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(bytes), load(&LAST_84));
            let rest = _mm512_sub_epi8(bytes, last);
            let (low, high) =
                (_mm512_loadu_si512(FOUR.as_ptr().cast()), _mm512_loadu_si512(FOUR[64..].as_ptr().cast()));
            (_mm512_permutex2var_epi8(low, rest, high), last)
        }
    }
}

/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn load(table: &[u8; 64]) -> __m512i {
    // SAFETY: the table has 64 bytes.
    unsafe { _mm512_loadu_si512(table.as_ptr().cast()) }
}

impl Unpack<Avx512> for T16x5Vbmi {
    const COLS: usize = t16x5::COLS;
    /// Four codes of two bits, and the fifth.
    type Half = (__m512i, __m512i);
    /// Four codes of two bits, and 84 times the fifth.
    type Scaled = (__m512i, __m512i);

    #[inline(always)]
    unsafe fn unpack(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's promise.
        unsafe {
            let (four, _) = T16x5Vbmi::split(bytes);
            (four, _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(bytes), load(&LAST)))
        }
    }

    #[inline(always)]
    unsafe fn codes((four, last): (__m512i, __m512i), field: usize) -> __m512i {
        // SAFETY: the caller's promise.
        if field == 4 { last } else { unsafe { <T16 as Unpack<Avx512>>::codes(four, field) } }
    }

    #[inline(always)]
    unsafe fn unpack_scaled(bytes: __m512i) -> (__m512i, __m512i) {
        // SAFETY: the caller's promise.
        unsafe { T16x5Vbmi::split(bytes) }
    }

    #[inline(always)]
    unsafe fn scaled((four, last): (__m512i, __m512i), field: usize) -> __m512i {
        // SAFETY: the caller's promise.
        if field == 4 { last } else { unsafe { <T16 as Unpack<Avx512>>::scaled(four, field) } }
    }

    #[inline(always)]
    unsafe fn unscale(sums: [__m512i; 5]) -> __m512i {
        /// 21 · INVERSE = 1 modulo 2^32: multiplying divides multiples of 21.
        const INVERSE: i32 = 0x3cf3_cf3d;
        // SAFETY: the caller's promise.
        unsafe {
            let last = Avx512::mul32(Avx512::shift32(sums[4], 2), INVERSE);
            Avx512::add32(<T16 as Unpack<Avx512>>::unscale(sums), last)
        }
    }
}
