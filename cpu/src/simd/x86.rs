//! x86-64.

use std::arch::x86_64::*;

use super::Lanes;

/// AVX2 + FMA + F16C, with or without AVX-VNNI, two registers for 16 lanes. Its functions are inlined into kernels that were entered after
/// detection.
#[derive(Clone, Copy)]
pub(crate) struct Avx2<const VNNI: bool>;

impl<const VNNI: bool> Lanes for Avx2<VNNI> {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    const WIDE: bool = false;
    const ROWS: usize = 4;

    #[inline(always)]
    fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
        let mut out = [0.0f32; 16];
        Self::store(Self::load_f16(bits), &mut out);
        out
    }

    #[inline(always)]
    fn to_f16(x: &[f32; 16]) -> [u16; 16] {
        let mut out = [0u16; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe {
            let low = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr()));
            let high = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm256_loadu_ps(x.as_ptr().add(8)));
            _mm_storeu_si128(out.as_mut_ptr().cast(), low);
            _mm_storeu_si128(out.as_mut_ptr().add(8).cast(), high);
        }
        out
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { [_mm256_loadu_ps(x.as_ptr()), _mm256_loadu_ps(x.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn load_f16(bits: &[u16; 16]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe {
            let low = _mm_loadu_si128(bits.as_ptr().cast());
            let high = _mm_loadu_si128(bits.as_ptr().add(8).cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }

    #[inline(always)]
    fn store(x: [__m256; 2], out: &mut [f32; 16]) {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), x[1]);
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn fma(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn add(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn zero_below(x: [__m256; 2], by: [__m256; 2], bound: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            [
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(by[0], bound[0]), x[0]),
                _mm256_andnot_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(by[1], bound[1]), x[1]),
            ]
        }
    }

    #[inline(always)]
    fn pow2(n: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            let one = _mm256_set1_epi32(127 << 23);
            let low = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[0]));
            let high = _mm256_slli_epi32::<23>(_mm256_castps_si256(n[1]));
            [_mm256_castsi256_ps(_mm256_add_epi32(low, one)), _mm256_castsi256_ps(_mm256_add_epi32(high, one))]
        }
    }

    #[inline(always)]
    fn load_bytes(x: &[u8; 64]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(32).cast())] }
    }

    #[inline(always)]
    fn load_i32(x: &[i32; 16]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { [_mm256_loadu_si256(x.as_ptr().cast()), _mm256_loadu_si256(x.as_ptr().add(8).cast())] }
    }

    #[inline(always)]
    fn store_i32(x: [__m256i; 2], out: &mut [i32; 16]) {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), x[0]);
            _mm256_storeu_si256(out.as_mut_ptr().add(8).cast(), x[1]);
        }
    }

    #[inline(always)]
    fn splat_i32(x: i32) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_set1_epi32(x); 2] }
    }

    #[inline(always)]
    fn add_i32(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    fn shl_i32<const BITS: u32>(a: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_sll_epi32(a[0], bits), _mm256_sll_epi32(a[1], bits)]
        }
    }

    #[inline(always)]
    fn dot(sum: [__m256i; 2], u: [__m256i; 2], s: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            if VNNI {
                return [_mm256_dpbusd_avx_epi32(sum[0], u[0], s[0]), _mm256_dpbusd_avx_epi32(sum[1], u[1], s[1])];
            }
            let one = _mm256_set1_epi16(1);
            let low = _mm256_madd_epi16(_mm256_maddubs_epi16(u[0], s[0]), one);
            let high = _mm256_madd_epi16(_mm256_maddubs_epi16(u[1], s[1]), one);
            [_mm256_add_epi32(sum[0], low), _mm256_add_epi32(sum[1], high)]
        }
    }

    #[inline(always)]
    fn to_f32(x: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_cvtepi32_ps(x[0]), _mm256_cvtepi32_ps(x[1])] }
    }

    #[inline(always)]
    fn bits(x: [__m256; 2]) -> [__m256i; 2] {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { [_mm256_castps_si256(x[0]), _mm256_castps_si256(x[1])] }
    }

    #[inline(always)]
    fn low_bytes(x: [__m256i; 2]) -> [u8; 16] {
        let mut out = [0u8; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the array has 16 bytes.
        unsafe {
            let mask = _mm256_set1_epi32(255);
            let words = _mm256_packs_epi32(_mm256_and_si256(x[0], mask), _mm256_and_si256(x[1], mask));
            // The packing goes by halves of registers.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
        out
    }

    #[inline(always)]
    fn seven_bits<const LOWEST: u32>(x: [__m256i; 2]) -> [u8; 16] {
        let mut out = [0u8; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the array has 16 bytes.
        unsafe {
            let (lowest, mask) = (_mm_cvtsi32_si128(LOWEST as i32), _mm256_set1_epi32(127));
            let low = _mm256_and_si256(_mm256_srl_epi32(x[0], lowest), mask);
            let high = _mm256_and_si256(_mm256_srl_epi32(x[1], lowest), mask);
            // The packing goes by halves of registers.
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packs_epi32(low, high));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
        out
    }
}

/// AVX-512, with or without VNNI. Its functions are inlined into kernels that were entered after detection.
#[derive(Clone, Copy)]
pub(crate) struct Avx512<const VNNI: bool>;

impl<const VNNI: bool> Lanes for Avx512<VNNI> {
    type F = __m512;
    type I = __m512i;
    const WIDE: bool = true;
    const ROWS: usize = 4;

    #[inline(always)]
    fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
        let mut out = [0.0f32; 16];
        Self::store(Self::load_f16(bits), &mut out);
        out
    }

    #[inline(always)]
    fn to_f16(x: &[f32; 16]) -> [u16; 16] {
        let mut out = [0u16; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe {
            let bits = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm512_loadu_ps(x.as_ptr()));
            _mm256_storeu_si256(out.as_mut_ptr().cast(), bits);
        }
        out
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(bits: &[u16; 16]) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(bits.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(x: __m512, out: &mut [f32; 16]) {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn add(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn max(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn zero_below(x: __m512, by: __m512, bound: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(by, bound), x) }
    }

    #[inline(always)]
    fn pow2(n: __m512) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            let shifted = _mm512_slli_epi32::<23>(_mm512_castps_si512(n));
            _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(127 << 23)))
        }
    }

    #[inline(always)]
    fn load_bytes(x: &[u8; 64]) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_i32(x: &[i32; 16]) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_loadu_si512(x.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_i32(x: __m512i, out: &mut [i32; 16]) {
        // SAFETY: the kernel was entered because the machine has the instructions; the arrays have the size of the access.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) }
    }

    #[inline(always)]
    fn splat_i32(x: i32) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_set1_epi32(x) }
    }

    #[inline(always)]
    fn add_i32(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    fn shl_i32<const BITS: u32>(a: __m512i) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_slli_epi32::<BITS>(a) }
    }

    #[inline(always)]
    fn dot(sum: __m512i, u: __m512i, s: __m512i) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe {
            if VNNI {
                return _mm512_dpbusd_epi32(sum, u, s);
            }
            _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(u, s), _mm512_set1_epi16(1)))
        }
    }

    #[inline(always)]
    fn to_f32(x: __m512i) -> __m512 {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_cvtepi32_ps(x) }
    }

    #[inline(always)]
    fn bits(x: __m512) -> __m512i {
        // SAFETY: the kernel was entered because the machine has the instructions.
        unsafe { _mm512_castps_si512(x) }
    }

    #[inline(always)]
    fn low_bytes(x: __m512i) -> [u8; 16] {
        let mut out = [0u8; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the array has 16 bytes.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(x)) };
        out
    }

    #[inline(always)]
    fn seven_bits<const LOWEST: u32>(x: __m512i) -> [u8; 16] {
        let mut out = [0u8; 16];
        // SAFETY: the kernel was entered because the machine has the instructions; the array has 16 bytes.
        unsafe {
            let bits = _mm512_and_si512(_mm512_srli_epi32::<LOWEST>(x), _mm512_set1_epi32(127));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(bits));
        }
        out
    }
}
