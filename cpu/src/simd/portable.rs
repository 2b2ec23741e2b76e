//! Portable Rust: the definition of what the other implementations compute.

use super::Lanes;

/// Portable Rust.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type F = [f32; 16];
    type I = [i32; 16];
    const WIDE: bool = false;
    const ROWS: usize = 1;

    #[inline(always)]
    fn from_f16(bits: &[u16; 16]) -> [f32; 16] {
        bits.map(|b| half::f16::from_bits(b).to_f32())
    }

    #[inline(always)]
    fn to_f16(x: &[f32; 16]) -> [u16; 16] {
        x.map(|v| half::f16::from_f32(v).to_bits())
    }

    #[inline(always)]
    fn load(x: &[f32; 16]) -> [f32; 16] {
        *x
    }

    #[inline(always)]
    fn load_f16(bits: &[u16; 16]) -> [f32; 16] {
        Self::from_f16(bits)
    }

    #[inline(always)]
    fn store(x: [f32; 16], out: &mut [f32; 16]) {
        *out = x;
    }

    #[inline(always)]
    fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn fma(a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn add(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn max(a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn zero_below(x: [f32; 16], by: [f32; 16], bound: [f32; 16]) -> [f32; 16] {
        std::array::from_fn(|i| if by[i] < bound[i] { 0.0 } else { x[i] })
    }

    #[inline(always)]
    fn pow2(n: [f32; 16]) -> [f32; 16] {
        n.map(|n| f32::from_bits((n.to_bits() << 23).wrapping_add(127 << 23)))
    }

    #[inline(always)]
    fn load_bytes(x: &[u8; 64]) -> [i32; 16] {
        std::array::from_fn(|i| i32::from_le_bytes([x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]]))
    }

    #[inline(always)]
    fn load_i32(x: &[i32; 16]) -> [i32; 16] {
        *x
    }

    #[inline(always)]
    fn store_i32(x: [i32; 16], out: &mut [i32; 16]) {
        *out = x;
    }

    #[inline(always)]
    fn splat_i32(x: i32) -> [i32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn add_i32(a: [i32; 16], b: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| a[i].wrapping_add(b[i]))
    }

    #[inline(always)]
    fn shl_i32<const BITS: u32>(a: [i32; 16]) -> [i32; 16] {
        a.map(|a| a << BITS)
    }

    #[inline(always)]
    fn dot(sum: [i32; 16], u: [i32; 16], s: [i32; 16]) -> [i32; 16] {
        std::array::from_fn(|i| {
            let (u, s) = (u[i].to_le_bytes(), s[i].to_le_bytes());
            let product = |b: usize| i32::from(u[b]) * i32::from(s[b] as i8);
            sum[i].wrapping_add(product(0) + product(1) + product(2) + product(3))
        })
    }

    #[inline(always)]
    fn to_f32(x: [i32; 16]) -> [f32; 16] {
        x.map(|x| x as f32)
    }

    #[inline(always)]
    fn bits(x: [f32; 16]) -> [i32; 16] {
        x.map(|x| x.to_bits() as i32)
    }

    #[inline(always)]
    fn low_bytes(x: [i32; 16]) -> [u8; 16] {
        x.map(|x| x as u8)
    }

    #[inline(always)]
    fn seven_bits<const LOWEST: u32>(x: [i32; 16]) -> [u8; 16] {
        x.map(|x| (x >> LOWEST) as u8 & 127)
    }
}
