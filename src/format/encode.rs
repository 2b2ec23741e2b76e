//! Ternary rows to the encodings of GGUF: the inverse of the decoders in `tiles`, `grouped_tiles`, `tq1_0`, `tq2_0`, `q2_0` and
//! `i2_s`.

use half::f16;
use sterna_cpu::Layout;
use sterna_cpu::grouped::{self, ScaleType};

use super::dtype::{DType, Group, I2S_TAIL, TILES_TAIL};
use super::gguf::ALIGNMENT_KEY;
use super::metadata::{Metadata, Value};

/// A ternary encoding that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 2 bits a weight in the tiles that the kernels read, one f32 scale for the matrix.
    T16,
    /// 1.6 bits a weight, likewise.
    T16x5,
    /// 1.69 bits a weight, an f16 scale for each 256.
    Tq1_0,
    /// 2.06 bits a weight, an f16 scale for each 256.
    Tq2_0,
    /// 2.25 bits a weight, an f16 scale for each 64.
    Q2_0,
    /// 2 bits a weight, one f32 scale for the matrix (the layout of all published files).
    I2S,
    /// 2 bits a weight in the blocks that the kernels read, an f16 scale for each group of columns.
    T16Grouped(Group),
}

impl Encoding {
    /// The type of a tensor in this encoding.
    pub fn dtype(self) -> DType {
        match self {
            Encoding::T16 => DType::T16,
            Encoding::T16x5 => DType::T16x5,
            Encoding::Tq1_0 => DType::Tq1_0,
            Encoding::Tq2_0 => DType::Tq2_0,
            Encoding::Q2_0 => DType::Q2_0,
            Encoding::I2S => DType::I2S,
            Encoding::T16Grouped(group) => DType::T16Grouped(group),
        }
    }

    /// Whether the kernels read it as it is, and no other program does.
    pub fn is_own(self) -> bool {
        matches!(self, Encoding::T16 | Encoding::T16x5 | Encoding::T16Grouped(_))
    }

    /// Whether it holds scales of groups of columns.
    pub fn has_groups(self) -> bool {
        matches!(self, Encoding::Tq1_0 | Encoding::Tq2_0 | Encoding::Q2_0 | Encoding::T16Grouped(_))
    }

    /// Has the tensors of a file begin where the kernels want them, if they are to read them there.
    pub fn set_alignment(self, metadata: &mut Metadata) {
        if self.is_own() {
            metadata.entries.insert(ALIGNMENT_KEY.into(), Value::U64(TILES_TAIL));
        }
    }

    /// Weights in a block: rows (of I2_S: whole matrices) must be multiples of it.
    pub fn block_len(self) -> usize {
        match self {
            Encoding::T16 | Encoding::T16x5 | Encoding::T16Grouped(_) => 1,
            Encoding::Tq1_0 | Encoding::Tq2_0 => 256,
            Encoding::Q2_0 => 64,
            Encoding::I2S => 128,
        }
    }

    /// Whether a matrix of `rows` × `cols` fits.
    pub fn fits(self, rows: usize, cols: usize) -> bool {
        match self {
            Encoding::I2S => (rows * cols).is_multiple_of(self.block_len()),
            _ => cols.is_multiple_of(self.block_len()),
        }
    }

    /// Rows that can be encoded apart from others are multiples of this, but for the last ones of a matrix.
    pub const ROWS: usize = 128;

    /// Columns that share a scale, where it holds scales of groups.
    pub fn group(self) -> Option<usize> {
        match self {
            Encoding::T16Grouped(group) => Some(group.cols()),
            _ => self.has_groups().then(|| self.block_len()),
        }
    }

    /// Appends the bytes of `weights`, rows of `cols` that are a part of a matrix, each -1, 0 or 1.
    ///
    /// # Panics
    /// If they are not whole rows and blocks.
    pub fn encode(self, weights: &[i8], cols: usize, scale: f32, out: &mut Vec<u8>) {
        assert!(weights.len().is_multiple_of(self.block_len()), "encode: whole blocks");
        match self {
            Encoding::T16 => Layout::T16.pack_rows(weights, cols, out),
            Encoding::T16x5 => Layout::T16x5.pack_rows(weights, cols, out),
            Encoding::I2S => {
                for block in weights.as_chunks::<128>().0 {
                    out.extend(fields(block, [6, 4, 2, 0]));
                }
            }
            Encoding::Tq1_0 | Encoding::Tq2_0 | Encoding::Q2_0 => {
                weights.chunks(self.block_len()).for_each(|block| self.block(block, scale, out));
            }
            Encoding::T16Grouped(group) => {
                let scales = vec![scale; weights.len() / cols * cols.div_ceil(group.cols())];
                grouped::pack_rows(weights, cols, &scales, group.cols(), ScaleType::F16, out);
            }
        }
    }

    /// The same with a scale for each row and group of [`Encoding::group`] columns.
    ///
    /// # Panics
    /// If they are not whole rows and blocks, there are not as many scales, or the encoding has no groups.
    pub fn encode_grouped(self, weights: &[i8], cols: usize, scales: &[f32], out: &mut Vec<u8>) {
        match self {
            Encoding::T16Grouped(group) => {
                grouped::pack_rows(weights, cols, scales, group.cols(), ScaleType::F16, out);
            }
            _ => {
                assert!(self.has_groups() && cols.is_multiple_of(self.block_len()), "encode_grouped: blocks");
                assert_eq!(weights.len(), scales.len() * self.block_len(), "encode_grouped: number of scales");
                let blocks = weights.chunks(self.block_len());
                blocks.zip(scales).for_each(|(block, &scale)| self.block(block, scale, out));
            }
        }
    }

    /// One block with its scale.
    fn block(self, block: &[i8], scale: f32, out: &mut Vec<u8>) {
        let scale = f16::from_f32(scale).to_le_bytes();
        match self {
            Encoding::Tq1_0 => {
                tq1_run::<32>(&block[..160], out);
                tq1_run::<16>(&block[160..240], out);
                tq1_run::<4>(&block[240..], out);
                out.extend(scale);
            }
            Encoding::Tq2_0 => {
                for half in block.as_chunks::<128>().0 {
                    out.extend(fields(half, [0, 2, 4, 6]));
                }
                out.extend(scale);
            }
            Encoding::Q2_0 => {
                out.extend(scale);
                let codes = |four: &[i8; 4]| (0..4).fold(0, |byte, i| byte | ((four[i] + 1) as u8) << (2 * i));
                out.extend(block.as_chunks::<4>().0.iter().map(codes));
            }
            Encoding::T16 | Encoding::T16x5 | Encoding::T16Grouped(_) | Encoding::I2S => {
                unreachable!("they have no blocks with scales")
            }
        }
    }

    /// Appends what a matrix ends with: the scale, where blocks have none.
    pub fn finish(self, scale: f32, out: &mut Vec<u8>) {
        let tail = match self {
            Encoding::T16 | Encoding::T16x5 => TILES_TAIL,
            Encoding::I2S => I2S_TAIL,
            Encoding::Tq1_0 | Encoding::Tq2_0 | Encoding::Q2_0 | Encoding::T16Grouped(_) => return,
        };
        let end = out.len() + tail as usize;
        out.extend(scale.to_le_bytes());
        out.resize(end, 0);
    }
}

/// Four runs of 32 weights in 32 bytes, each run at its shift.
fn fields(weights: &[i8; 128], shifts: [u32; 4]) -> [u8; 32] {
    let (runs, _) = weights.as_chunks::<32>();
    let mut bytes = [0; 32];
    for (run, shift) in runs.iter().zip(shifts) {
        for (byte, weight) in bytes.iter_mut().zip(run) {
            *byte |= ((weight + 1) as u8) << shift;
        }
    }
    bytes
}

/// Up to five trits a byte (the missing ones are 0): trit `n` of byte `m` is weight `n · RUN + m`.
fn tq1_run<const RUN: usize>(weights: &[i8], out: &mut Vec<u8>) {
    let mut digits = [0u16; RUN];
    let (runs, _) = weights.as_chunks::<RUN>();
    for run in runs {
        for (digits, weight) in digits.iter_mut().zip(run) {
            *digits = *digits * 3 + (weight + 1) as u16;
        }
    }
    for _ in runs.len()..5 {
        digits.iter_mut().for_each(|digits| *digits *= 3);
    }
    out.extend(digits.map(|digits| (digits * 256).div_ceil(243) as u8));
}
