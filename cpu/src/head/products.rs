//! Exact products of int8 rows with int16 tokens.

use crate::simd::{Lanes, Portable};

/// How far ahead of the row in use the kernels prefetch, in bytes.
const PREFETCH: usize = 8192;

/// The integer step of the kernels. Every implementation gives the same sums.
pub(super) trait Integers: Lanes {
    /// Sums of `T` tokens, `stride` apart in `tokens`, with one row. The row's length is a multiple of 64, its values and
    /// those of the tokens are small enough (see `limit` in [`super::token`]). Sums are whole numbers below 2^53: exact.
    fn products<const T: usize>(row: &[i8], tokens: &[i16], stride: usize) -> [f64; T];
}

impl Integers for Portable {
    #[inline(always)]
    fn products<const T: usize>(row: &[i8], tokens: &[i16], stride: usize) -> [f64; T] {
        let mut sums = [[0i32; 16]; T];
        for (t, sums) in sums.iter_mut().enumerate() {
            let token = &tokens[t * stride..][..row.len()];
            for (row, token) in row.chunks_exact(16).zip(token.chunks_exact(16)) {
                for i in 0..16 {
                    sums[i] += i32::from(row[i]) * i32::from(token[i]);
                }
            }
        }
        sums.map(|lanes| lanes.into_iter().map(f64::from).sum())
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Integers, PREFETCH};
    use crate::prefetch::prefetch;
    use crate::simd::{Avx2, Avx512};

    impl<const VNNI: bool> Integers for Avx2<VNNI> {
        #[inline(always)]
        fn products<const T: usize>(row: &[i8], tokens: &[i16], stride: usize) -> [f64; T] {
            assert!(tokens.len() >= (T - 1) * stride + row.len());
            // SAFETY: the kernel was entered because AVX2 is there; the chunks have 64 bytes, and the tokens are as long
            // as the row by the assertion above.
            unsafe {
                let mut acc = [[_mm256_setzero_si256(); 2]; T];
                for (k, row) in row.chunks_exact(64).enumerate() {
                    prefetch(row.as_ptr().cast(), PREFETCH);
                    for i in 0..4 {
                        let weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.as_ptr().add(16 * i).cast()));
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let token = tokens.as_ptr().add(t * stride + k * 64 + 16 * i);
                            let products = _mm256_madd_epi16(weights, _mm256_loadu_si256(token.cast()));
                            acc[i % 2] = _mm256_add_epi32(acc[i % 2], products);
                        }
                    }
                }
                acc.map(|acc| {
                    let sum = _mm256_add_epi32(acc[0], acc[1]);
                    let low = _mm256_cvtepi32_pd(_mm256_castsi256_si128(sum));
                    let high = _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(sum));
                    let mut out = [0.0; 4];
                    _mm256_storeu_pd(out.as_mut_ptr(), _mm256_add_pd(low, high));
                    (out[0] + out[1]) + (out[2] + out[3])
                })
            }
        }
    }

    impl<const VNNI: bool> Integers for Avx512<VNNI> {
        #[inline(always)]
        fn products<const T: usize>(row: &[i8], tokens: &[i16], stride: usize) -> [f64; T] {
            assert!(tokens.len() >= (T - 1) * stride + row.len());
            // SAFETY: the kernel was entered because AVX-512 F and BW are there; the chunks have 64 bytes, and the tokens
            // are as long as the row by the assertion above.
            unsafe {
                let mut acc = [[_mm512_setzero_si512(); 2]; T];
                for (k, row) in row.chunks_exact(64).enumerate() {
                    prefetch(row.as_ptr().cast(), PREFETCH);
                    for i in 0..2 {
                        let weights = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.as_ptr().add(32 * i).cast()));
                        for (t, acc) in acc.iter_mut().enumerate() {
                            let token = tokens.as_ptr().add(t * stride + k * 64 + 32 * i);
                            let products = _mm512_madd_epi16(weights, _mm512_loadu_si512(token.cast()));
                            acc[i] = _mm512_add_epi32(acc[i], products);
                        }
                    }
                }
                acc.map(|acc| {
                    let sum = _mm512_add_epi32(acc[0], acc[1]);
                    let low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum));
                    let high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64::<1>(sum));
                    _mm512_reduce_add_pd(_mm512_add_pd(low, high))
                })
            }
        }
    }
}
