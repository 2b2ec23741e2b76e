//! Exact products of int8 rows with int16 tokens.

use crate::simd::{Lanes, Portable};

/// The integer step of the kernels. Every implementation gives the same sums.
pub(super) trait Integers: Lanes {
    /// Sums of `R` rows, one behind the other, with `T` tokens, `stride` numbers each; `stride` is a multiple of 64.
    /// The values are small enough for sums of 32 bits (see `limit` in [`super::token`]); the results are whole numbers
    /// below 2^53, exact.
    ///
    /// # Panics
    /// If there are fewer rows or tokens.
    fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; T]; R];
}

impl Integers for Portable {
    #[inline(always)]
    fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; T]; R] {
        std::array::from_fn(|r| {
            std::array::from_fn(|t| {
                let (row, token) = (&rows[r * stride..][..stride], &tokens[t * stride..][..stride]);
                let mut sums = [0i32; 16];
                for (row, token) in row.chunks_exact(16).zip(token.chunks_exact(16)) {
                    for i in 0..16 {
                        sums[i] += i32::from(row[i]) * i32::from(token[i]);
                    }
                }
                sums.into_iter().map(f64::from).sum()
            })
        })
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Integers;
    use crate::prefetch::prefetch_far;
    use crate::simd::{Avx2, Avx512};

    /// Prefetches as much behind `R` rows as 32 columns of them are, `k` columns being done: one stream, far ahead and only
    /// into the second cache, so that the tokens stay in the first.
    #[inline(always)]
    fn prefetch_rows<const R: usize>(rows: &[i8], stride: usize, k: usize) {
        const AHEAD: usize = 16 << 10;
        for line in 0..R.div_ceil(2) {
            prefetch_far(rows.as_ptr().cast(), (R - 1) * stride + R * k + line * 64 + AHEAD);
        }
    }

    impl<const VNNI: bool> Integers for Avx2<VNNI> {
        #[inline(always)]
        fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; T]; R] {
            assert!(rows.len() >= R * stride && tokens.len() >= T * stride);
            let mut sums = [[0.0; T]; R];
            // SAFETY: the kernel was entered because AVX2, and AVX-VNNI if that is set, are there; rows and tokens are in
            // bounds by the assertion above.
            unsafe {
                let mut acc = [[_mm256_setzero_si256(); T]; R];
                for k in (0..stride).step_by(32) {
                    prefetch_rows::<R>(rows, stride, k);
                    for k in [k, k + 16] {
                        for (r, acc) in acc.iter_mut().enumerate() {
                            let row = rows.as_ptr().add(r * stride + k);
                            let weights = _mm256_cvtepi8_epi16(_mm_loadu_si128(row.cast()));
                            for (t, acc) in acc.iter_mut().enumerate() {
                                let token = _mm256_loadu_si256(tokens.as_ptr().add(t * stride + k).cast());
                                *acc = match VNNI {
                                    true => _mm256_dpwssd_avx_epi32(*acc, weights, token),
                                    false => _mm256_add_epi32(*acc, _mm256_madd_epi16(weights, token)),
                                };
                            }
                        }
                    }
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        let low = _mm256_cvtepi32_pd(_mm256_castsi256_si128(acc));
                        let high = _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(acc));
                        let mut four = [0.0; 4];
                        _mm256_storeu_pd(four.as_mut_ptr(), _mm256_add_pd(low, high));
                        *sum = (four[0] + four[1]) + (four[2] + four[3]);
                    }
                }
            }
            sums
        }
    }

    /// `vpdpwssd`, as it is: of `_mm512_dpwssd_epi32` LLVM makes a product and a sum where two follow each other, for
    /// their latency, which is hidden here.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vnni")]
    fn dpwssd(mut sum: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the instruction is there, and uses nothing but these registers.
        unsafe {
            std::arch::asm!(
                "vpdpwssd {sum}, {a}, {b}",
                sum = inout(zmm_reg) sum, a = in(zmm_reg) a, b = in(zmm_reg) b,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        sum
    }

    impl<const VNNI: bool> Integers for Avx512<VNNI> {
        #[inline(always)]
        fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; T]; R] {
            assert!(rows.len() >= R * stride && tokens.len() >= T * stride);
            let mut sums = [[0.0; T]; R];
            // SAFETY: the kernel was entered because AVX-512 F and BW, and VNNI if that is set, are there; rows and tokens
            // are in bounds by the assertion above.
            unsafe {
                let mut acc = [[_mm512_setzero_si512(); T]; R];
                for k in (0..stride).step_by(32) {
                    prefetch_rows::<R>(rows, stride, k);
                    let mut weights = [_mm512_setzero_si512(); R];
                    for (r, weights) in weights.iter_mut().enumerate() {
                        let row = rows.as_ptr().add(r * stride + k);
                        *weights = _mm512_cvtepi8_epi16(_mm256_loadu_si256(row.cast()));
                    }
                    for t in 0..T {
                        let token = _mm512_loadu_si512(tokens.as_ptr().add(t * stride + k).cast());
                        for (acc, weights) in acc.iter_mut().zip(weights) {
                            acc[t] = match VNNI {
                                true => dpwssd(acc[t], weights, token),
                                false => _mm512_add_epi32(acc[t], _mm512_madd_epi16(weights, token)),
                            };
                        }
                    }
                }
                for (sums, acc) in sums.iter_mut().zip(acc) {
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        let low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(acc));
                        let high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64::<1>(acc));
                        *sum = _mm512_reduce_add_pd(_mm512_add_pd(low, high));
                    }
                }
            }
            sums
        }
    }
}
