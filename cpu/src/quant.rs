//! Activations as int8 with one scale per token.

use crate::buffer::AlignedBuf;
use crate::norm::rms_norm;
use crate::pool::{Pool, SharedSlice};
use crate::simd::{Lanes, per_isa};

/// Rows of int8 start at multiples of this.
const ALIGN: usize = 64;

/// Quantized activations, `[tokens, cols]`: `x ≈ q / scale`.
///
/// Per token, as the models were trained: `scale = 127 / max(|x|max, 1e-5)`, `q = clamp(round(x · scale), -128, 127)`,
/// halves to even. Source: <https://arxiv.org/abs/2402.17764>.
#[derive(Clone, Debug, Default)]
pub struct Activations {
    tokens: usize,
    cols: usize,
    q: AlignedBuf<i8>,
    scale: Vec<f32>,
    sum: Vec<i32>,
}

impl Activations {
    /// Makes room for `tokens` rows of `cols`; what they hold is undefined until they are quantized.
    fn resize(&mut self, tokens: usize, cols: usize) {
        (self.tokens, self.cols) = (tokens, cols);
        self.q.resize(tokens * self.stride());
        self.scale.resize(tokens, 0.0);
        self.sum.resize(tokens, 0);
    }

    /// Quantizes the rows of `x`, `[tokens, cols]`, after an RMSNorm with the given weight and epsilon if there is one.
    ///
    /// # Panics
    /// If `x` does not consist of whole rows, or the weight has another length.
    pub fn quantize(&mut self, pool: &Pool, isa: crate::Isa, x: &[f32], cols: usize, norm: Option<(&[f32], f32)>) {
        assert!(x.len().is_multiple_of(cols), "quantize: whole rows");
        let tokens = x.len() / cols;
        self.resize(tokens, cols);
        let stride = self.stride();
        let (q, scale, sum) =
            (SharedSlice::new(&mut self.q), SharedSlice::new(&mut self.scale), SharedSlice::new(&mut self.sum));
        pool.run(tokens, &|token| {
            let x = &x[token * cols..(token + 1) * cols];
            // SAFETY: each token belongs to one task.
            let (q, scale, sum) =
                unsafe { (q.range(token * stride, stride), scale.range(token, 1), sum.range(token, 1)) };
            let (q, padding) = q.split_at_mut(cols);
            padding.fill(0);
            (scale[0], sum[0]) = match norm {
                None => quantize_row(isa, x, q),
                Some((weight, eps)) => with_memory(cols, |normed| {
                    rms_norm(isa, x, weight, eps, normed);
                    quantize_row(isa, normed, q)
                }),
            };
        });
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Numbers in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Distance between rows.
    pub(crate) fn stride(&self) -> usize {
        self.cols.next_multiple_of(ALIGN)
    }

    /// The rows from `token` on, [`Activations::stride`] apart and padded with zeros.
    pub(crate) fn rows_from(&self, token: usize) -> &[i8] {
        &self.q[token * self.stride()..]
    }

    /// The int8 values of a token.
    pub fn row(&self, token: usize) -> &[i8] {
        &self.q[token * self.stride()..][..self.cols]
    }

    /// 127 / absmax of a token.
    pub fn scale(&self, token: usize) -> f32 {
        self.scale[token]
    }

    /// Sum of the int8 values of a token.
    pub fn sum(&self, token: usize) -> i32 {
        self.sum[token]
    }
}

/// Gives `f` a row of memory that the thread keeps.
fn with_memory<T>(len: usize, f: impl FnOnce(&mut [f32]) -> T) -> T {
    thread_local! {
        static MEMORY: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    MEMORY.with_borrow_mut(|memory| {
        memory.resize(len, 0.0);
        f(memory)
    })
}

per_isa! {
    /// Quantizes one row; returns 127 / absmax and the sum of the int8 values.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn quantize_row(x: &[f32], q: &mut [i8]) -> (f32, i32) = quantize_row_body;
}

#[inline(always)]
fn quantize_row_body<S: Lanes>(x: &[f32], q: &mut [i8]) -> (f32, i32) {
    assert_eq!(x.len(), q.len(), "quantize_row: lengths differ");
    let mut max = [1e-5f32; 16];
    let chunks = x.chunks_exact(16);
    for (i, x) in chunks.remainder().iter().enumerate() {
        max[i] = max[i].max(x.abs());
    }
    for x in chunks {
        for i in 0..16 {
            max[i] = max[i].max(x[i].abs());
        }
    }
    let scale = 127.0 / max.into_iter().fold(1e-5, f32::max);
    let mut sum = 0i32;
    for (q, x) in q.iter_mut().zip(x) {
        // A value that is not a number becomes 0.
        let value = (x * scale).round_ties_even().clamp(-128.0, 127.0) as i32;
        *q = value as i8;
        sum += value;
    }
    (scale, sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Isa;

    #[test]
    fn halves_round_to_even_and_the_scale_is_exact() {
        let x = [127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5];
        let mut q = [0; 8];
        let (scale, sum) = quantize_row(Isa::Scalar, &x, &mut q);
        assert_eq!((scale, q), (1.0, [127, 0, 2, 2, 0, -2, -127, 126]));
        assert_eq!(sum, 128);
    }

    #[test]
    fn zeros_and_nonsense_are_defined() {
        let mut q = [1; 3];
        assert_eq!(quantize_row(Isa::Scalar, &[0.0; 3], &mut q), (127.0 / 1e-5, 0));
        assert_eq!(q, [0; 3]);
        quantize_row(Isa::Scalar, &[f32::NAN, 1.0, -1.0], &mut q);
        assert_eq!(q, [0, 127, -127]);
    }

    #[test]
    fn padding_stays_zero_when_the_width_changes() {
        let pool = Pool::new(1);
        let mut acts = Activations::default();
        for cols in [100, 70, 130, 10, 100] {
            acts.quantize(&pool, Isa::Scalar, &vec![1.0; 3 * cols], cols, None);
            let stride = acts.stride();
            for token in 0..3 {
                let row = &acts.rows_from(token)[..stride];
                assert!(row[..cols].iter().all(|&q| q == 127) && row[cols..].iter().all(|&q| q == 0), "{cols}");
            }
        }
    }
}
