//! Rotary position embedding, half-split: element i of a head turns with element i + head_dim / 2.
//!
//! Source: <https://arxiv.org/abs/2104.09864>, in the form of transformers' `rotate_half`. Where a model normalises each head
//! of its queries and keys first, that is part of the same pass over them.

use crate::Isa;
use crate::norm::norm_in_place;
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
    /// YaRN: high frequencies are kept, low ones divided by `factor`, those between interpolated by the number of turns that
    /// they make within the original context. Source: <https://arxiv.org/abs/2309.00071>, in the form of transformers.
    Yarn {
        /// Divisor of the low frequencies.
        factor: f32,
        /// Pairs that make more turns than this keep their frequency.
        beta_fast: f32,
        /// Pairs that make fewer turns than this have theirs divided.
        beta_slow: f32,
        /// Positions of the original training.
        original_max_position: usize,
        /// Multiplies cosines and sines, and so scores by its square.
        attention_factor: f32,
        /// Whether the bounds between which frequencies are interpolated are rounded to whole pairs.
        truncate: bool,
    },
    /// LongRoPE: a divisor per frequency (head_dim / 2 of them), one list for models that go beyond the original context
    /// and one for those that do not. Source: <https://arxiv.org/abs/2402.13753>, in the form of MiniCPM, where the context of
    /// the model decides, not the length of a text: keys in the cache keep their rotation.
    LongRope {
        /// Divisors where the context is not longer than the original one.
        short: Vec<f32>,
        /// Divisors where it is.
        long: Vec<f32>,
        /// Positions of the original training.
        original_max_position: usize,
        /// Positions of the model.
        max_position: usize,
        /// Multiplies cosines and sines.
        attention_factor: f32,
    },
    /// One divisor per frequency (GGUF's `rope_freqs.weight`), head_dim / 2 of them.
    Factors(Vec<f32>),
}

impl RopeScaling {
    /// What LongRoPE multiplies cosines and sines with, unless a model says otherwise:
    /// `sqrt(1 + ln(factor) / ln(original_max_position))`.
    pub fn longrope_attention_factor(factor: f32, original_max_position: usize) -> f32 {
        let factor = f64::from(factor);
        if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original_max_position as f64).ln()).sqrt() as f32 }
    }

    /// What YaRN multiplies cosines and sines with, unless a model says otherwise: `0.1 ln(factor) + 1`.
    pub fn yarn_attention_factor(factor: f32) -> f32 {
        if factor <= 1.0 { 1.0 } else { (0.1 * f64::from(factor).ln() + 1.0) as f32 }
    }
}

/// The frequencies of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    inv_freq: Vec<f32>,
    /// Multiplies cosines and sines.
    amplitude: f32,
}

/// RMSNorm over each head of the queries and of the keys, before they turn; the weights have the width of a head.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadNorms<'a> {
    /// Weight for the queries.
    pub q: Option<&'a [f32]>,
    /// Weight for the keys.
    pub k: Option<&'a [f32]>,
    /// Added to the mean square.
    pub eps: f32,
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
        let mut amplitude = 1.0;
        let inv_freq: Vec<f32> = match scaling {
            RopeScaling::None => base.collect(),
            RopeScaling::Linear { factor } => base.map(|f| f / factor).collect(),
            RopeScaling::Factors(factors) => {
                assert_eq!(factors.len(), head_dim / 2, "rope: a factor per frequency");
                base.zip(factors).map(|(f, factor)| f / factor).collect()
            }
            RopeScaling::LongRope { short, long, original_max_position, max_position, attention_factor } => {
                amplitude = *attention_factor;
                let factors = if max_position > original_max_position { long } else { short };
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
            &RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max_position, attention_factor, truncate } => {
                amplitude = attention_factor;
                // The pair that makes so many turns within the original context.
                let pair_of = |turns: f32| {
                    let positions = original_max_position as f64 / (f64::from(turns) * 2.0 * std::f64::consts::PI);
                    head_dim as f64 * positions.ln() / (2.0 * f64::from(theta).ln())
                };
                let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                base.enumerate()
                    .map(|(i, f)| {
                        let divided = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                        let kept = 1.0 - divided;
                        f / factor * (1.0 - kept) + f * kept
                    })
                    .collect()
            }
        };
        Rope { inv_freq, amplitude }
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
                rows.cos.push(cos as f32 * self.amplitude);
                rows.sin.push(sin as f32 * self.amplitude);
            }
        }
    }
}

impl RopeRows {
    /// Cosine and sine of each rotary pair, row by row.
    pub fn turns(&self) -> impl Iterator<Item = [f32; 2]> {
        self.cos.iter().zip(&self.sin).map(|(&cos, &sin)| [cos, sin])
    }

    /// Turns the heads of all tokens in `q` and `k`, a row of whole heads per token each, on the threads of `pool`, after
    /// the norms if there are any.
    ///
    /// # Panics
    /// If the rows do not consist of whole heads, or the weight of a norm has not the width of one.
    pub fn apply_all(&self, pool: &Pool, isa: Isa, q: &mut [f32], k: &mut [f32], norms: HeadNorms<'_>) {
        let tokens = self.cos.len() / self.half;
        let (q_width, k_width) = (q.len() / tokens, k.len() / tokens);
        let (q, k) = (SharedSlice::new(q), SharedSlice::new(k));
        pool.run(tokens, &|token| {
            // SAFETY: each token belongs to one task.
            let (q, k) = unsafe { (q.range(token * q_width, q_width), k.range(token * k_width, k_width)) };
            self.apply(isa, token, q, norms.q.map(|weight| (weight, norms.eps)));
            self.apply(isa, token, k, norms.k.map(|weight| (weight, norms.eps)));
        });
    }

    /// Turns the heads in `x`, `[heads · head_dim]`, of row `row`, after an RMSNorm over each with the given weight and
    /// epsilon if there is one.
    ///
    /// # Panics
    /// If `x` is not a number of whole heads, the weight has not the width of one, or there is no such row.
    pub fn apply(&self, isa: Isa, row: usize, x: &mut [f32], norm: Option<(&[f32], f32)>) {
        let range = row * self.half..(row + 1) * self.half;
        let (cos, sin) = (&self.cos[range.clone()], &self.sin[range]);
        match norm {
            None => rotate(isa, cos, sin, x),
            Some((weight, eps)) => norm_rotate(isa, cos, sin, weight, eps, x),
        }
    }
}

per_isa! {
    fn rotate(cos: &[f32], sin: &[f32], x: &mut [f32]) = rotate_body;
}

#[inline(always)]
fn rotate_body<S: Lanes>(cos: &[f32], sin: &[f32], x: &mut [f32]) {
    assert!(x.len().is_multiple_of(2 * cos.len()), "rope: whole heads");
    for head in x.chunks_exact_mut(2 * cos.len()) {
        rotate_head(cos, sin, head);
    }
}

per_isa! {
    fn norm_rotate(cos: &[f32], sin: &[f32], weight: &[f32], eps: f32, x: &mut [f32]) = norm_rotate_body;
}

#[inline(always)]
fn norm_rotate_body<S: Lanes>(cos: &[f32], sin: &[f32], weight: &[f32], eps: f32, x: &mut [f32]) {
    assert!(x.len().is_multiple_of(2 * cos.len()), "rope: whole heads");
    for head in x.chunks_exact_mut(2 * cos.len()) {
        norm_in_place(head, weight, eps);
        rotate_head(cos, sin, head);
    }
}

/// Turns the pairs of one head.
#[inline(always)]
fn rotate_head(cos: &[f32], sin: &[f32], head: &mut [f32]) {
    let half = cos.len();
    let (low, high) = head.split_at_mut(half);
    for i in 0..half {
        let (a, b) = (low[i], high[i]);
        low[i] = a.mul_add(cos[i], -(b * sin[i]));
        high[i] = b.mul_add(cos[i], a * sin[i]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::norm::rms_norm;

    #[test]
    fn pairs_turn_by_position_times_frequency() {
        let (head_dim, theta) = (64, 10000.0);
        let rope = Rope::new(head_dim, theta, &RopeScaling::None);
        let mut rows = RopeRows::default();
        rope.rows([0, 5, 1000].into_iter(), &mut rows);
        for (row, position) in [0.0, 5.0, 1000.0f64].into_iter().enumerate() {
            let x: Vec<f32> = (0..2 * head_dim).map(|i| (i as f32 * 0.7).sin()).collect();
            let mut y = x.clone();
            rows.apply(Isa::Scalar, row, &mut y, None);
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
    fn heads_are_normalised_before_they_turn() {
        for head_dim in [6, 64, 100] {
            let mut rows = RopeRows::default();
            Rope::new(head_dim, 10000.0, &RopeScaling::None).rows([3, 70].into_iter(), &mut rows);
            let weight: Vec<f32> = (0..head_dim).map(|i| 0.5 + (i % 5) as f32 * 0.3).collect();
            let x: Vec<f32> = (0..3 * head_dim).map(|i| (i as f32 * 0.7).sin() * 5.0).collect();
            let mut want = x.clone();
            for head in 0..3 {
                let range = head * head_dim..(head + 1) * head_dim;
                rms_norm(Isa::Scalar, &x[range.clone()], &weight, 1e-6, &mut want[range]);
            }
            rows.apply(Isa::Scalar, 1, &mut want, None);
            for isa in Isa::available() {
                let mut got = x.clone();
                rows.apply(isa, 1, &mut got, Some((&weight, 1e-6)));
                assert_eq!(got, want, "{isa} {head_dim}");
            }
        }
    }

    #[test]
    fn yarn_is_that_of_transformers() {
        // modeling_rope_utils._compute_yarn_parameters: head_dim 16, theta 1e6, factor 4, original context 512.
        let yarn = |truncate| RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max_position: 512,
            attention_factor: RopeScaling::yarn_attention_factor(4.0),
            truncate,
        };
        let same = [1.0, 0.0, 0.0, 0.001_405_853_3, 0.000_25, 4.445_698_5e-5, 7.905_694e-6, 1.405_853_4e-6];
        for (truncate, mixed) in [(true, [0.133_370_95, 0.015_811_39]), (false, [0.147_340_9, 0.014_383_363])] {
            let rope = Rope::new(16, 1e6, &yarn(truncate));
            let want = [&same[..1], &mixed, &same[3..]].concat();
            for (got, want) in rope.frequencies().iter().zip(&want) {
                assert!((got - want).abs() <= 1e-6 * want, "{truncate}: {got} {want}");
            }
            let mut rows = RopeRows::default();
            rope.rows([0].into_iter(), &mut rows);
            assert!(rows.turns().all(|turn| turn == [1.138_629_4, 0.0]));
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
