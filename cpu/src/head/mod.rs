//! The vocabulary matrix in int8, and the best logits found with it, exactly.
//!
//! A head of f16, bf16 or f32 rows is as many bytes as the whole ternary body. An int8 copy of it ([`Int8Rows`]) gives
//! each logit within an interval; only rows whose interval reaches up to the best are multiplied exactly, so the
//! candidates ([`Finder`]) and their logits are those of the exact head, bit for bit.
//!
//! Row `w = ŵ + e`, with `ŵ = q · scale`; activation `x = x̂ + d`, with `x̂` of 16 bits. Then
//! `w · x = ŵ · x̂ + ŵ · d + e · x`: the first product is an exact integer, the second at most `‖ŵ‖ ‖d‖`, the third at most
//! `max|e| ‖x′‖₁ + ‖e‖ ‖x″‖` for any split `x = x′ + x″` (the outliers and the others). To that comes what the canonical
//! dot product may round, at most `γ ‖w‖ ‖x‖`.

mod best;

mod interval;
mod mass;
mod products;
#[cfg(test)]
mod tests;
mod token;

pub use best::{Best, Candidates, Finder, Head};

use bytemuck::{Pod, Zeroable};
use rayon::prelude::*;

use crate::Isa;
use crate::buffer::{AlignedBuf, SharedBytes, SharedError, Stored};
use crate::dense::{DenseMatrix, DenseType, dequantize_row};
use crate::pool::Pool;
use crate::readers::Readers;

/// Columns of a row are padded to this many bytes.
const ALIGN: usize = 64;

/// Rows that are read before the memory behind them is given up, in bytes.
const SLAB_BYTES: usize = 32 << 20;

/// An int8 copy of a dense matrix, row-major, and what is known of the error of each row.
#[derive(Clone, Debug)]
pub struct Int8Rows {
    rows: usize,
    cols: usize,
    values: Stored<i8>,
    bounds: Vec<RowBound>,
}

/// The scale of a row, and bounds from above of its errors. Infinite errors mark a row that has no useful copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct RowBound {
    /// `ŵ` is the int8 values times this.
    pub scale: f32,
    /// `‖e‖`
    pub error: f32,
    /// `max |e|`
    pub worst: f32,
    /// `‖ŵ‖`
    pub norm: f32,
}

impl Int8Rows {
    /// Whether a matrix of this type is worth copying: an int8 row must be less to read.
    pub const fn suits(ty: DenseType) -> bool {
        matches!(ty, DenseType::F32 | DenseType::F16 | DenseType::Bf16)
    }

    /// Copies `matrix`, on all cores, to memory near to the threads of `pool`, which will read it. `done` is told of each
    /// range of the matrix's bytes that has been read.
    ///
    /// # Panics
    /// If the matrix does not have the bytes of its rows.
    pub fn pack(
        pool: &Pool,
        isa: Isa,
        matrix: DenseMatrix<'_>,
        mut done: impl FnMut(std::ops::Range<usize>),
    ) -> Int8Rows {
        let DenseMatrix { ty, rows, cols, bytes } = matrix;
        let row_bytes = matrix.row_bytes();
        let stride = Self::stride_of(cols);
        let mut values = AlignedBuf::<i8>::streamed(rows * stride);
        Readers { pool, before: 0, all: rows }.touch(&mut values, rows);
        let mut bounds = vec![RowBound::default(); rows];
        let slab = (SLAB_BYTES / row_bytes.max(1)).max(1);
        let slabs = values.chunks_mut(slab * stride.max(1)).zip(bounds.chunks_mut(slab));
        for (index, (values, bounds)) in slabs.enumerate() {
            let first = index * slab * row_bytes;
            let bytes = &bytes[first..first + bounds.len() * row_bytes];
            let source = bytes.par_chunks_exact(row_bytes);
            (source, values.par_chunks_exact_mut(stride), bounds.par_iter_mut())
                .into_par_iter()
                .with_min_len(16)
                .for_each_init(
                    || vec![0.0f32; cols],
                    |widened, (source, values, bound)| {
                        dequantize_row(isa, ty, source, widened);
                        *bound = quantize_row(isa, widened, &mut values[..cols]);
                    },
                );
            done(first..first + bytes.len());
        }
        Int8Rows { rows, cols, values: Stored::Own(values), bounds }
    }

    /// A copy that was made before: `values` as [`Int8Rows::values`] shows them, which stay where they are, and `bounds` as
    /// [`Int8Rows::bounds`]. They are trusted to be those of the matrix; others may give other tokens than the exact head.
    ///
    /// # Errors
    /// If there are not as many values as the copy has, they do not begin at a multiple of 64, or the bounds are not four
    /// numbers to a row, none of them negative or not a number.
    pub fn over(rows: usize, cols: usize, values: SharedBytes, bounds: Vec<f32>) -> Result<Int8Rows, SharedError> {
        SharedError::check(&values, rows * Self::stride_of(cols))?;
        let (numbers, _) = bounds.as_chunks::<4>();
        // What is not a number compares as false.
        if bounds.len() != 4 * rows || !bounds.iter().all(|&bound| bound >= 0.0) {
            return Err(SharedError::Bounds { rows });
        }
        let bounds =
            numbers.iter().map(|&[scale, error, worst, norm]| RowBound { scale, error, worst, norm }).collect();
        Ok(Int8Rows { rows, cols, values: Stored::Shared(values), bounds })
    }

    /// The same in memory of its own, if it was made by [`Int8Rows::over`].
    #[must_use]
    pub fn copied(self, pool: &Pool) -> Int8Rows {
        let near = Readers { pool, before: 0, all: self.rows };
        Int8Rows { values: self.values.copied(near, self.rows), ..self }
    }

    /// The int8 rows, each padded with zeros to a multiple of 64.
    pub fn values(&self) -> &[i8] {
        &self.values
    }

    /// For each row its scale, the norm and the largest absolute value of its error, and the norm of the row without it:
    /// bounds from above.
    pub fn bounds(&self) -> &[f32] {
        bytemuck::cast_slice(&self.bounds)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of the copy.
    pub fn bytes(&self) -> usize {
        self.values.len() + size_of_val(&self.bounds[..])
    }

    /// Bytes that the copy of a matrix takes.
    pub const fn bytes_of(rows: usize, cols: usize) -> usize {
        rows * (Self::stride_of(cols) + size_of::<RowBound>())
    }

    /// Bytes of a row of `cols` columns, padded.
    pub const fn stride_of(cols: usize) -> usize {
        cols.next_multiple_of(ALIGN)
    }

    /// Distance between rows.
    fn stride(&self) -> usize {
        Self::stride_of(self.cols)
    }
}

crate::simd::per_isa! {
    /// Rounds a row to int8, which goes to as many `values`; returns its scale and the bounds of the errors.
    pub fn quantize_row(row: &[f32], values: &mut [i8]) -> RowBound = quantize_row_body;
}

#[inline(always)]
fn quantize_row_body<S: crate::simd::Lanes>(row: &[f32], values: &mut [i8]) -> RowBound {
    let mut lanes = [0.0f32; 16];
    let mut finite = true;
    for x in row.chunks(16) {
        for (max, x) in lanes.iter_mut().zip(x) {
            *max = max.max(x.abs());
            finite &= x.is_finite();
        }
    }
    let max = lanes.into_iter().fold(0.0, f32::max);
    if !finite {
        values.fill(0);
        return RowBound { scale: 0.0, error: f32::INFINITY, worst: f32::INFINITY, norm: f32::INFINITY };
    }
    // The smallest normal number as a floor: below it the row is rounded to zeros, within the bounds as any other.
    let scale = (max / 127.0).max(f32::MIN_POSITIVE);
    let inverse = 1.0 / scale;
    let (mut error, mut norm, mut worst) = ([0.0f64; 16], [0i32; 16], [0.0f64; 16]);
    for (x, values) in row.chunks(16).zip(values.chunks_mut(16)) {
        for (i, (&x, value)) in x.iter().zip(values).enumerate() {
            *value = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
            // Exact but for the last bit of f64: the factor below covers it.
            let e = f64::from(x) - f64::from(*value) * f64::from(scale);
            error[i] += e * e;
            worst[i] = worst[i].max(e.abs());
            norm[i] += i32::from(*value) * i32::from(*value);
        }
    }
    let worst = worst.into_iter().fold(0.0, f64::max);
    let norm = norm.into_iter().map(f64::from).sum::<f64>().sqrt() * f64::from(scale);
    RowBound { scale, error: up(error.into_iter().sum::<f64>().sqrt()), worst: up(worst), norm: up(norm) }
}

/// An f32 that is not below `x`, with room for the rounding of the f64 steps that gave it.
fn up(x: f64) -> f32 {
    // A relative 2^-20 exceeds the rounding to f32 and that of sums of f64; the last term does so for subnormal numbers.
    (x * (1.0 + 1.0 / f64::from(1 << 20)) + f64::from(f32::from_bits(1))) as f32
}
