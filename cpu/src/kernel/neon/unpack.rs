//! From the bytes of a tile to codes, in vectors.

use std::arch::aarch64::*;

use crate::layout::{t16, t16x5};

/// A layout with up to five fields of four columns.
pub(super) trait Unpack: Copy {
    /// Fields of a byte.
    const FIELDS: usize;

    /// The codes of all fields, 0 to 2.
    ///
    /// # Safety
    /// The machine has NEON.
    unsafe fn codes(bytes: uint8x16_t) -> [int8x16_t; 5];
}

/// [`crate::Layout::T16`].
#[derive(Clone, Copy)]
pub(super) struct T16;

impl Unpack for T16 {
    const FIELDS: usize = t16::COLS / 4;

    #[inline(always)]
    unsafe fn codes(bytes: uint8x16_t) -> [int8x16_t; 5] {
        // SAFETY: the caller's promise.
        unsafe {
            let mask = vdupq_n_u8(3);
            let zero = vandq_u8(bytes, mask);
            let one = vandq_u8(vshrq_n_u8::<2>(bytes), mask);
            let two = vandq_u8(vshrq_n_u8::<4>(bytes), mask);
            let three = vshrq_n_u8::<6>(bytes);
            [zero, one, two, three, zero].map(|codes| vreinterpretq_s8_u8(codes))
        }
    }
}

/// [`crate::Layout::T16x5`]: `min(x, x - m)`, unsigned, is `x` less `m` if it is not below it.
#[derive(Clone, Copy)]
pub(super) struct T16x5;

impl Unpack for T16x5 {
    const FIELDS: usize = t16x5::COLS / 4;

    #[inline(always)]
    unsafe fn codes(bytes: uint8x16_t) -> [int8x16_t; 5] {
        // SAFETY: the caller's promise.
        unsafe {
            let (four, rest) = divide::<84>(bytes);
            let (three, rest) = divide::<27>(rest);
            let (two, rest) = divide::<9>(rest);
            let (one, zero) = divide::<3>(rest);
            [zero, one, two, three, four].map(|codes| vreinterpretq_s8_u8(codes))
        }
    }
}

/// Quotient and remainder of bytes below `3 · BY`.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn divide<const BY: u8>(x: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
    // SAFETY: the caller's promise.
    unsafe {
        let (by, twice) = (vdupq_n_u8(BY), vdupq_n_u8(2 * BY));
        // A comparison gives -1 where it holds.
        let quotient = vsubq_u8(vdupq_n_u8(0), vaddq_u8(vcgeq_u8(x, by), vcgeq_u8(x, twice)));
        let below_two = vminq_u8(x, vsubq_u8(x, twice));
        (quotient, vminq_u8(below_two, vsubq_u8(below_two, by)))
    }
}
