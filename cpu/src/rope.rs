//! Rotary position embedding, half-split: element i of a head turns with element i + head_dim / 2.
//!
//! Source: <https://arxiv.org/abs/2104.09864>, in the form of transformers' `rotate_half`.

use crate::Isa;
use crate::pool::{Pool, SharedSlice};
use crate::simd::{Lanes, per_isa};

/// Changes to the rotary frequencies for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by `factor`.
    Linear {
        /// Divisor.
        factor: f32,
    },
    /// Llama 3.1: low frequencies are divided by `factor`, high ones kept, those between interpolated.
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Wavelengths above `original_max_position / low_freq_factor` count as low frequencies.
        low_freq_factor: f32,
        /// Wavelengths below `original_max_position / high_freq_factor` count as high frequencies.
        high_freq_factor: f32,
        /// Positions of the original training.
        original_max_position: usize,
    },
    /// One divisor per frequency (GGUF's `rope_freqs.weight`), head_dim / 2 of them.
    Factors(Vec<f32>),
}

/// The frequencies of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    inv_freq: Vec<f32>,
}

/// Cosines and sines for the positions of a batch, computed once for all layers and heads.
#[derive(Clone, Debug, Default)]
pub struct RopeRows {
    half: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rope {
    /// The frequencies, head_dim / 2 of them.
    pub fn frequencies(&self) -> &[f32] {
        &self.inv_freq
    }

    /// Frequencies `theta^(-2i / head_dim)`, changed by `scaling`.
    ///
    /// # Panics
    /// If `head_dim` is odd, or there are factors but not `head_dim / 2`.
    pub fn new(head_dim: usize, theta: f32, scaling: &RopeScaling) -> Rope {
        assert!(head_dim.is_multiple_of(2), "rope: a head has pairs");
        // f32 at each step, as the reference computes it.
        let base = (0..head_dim / 2).map(|i| {
            let exponent = (2 * i) as f32 / head_dim as f32;
            1.0 / (f64::from(theta).powf(f64::from(exponent)) as f32)
        });
        let inv_freq: Vec<f32> = match scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => {
                assert_eq!(factors.len(), head_dim / 2, "rope: a factor per frequency");
                base.zip(factors).map(|(f, factor)| f / factor).collect()
            }
            &RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let original = original_max_position as f32;
                base.map(|f| {
                    let wavelength = 2.0 * std::f32::consts::PI / f;
                    if wavelength > original / low_freq_factor {
                        f / factor
                    } else if wavelength < original / high_freq_factor {
                        f
                    } else {
                        let smooth = (original / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 - smooth) * (f / factor) + smooth * f
                    }
                })
                .collect()
            }
        };
        Rope { inv_freq }
    }

    /// Computes the rows of `positions`.
    pub fn rows(&self, positions: impl Iterator<Item = usize>, rows: &mut RopeRows) {
        rows.half = self.inv_freq.len();
        rows.cos.clear();
        rows.sin.clear();
        for position in positions {
            for &freq in &self.inv_freq {
                // The angle is rounded to f32 as in the reference; its sine and cosine are exact to f32.
                let (sin, cos) = f64::from(position as f32 * freq).sin_cos();
                rows.cos.push(cos as f32);
                rows.sin.push(sin as f32);
            }
        }
    }
}

impl RopeRows {
    /// Cosine and sine of each rotary pair, row by row.
    pub fn turns(&self) -> impl Iterator<Item = [f32; 2]> {
        self.cos.iter().zip(&self.sin).map(|(&cos, &sin)| [cos, sin])
    }

    /// Turns the heads of all tokens in `q` and `k`, a row of whole heads per token each, on the threads of `pool`.
    ///
    /// # Panics
    /// If the rows do not consist of whole heads.
    pub fn apply_all(&self, pool: &Pool, isa: Isa, q: &mut [f32], k: &mut [f32]) {
        let tokens = self.cos.len() / self.half;
        let (q_width, k_width) = (q.len() / tokens, k.len() / tokens);
        let (q, k) = (SharedSlice::new(q), SharedSlice::new(k));
        pool.run(tokens, &|token| {
            // SAFETY: each token belongs to one task.
            let (q, k) = unsafe { (q.range(token * q_width, q_width), k.range(token * k_width, k_width)) };
            self.apply(isa, token, q);
            self.apply(isa, token, k);
        });
    }

    /// Turns the heads in `x`, `[heads · head_dim]`, of row `row`.
    ///
    /// # Panics
    /// If `x` is not a number of whole heads, or there is no such row.
    pub fn apply(&self, isa: Isa, row: usize, x: &mut [f32]) {
        let range = row * self.half..(row + 1) * self.half;
        rotate(isa, &self.cos[range.clone()], &self.sin[range], x);
    }
}

per_isa! {
    fn rotate(cos: &[f32], sin: &[f32], x: &mut [f32]) = rotate_body;
}

#[inline(always)]
fn rotate_body<S: Lanes>(cos: &[f32], sin: &[f32], x: &mut [f32]) {
    let half = cos.len();
    assert!(x.len().is_multiple_of(2 * half), "rope: whole heads");
    for head in x.chunks_exact_mut(2 * half) {
        let (low, high) = head.split_at_mut(half);
        for i in 0..half {
            let (a, b) = (low[i], high[i]);
            low[i] = a.mul_add(cos[i], -(b * sin[i]));
            high[i] = b.mul_add(cos[i], a * sin[i]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let (head_dim, theta) = (64, 10000.0);
        let rope = Rope::new(head_dim, theta, &RopeScaling::None);
        let mut rows = RopeRows::default();
        rope.rows([0, 5, 1000].into_iter(), &mut rows);
        for (row, position) in [0.0, 5.0, 1000.0f64].into_iter().enumerate() {
            let x: Vec<f32> = (0..2 * head_dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut y = x.clone();
            rows.apply(Isa::Scalar, row, &mut y);
            for head in [0, head_dim] {
                for i in 0..32 {
                    let angle = position * f64::from(theta).powf(-(2.0 * i as f64) / 64.0);
                    let (a, b) = (f64::from(x[head + i]), f64::from(x[head + i + 32]));
                    let want = a * angle.cos() - b * angle.sin();
                    assert!((f64::from(y[head + i]) - want).abs() < 2e-7 * (1.0 + angle), "{position} {i}");
                }
            }
        }
    }

    #[test]
    fn scalings_divide_frequencies() {
        let plain = Rope::new(8, 100.0, &RopeScaling::None).inv_freq;
        let linear = Rope::new(8, 100.0, &RopeScaling::Linear { factor: 4.0 }).inv_freq;
        let factors = Rope::new(8, 100.0, &RopeScaling::Factors(vec![1.0, 2.0, 4.0, 8.0])).inv_freq;
        assert_eq!(linear, plain.iter().map(|f| f / 4.0).collect::<Vec<_>>());
        assert_eq!(factors[3], plain[3] / 8.0);
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192,
        };
        let (plain, scaled) = (Rope::new(128, 5e5, &RopeScaling::None), Rope::new(128, 5e5, &llama3));
        assert_eq!(scaled.inv_freq[0], plain.inv_freq[0], "high frequencies stay");
        assert_eq!(scaled.inv_freq[63], plain.inv_freq[63] / 8.0, "low ones are divided");
        assert!(scaled.inv_freq.windows(2).all(|w| w[0] > w[1]));
    }
}
