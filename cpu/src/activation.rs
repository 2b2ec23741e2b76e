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
}

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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

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
                        Gate::Silu => x / (1.0 + (-x).exp()),
                    };
                assert!((f64::from(got) - want).abs() <= 5e-7 * want.abs() + 1e-35, "{function:?} {x}: {got} {want}");
            }
        }
    }
}
