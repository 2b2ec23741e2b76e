//! Blocks of dot products of dense rows and tokens, each in the canonical order: 16 striped partial sums of fused
//! multiply-adds, added up by the fixed tree.

use super::registers::Registers;
use crate::prefetch::prefetch;
use crate::simd::reduce;

/// Number types that are multiplied as they are read.
pub(super) trait Numbers {
    /// Bytes of a number.
    const BYTES: usize;
    /// Reads 16 numbers.
    ///
    /// # Safety
    /// They are readable.
    unsafe fn load<S: Registers>(at: *const u8) -> S::F;
    /// Reads one.
    fn get(bytes: &[u8]) -> f32;
}

/// Half precision.
pub(super) struct F16;
/// The upper half of single precision.
pub(super) struct Bf16;
/// Single precision.
pub(super) struct F32;

impl Numbers for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Registers>(at: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::read_f16(at) }
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        super::f16(bytes)
    }
}

impl Numbers for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load<S: Registers>(at: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::read_bf16(at) }
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        super::bf16(bytes)
    }
}

impl Numbers for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load<S: Registers>(at: *const u8) -> S::F {
        // SAFETY: the caller's promise.
        unsafe { S::read(at) }
    }

    #[inline(always)]
    fn get(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

/// `T` tokens of `x` with `R` rows of `bytes`, `cols` numbers each. With `PREFETCH`, as many bytes as the rows have are
/// asked for behind them, as one stream, while the rows are multiplied.
///
/// # Panics
/// If `bytes` is another number of rows, or there are fewer tokens.
#[inline(always)]
pub(super) fn block<S: Registers, N: Numbers, const R: usize, const T: usize, const PREFETCH: bool>(
    bytes: &[u8],
    cols: usize,
    x: &[f32],
) -> [[f32; R]; T] {
    let row_bytes = cols * N::BYTES;
    assert!(bytes.len() == R * row_bytes && x.len() >= T * cols);
    let step = 16 * N::BYTES;
    let whole = cols / 16;
    let mut sums = [[S::splat(0.0); R]; T];
    let (mut at, mut at_x) = (bytes.as_ptr(), x.as_ptr().cast::<u8>());
    let mut next = bytes.as_ptr().wrapping_add(bytes.len());
    for _ in 0..whole {
        if PREFETCH {
            for line in 0..(R * step).div_ceil(64) {
                prefetch(next, line * 64);
            }
            next = next.wrapping_add(R * step);
        }
        // SAFETY: in each row, `whole` steps are in bounds by the assertion above.
        let weights: [S::F; R] = std::array::from_fn(|r| unsafe { N::load::<S>(at.add(r * row_bytes)) });
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, for the tokens.
            let x = unsafe { S::read(at_x.add(t * cols * size_of::<f32>())) };
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = S::fma(weight, x, *sum);
            }
        }
        at = at.wrapping_add(step);
        at_x = at_x.wrapping_add(16 * size_of::<f32>());
    }
    // A short loop of its own: the compiler unrolls it, and the sums never need an address before.
    let mut partial = [[[0.0f32; 16]; R]; T];
    for (partial, sums) in partial.iter_mut().zip(sums) {
        for (partial, sum) in partial.iter_mut().zip(sums) {
            S::store(sum, partial);
        }
    }
    let tail = whole * 16;
    let mut out = [[0.0f32; R]; T];
    for (t, (partial, out)) in partial.iter_mut().zip(&mut out).enumerate() {
        for (r, (partial, out)) in partial.iter_mut().zip(out).enumerate() {
            for (i, sum) in partial.iter_mut().enumerate().take(cols - tail) {
                let weight = N::get(&bytes[r * row_bytes + (tail + i) * N::BYTES..]);
                *sum = weight.mul_add(x[t * cols + tail + i], *sum);
            }
            *out = reduce(*partial);
        }
    }
    out
}
