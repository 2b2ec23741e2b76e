//! The embedding and the head's matrix in the memory of a device.

use bytemuck::{Pod, Zeroable};
use half::f16;
use sterna_cpu::Isa;
use sterna_cpu::dense::{DenseType, dequantize_row};

use super::GpuError;
use super::device::{Gpu, Memory};
use super::kernels::RowType;
use crate::backend::Progress;
use crate::format::DenseTensor;

/// Rows that are converted at a time, in bytes.
const SLAB_BYTES: usize = 16 << 20;

/// `Rows` of the shaders; `other` is the stride of the hidden state or the size of the vocabulary.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Params {
    rows: u32,
    first: u32,
    row_stride: u32,
    other: u32,
}

/// Adjacent rows of a matrix: what one kernel can see.
#[derive(Debug)]
pub(super) struct RowPiece {
    pub(super) memory: Memory,
    pub(super) for_embed: Memory,
    pub(super) for_head: Memory,
    pub(super) rows: usize,
}

/// A dense matrix `[vocab, hidden]` in as few pieces as the device's limits allow.
#[derive(Debug)]
pub(super) struct DenseRows {
    pub(super) ty: RowType,
    pub(super) pieces: Vec<RowPiece>,
    pub(super) vocab: usize,
}

impl DenseRows {
    /// Uploads `tensor`. Numbers of F32, F16 and BF16 stay as they are; those of block formats are rounded to F16, which
    /// is 8 times finer than their own steps.
    pub(super) fn upload(
        gpu: &Gpu,
        what: &str,
        tensor: &DenseTensor,
        progress: &dyn Progress,
    ) -> Result<DenseRows, GpuError> {
        progress.expect(DenseRows::bytes_of(tensor.ty, tensor.rows, tensor.cols));
        let ty = match tensor.ty {
            DenseType::F32 => RowType::F32,
            DenseType::Bf16 => RowType::Bf16,
            _ => RowType::F16,
        };
        let (rows, cols) = (tensor.rows, tensor.cols);
        let row_bytes = row_bytes(tensor.ty, tensor.cols);
        let at_once = (gpu.max_binding() as usize / row_bytes).max(1);
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(at_once) {
            let count = at_once.min(rows - first);
            let memory = gpu.memory(what, (count * row_bytes) as u64)?;
            let slab = (SLAB_BYTES / row_bytes).max(1);
            for start in (0..count).step_by(slab) {
                let slab_rows = first + start..first + (start + slab).min(count);
                let slab = converted(tensor, slab_rows.clone(), row_bytes);
                gpu.write(&memory, (start * row_bytes) as u64, &slab)?;
                progress.advance(slab.len() as u64);
                let file_bytes = tensor.data.len() / rows;
                tensor.data.release(slab_rows.start * file_bytes..slab_rows.end * file_bytes);
            }
            let params = |other: usize| Params {
                rows: count as u32,
                first: first as u32,
                row_stride: (row_bytes / 16) as u32,
                other: other as u32,
            };
            pieces.push(RowPiece {
                memory,
                for_embed: gpu.uniform(what, &params(cols.div_ceil(16) * 4))?,
                for_head: gpu.uniform(what, &params(rows))?,
                rows: count,
            });
        }
        Ok(DenseRows { ty, pieces, vocab: rows })
    }

    /// Bytes that a matrix will take.
    pub(super) fn bytes_of(ty: DenseType, rows: usize, cols: usize) -> u64 {
        (rows * row_bytes(ty, cols)) as u64
    }

    /// Bytes of all rows.
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.memory.size()).sum()
    }
}

/// Bytes of a row on the device.
fn row_bytes(ty: DenseType, cols: usize) -> usize {
    let size = if ty == DenseType::F32 { 4 } else { 2 };
    (cols * size).next_multiple_of(16)
}

/// Rows as the kernels read them, each padded to `row_bytes` with zeros.
fn converted(tensor: &DenseTensor, rows: std::ops::Range<usize>, row_bytes: usize) -> Vec<u8> {
    let mut out = vec![0; rows.len() * row_bytes];
    let mut widened = vec![0.0f32; tensor.cols];
    for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
        let source = tensor.row(row);
        match tensor.ty {
            DenseType::F32 | DenseType::F16 | DenseType::Bf16 => out[..source.len()].copy_from_slice(source),
            ty => {
                dequantize_row(Isa::Scalar, ty, source, &mut widened);
                for (out, x) in out.chunks_exact_mut(2).zip(&widened) {
                    out.copy_from_slice(&f16::from_f32(*x).to_le_bytes());
                }
            }
        }
    }
    out
}
