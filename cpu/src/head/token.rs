//! Activations of 16 bits, and what is known of their rounding.

use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::simd::{Lanes, absmax, per_isa};

/// The rows of several tokens in 16 bits.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// `[tokens, stride]`, padded with zeros.
    pub(super) values: AlignedBuf<i16>,
    pub(super) stride: usize,
    pub(super) bounds: Vec<TokenBound>,
}

/// The scale of a token, and the factors that the error of a logit is bounded with.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TokenBound {
    pub(super) scale: f64,
    /// Multiplies `‖e‖`.
    pub(super) error: f64,
    /// Multiplies `max |e|`.
    pub(super) worst: f64,
    /// Multiplies `‖ŵ‖`.
    pub(super) norm: f64,
    /// `‖x‖`
    pub(super) length: f64,
    /// What underflow may take away.
    pub(super) tiny: f64,
}

/// Largest value such that no 32-bit sum of a kernel overflows: a lane of 8 sums a pair of products for every 16 columns.
fn limit(stride: usize) -> f32 {
    let most = i32::MAX as usize / (2 * 127 * stride.div_ceil(16).max(1));
    // 2^24 pairs of columns would leave nothing; no matrix is that wide.
    most.min(32767) as f32
}

impl Tokens {
    /// Rounds the rows of `x`, `cols` numbers each, to 16 bits.
    pub(super) fn set<'a>(&mut self, isa: Isa, rows: impl ExactSizeIterator<Item = &'a [f32]>, cols: usize) {
        self.stride = cols.next_multiple_of(super::ALIGN);
        self.values.resize(rows.len() * self.stride);
        self.bounds.clear();
        for (x, values) in rows.zip(self.values.chunks_exact_mut(self.stride.max(1))) {
            values[cols..].fill(0);
            self.bounds.push(quantize(isa, x, &mut values[..cols], limit(self.stride)));
        }
    }
}

per_isa! {
    /// Rounds a row to whole numbers of at most `limit`.
    fn quantize(x: &[f32], values: &mut [i16], limit: f32) -> TokenBound = quantize_body;
}

#[inline(always)]
fn quantize_body<S: Lanes>(x: &[f32], values: &mut [i16], limit: f32) -> TokenBound {
    let scale = (absmax(x) / limit).max(f32::MIN_POSITIVE);
    let inverse = 1.0 / scale;
    let (mut rest, mut square) = ([0.0f64; 16], [0.0f64; 16]);
    for (x, values) in x.chunks(16).zip(values.chunks_mut(16)) {
        for (i, (&x, value)) in x.iter().zip(values).enumerate() {
            let rounded = (x * inverse).round_ties_even().clamp(-limit, limit);
            // What is not a number becomes 0, and its square says so.
            *value = rounded as i16;
            let d = f64::from(x) - f64::from(rounded) * f64::from(scale);
            rest[i] += d * d;
            square[i] += f64::from(x) * f64::from(x);
        }
    }
    let [rest, length] = [rest, square].map(|sums| sums.into_iter().sum::<f64>().sqrt());
    if !length.is_finite() {
        return TokenBound { length: f64::INFINITY, ..TokenBound::default() };
    }
    let (worst, error) = split(x, length);
    // Error of the canonical dot product: cols / 16 fused steps and four levels of a tree, each within 2^-24; twice that
    // for good measure.
    let gamma = (x.len() / 16 + 8) as f64 * 2f64.powi(-23);
    // A factor for the rounding of all the f64 steps here and where the bounds are put together.
    let slack = 1.0 + 1e-6;
    TokenBound {
        scale: f64::from(scale),
        error: (error + gamma * length) * slack,
        worst: worst * slack,
        norm: (rest + gamma * length) * slack,
        length: length * slack,
        tiny: x.len() as f64 * 2f64.powi(-140),
    }
}

/// The split `x = x′ + x″` by size that bounds `e · x` best for a row with errors spread evenly: `‖x′‖₁` and `‖x″‖`.
#[inline(always)]
fn split(x: &[f32], length: f64) -> (f64, f64) {
    let root = (x.len() as f64).sqrt();
    // Of errors within ± 1, the root mean square is 1 / √3.
    let cost = |(worst, error): (f64, f64)| worst + error * root / 3f64.sqrt();
    let mut best = (0.0, length);
    for sigmas in [0.0, 1.0, 2.0, 4.0, 8.0] {
        let threshold = (sigmas * length / root) as f32;
        let (mut large, mut small) = ([0.0f64; 16], [0.0f64; 16]);
        for x in x.chunks(16) {
            for (i, x) in x.iter().enumerate() {
                let size = x.abs();
                let is_large = size >= threshold;
                let size = f64::from(size);
                large[i] += if is_large { size } else { 0.0 };
                small[i] += if is_large { 0.0 } else { size * size };
            }
        }
        let [large, small] = [large, small].map(|sums| sums.into_iter().sum::<f64>());
        let candidate = (large, small.sqrt());
        if cost(candidate) < cost(best) {
            best = candidate;
        }
    }
    best
}
