//! Exact products of int8 rows with int16 tokens, and the intervals that they leave for the logits.

use super::interval::{GROUP, WideBounds};
use super::token::TokenBound;
use crate::simd::{Lanes, Portable};

/// A relative error that covers rounding the ends of intervals to f32.
const ROUNDING: f64 = 1.0 / (1 << 22) as f64;

/// Where sums may be larger than this, a partial sum of the canonical product may overflow.
const CERTAIN: f64 = 1e38;

/// The integer step of the kernels. Every implementation gives the same sums.
pub(super) trait Integers: Lanes {
    /// For each of `T` tokens the sums of `R` rows, one behind the other, `stride` numbers each; `stride` is a multiple of 64.
    /// The values are small enough for sums of 32 bits (see `limit` in [`super::token`]); the results are whole numbers
    /// below 2^53, exact.
    ///
    /// # Panics
    /// If there are fewer rows or tokens.
    fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; R]; T];

    /// The lower and the upper ends of where the exact logits of some rows lie, `sums` being the exact products of the
    /// rounded rows and the rounded token.
    #[inline(always)]
    fn ends(rows: &WideBounds, token: &TokenBound, sums: &[f64; GROUP]) -> [[f32; GROUP]; 2] {
        let (mut lows, mut highs) = ([0.0f32; GROUP], [0.0f32; GROUP]);
        for i in 0..GROUP {
            let (scale, error, worst, norm) = (rows.scale[i], rows.error[i], rows.worst[i], rows.norm[i]);
            let middle = sums[i] * (scale * token.scale);
            let bound =
                error * token.error + worst * token.worst + norm * token.norm + token.tiny + middle.abs() * ROUNDING;
            // Where something is not finite, nothing is certain.
            let certain = (error + norm) * token.length < CERTAIN;
            lows[i] = if certain { (middle - bound) as f32 } else { f32::NEG_INFINITY };
            highs[i] = if certain { (middle + bound) as f32 } else { f32::INFINITY };
        }
        [lows, highs]
    }
}

impl Integers for Portable {
    #[inline(always)]
    fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; R]; T] {
        std::array::from_fn(|t| {
            std::array::from_fn(|r| {
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

    use super::{CERTAIN, GROUP, Integers, ROUNDING, TokenBound, WideBounds};
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
        fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; R]; T] {
            assert!(rows.len() >= R * stride && tokens.len() >= T * stride);
            let mut sums = [[0.0; R]; T];
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
                for (t, sums) in sums.iter_mut().enumerate() {
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        let low = _mm256_cvtepi32_pd(_mm256_castsi256_si128(acc[t]));
                        let high = _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(acc[t]));
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
        fn products<const R: usize, const T: usize>(rows: &[i8], tokens: &[i16], stride: usize) -> [[f64; R]; T] {
            assert!(rows.len() >= R * stride && tokens.len() >= T * stride);
            let mut sums = [[0.0; R]; T];
            // SAFETY: the kernel was entered because AVX-512 F, BW, DQ and VL, and VNNI if that is set, are there; rows and
            // tokens are in bounds by the assertion above.
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
                for (t, sums) in sums.iter_mut().enumerate() {
                    if R == 4 {
                        _mm256_storeu_pd(sums.as_mut_ptr(), sum_of_each(std::array::from_fn(|r| acc[r][t])));
                        continue;
                    }
                    for (sum, acc) in sums.iter_mut().zip(acc) {
                        *sum = _mm512_reduce_add_pd(_mm512_cvtepi32_pd(halves_together(acc[t])));
                    }
                }
            }
            sums
        }

        #[inline(always)]
        fn ends(rows: &WideBounds, token: &TokenBound, sums: &[f64; GROUP]) -> [[f32; GROUP]; 2] {
            let mut ends = [[0.0f32; GROUP]; 2];
            // SAFETY: the kernel was entered because AVX-512 F is there; what is loaded and stored has eight numbers.
            unsafe {
                let load = |x: &[f64; GROUP]| _mm512_loadu_pd(x.as_ptr());
                let all = |x: f64| _mm512_set1_pd(x);
                let (error, norm) = (load(&rows.error), load(&rows.norm));
                let middle = _mm512_mul_pd(load(sums), _mm512_mul_pd(load(&rows.scale), all(token.scale)));
                let bound = _mm512_mul_pd(error, all(token.error));
                let bound = _mm512_add_pd(bound, _mm512_mul_pd(load(&rows.worst), all(token.worst)));
                let bound = _mm512_add_pd(bound, _mm512_mul_pd(norm, all(token.norm)));
                let bound = _mm512_add_pd(bound, all(token.tiny));
                let bound = _mm512_add_pd(bound, _mm512_mul_pd(_mm512_abs_pd(middle), all(ROUNDING)));
                let length = _mm512_mul_pd(_mm512_add_pd(error, norm), all(token.length));
                let certain = _mm512_cmp_pd_mask::<_CMP_LT_OQ>(length, all(CERTAIN));
                let low = _mm512_cvtpd_ps(_mm512_sub_pd(middle, bound));
                let high = _mm512_cvtpd_ps(_mm512_add_pd(middle, bound));
                let infinity = _mm256_set1_ps(f32::INFINITY);
                let infinity_below = _mm256_set1_ps(f32::NEG_INFINITY);
                _mm256_storeu_ps(ends[0].as_mut_ptr(), _mm256_mask_blend_ps(certain, infinity_below, low));
                _mm256_storeu_ps(ends[1].as_mut_ptr(), _mm256_mask_blend_ps(certain, infinity, high));
            }
            ends
        }
    }

    /// The sums of both halves of a vector: eight numbers, which `limit` in [`crate::head::token`] leaves room for.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn halves_together(x: __m512i) -> __m256i {
        _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti64x4_epi64::<1>(x))
    }

    /// The sum of each of four vectors.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn sum_of_each(x: [__m512i; 4]) -> __m256d {
        let [a, b, c, d] = x.map(|x| _mm512_cvtepi32_pd(halves_together(x)));
        let ab = _mm512_add_pd(_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        let cd = _mm512_add_pd(_mm512_unpacklo_pd(c, d), _mm512_unpackhi_pd(c, d));
        // Lanes of two numbers, a and b or c and d: the even and the odd ones, twice.
        let four = _mm512_add_pd(_mm512_shuffle_f64x2::<0x88>(ab, cd), _mm512_shuffle_f64x2::<0xdd>(ab, cd));
        let two = _mm512_add_pd(_mm512_shuffle_f64x2::<0x08>(four, four), _mm512_shuffle_f64x2::<0x0d>(four, four));
        _mm512_castpd512_pd256(two)
    }
}
