//! One row of int8 from floats, with what comes before: a norm, a gate. Three passes over the row at most.

use crate::activation::Gate;
use crate::math::{ROUND, rounded};
use crate::simd::{Lanes, larger, largest, per_isa, reduce};

/// What quantization takes for the largest magnitude at least.
const SMALLEST: f32 = 1e-5;

per_isa! {
    /// Quantizes one row; returns 127 / absmax and the sum of the int8 values.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize_row(x: &[f32], q: &mut [i8]) -> (f32, i32) = quantize_row_body;
}

#[inline(always)]
fn quantize_row_body<S: Lanes>(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut max = S::splat(SMALLEST);
    for x in chunks {
        max = S::max(magnitudes::<S>(S::load(x)), max);
    }
    let mut max = S::array(max);
    for (max, x) in max.iter_mut().zip(tail) {
        *max = larger(x.abs(), *max);
    }
    quantize_with::<S>(x, max, q)
}

/// The magnitudes of 16 numbers; what is not a number stays so.
#[inline(always)]
fn magnitudes<S: Lanes>(x: S::F) -> S::F {
    S::max(x, S::sub(S::splat(0.0), x))
}

per_isa! {
    /// `quantize_row` of the RMSNorm of `x`, which is put into `normed`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(super) fn norm_quantize(x: &[f32], weight: &[f32], eps: f32, normed: &mut [f32], q: &mut [i8]) -> (f32, i32)
        = norm_quantize_body;
}

#[inline(always)]
fn norm_quantize_body<S: Lanes>(x: &[f32], weight: &[f32], eps: f32, normed: &mut [f32], q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), normed.len(), "norm: lengths differ");
    let ((chunks, tail), (to, to_tail)) = (x.as_chunks::<16>(), normed.as_chunks_mut::<16>());
    let mut squares = S::splat(0.0);
    for (x, to) in chunks.iter().zip(to) {
        let x = S::load(x);
        squares = S::fma(x, x, squares);
        S::store(x, to);
    }
    let mut squares = S::array(squares);
    for ((x, to), squares) in tail.iter().zip(to_tail).zip(&mut squares) {
        *squares = x.mul_add(*x, *squares);
        *to = *x;
    }
    norm_in_place::<S>(normed, reduce(squares), weight, eps, q)
}

per_isa! {
    /// `quantize_row` of `function(gate) · up`, after an RMSNorm if there is one. `gate` is overwritten.
    ///
    /// # Panics
    /// If the lengths differ.
    pub(super) fn gate_quantize(
        function: Gate,
        gate: &mut [f32],
        up: &[f32],
        norm: Option<(&[f32], f32)>,
        q: &mut [i8],
    ) -> (f32, i32) = gate_quantize_body;
}

#[inline(always)]
fn gate_quantize_body<S: Lanes>(
    function: Gate,
    gate: &mut [f32],
    up: &[f32],
    norm: Option<(&[f32], f32)>,
    q: &mut [i8],
) -> (f32, i32) {
    assert_eq!(gate.len(), up.len(), "gate_quantize: lengths differ");
    // The function is chosen outside the loop.
    let squares = match function {
        Gate::Relu2 => gate_row::<S>(gate, up, Gate::Relu2, |gate, up| {
            let gate = S::max(gate, S::splat(0.0));
            S::mul(S::mul(gate, gate), up)
        }),
        Gate::Silu => gate_row::<S>(gate, up, Gate::Silu, |gate, up| {
            let (gate, up) = (S::array(gate), S::array(up));
            S::load(&std::array::from_fn(|i| Gate::Silu.apply(gate[i], up[i])))
        }),
        Gate::Gelu => gate_row::<S>(gate, up, Gate::Gelu, |gate, up| {
            let (gate, up) = (S::array(gate), S::array(up));
            S::load(&std::array::from_fn(|i| Gate::Gelu.apply(gate[i], up[i])))
        }),
    };
    match norm {
        None => quantize_row_body::<S>(gate, q),
        Some((weight, eps)) => norm_in_place::<S>(gate, squares, weight, eps, q),
    }
}

/// `gate[i] = function(gate[i]) · up[i]`, which `of_lanes` computes for 16 numbers; returns the sum of squares.
#[inline(always)]
fn gate_row<S: Lanes>(gate: &mut [f32], up: &[f32], function: Gate, of_lanes: impl Fn(S::F, S::F) -> S::F) -> f32 {
    let mut squares = S::splat(0.0);
    let ((chunks, tail), (up, up_tail)) = (gate.as_chunks_mut::<16>(), up.as_chunks::<16>());
    for (gate, up) in chunks.iter_mut().zip(up) {
        let product = of_lanes(S::load(gate), S::load(up));
        squares = S::fma(product, product, squares);
        S::store(product, gate);
    }
    let mut squares = S::array(squares);
    for ((gate, up), squares) in tail.iter_mut().zip(up_tail).zip(&mut squares) {
        *gate = function.apply(*gate, *up);
        *squares = gate.mul_add(*gate, *squares);
    }
    reduce(squares)
}

/// Normalises `x`, whose squares have the sum `squares`, and quantizes it.
#[inline(always)]
fn norm_in_place<S: Lanes>(x: &mut [f32], squares: f32, weight: &[f32], eps: f32, q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), weight.len(), "norm: lengths differ");
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    let (by, mut max) = (S::splat(scale), S::splat(SMALLEST));
    let ((chunks, tail), (weights, weight_tail)) = (x.as_chunks_mut::<16>(), weight.as_chunks::<16>());
    for (x, weight) in chunks.iter_mut().zip(weights) {
        let normed = S::mul(S::load(weight), S::mul(S::load(x), by));
        max = S::max(magnitudes::<S>(normed), max);
        S::store(normed, x);
    }
    let mut max = S::array(max);
    for ((x, weight), max) in tail.iter_mut().zip(weight_tail).zip(&mut max) {
        *x = weight * (*x * scale);
        *max = larger(x.abs(), *max);
    }
    quantize_with::<S>(x, max, q)
}

/// Quantizes `x`, whose largest magnitude is the largest of `max`. No product with the scale is beyond 127 but by its
/// rounding; a value that is not a number becomes 0.
#[inline(always)]
fn quantize_with<S: Lanes>(x: &[f32], max: [f32; 16], q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), q.len(), "quantize_row: lengths differ");
    let scale = 127.0 / largest(max);
    let (by, round, zero) = (S::splat(scale), S::splat(ROUND), S::splat(0.0));
    let unround = S::splat_i32((ROUND.to_bits() as i32).wrapping_neg());
    let mut sums = S::splat_i32(0);
    let ((chunks, tail), (q, q_tail)) = (x.as_chunks::<16>(), q.as_chunks_mut::<16>());
    for (x, q) in chunks.iter().zip(q) {
        let x = S::mul(S::load(x), by);
        // Below 0 where x is not a number.
        let number = S::max(magnitudes::<S>(x), S::splat(-1.0));
        let x = S::zero_below(x, number, zero);
        let values = S::add_i32(S::bits(S::add(x, round)), unround);
        sums = S::add_i32(sums, values);
        *q = S::low_bytes(values).map(|byte| byte as i8);
    }
    let mut all = [0; 16];
    S::store_i32(sums, &mut all);
    for ((x, q), sum) in tail.iter().zip(q_tail).zip(&mut all) {
        let x = x * scale;
        let value = if x.is_nan() { 0 } else { rounded(x + ROUND) };
        *q = value as i8;
        *sum += value;
    }
    (scale, all.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;
    use crate::activation::gated;
    use crate::norm::rms_norm;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fused_rows_are_the_steps_one_after_the_other(
            x in proptest::collection::vec(-30.0f32..30.0, 1..100),
            with_norm: bool,
            function in prop_oneof![Just(Gate::Relu2), Just(Gate::Silu), Just(Gate::Gelu)],
        ) {
            let n = x.len();
            let up: Vec<f32> = x.iter().map(|v| 0.3 - v * 0.1).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32 * 0.1).collect();
            let steps = |isa, x: &[f32], norm: bool| {
                let (mut normed, mut q) = (x.to_vec(), vec![0; n]);
                if norm {
                    rms_norm(isa, x, &weight, 1e-5, &mut normed);
                }
                (quantize_row(isa, &normed, &mut q), q)
            };
            let mut product = x.clone();
            gated(Isa::Scalar, function, &mut product, &up);
            let (want, want_gated) = (steps(Isa::Scalar, &x, true), steps(Isa::Scalar, &product, with_norm));
            for isa in Isa::available() {
                let (mut memory, mut q) = (vec![0.0; n], vec![0; n]);
                let got = norm_quantize(isa, &x, &weight, 1e-5, &mut memory, &mut q);
                prop_assert_eq!((got, &q), (want.0, &want.1), "{}", isa);
                let norm = with_norm.then_some((&*weight, 1e-5));
                let got = gate_quantize(isa, function, &mut x.clone(), &up, norm, &mut q);
                prop_assert_eq!((got, &q), (want_gated.0, &want_gated.1), "{}", isa);
            }
        }
    }
}
