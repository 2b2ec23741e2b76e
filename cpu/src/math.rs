//! The exponential function that all kernels and the sampler share.

use crate::simd::Lanes;

/// Below this, e^x counts as 0.
const LOWEST: f32 = -87.3;
/// Above this, e^x counts as infinite.
const HIGHEST: f32 = 88.7;
/// Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
pub(crate) const ROUND: f32 = 12_582_912.0;
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;
/// Coefficients of e^r, the highest power first.
const POLYNOMIAL: [f32; 8] = [1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0];

/// e^x with a relative error below 2e-7; exactly 0 below -87.3, infinite above 88.7.
///
/// Cody-Waite reduction to |r| <= ln 2 / 2 and a polynomial, in operations that every instruction set rounds alike.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // The bounds keep 2^n a normal number; what lies beyond them is settled at the end.
    let clamped = x.clamp(LOWEST, HIGHEST);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = POLYNOMIAL[0];
    for &c in &POLYNOMIAL[1..] {
        p = p.mul_add(r, c);
    }
    // n may be 128 where x is near its upper bound: 2^n in two factors.
    let n = rounded(shifted);
    let half = n / 2;
    let power = |n: i32| f32::from_bits((n.wrapping_add(127) << 23) as u32);
    let value = p * power(half) * power(n.wrapping_sub(half));
    if x < LOWEST {
        0.0
    } else if x > HIGHEST {
        f32::INFINITY
    } else {
        value
    }
}

/// The integer in a number to which [`ROUND`] was added; any integer, if that was no number. Unlike a cast, which has to
/// saturate, it is one instruction for a whole register.
#[inline(always)]
pub(crate) fn rounded(shifted: f32) -> i32 {
    (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32)
}

/// [`exp`] of 16 numbers that are not positive, bit for bit.
#[inline(always)]
pub(crate) fn exp_negative<S: Lanes>(x: S::F) -> S::F {
    let lowest = S::splat(LOWEST);
    let clamped = S::max(lowest, x);
    let shifted = S::fma(clamped, S::splat(std::f32::consts::LOG2_E), S::splat(ROUND));
    let n = S::sub(shifted, S::splat(ROUND));
    let r = S::fma(n, S::splat(-LN2_HIGH), clamped);
    let r = S::fma(n, S::splat(-LN2_LOW), r);
    let mut p = S::splat(POLYNOMIAL[0]);
    for &c in &POLYNOMIAL[1..] {
        p = S::fma(p, r, S::splat(c));
    }
    // No number here is as small as 2^-126: one factor is enough, and exact.
    S::zero_below(S::mul(p, S::pow2(shifted)), x, lowest)
}

#[cfg(test)]
mod tests {
    use super::exp;
    use crate::Isa;
    use crate::simd::{Lanes, lanes, lanes_mut, per_isa};

    per_isa! {
        fn exp_negative(x: &[f32], out: &mut [f32]) = exp_negative_body;
    }

    #[inline(always)]
    fn exp_negative_body<S: Lanes>(x: &[f32], out: &mut [f32]) {
        for (x, out) in x.chunks_exact(16).zip(out.chunks_exact_mut(16)) {
            S::store(super::exp_negative::<S>(S::load(lanes(x))), lanes_mut(out));
        }
    }

    #[test]
    fn vectors_give_the_same_bits() {
        let mut x: Vec<f32> = (0..1_000_000).map(|i| i as f32 * -9e-5).collect();
        x.extend([f32::NEG_INFINITY, f32::NAN, -0.0, -87.3, -87.300_01, -1e-30, f32::MIN, -87.299_99]);
        x.resize(x.len().next_multiple_of(16), -1.0);
        for isa in Isa::available() {
            let mut out = vec![0.0; x.len()];
            exp_negative(isa, &x, &mut out);
            for (x, got) in x.iter().zip(&out) {
                assert!(got.to_bits() == exp(*x).to_bits() || got.is_nan() && x.is_nan(), "{isa} {x}: {got}");
            }
        }
    }

    #[test]
    fn it_is_close_to_the_true_value() {
        let mut worst = 0.0f64;
        for i in -873_000..=887_000 {
            let x = i as f32 * 1e-4;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 2e-7, "{worst}");
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn its_ends_are_exact() {
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e4), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }
}
