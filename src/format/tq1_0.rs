//! TQ1_0 of GGUF: 256 weights in 54 bytes, five to a byte, and an `f16` scale.
//!
//! A byte holds five trits `t + 1` as a fraction: `ceil(v · 256 / 243)` where `v` has the trits as its digits in base
//! three, the first one most significant. Multiplied by three, the carry out of the byte is the first trit and what
//! remains is the fraction of the others. The bytes 0..32 hold the weights `32 n + m` (`n` = 0..5), the bytes 32..48
//! `160 + 16 n + m`, the bytes 48..52 four weights each, `240 + 4 n + m`.

use super::FormatError;
use super::dtype::DType;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Site, block_scale_bits, is_zero};
use super::tq2_0::blocks_len;

/// Weights of a block.
const BLOCK: usize = 256;

/// Bytes of a block.
const BLOCK_BYTES: usize = 54;

/// The decoder.
struct Tq1_0 {
    data: TensorData,
}

/// Opens a TQ1_0 matrix.
pub(super) fn open(site: &Site, data: TensorData) -> Result<Decoded, FormatError> {
    site.check_length(DType::Tq1_0, &data, blocks_len(site, BLOCK, BLOCK_BYTES))?;
    let scale = site.block_scale::<BLOCK_BYTES>(&data)?;
    Ok((Box::new(Tq1_0 { data }), scale))
}

impl RowDecoder for Tq1_0 {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let row_bytes = out.len() / BLOCK * BLOCK_BYTES;
        let (blocks, _) = self.data[row * row_bytes..(row + 1) * row_bytes].as_chunks::<BLOCK_BYTES>();
        let (out, _) = out.as_chunks_mut::<BLOCK>();
        for (block, out) in blocks.iter().zip(out) {
            if is_zero(block_scale_bits(block)) {
                out.fill(0);
                continue;
            }
            decode_run::<32>(&block[..32], &mut out[..160]);
            decode_run::<16>(&block[32..48], &mut out[160..240]);
            decode_run::<4>(&block[48..52], &mut out[240..]);
        }
        // Every byte stands for five trits.
        Ok(())
    }
}

/// Decodes `RUN` bytes: trit `n` of byte `m` is element `n · RUN + m`. `out` is a whole number of runs.
fn decode_run<const RUN: usize>(bytes: &[u8], out: &mut [i8]) {
    let mut fractions = [0; RUN];
    fractions.copy_from_slice(bytes);
    for out in out.as_chunks_mut::<RUN>().0 {
        for (out, fraction) in out.iter_mut().zip(&mut fractions) {
            // The carry of 3 · fraction, without widening the byte.
            *out = i8::from(*fraction >= 86) + i8::from(*fraction >= 171) - 1;
            *fraction = fraction.wrapping_mul(3);
        }
    }
}
