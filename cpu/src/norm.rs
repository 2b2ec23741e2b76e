//! RMSNorm, and what is added to the residual stream after one.

use crate::simd::{Lanes, dot, per_isa};

per_isa! {
    /// `out = weight · (x / sqrt(mean(x²) + eps))`, all of length `n`. Source: <https://arxiv.org/abs/1910.07467>.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = rms_norm_body;
}

#[inline(always)]
fn rms_norm_body<S: Lanes>(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == out.len(), "rms_norm: lengths differ");
    let scale = scale_of(x, eps);
    for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
        *out = weight * (x * scale);
    }
}

per_isa! {
    /// `onto += rms_norm(x)`, with a weight of the same length.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_rms_norm(x: &[f32], weight: &[f32], eps: f32, onto: &mut [f32]) = add_rms_norm_body;
}

#[inline(always)]
fn add_rms_norm_body<S: Lanes>(x: &[f32], weight: &[f32], eps: f32, onto: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == onto.len(), "add_rms_norm: lengths differ");
    let scale = scale_of(x, eps);
    for ((onto, x), weight) in onto.iter_mut().zip(x).zip(weight) {
        *onto += weight * (x * scale);
    }
}

per_isa! {
    /// `onto += by · x`, rounded once.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn add_scaled(x: &[f32], by: f32, onto: &mut [f32]) = add_scaled_body;
}

#[inline(always)]
fn add_scaled_body<S: Lanes>(x: &[f32], by: f32, onto: &mut [f32]) {
    assert_eq!(x.len(), onto.len(), "add_scaled: lengths differ");
    for (onto, x) in onto.iter_mut().zip(x) {
        *onto = x.mul_add(by, *onto);
    }
}

/// `1 / sqrt(mean(x²) + eps)`
#[inline(always)]
fn scale_of(x: &[f32], eps: f32) -> f32 {
    let mean = dot(x, x) / x.len() as f32;
    1.0 / (mean + eps).sqrt()
}

/// [`rms_norm`] of `x` in its own place, bit for bit.
#[inline(always)]
pub(crate) fn norm_in_place(x: &mut [f32], weight: &[f32], eps: f32) {
    assert_eq!(x.len(), weight.len(), "rms_norm: lengths differ");
    let scale = scale_of(x, eps);
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = weight * (*x * scale);
    }
}

#[cfg(test)]
mod tests {
    use super::{add_rms_norm, add_scaled, rms_norm};
    use crate::Isa;

    #[test]
    fn sums_are_the_steps_one_after_the_other() {
        for n in [5, 16, 100] {
            let x: Vec<f32> = (0..n).map(|i| (i as f32 * 0.9).sin()).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + (i % 3) as f32 * 0.2).collect();
            let residual: Vec<f32> = (0..n).map(|i| (i as f32 * 0.4).cos()).collect();
            let mut normed = vec![0.0; n];
            rms_norm(Isa::Scalar, &x, &weight, 1e-6, &mut normed);
            let sum: Vec<f32> = residual.iter().zip(&normed).map(|(a, b)| a + b).collect();
            let scaled: Vec<f32> = residual.iter().zip(&x).map(|(a, x)| x.mul_add(0.3, *a)).collect();
            for isa in Isa::available() {
                let mut got = residual.clone();
                add_rms_norm(isa, &x, &weight, 1e-6, &mut got);
                assert_eq!(got, sum, "{isa}");
                got.copy_from_slice(&residual);
                add_scaled(isa, &x, 0.3, &mut got);
                assert_eq!(got, scaled, "{isa}");
            }
        }
    }

    #[test]
    fn it_is_close_to_the_true_value() {
        for n in [1, 15, 16, 17, 200, 2560] {
            let x: Vec<f32> = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) * 0.03).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32 * 0.1).collect();
            let mean = x.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / n as f64;
            let mut out = vec![0.0; n];
            rms_norm(Isa::Scalar, &x, &weight, 1e-5, &mut out);
            for i in 0..n {
                let want = f64::from(weight[i]) * f64::from(x[i]) / (mean + 1e-5).sqrt();
                assert!((f64::from(out[i]) - want).abs() <= 4e-7 * want.abs(), "{n} {i}");
            }
        }
    }
}
