//! The gated activations of feed-forward networks.

use crate::math::exp;
use crate::simd::{Lanes, per_isa};

/// What is applied to the gate before it multiplies `up`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// `max(x, 0)²`
    Relu2,
    /// `x / (1 + e^-x)`
    Silu,
    /// GELU in its approximation by tanh: `x / 2 · (1 + tanh u)` with `u = sqrt(2 / π) · (x + 0.044715 x³)`, which is
    /// `x / (1 + e^-2u)`.
    Gelu,
}

/// `2 · sqrt(2 / π)`
const GELU_SCALE: f32 = 1.595_769;
/// The weight of the cube in GELU.
const GELU_CUBE: f32 = 0.044_715;

impl Gate {
    /// `f(gate) · up`
    #[inline(always)]
    pub(crate) fn apply(self, gate: f32, up: f32) -> f32 {
        match self {
            Gate::Relu2 => {
                let x = gate.max(0.0);
                x * x * up
            }
            Gate::Silu => gate / (1.0 + exp(-gate)) * up,
            Gate::Gelu => {
                let twice = GELU_SCALE * (GELU_CUBE * gate * gate).mul_add(gate, gate);
                gate / (1.0 + exp(-twice)) * up
            }
        }
    }
}

per_isa! {
    /// `gate[i] = f(gate[i]) · up[i]`.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn gated(function: Gate, gate: &mut [f32], up: &[f32]) = gated_body;
}

#[inline(always)]
fn gated_body<S: Lanes>(function: Gate, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len(), "gated: lengths differ");
    // The function is chosen outside the loops.
    match function {
        Gate::Relu2 => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = Gate::Relu2.apply(*gate, *up)),
        Gate::Silu => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = Gate::Silu.apply(*gate, *up)),
        Gate::Gelu => gate.iter_mut().zip(up).for_each(|(gate, up)| *gate = Gate::Gelu.apply(*gate, *up)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn gelu_is_that_of_tanh() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.005).collect();
        let mut out = x.clone();
        gated(Isa::Scalar, Gate::Gelu, &mut out, &vec![1.0; x.len()]);
        for (x, &got) in x.iter().map(|&x| f64::from(x)).zip(&out) {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            // Where tanh is near -1, its complement to 1 is what is left of f64.
            let want = x / (1.0 + (-2.0 * u).exp());
            assert!((want - 0.5 * x * (1.0 + u.tanh())).abs() < 1e-14);
            let tolerance = (5e-7 + 4e-7 * u.abs()) * want.abs() + 1e-35;
            assert!((f64::from(got) - want).abs() <= tolerance, "{x}: {got} {want}");
        }
        let mut ends = [-1e4, 1e4, 0.0];
        gated(Isa::Scalar, Gate::Gelu, &mut ends, &[1.0; 3]);
        assert_eq!(ends, [0.0, 1e4, 0.0]);
    }

    #[test]
    fn they_are_close_to_the_true_values() {
        let x: Vec<f32> = (-4000..4000).map(|i| i as f32 * 0.05).collect();
        let up: Vec<f32> = x.iter().map(|v| 1.0 - v * 0.01).collect();
        for function in [Gate::Relu2, Gate::Silu] {
            let mut out = x.clone();
            gated(Isa::Scalar, function, &mut out, &up);
            for (i, &got) in out.iter().enumerate() {
                let (x, up) = (f64::from(x[i]), f64::from(up[i]));
                let want = up
                    * match function {
                        Gate::Relu2 => x.max(0.0).powi(2),
                        Gate::Silu | Gate::Gelu => x / (1.0 + (-x).exp()),
                    };
                assert!((f64::from(got) - want).abs() <= 5e-7 * want.abs() + 1e-35, "{function:?} {x}: {got} {want}");
            }
        }
    }
}
