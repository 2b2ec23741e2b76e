//! Exact logits: products of float activations with a dense matrix, all of its rows or some.

use super::dot::{Bf16, F16, F32, Numbers, block};
use super::registers::Registers;
use super::{DenseMatrix, DenseType, dequantize_row_body};
use crate::buffer::AlignedBuf;
use crate::pool::{Pool, SharedSlice};
use crate::simd::per_isa;

/// Bytes of a chunk of rows that one task reads.
const CHUNK_BYTES: usize = 256 << 10;

/// Rows that are widened together where they cannot be multiplied as they are read; also the most that a block has.
const ROWS: usize = 4;

/// Tokens that go through a chunk of rows together: their activations stay in the second-level cache.
const TOKENS: usize = 48;

/// `out = x · matrixᵀ`: `x` is `[tokens, cols]`, `out` `[tokens, rows]`, in the canonical order of a dot product.
/// `scratch` is memory for widened rows, kept between calls.
///
/// # Panics
/// If the lengths do not agree.
pub fn logits(
    pool: &Pool,
    isa: crate::Isa,
    matrix: DenseMatrix<'_>,
    x: &[f32],
    scratch: &mut AlignedBuf<f32>,
    out: &mut [f32],
) {
    let DenseMatrix { ty, rows, cols, bytes } = matrix;
    let row_bytes = matrix.row_bytes();
    let tokens = x.len() / cols;
    assert!(x.len() == tokens * cols && out.len() == tokens * rows, "dense: x and out have a row per token");
    let fair = rows.div_ceil(pool.threads() * 4).max(ROWS);
    let chunk = (CHUNK_BYTES / row_bytes.max(1)).clamp(ROWS, fair).next_multiple_of(ROWS);
    scratch.resize(pool.threads() * ROWS * cols);
    let (shared, memory) = (SharedSlice::new(out), SharedSlice::new(scratch));
    pool.run_in_order(rows.div_ceil(chunk), &|task, slot| {
        let first = task * chunk;
        let count = chunk.min(rows - first);
        let bytes = &bytes[first * row_bytes..(first + count) * row_bytes];
        // SAFETY: a slot belongs to one thread at a time.
        let widened = unsafe { memory.range(slot * ROWS * cols, ROWS * cols) };
        products(isa, ty, bytes, cols, widened, x, &mut |token, row, values| {
            // SAFETY: each row belongs to one task.
            unsafe { shared.range(token * rows + first + row, values.len()) }.copy_from_slice(values);
        });
    });
}

/// The logits of some rows for one token: `out[i] = matrix[ids[i]] · x`, the same bits as [`logits`] gives.
///
/// # Panics
/// If a row is not in the matrix, or the lengths do not agree.
pub fn logits_of_rows(
    pool: &Pool,
    isa: crate::Isa,
    matrix: DenseMatrix<'_>,
    ids: &[u32],
    x: &[f32],
    scratch: &mut AlignedBuf<f32>,
    out: &mut [f32],
) {
    /// Rows of a task: scattered reads that take about as long as claiming a few tasks.
    const CHUNK: usize = 8;
    let cols = matrix.cols;
    let row_bytes = matrix.row_bytes();
    assert!(x.len() == cols && out.len() == ids.len(), "dense: one token, and an output per row");
    scratch.resize(pool.threads() * ROWS * cols);
    let (shared, memory) = (SharedSlice::new(out), SharedSlice::new(scratch));
    pool.run_with_slot(ids.len().div_ceil(CHUNK), &|task, slot| {
        let first = task * CHUNK;
        // SAFETY: a slot belongs to one thread at a time.
        let widened = unsafe { memory.range(slot * ROWS * cols, ROWS * cols) };
        for (i, &id) in ids.iter().enumerate().skip(first).take(CHUNK) {
            let bytes = &matrix.bytes[id as usize * row_bytes..][..row_bytes];
            products(isa, matrix.ty, bytes, cols, widened, x, &mut |_, _, values| {
                // SAFETY: each row belongs to one task.
                unsafe { shared.range(i, 1) }.copy_from_slice(values);
            });
        }
    });
}

impl DenseMatrix<'_> {
    /// Bytes of a row.
    ///
    /// # Panics
    /// If the matrix does not have the bytes of its rows.
    pub fn row_bytes(&self) -> usize {
        let row_bytes = self.ty.row_bytes(self.cols).unwrap_or(0);
        assert_eq!(self.bytes.len(), self.rows * row_bytes, "dense: bytes of the matrix");
        row_bytes
    }
}

/// Takes the products of one token with some adjacent rows: token, first row, values.
type Sink<'a> = dyn FnMut(usize, usize, &[f32]) + 'a;

per_isa! {
    /// The products of all tokens of `x` with the rows of `bytes`. `widened` has room for [`ROWS`] rows.
    fn products(
        ty: DenseType,
        bytes: &[u8],
        cols: usize,
        widened: &mut [f32],
        x: &[f32],
        sink: &mut Sink<'_>,
    ) = products_body;
}

#[inline(always)]
fn products_body<S: Registers>(
    ty: DenseType,
    bytes: &[u8],
    cols: usize,
    widened: &mut [f32],
    x: &[f32],
    sink: &mut Sink<'_>,
) {
    let row_bytes = ty.row_bytes(cols).unwrap_or(0);
    for (part, x) in x.chunks(TOKENS * cols).enumerate() {
        let sink = &mut |token: usize, row: usize, values: &[f32]| sink(part * TOKENS + token, row, values);
        match ty {
            DenseType::F16 => rows::<S, F16, true>(bytes, cols, x, 0, sink),
            DenseType::Bf16 => rows::<S, Bf16, true>(bytes, cols, x, 0, sink),
            DenseType::F32 => rows::<S, F32, true>(bytes, cols, x, 0, sink),
            DenseType::Q8_0 | DenseType::Q6K | DenseType::Q5_0 | DenseType::Q4_0 => {
                for (group, bytes) in bytes.chunks(ROWS * row_bytes).enumerate() {
                    let count = bytes.len() / row_bytes;
                    for (bytes, row) in bytes.chunks_exact(row_bytes).zip(widened.chunks_exact_mut(cols)) {
                        dequantize_row_body::<S>(ty, bytes, row);
                    }
                    let widened = bytemuck::cast_slice(&widened[..count * cols]);
                    rows::<S, F32, false>(widened, cols, x, group * ROWS, sink);
                }
            }
        }
    }
}

/// The products of the rows of `bytes`, the first of which is row `first` to the sink. With `STREAM`, the bytes are part
/// of a stream, which goes on behind them.
#[inline(always)]
fn rows<S: Registers, N: Numbers, const STREAM: bool>(
    bytes: &[u8],
    cols: usize,
    x: &[f32],
    first: usize,
    sink: &mut Sink<'_>,
) {
    // One token alone is a matter of memory: two rows hide the latency of their sums, and leave the nearest cache to
    // what is prefetched.
    let rest = match x.len() / cols {
        1 => groups_of_rows::<S, N, 2, STREAM>(bytes, cols, x, first, sink),
        _ => groups_of_rows::<S, N, ROWS, STREAM>(bytes, cols, x, first, sink),
    };
    groups_of_rows::<S, N, 1, STREAM>(&bytes[rest * cols * N::BYTES..], cols, x, first + rest, sink);
}

/// As [`rows`], for whole groups of `R` rows; returns how many rows those are.
#[inline(always)]
fn groups_of_rows<S: Registers, N: Numbers, const R: usize, const STREAM: bool>(
    bytes: &[u8],
    cols: usize,
    x: &[f32],
    first: usize,
    sink: &mut Sink<'_>,
) -> usize {
    let groups = bytes.chunks_exact(R * cols * N::BYTES);
    let count = groups.len() * R;
    for (group, bytes) in groups.enumerate() {
        tokens::<S, N, R, STREAM>(bytes, cols, x, first + group * R, sink);
    }
    count
}

/// All tokens with `R` rows, in the largest blocks that the registers hold. The first of them asks for the rows behind.
#[inline(always)]
fn tokens<S: Registers, N: Numbers, const R: usize, const STREAM: bool>(
    bytes: &[u8],
    cols: usize,
    x: &[f32],
    row: usize,
    sink: &mut Sink<'_>,
) {
    let count = x.len() / cols;
    let mut emit = |token: usize, row: usize, values: &[f32]| sink(token, row, values);
    let mut token = match count {
        6.. if S::WIDE => emit_block(0, row, block::<S, N, R, 6, STREAM>(bytes, cols, x), &mut emit),
        2.. if S::WIDE => emit_block(0, row, block::<S, N, R, 2, STREAM>(bytes, cols, x), &mut emit),
        _ => emit_block(0, row, block::<S, N, R, 1, STREAM>(bytes, cols, x), &mut emit),
    };
    while token < count {
        let x = &x[token * cols..];
        token += match count - token {
            6.. if S::WIDE => emit_block(token, row, block::<S, N, R, 6, false>(bytes, cols, x), &mut emit),
            6.. => {
                for (r, bytes) in bytes.chunks_exact(cols * N::BYTES).enumerate() {
                    emit_block(token, row + r, block::<S, N, 1, 6, false>(bytes, cols, x), &mut emit);
                }
                6
            }
            2.. if S::WIDE => emit_block(token, row, block::<S, N, R, 2, false>(bytes, cols, x), &mut emit),
            _ => emit_block(token, row, block::<S, N, R, 1, false>(bytes, cols, x), &mut emit),
        };
    }
}

/// Hands the values of a block to the sink; returns the number of its tokens.
#[inline(always)]
fn emit_block<const R: usize, const T: usize>(
    token: usize,
    row: usize,
    values: [[f32; R]; T],
    sink: &mut impl FnMut(usize, usize, &[f32]),
) -> usize {
    values.iter().zip(token..).for_each(|(values, token)| sink(token, row, values));
    T
}
