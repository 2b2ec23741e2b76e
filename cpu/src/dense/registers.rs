//! Reading the numbers of a file into registers. They need no alignment there, so the reads take pointers.

use crate::simd::{Lanes, Portable};

/// Reads of 16 numbers. Every implementation gives the same bits.
pub(crate) trait Registers: Lanes {
    /// Reads 16 numbers.
    ///
    /// # Safety
    /// 64 bytes at `at` are readable; they need no alignment.
    unsafe fn read(at: *const u8) -> Self::F;
    /// Reads and widens 16 numbers of half precision.
    ///
    /// # Safety
    /// 32 bytes at `at` are readable; they need no alignment.
    unsafe fn read_f16(at: *const u8) -> Self::F;
    /// Reads and widens 16 upper halves of single precision.
    ///
    /// # Safety
    /// As [`Registers::read_f16`].
    unsafe fn read_bf16(at: *const u8) -> Self::F;
}

impl Registers for Portable {
    #[inline(always)]
    unsafe fn read(at: *const u8) -> Self::F {
        // SAFETY: the caller's promise; bytes have no alignment.
        let (bytes, _) = unsafe { &*at.cast::<[u8; 64]>() }.as_chunks();
        Self::load(&std::array::from_fn(|i| f32::from_le_bytes(bytes[i])))
    }

    #[inline(always)]
    unsafe fn read_f16(at: *const u8) -> Self::F {
        // SAFETY: the caller's promise; bytes have no alignment.
        let (bytes, _) = unsafe { &*at.cast::<[u8; 32]>() }.as_chunks();
        Self::load(&std::array::from_fn(|i| half::f16::from_le_bytes(bytes[i]).to_f32()))
    }

    #[inline(always)]
    unsafe fn read_bf16(at: *const u8) -> Self::F {
        // SAFETY: the caller's promise; bytes have no alignment.
        let (bytes, _) = unsafe { &*at.cast::<[u8; 32]>() }.as_chunks();
        Self::load(&std::array::from_fn(|i| half::bf16::from_le_bytes(bytes[i]).to_f32()))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Registers;
    use crate::simd::{Avx2, Avx512};

    impl<const VNNI: bool> Registers for Avx2<VNNI> {
        #[inline(always)]
        unsafe fn read(at: *const u8) -> [__m256; 2] {
            // SAFETY: the kernel was entered because the machine has the instructions; the caller's promise.
            unsafe { [_mm256_loadu_ps(at.cast()), _mm256_loadu_ps(at.add(32).cast())] }
        }

        #[inline(always)]
        unsafe fn read_f16(at: *const u8) -> [__m256; 2] {
            // SAFETY: as in `read`.
            unsafe {
                let (low, high) = (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(16).cast()));
                [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
            }
        }

        #[inline(always)]
        unsafe fn read_bf16(at: *const u8) -> [__m256; 2] {
            // SAFETY: as in `read`.
            unsafe {
                let (low, high) = (_mm_loadu_si128(at.cast()), _mm_loadu_si128(at.add(16).cast()));
                [low, high].map(|half| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half))))
            }
        }
    }

    impl<const VNNI: bool> Registers for Avx512<VNNI> {
        #[inline(always)]
        unsafe fn read(at: *const u8) -> __m512 {
            // SAFETY: the kernel was entered because the machine has the instructions; the caller's promise.
            unsafe { _mm512_loadu_ps(at.cast()) }
        }

        #[inline(always)]
        unsafe fn read_f16(at: *const u8) -> __m512 {
            // SAFETY: as in `read`.
            unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
        }

        #[inline(always)]
        unsafe fn read_bf16(at: *const u8) -> __m512 {
            // SAFETY: as in `read`.
            unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(at.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
            }
        }
    }
}
