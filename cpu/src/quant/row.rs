//! One row of int8 from floats, with what comes before: a norm, a gate. Three passes over the row at most.

use crate::activation::Gate;
use crate::math::{ROUND, rounded};
use crate::simd::{Lanes, dot, per_isa, reduce};

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
    let mut max = [SMALLEST; 16];
    for x in chunks {
        for i in 0..16 {
            max[i] = max[i].max(x[i].abs());
        }
    }
    for (max, x) in max.iter_mut().zip(tail) {
        *max = max.max(x.abs());
    }
    quantize_with(x, max, q)
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
    normed.copy_from_slice(x);
    norm_in_place(normed, dot(x, x), weight, eps, q)
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
        Gate::Relu2 => gate_row(gate, up, |gate, up| Gate::Relu2.apply(gate, up)),
        Gate::Silu => gate_row(gate, up, |gate, up| Gate::Silu.apply(gate, up)),
    };
    match norm {
        None => quantize_row_body::<S>(gate, q),
        Some((weight, eps)) => norm_in_place(gate, squares, weight, eps, q),
    }
}

/// `gate[i] = f(gate[i], up[i])`; returns the sum of squares.
#[inline(always)]
fn gate_row(gate: &mut [f32], up: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut squares = [0.0f32; 16];
    let ((chunks, tail), (up, up_tail)) = (gate.as_chunks_mut::<16>(), up.as_chunks::<16>());
    for (gate, up) in chunks.iter_mut().zip(up) {
        for i in 0..16 {
            gate[i] = f(gate[i], up[i]);
            squares[i] = gate[i].mul_add(gate[i], squares[i]);
        }
    }
    for ((gate, up), squares) in tail.iter_mut().zip(up_tail).zip(&mut squares) {
        *gate = f(*gate, *up);
        *squares = gate.mul_add(*gate, *squares);
    }
    reduce(squares)
}

/// Normalises `x`, whose squares have the sum `squares`, and quantizes it.
#[inline(always)]
fn norm_in_place(x: &mut [f32], squares: f32, weight: &[f32], eps: f32, q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), weight.len(), "norm: lengths differ");
    let scale = 1.0 / (squares / x.len() as f32 + eps).sqrt();
    let mut max = [SMALLEST; 16];
    let ((chunks, tail), (weights, weight_tail)) = (x.as_chunks_mut::<16>(), weight.as_chunks::<16>());
    for (x, weight) in chunks.iter_mut().zip(weights) {
        for i in 0..16 {
            x[i] = weight[i] * (x[i] * scale);
            max[i] = max[i].max(x[i].abs());
        }
    }
    for ((x, weight), max) in tail.iter_mut().zip(weight_tail).zip(&mut max) {
        *x = weight * (*x * scale);
        *max = max.max(x.abs());
    }
    quantize_with(x, max, q)
}

/// Quantizes `x`, whose largest magnitude is the largest of `max`.
#[inline(always)]
fn quantize_with(x: &[f32], max: [f32; 16], q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), q.len(), "quantize_row: lengths differ");
    let scale = 127.0 / max.into_iter().fold(SMALLEST, f32::max);
    // A value that is not a number becomes 0.
    let round = |x: f32| {
        let x = (x * scale).clamp(-128.0, 127.0);
        if x.is_nan() { 0 } else { rounded(x + ROUND) }
    };
    let mut sums = [0i32; 16];
    let ((chunks, tail), (q, q_tail)) = (x.as_chunks::<16>(), q.as_chunks_mut::<16>());
    for (x, q) in chunks.iter().zip(q) {
        for i in 0..16 {
            let value = round(x[i]);
            q[i] = value as i8;
            sums[i] += value;
        }
    }
    for ((x, q), sum) in tail.iter().zip(q_tail).zip(&mut sums) {
        let value = round(*x);
        *q = value as i8;
        *sum += value;
    }
    (scale, sums.iter().sum())
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
            silu: bool,
        ) {
            let n = x.len();
            let up: Vec<f32> = x.iter().map(|v| 0.3 - v * 0.1).collect();
            let weight: Vec<f32> = (0..n).map(|i| 1.0 + (i % 7) as f32 * 0.1).collect();
            let function = if silu { Gate::Silu } else { Gate::Relu2 };
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
