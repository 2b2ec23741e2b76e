//! TQ2_0 of GGUF: 256 weights in 66 bytes, 64 of 2-bit codes and an `f16` scale.
//!
//! Codes are `t + 1`. Byte `m` (0..32) of half `h` holds the weights `128 h + 32 n + m`, `n` = 0..4, the first in the
//! lowest bits.

use super::FormatError;
use super::dtype::DType;
use super::grouped::Groups;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site, block_scale_bits, invalid_codes, is_zero};

/// Weights of a block.
const BLOCK: usize = 256;

/// Bytes of a block.
const BLOCK_BYTES: usize = 66;

/// The decoder.
struct Tq2_0 {
    data: TensorData,
}

/// Opens a TQ2_0 matrix.
pub(super) fn open(site: &Site, data: TensorData) -> Result<Decoded, FormatError> {
    site.check_length(DType::Tq2_0, &data, blocks_len(site, BLOCK, BLOCK_BYTES))?;
    let groups = Groups::of_blocks::<BLOCK_BYTES>(data.clone(), BLOCK, BLOCK_BYTES - 2);
    Ok((Box::new(Tq2_0 { data }), Scales::Groups(groups)))
}

/// Bytes of a matrix whose rows are whole blocks; `None` if they are not, or on overflow.
pub(super) fn blocks_len(site: &Site, block: usize, block_bytes: usize) -> Option<usize> {
    if !site.cols.is_multiple_of(block) {
        return None;
    }
    (site.cols / block).checked_mul(site.rows)?.checked_mul(block_bytes)
}

impl RowDecoder for Tq2_0 {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let row_bytes = out.len() / BLOCK * BLOCK_BYTES;
        let (blocks, _) = self.data[row * row_bytes..(row + 1) * row_bytes].as_chunks::<BLOCK_BYTES>();
        let (out, _) = out.as_chunks_mut::<BLOCK>();
        let mut bad = 0;
        for (block, out) in blocks.iter().zip(out) {
            if is_zero(block_scale_bits(block)) {
                out.fill(0);
                continue;
            }
            for (bytes, out) in block.as_chunks::<32>().0.iter().zip(out.as_chunks_mut::<128>().0) {
                let (out, _) = out.as_chunks_mut::<32>();
                for (m, &byte) in bytes.iter().enumerate() {
                    bad |= invalid_codes(byte);
                    out[0][m] = (byte & 3) as i8 - 1;
                    out[1][m] = ((byte >> 2) & 3) as i8 - 1;
                    out[2][m] = ((byte >> 4) & 3) as i8 - 1;
                    out[3][m] = (byte >> 6) as i8 - 1;
                }
            }
        }
        InvalidCode::check(bad)
    }
}
