//! Dense matrices (embedding, head) read as the file holds them.

mod dot;
mod logits;
pub(crate) mod registers;

pub use logits::{logits, logits_of_rows};

use crate::simd::{Lanes, per_isa};

/// Number types of dense matrices. The block formats are ggml's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DenseType {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Blocks of 32: f16 scale, 32 × int8.
    Q8_0,
    /// Blocks of 256: 6 bits a number, 16 sub-scales, f16 scale.
    Q6K,
    /// Blocks of 32: f16 scale, fifth bits, 4 bits a number.
    Q5_0,
    /// Blocks of 32: f16 scale, 4 bits a number.
    Q4_0,
}

impl DenseType {
    /// Numbers in a block.
    pub const fn block_len(self) -> usize {
        match self {
            DenseType::F32 | DenseType::F16 | DenseType::Bf16 => 1,
            DenseType::Q8_0 | DenseType::Q5_0 | DenseType::Q4_0 => 32,
            DenseType::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        match self {
            DenseType::F32 => 4,
            DenseType::F16 | DenseType::Bf16 => 2,
            DenseType::Q8_0 => 34,
            DenseType::Q6K => 210,
            DenseType::Q5_0 => 22,
            DenseType::Q4_0 => 18,
        }
    }

    /// Bytes of a row of `cols` numbers, or `None` where they do not fill whole blocks.
    pub const fn row_bytes(self, cols: usize) -> Option<usize> {
        if cols.is_multiple_of(self.block_len()) { Some(cols / self.block_len() * self.block_bytes()) } else { None }
    }
}

/// A matrix `[rows, cols]` in the bytes of a file; they need no alignment.
#[derive(Clone, Copy, Debug)]
pub struct DenseMatrix<'a> {
    /// Number type.
    pub ty: DenseType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// The rows, one after the other.
    pub bytes: &'a [u8],
}

per_isa! {
    /// Widens a row to f32.
    ///
    /// # Panics
    /// If `bytes` is not as long as a row of `out.len()` numbers.
    pub fn dequantize_row(ty: DenseType, bytes: &[u8], out: &mut [f32]) = dequantize_row_body;
}

#[inline(always)]
fn dequantize_row_body<S: Lanes>(ty: DenseType, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(ty.row_bytes(out.len()), Some(bytes.len()), "dense: bytes of a row");
    match ty {
        DenseType::F32 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        }
        DenseType::Bf16 => {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *out = bf16(b);
            }
        }
        DenseType::F16 => {
            let (mut outs, mut chunks) = (out.chunks_exact_mut(16), bytes.chunks_exact(32));
            for (out, chunk) in outs.by_ref().zip(chunks.by_ref()) {
                out.copy_from_slice(&S::from_f16(&u16s(chunk)));
            }
            for (out, b) in outs.into_remainder().iter_mut().zip(chunks.remainder().chunks_exact(2)) {
                *out = f16(b);
            }
        }
        DenseType::Q8_0 => {
            for (out, block) in out.chunks_exact_mut(32).zip(bytes.chunks_exact(34)) {
                let scale = f16(block);
                for (out, &q) in out.iter_mut().zip(&block[2..]) {
                    *out = f32::from(q as i8) * scale;
                }
            }
        }
        DenseType::Q4_0 => {
            for (out, block) in out.chunks_exact_mut(32).zip(bytes.chunks_exact(18)) {
                let scale = f16(block);
                for (i, &q) in block[2..].iter().enumerate() {
                    out[i] = (f32::from(q & 15) - 8.0) * scale;
                    out[i + 16] = (f32::from(q >> 4) - 8.0) * scale;
                }
            }
        }
        DenseType::Q5_0 => {
            for (out, block) in out.chunks_exact_mut(32).zip(bytes.chunks_exact(22)) {
                let scale = f16(block);
                let high = u32::from_le_bytes([block[2], block[3], block[4], block[5]]);
                for (i, &q) in block[6..].iter().enumerate() {
                    let fifth = |bit: usize| ((high >> bit) as u8 & 1) << 4;
                    out[i] = (f32::from(q & 15 | fifth(i)) - 16.0) * scale;
                    out[i + 16] = (f32::from(q >> 4 | fifth(i + 16)) - 16.0) * scale;
                }
            }
        }
        DenseType::Q6K => {
            for (out, block) in out.chunks_exact_mut(256).zip(bytes.chunks_exact(210)) {
                q6k_block(block, out);
            }
        }
    }
}

/// ggml's Q6_K: 128 bytes of low 4 bits, 64 bytes of high 2 bits, 16 int8 scales, f16 scale; two halves of 128 numbers.
#[inline(always)]
fn q6k_block(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, scale) = rest.split_at(16);
    let scale = f16(scale);
    for half in 0..2 {
        let (low, high) = (&low[half * 64..][..64], &high[half * 32..][..32]);
        for quarter in 0..4 {
            for i in 0..32 {
                let nibble = low[i + 32 * (quarter % 2)] >> (4 * (quarter / 2)) & 15;
                let q = i32::from(nibble | (high[i] >> (2 * quarter) & 3) << 4) - 32;
                let sub = f32::from(scales[half * 8 + quarter * 2 + i / 16] as i8);
                out[half * 128 + quarter * 32 + i] = scale * sub * q as f32;
            }
        }
    }
}

#[inline(always)]
fn f16(b: &[u8]) -> f32 {
    half::f16::from_le_bytes([b[0], b[1]]).to_f32()
}

#[inline(always)]
fn bf16(b: &[u8]) -> f32 {
    f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16)
}

/// 16 little-endian half-words.
#[inline(always)]
fn u16s(bytes: &[u8]) -> [u16; 16] {
    let mut out = [0; 16];
    for (out, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
        *out = u16::from_le_bytes([b[0], b[1]]);
    }
    out
}
