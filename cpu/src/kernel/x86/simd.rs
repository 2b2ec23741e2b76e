//! Vectors of 256 and 512 bits under one interface.
//!
//! The methods are inlined into kernels whose instruction sets are enabled; that the machine has them is the promise of
//! every caller. They are unsafe for that reason alone, except for loads and stores, whose memory must be valid.

use std::arch::asm;
use std::arch::x86_64::*;

/// A vector of bytes, and of wider integers.
pub(super) trait Simd: Copy {
    /// The register.
    type V: Copy;
    /// Bytes of a register.
    const BYTES: usize;

    unsafe fn zero() -> Self::V;
    /// Loads a register; needs no alignment.
    unsafe fn load(at: *const u8) -> Self::V;
    /// Stores a register of 32-bit numbers; needs no alignment.
    unsafe fn store(at: *mut i32, v: Self::V);
    /// A byte in all lanes.
    unsafe fn bytes(byte: u8) -> Self::V;
    /// Four bytes in all lanes of 32 bits; needs no alignment.
    unsafe fn four(at: *const i8) -> Self::V;
    unsafe fn and(a: Self::V, b: Self::V) -> Self::V;
    /// The lower two bits of each byte. As an operation of its own because the mask must not take a register where there
    /// are 16 of them.
    unsafe fn low_two_bits(a: Self::V) -> Self::V;
    /// Shifts lanes of 16 bits right, zeros in.
    unsafe fn shift16(a: Self::V, by: i32) -> Self::V;
    /// Shifts lanes of 32 bits right, signs in.
    unsafe fn shift32(a: Self::V, by: i32) -> Self::V;
    unsafe fn sub8(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min8(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add16(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn add32(a: Self::V, b: Self::V) -> Self::V;
    /// The low 32 bits of products.
    unsafe fn mul32(a: Self::V, b: i32) -> Self::V;
    /// `table[i]` for each byte `i`, of which the lower four bits count and the highest is 0.
    unsafe fn look_up(table: [i8; 16], i: Self::V) -> Self::V;
    /// `codes[2i] · q[2i] + codes[2i + 1] · q[2i + 1]` in lanes of 16 bits, codes unsigned.
    unsafe fn products(codes: Self::V, q: Self::V) -> Self::V;
    /// Sums of pairs of lanes of 16 bits, in lanes of 32.
    unsafe fn widen(a: Self::V) -> Self::V;
    /// `a`, of which the compiler is told nothing. It keeps the order in which the many sums of a kernel are added to
    /// and the activations are loaded; left alone, it reorders them until they do not fit into the registers.
    unsafe fn pinned(a: Self::V) -> Self::V;
}

/// A vector with a four-way dot product.
pub(super) trait Dot: Simd {
    /// `sum + Σ codes · q` in each lane of 32 bits, codes unsigned.
    unsafe fn dot(sum: Self::V, codes: Self::V, q: Self::V) -> Self::V;
}

/// 256 bits: AVX2.
#[derive(Clone, Copy)]
pub(super) struct Avx2;

/// 256 bits with `vpdpbusd` of AVX-VNNI.
#[derive(Clone, Copy)]
pub(super) struct AvxVnni;

/// 512 bits: AVX-512 F and BW; `vpdpbusd` where VNNI is there.
#[derive(Clone, Copy)]
pub(super) struct Avx512;

/// Writes the methods of an implementation: `name(arguments) -> result = body`.
macro_rules! methods {
    ($($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $body:expr;)*) => {
        $(
            #[inline(always)]
            unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                // SAFETY: the promises of the callers of this trait.
                unsafe { $body }
            }
        )*
    };
}

/// The methods on 256 bits.
macro_rules! avx2_methods {
    () => {
        type V = __m256i;
        const BYTES: usize = 32;

        methods! {
            zero() -> __m256i = _mm256_setzero_si256();
            load(at: *const u8) -> __m256i = _mm256_loadu_si256(at.cast());
            store(at: *mut i32, v: __m256i) = _mm256_storeu_si256(at.cast(), v);
            bytes(byte: u8) -> __m256i = _mm256_set1_epi8(byte as i8);
            four(at: *const i8) -> __m256i = _mm256_set1_epi32(at.cast::<i32>().read_unaligned());
            and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
            low_two_bits(a: __m256i) -> __m256i = low_two_bits_256(a);
            shift16(a: __m256i, by: i32) -> __m256i = _mm256_srl_epi16(a, _mm_cvtsi32_si128(by));
            shift32(a: __m256i, by: i32) -> __m256i = _mm256_sra_epi32(a, _mm_cvtsi32_si128(by));
            sub8(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi8(a, b);
            min8(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epu8(a, b);
            add16(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi16(a, b);
            add32(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
            mul32(a: __m256i, b: i32) -> __m256i = _mm256_mullo_epi32(a, _mm256_set1_epi32(b));
            look_up(table: [i8; 16], i: __m256i) -> __m256i = {
                _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast())), i)
            };
            products(codes: __m256i, q: __m256i) -> __m256i = _mm256_maddubs_epi16(codes, q);
            widen(a: __m256i) -> __m256i = _mm256_madd_epi16(a, _mm256_set1_epi16(1));
            pinned(a: __m256i) -> __m256i = pinned_256(a);
        }
    };
}

impl Simd for Avx2 {
    avx2_methods!();
}

impl Simd for AvxVnni {
    avx2_methods!();
}

impl Simd for Avx512 {
    type V = __m512i;
    const BYTES: usize = 64;

    methods! {
        zero() -> __m512i = _mm512_setzero_si512();
        load(at: *const u8) -> __m512i = _mm512_loadu_si512(at.cast());
        store(at: *mut i32, v: __m512i) = _mm512_storeu_si512(at.cast(), v);
        bytes(byte: u8) -> __m512i = _mm512_set1_epi8(byte as i8);
        four(at: *const i8) -> __m512i = _mm512_set1_epi32(at.cast::<i32>().read_unaligned());
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        low_two_bits(a: __m512i) -> __m512i = _mm512_and_si512(a, _mm512_set1_epi8(3));
        shift16(a: __m512i, by: i32) -> __m512i = _mm512_srl_epi16(a, _mm_cvtsi32_si128(by));
        shift32(a: __m512i, by: i32) -> __m512i = _mm512_sra_epi32(a, _mm_cvtsi32_si128(by));
        sub8(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi8(a, b);
        min8(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epu8(a, b);
        add16(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi16(a, b);
        add32(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        mul32(a: __m512i, b: i32) -> __m512i = _mm512_mullo_epi32(a, _mm512_set1_epi32(b));
        look_up(table: [i8; 16], i: __m512i) -> __m512i = {
            _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast())), i)
        };
        products(codes: __m512i, q: __m512i) -> __m512i = _mm512_maddubs_epi16(codes, q);
        widen(a: __m512i) -> __m512i = _mm512_madd_epi16(a, _mm512_set1_epi16(1));
        pinned(a: __m512i) -> __m512i = pinned_512(a);
    }
}

impl Dot for AvxVnni {
    methods! {
        dot(sum: __m256i, codes: __m256i, q: __m256i) -> __m256i = _mm256_dpbusd_avx_epi32(sum, codes, q);
    }
}

impl Dot for Avx512 {
    methods! {
        dot(sum: __m512i, codes: __m512i, q: __m512i) -> __m512i = _mm512_dpbusd_epi32(sum, codes, q);
    }
}

/// See [`Simd::low_two_bits`]. From memory by an instruction of its own: the compiler would load the mask first.
#[inline]
#[target_feature(enable = "avx2")]
fn low_two_bits_256(mut a: __m256i) -> __m256i {
    static MASK: [u8; 32] = [3; 32];
    // SAFETY: the mask has the 32 bytes that are read.
    unsafe {
        asm!("vpand {0}, {0}, ymmword ptr [{1}]", inout(ymm_reg) a, in(reg) &raw const MASK,
            options(pure, readonly, nostack, preserves_flags));
    }
    a
}

/// See [`Simd::pinned`].
#[inline]
#[target_feature(enable = "avx2")]
fn pinned_256(mut a: __m256i) -> __m256i {
    // SAFETY: there is no instruction in it.
    unsafe { asm!("/* {0} */", inout(ymm_reg) a, options(nostack, preserves_flags)) };
    a
}

/// See [`Simd::pinned`].
#[inline]
#[target_feature(enable = "avx512f")]
fn pinned_512(mut a: __m512i) -> __m512i {
    // SAFETY: there is no instruction in it.
    unsafe { asm!("/* {0} */", inout(zmm_reg) a, options(nostack, preserves_flags)) };
    a
}
