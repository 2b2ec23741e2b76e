//! One body per float kernel, compiled once per instruction set.
//!
//! A body is an `#[inline(always)]` function over arrays of 16 numbers, generic over [`Lanes`], which has the few steps
//! that the compiler cannot vectorise by itself. Rust never reorders floating-point operations, so all instances give
//! the same bits.

/// Steps that need instructions of their own. Every implementation gives the same bits.
pub(crate) trait Lanes: Copy {
    /// Widens 16 half-precision numbers.
    fn from_f16(bits: &[u16; 16]) -> [f32; 16];
    /// Rounds 16 numbers to half precision, ties to even.
    fn to_f16(x: &[f32; 16]) -> [u16; 16];
}

/// Portable Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    #[inline(always)]
    fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }

    #[inline(always)]
    fn to_f16(x: &[f32; 16]) -> [u16; 16] {
        x.map(|v| half::f16::from_f32(v).to_bits())
    }
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX2 + FMA + F16C. Its functions are inlined into kernels that were entered after detection.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2;

    impl Lanes for Avx2 {
        #[inline(always)]
        fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
            let mut out = [0.0f32; 16];
            // SAFETY: the kernel was entered because F16C is there; both halves of `bits` and `out` are in bounds.
            unsafe {
                let low = _mm_loadu_si128(bits.as_ptr().cast());
                let high = _mm_loadu_si128(bits.as_ptr().add(8).cast());
                _mm256_storeu_ps(out.as_mut_ptr(), _mm256_cvtph_ps(low));
                _mm256_storeu_ps(out.as_mut_ptr().add(8), _mm256_cvtph_ps(high));
            }
            out
        }

        #[inline(always)]
        fn to_f16(x: &[f32; 16]) -> [u16; 16] {
            let mut out = [0u16; 16];
            // SAFETY: as in `from_f16`.
            unsafe {
                let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
                let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr().add(8)));
                _mm_storeu_si128(out.as_mut_ptr().cast(), low);
                _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), high);
            }
            out
        }
    }

    /// AVX-512. Its functions are inlined into kernels that were entered after detection.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512;

    impl Lanes for Avx512 {
        #[inline(always)]
        fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
            let mut out = [0.0f32; 16];
            // SAFETY: the kernel was entered because AVX-512F is there; `bits` and `out` hold 16 numbers.
            unsafe {
                let bits = _mm256_loadu_si256(bits.as_ptr().cast());
                _mm512_storeu_ps(out.as_mut_ptr(), _mm512_cvtph_ps(bits));
            }
            out
        }

        #[inline(always)]
        fn to_f16(x: &[f32; 16]) -> [u16; 16] {
            let mut out = [0u16; 16];
            // SAFETY: as in `from_f16`.
            unsafe {
                let bits = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(x.as_ptr()));
                _mm256_storeu_si256(out.as_mut_ptr().cast(), bits);
            }
            out
        }
    }
}

/// Defines a function that takes an [`crate::Isa`] first and runs the body compiled for it. An instruction set that the
/// machine lacks runs the portable body, which gives the same bits.
macro_rules! per_isa {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        // The kernels take what a loop over tokens and heads has at hand; a struct per kernel would say no more.
        #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma,f16c")]
                #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    $body::<$crate::simd::Avx2>($($arg),*)
                }
                #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq")]
                #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    $body::<$crate::simd::Avx512>($($arg),*)
                }
                if isa >= $crate::Isa::Avx512Bw && isa.is_available() {
                    // SAFETY: the machine has the instruction set.
                    return unsafe { avx512($($arg),*) };
                }
                if isa >= $crate::Isa::Avx2 && isa.is_available() {
                    // SAFETY: the machine has the instruction set (AVX-VNNI includes AVX2).
                    return unsafe { avx2($($arg),*) };
                }
            }
            let _ = isa;
            $body::<$crate::simd::Portable>($($arg),*)
        }
    };
}
pub(crate) use per_isa;

/// The sum of 16 partial sums, by the canonical tree.
#[inline(always)]
pub(crate) fn reduce(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The 16 numbers that start at `x[0]`.
#[inline(always)]
pub(crate) fn lanes<T>(x: &[T]) -> &[T; 16] {
    // The callers hand in chunks of 16.
    x.first_chunk().expect("a chunk of 16")
}

/// `a · b` in the canonical order: lane i sums the products of elements i, i + 16, …
#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sum = [0.0f32; 16];
    let (chunks_a, chunks_b) = (a.chunks_exact(16), b.chunks_exact(16));
    let (tail_a, tail_b) = (chunks_a.remainder(), chunks_b.remainder());
    for (a, b) in chunks_a.zip(chunks_b) {
        for i in 0..16 {
            sum[i] = a[i].mul_add(b[i], sum[i]);
        }
    }
    for (i, (a, b)) in tail_a.iter().zip(tail_b).enumerate() {
        sum[i] = a.mul_add(*b, sum[i]);
    }
    reduce(sum)
}
