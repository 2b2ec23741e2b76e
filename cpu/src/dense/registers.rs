//! Registers of 16 floats: what the kernels of dense matrices need beyond [`Lanes`], so that their blocks of sums stay
//! in registers for certain. Every implementation gives the same bits.

use crate::simd::{Lanes, Portable};

/// Steps on 16 numbers that stay in registers.
pub(crate) trait Registers: Lanes {
    /// 16 numbers.
    type Floats: Copy;
    /// Whether there is room for 24 sums besides the operands.
    const WIDE: bool;
    /// 16 zeros.
    fn zero() -> Self::Floats;
    /// Reads 16 numbers.
    ///
    /// # Safety
    /// 64 bytes at `x` are readable; they need no alignment.
    unsafe fn load(x: *const u8) -> Self::Floats;
    /// Widens 16 numbers of half precision.
    ///
    /// # Safety
    /// 32 bytes at `bits` are readable; they need no alignment.
    unsafe fn load_f16(bits: *const u8) -> Self::Floats;
    /// Widens 16 upper halves of single precision.
    ///
    /// # Safety
    /// As [`Registers::load_f16`].
    unsafe fn load_bf16(bits: *const u8) -> Self::Floats;
    /// `a · b + sum`, rounded once.
    fn mul_add(a: Self::Floats, b: Self::Floats, sum: Self::Floats) -> Self::Floats;
    /// The 16 numbers.
    fn array(x: Self::Floats) -> [f32; 16];
    /// Brings the cache line at `address` near; any address may be named.
    fn prefetch(address: *const u8);
}

impl Registers for Portable {
    type Floats = [f32; 16];
    const WIDE: bool = false;

    #[inline(always)]
    fn zero() -> [f32; 16] {
        [0.0; 16]
    }

    #[inline(always)]
    unsafe fn load(x: *const u8) -> [f32; 16] {
        // SAFETY: the caller's promise.
        let x = unsafe { &*x.cast::<[u8; 64]>() };
        std::array::from_fn(|i| f32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }

    #[inline(always)]
    unsafe fn load_f16(bits: *const u8) -> [f32; 16] {
        // SAFETY: the caller's promise.
        let bits = unsafe { &*bits.cast::<[u8; 32]>() };
        std::array::from_fn(|i| half::f16::from_le_bytes([bits[2 * i], bits[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    unsafe fn load_bf16(bits: *const u8) -> [f32; 16] {
        // SAFETY: the caller's promise.
        let bits = unsafe { &*bits.cast::<[u8; 32]>() };
        std::array::from_fn(|i| half::bf16::from_le_bytes([bits[2 * i], bits[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn mul_add(a: [f32; 16], b: [f32; 16], sum: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], sum[i]))
    }

    #[inline(always)]
    fn array(x: [f32; 16]) -> [f32; 16] {
        x
    }

    #[inline(always)]
    fn prefetch(_address: *const u8) {}
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Registers;
    use crate::simd::{Avx2, Avx512};

    impl Registers for Avx2 {
        type Floats = [__m256; 2];
        const WIDE: bool = false;

        #[inline(always)]
        fn zero() -> [__m256; 2] {
            // SAFETY: the kernel was entered because AVX2 is there.
            unsafe { [_mm256_setzero_ps(); 2] }
        }

        #[inline(always)]
        unsafe fn load(x: *const u8) -> [__m256; 2] {
            // SAFETY: as in `zero`, and the caller's promise.
            unsafe { [_mm256_loadu_ps(x.cast()), _mm256_loadu_ps(x.add(32).cast())] }
        }

        #[inline(always)]
        unsafe fn load_f16(bits: *const u8) -> [__m256; 2] {
            // SAFETY: F16C is part of what was detected, and the caller's promise.
            unsafe {
                let low = _mm_loadu_si128(bits.cast());
                let high = _mm_loadu_si128(bits.add(16).cast());
                [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
            }
        }

        #[inline(always)]
        unsafe fn load_bf16(bits: *const u8) -> [__m256; 2] {
            // SAFETY: as in `zero`, and the caller's promise.
            unsafe {
                let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.cast()));
                let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(bits.add(16).cast()));
                [low, high].map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(half)))
            }
        }

        #[inline(always)]
        fn mul_add(a: [__m256; 2], b: [__m256; 2], sum: [__m256; 2]) -> [__m256; 2] {
            // SAFETY: FMA is part of what was detected.
            unsafe { [_mm256_fmadd_ps(a[0], b[0], sum[0]), _mm256_fmadd_ps(a[1], b[1], sum[1])] }
        }

        #[inline(always)]
        fn array(x: [__m256; 2]) -> [f32; 16] {
            let mut out = [0.0f32; 16];
            // SAFETY: as in `zero`; both halves of `out` are in bounds.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
            }
            out
        }

        #[inline(always)]
        fn prefetch(address: *const u8) {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }

    impl Registers for Avx512 {
        type Floats = __m512;
        const WIDE: bool = true;

        #[inline(always)]
        fn zero() -> __m512 {
            // SAFETY: the kernel was entered because AVX-512F is there.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(x: *const u8) -> __m512 {
            // SAFETY: as in `zero`, and the caller's promise.
            unsafe { _mm512_loadu_ps(x.cast()) }
        }

        #[inline(always)]
        unsafe fn load_f16(bits: *const u8) -> __m512 {
            // SAFETY: as in `zero`, and the caller's promise.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bits.cast())) }
        }

        #[inline(always)]
        unsafe fn load_bf16(bits: *const u8) -> __m512 {
            // SAFETY: as in `zero`, and the caller's promise.
            unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(bits.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
        }

        #[inline(always)]
        fn mul_add(a: __m512, b: __m512, sum: __m512) -> __m512 {
            // SAFETY: as in `zero`.
            unsafe { _mm512_fmadd_ps(a, b, sum) }
        }

        #[inline(always)]
        fn array(x: __m512) -> [f32; 16] {
            let mut out = [0.0f32; 16];
            // SAFETY: as in `zero`; `out` holds 16 numbers.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) };
            out
        }

        #[inline(always)]
        fn prefetch(address: *const u8) {
            // SAFETY: a prefetch may name any address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
    }
}
