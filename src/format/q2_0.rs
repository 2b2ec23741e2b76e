//! Q2_0 of GGUF (64 weights in 18 bytes) and PQ2_0 (128 in 34): an `f16` scale, then 2-bit codes `t + 1`, the first in the
//! lowest bits.
//!
//! PrismML's first files say Q2_0 where they hold what was named PQ2_0 later; the length of a tensor tells them apart. The
//! fourth code, which stands for twice the scale, does not occur in ternary models.

use super::FormatError;
use super::dtype::DType;
use super::grouped::Groups;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site, invalid_codes};
use super::tq2_0::blocks_len;

/// Bytes of a block that are its scale.
const SCALE_BYTES: usize = 2;

/// The decoder of blocks of `BYTES` bytes.
struct Q2_0<const BYTES: usize> {
    data: TensorData,
}

/// Opens a matrix of `dtype`, which is Q2_0 or PQ2_0.
pub(super) fn open(site: &Site, dtype: DType, data: TensorData) -> Result<Decoded, FormatError> {
    match dtype {
        DType::Pq2_0 => open_blocks::<34>(site, dtype, data),
        _ => {
            let (decoder, scales) = open_blocks::<18>(site, dtype, data)?;
            let merged = match scales {
                Scales::Groups(groups) => Scales::Groups(groups.merged(site)),
                one => one,
            };
            Ok((decoder, merged))
        }
    }
}

fn open_blocks<const BYTES: usize>(site: &Site, dtype: DType, data: TensorData) -> Result<Decoded, FormatError> {
    let block = 4 * (BYTES - SCALE_BYTES);
    site.check_length(dtype, &data, blocks_len(site, block, BYTES))?;
    let groups = Groups::of_blocks::<BYTES>(data.clone(), block, 0);
    Ok((Box::new(Q2_0::<BYTES> { data }), Scales::Groups(groups)))
}

impl<const BYTES: usize> RowDecoder for Q2_0<BYTES> {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let block = 4 * (BYTES - SCALE_BYTES);
        let row_bytes = out.len() / block * BYTES;
        let (blocks, _) = self.data[row * row_bytes..(row + 1) * row_bytes].as_chunks::<BYTES>();
        let mut bad = 0;
        for (bytes, out) in blocks.iter().zip(out.chunks_exact_mut(block)) {
            let (scale, codes) = bytes.split_at(SCALE_BYTES);
            if u16::from_le_bytes([scale[0], scale[1]]) & 0x7fff == 0 {
                out.fill(0);
                continue;
            }
            for (out, &byte) in out.as_chunks_mut::<4>().0.iter_mut().zip(codes) {
                bad |= invalid_codes(byte);
                *out = std::array::from_fn(|i| ((byte >> (2 * i)) & 3) as i8 - 1);
            }
        }
        InvalidCode::check(bad)
    }
}
