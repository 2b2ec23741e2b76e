//! TQ1_0 of GGUF, 256 weights in 54 bytes, and PTQ1_0, 128 in 28: five to a byte, and an `f16` scale.
//!
//! A byte holds five trits `t + 1` as a fraction: `ceil(v · 256 / 243)` where `v` has the trits as its digits in base
//! three, the first one most significant. Multiplied by three, the carry out of the byte is the first trit and what
//! remains is the fraction of the others. Of TQ1_0 the bytes 0..32 hold the weights `32 n + m` (`n` = 0..5), the bytes 32..48
//! `160 + 16 n + m`, the bytes 48..52 four weights each, `240 + 4 n + m`. PTQ1_0 has runs of half these lengths.

use super::FormatError;
use super::dtype::DType;
use super::grouped::Groups;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site, block_scale_bits, is_zero};
use super::tq2_0::blocks_len;

/// The decoder of blocks of `BYTES` bytes.
struct Tq1_0<const BYTES: usize> {
    data: TensorData,
}

/// Weights of a block of TQ1_0 and its bytes.
const TQ1_0: (usize, usize) = (256, 54);

/// Weights of a block of PTQ1_0 and its bytes.
const PTQ1_0: (usize, usize) = (128, 28);

/// Opens a matrix of `dtype`, which is TQ1_0 or PTQ1_0.
pub(super) fn open(site: &Site, dtype: DType, data: TensorData) -> Result<Decoded, FormatError> {
    match dtype {
        DType::Ptq1_0 => open_blocks::<{ PTQ1_0.1 }>(site, dtype, data, PTQ1_0.0),
        _ => open_blocks::<{ TQ1_0.1 }>(site, dtype, data, TQ1_0.0),
    }
}

fn open_blocks<const BYTES: usize>(
    site: &Site,
    dtype: DType,
    data: TensorData,
    block: usize,
) -> Result<Decoded, FormatError>
where
    Tq1_0<BYTES>: RowDecoder,
{
    site.check_length(dtype, &data, blocks_len(site, block, BYTES))?;
    let groups = Groups::of_blocks::<BYTES>(data.clone(), block, BYTES - 2);
    Ok((Box::new(Tq1_0::<BYTES> { data }), Scales::Groups(groups)))
}

impl RowDecoder for Tq1_0<{ TQ1_0.1 }> {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        decode_blocks::<{ TQ1_0.1 }>(&self.data, row, TQ1_0.0, out, |block, out| {
            decode_run::<32>(&block[..32], &mut out[..160]);
            decode_run::<16>(&block[32..48], &mut out[160..240]);
            decode_run::<4>(&block[48..52], &mut out[240..]);
        });
        // Every byte stands for five trits.
        Ok(())
    }
}

impl RowDecoder for Tq1_0<{ PTQ1_0.1 }> {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        decode_blocks::<{ PTQ1_0.1 }>(&self.data, row, PTQ1_0.0, out, |block, out| {
            decode_run::<16>(&block[..16], &mut out[..80]);
            decode_run::<8>(&block[16..24], &mut out[80..120]);
            decode_run::<2>(&block[24..26], &mut out[120..]);
        });
        Ok(())
    }
}

/// Decodes the blocks of a row, of `block` weights each.
#[inline(always)]
fn decode_blocks<const BYTES: usize>(
    data: &[u8],
    row: usize,
    block: usize,
    out: &mut [i8],
    decode: impl Fn(&[u8; BYTES], &mut [i8]),
) {
    let row_bytes = out.len() / block * BYTES;
    let (blocks, _) = data[row * row_bytes..(row + 1) * row_bytes].as_chunks::<BYTES>();
    for (bytes, out) in blocks.iter().zip(out.chunks_exact_mut(block)) {
        match is_zero(block_scale_bits(bytes)) {
            true => out.fill(0),
            false => decode(bytes, out),
        }
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
