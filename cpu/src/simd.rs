//! One body per float kernel, compiled once per instruction set.
//!
//! A body is an `#[inline(always)]` function, generic over [`Lanes`]: loops over arrays of 16 numbers that the compiler
//! vectorises by itself, and explicit vectors where that is not certain enough. Rust never reorders floating-point
//! operations and every implementation of [`Lanes`] rounds alike, so all instances give the same bits.

mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Vectors of 16 numbers and what kernels do with them. Every implementation gives the same bits.
pub(crate) trait Lanes: Copy {
    /// 16 single-precision numbers.
    type F: Copy;
    /// 16 integers of 32 bits, or 64 bytes: four in each of 16 lanes.
    type I: Copy;
    /// Whether there are registers for 16 sums, their operands and more (32 of 512 bits).
    const WIDE: bool;
    /// Rows of a matrix that are worth being multiplied together: 1 or 4.
    const ROWS: usize;

    /// Widens 16 half-precision numbers.
    fn from_f16(bits: &[u16; 16]) -> [f32; 16];
    /// Rounds 16 numbers to half precision, ties to even.
    fn to_f16(x: &[f32; 16]) -> [u16; 16];

    /// Reads 16 numbers.
    fn load(x: &[f32; 16]) -> Self::F;
    /// Reads and widens 16 half-precision numbers.
    fn load_f16(bits: &[u16; 16]) -> Self::F;
    /// Writes 16 numbers.
    fn store(x: Self::F, out: &mut [f32; 16]);
    /// The 16 numbers.
    #[inline(always)]
    fn array(x: Self::F) -> [f32; 16] {
        let mut out = [0.0; 16];
        Self::store(x, &mut out);
        out
    }
    /// 16 times the same number.
    fn splat(x: f32) -> Self::F;
    /// `a · b + c`, rounded once.
    fn fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a + b`
    fn add(a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`
    fn sub(a: Self::F, b: Self::F) -> Self::F;
    /// `a · b`
    fn mul(a: Self::F, b: Self::F) -> Self::F;
    /// `a` where it is greater, else `b`.
    fn max(a: Self::F, b: Self::F) -> Self::F;
    /// `x`, but 0 where `by < bound`.
    fn zero_below(x: Self::F, by: Self::F, bound: Self::F) -> Self::F;
    /// 2^n of `n + 1.5 · 2^23`, for n from -126 to 127.
    fn pow2(n: Self::F) -> Self::F;

    /// Reads 64 bytes.
    fn load_bytes(x: &[u8; 64]) -> Self::I;
    /// Reads 16 integers.
    fn load_i32(x: &[i32; 16]) -> Self::I;
    /// Writes 16 integers.
    fn store_i32(x: Self::I, out: &mut [i32; 16]);
    /// 16 times the same integer (or four bytes).
    fn splat_i32(x: i32) -> Self::I;
    /// `a + b`
    fn add_i32(a: Self::I, b: Self::I) -> Self::I;
    /// `a · 2^BITS`
    fn shl_i32<const BITS: u32>(a: Self::I) -> Self::I;
    /// Adds to each lane of `sum` the products of its four unsigned bytes `u` and signed bytes `s`. The sum of two
    /// neighbouring products must fit into 16 bits: there are instruction sets that saturate them.
    fn dot(sum: Self::I, u: Self::I, s: Self::I) -> Self::I;
    /// The nearest floats, ties to even.
    fn to_f32(x: Self::I) -> Self::F;
    /// The bits of 16 floats.
    fn bits(x: Self::F) -> Self::I;
    /// The lowest byte of each of 16 integers.
    fn low_bytes(x: Self::I) -> [u8; 16];
    /// The seven bits from bit `LOWEST` of each of 16 integers.
    fn seven_bits<const LOWEST: u32>(x: Self::I) -> [u8; 16];
}

/// Defines a function that takes an [`crate::Isa`] first and runs the body compiled for it. An instruction set that the
/// machine lacks runs the portable body, which gives the same bits. A second type parameter of the body may follow it.
/// Functions that use [`Lanes::dot`] are marked with `dot`: they are also compiled for the sets that have it as one
/// instruction.
macro_rules! per_isa {
    (dot $(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident;) => {
        $(#[$meta])*
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            $crate::simd::instance!(isa, Avx512, Avx512<true>, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni",
                $body [], $($arg: $ty),* $(=> $ret)?);
            $crate::simd::instance!(isa, Avx512Bw, Avx512<false>, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq",
                $body [], $($arg: $ty),* $(=> $ret)?);
            $crate::simd::instance!(isa, AvxVnni, Avx2<true>, "avx2,fma,f16c,avxvnni",
                $body [], $($arg: $ty),* $(=> $ret)?);
            $crate::simd::instance!(isa, Avx2, Avx2<false>, "avx2,fma,f16c", $body [], $($arg: $ty),* $(=> $ret)?);
            let _ = isa;
            $body::<$crate::simd::Portable>($($arg),*)
        }
    };
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? = $body:ident $(, $of:ty)?;) => {
        $(#[$meta])*
        // The kernels take what a loop over tokens and heads has at hand; a struct per kernel would say no more.
        #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
        $vis fn $name(isa: $crate::Isa, $($arg: $ty),*) $(-> $ret)? {
            $crate::simd::instance!(isa, Avx512Bw, Avx512<false>, "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq",
                $body [$($of)?], $($arg: $ty),* $(=> $ret)?);
            $crate::simd::instance!(isa, Avx2, Avx2<false>, "avx2,fma,f16c",
                $body [$($of)?], $($arg: $ty),* $(=> $ret)?);
            let _ = isa;
            $body::<$crate::simd::Portable $(, $of)?>($($arg),*)
        }
    };
}
pub(crate) use per_isa;

/// Runs the body compiled for one instruction set and returns, if that is what was asked for and the machine has it.
macro_rules! instance {
    ($isa:ident, $set:ident, $lanes:ident<$vnni:literal>, $features:literal, $body:ident [$($of:ty)?],
        $($arg:ident: $ty:ty),* $(=> $ret:ty)?) => {
        #[cfg(target_arch = "x86_64")]
        if $isa >= $crate::Isa::$set && $isa.is_available() {
            #[target_feature(enable = $features)]
            #[allow(clippy::too_many_arguments, reason = "the arguments of one kernel")]
            fn compiled($($arg: $ty),*) $(-> $ret)? {
                $body::<$crate::simd::$lanes<$vnni> $(, $of)?>($($arg),*)
            }
            // SAFETY: the machine has the instruction set that was asked for, which includes this one.
            return unsafe { compiled($($arg),*) };
        }
    };
}
pub(crate) use instance;

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

/// The largest magnitude in `x`, 0 for none; what is not a number is passed over.
#[inline(always)]
pub(crate) fn absmax(x: &[f32]) -> f32 {
    let mut max = [0.0f32; 16];
    let chunks = x.chunks_exact(16);
    for (max, x) in max.iter_mut().zip(chunks.remainder()) {
        *max = larger(x.abs(), *max);
    }
    for x in chunks {
        for i in 0..16 {
            max[i] = larger(x[i].abs(), max[i]);
        }
    }
    largest(max)
}

/// The largest of 16 numbers.
#[inline(always)]
pub(crate) fn largest(mut lanes: [f32; 16]) -> f32 {
    let mut width = 8;
    while width > 0 {
        for i in 0..width {
            lanes[i] = larger(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `a` where it is greater, else `b`: one instruction, which `f32::max` is not.
#[inline(always)]
pub(crate) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// The 16 numbers that start at `x[0]`, to be written.
#[inline(always)]
pub(crate) fn lanes_mut<T>(x: &mut [T]) -> &mut [T; 16] {
    // The callers hand in chunks of 16.
    x.first_chunk_mut().expect("a chunk of 16")
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
