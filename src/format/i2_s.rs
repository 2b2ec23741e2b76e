//! I2_S of bitnet.cpp: 2 bits per weight, then one `f32` scale, then 28 unused bytes.
//!
//! Codes are `t + 1`. The matrix is cut, over all its rows, in blocks of 128 weights; byte `p` (0..32) of a block
//! holds weights `p`, `p + 32`, `p + 64`, `p + 96`, the first in the highest bits. Builds of the quantizer for ARM, or
//! without `ACT_PARALLEL`, write other orders, and nothing in the file says so: the user has to.

use super::FormatError;
use super::dtype::{DType, I2S_TAIL};
use super::hf_packed::decode_field;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site, invalid_codes};

/// The order of weights in I2_S tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum I2sLayout {
    /// Blocks of 128 in runs of 32 bytes: all published files.
    #[default]
    X86,
    /// Blocks of 64 in runs of 16 bytes: files quantized by a build for ARM.
    Arm,
    /// Four adjacent rows in one byte: files quantized by a build without `ACT_PARALLEL`.
    RowInterleaved,
}

/// The decoder.
struct I2s {
    data: TensorData,
    layout: I2sLayout,
}

/// Opens an I2_S matrix.
pub(super) fn open(site: &Site, data: TensorData, layout: I2sLayout) -> Result<Decoded, FormatError> {
    let (count, unit, of) = match layout {
        I2sLayout::X86 => (site.elements(), 128, "elements"),
        I2sLayout::Arm => (site.elements(), 64, "elements"),
        I2sLayout::RowInterleaved => (Some(site.rows), 4, "rows"),
    };
    if !count.is_some_and(|count| count.is_multiple_of(unit)) {
        let reason = format!("its number of {of} is not a multiple of {unit}, which this layout of I2_S requires");
        return Err(site.invalid(reason));
    }
    let codes = site.elements().map(|elements| elements / 4);
    site.check_length(DType::I2S, &data, codes.and_then(|codes| codes.checked_add(I2S_TAIL as usize)))?;
    // The length has just been checked, so the tail is there.
    let (tail, _) = data[data.len() - I2S_TAIL as usize..].as_chunks::<4>();
    let scale = site.check_scale(f32::from_le_bytes(tail[0]))?;
    Ok((Box::new(I2s { data, layout }), Scales::One(scale)))
}

impl RowDecoder for I2s {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        match self.layout {
            I2sLayout::X86 => decode_blocks::<32>(&self.data, row * out.len(), out),
            I2sLayout::Arm => decode_blocks::<16>(&self.data, row * out.len(), out),
            I2sLayout::RowInterleaved => {
                let start = row / 4 * out.len();
                let bytes = &self.data[start..start + out.len()];
                match row % 4 {
                    0 => decode_field::<6>(bytes, out),
                    1 => decode_field::<4>(bytes, out),
                    2 => decode_field::<2>(bytes, out),
                    _ => decode_field::<0>(bytes, out),
                }
            }
        }
    }
}

/// Decodes the elements from `start` on, from blocks of `RUN` bytes.
fn decode_blocks<const RUN: usize>(data: &[u8], start: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
    let block_len = 4 * RUN;
    let mut bad = 0;
    let mut done = 0;
    while done < out.len() {
        let element = start + done;
        let (block, skip) = (element / block_len, element % block_len);
        let bytes = &data[block * RUN..(block + 1) * RUN];
        let rest = &mut out[done..];
        let taken = rest.len().min(block_len - skip);
        if taken == block_len {
            bad |= decode_block::<RUN>(bytes, &mut rest[..block_len]);
        } else {
            // A row that does not begin or end with a block.
            let mut whole = [0; 128];
            bad |= decode_block::<RUN>(bytes, &mut whole[..block_len]);
            rest[..taken].copy_from_slice(&whole[skip..skip + taken]);
        }
        done += taken;
    }
    InvalidCode::check(bad)
}

/// Decodes one block of `RUN` bytes to 4 `RUN` weights; the result is not zero if a code is invalid.
fn decode_block<const RUN: usize>(bytes: &[u8], out: &mut [i8]) -> u8 {
    let (out, _) = out.as_chunks_mut::<RUN>();
    let mut bad = 0;
    for (p, &byte) in bytes.iter().enumerate() {
        bad |= invalid_codes(byte);
        out[0][p] = (byte >> 6) as i8 - 1;
        out[1][p] = ((byte >> 4) & 3) as i8 - 1;
        out[2][p] = ((byte >> 2) & 3) as i8 - 1;
        out[3][p] = (byte & 3) as i8 - 1;
    }
    bad
}
