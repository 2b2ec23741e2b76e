//! The exponential function that all kernels and the sampler share.

/// e^x with a relative error below 2e-7; exactly 0 below -87.3, infinite above 88.7.
///
/// Cody-Waite reduction to |r| <= ln 2 / 2 and a polynomial, in operations that every instruction set rounds alike.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 · 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    // The bounds keep 2^n a normal number; what lies beyond them is settled at the end.
    let clamped = x.clamp(-87.3, 88.7);
    let n = clamped.mul_add(std::f32::consts::LOG2_E, ROUND) - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, clamped));
    let mut p = 1.0 / 5040.0f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0f32] {
        p = p.mul_add(r, c);
    }
    // n may be 128 where x is near its upper bound: 2^n in two factors.
    let half = (n * 0.5).trunc();
    let power = |n: f32| f32::from_bits(((n as i32 + 127) << 23) as u32);
    let value = p * power(half) * power(n - half);
    if x < -87.3 {
        0.0
    } else if x > 88.7 {
        f32::INFINITY
    } else {
        value
    }
}

#[cfg(test)]
mod tests {
    use super::exp;

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
