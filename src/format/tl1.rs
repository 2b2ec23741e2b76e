//! TL1 of bitnet.cpp: two weights in four bits, in the order of a look-up kernel for ARM.
//!
//! Two adjacent weights of a row are the code `3 a + b + 4`. The matrix is cut in blocks of `bm` rows and `bk` columns, these in
//! groups of `bmm` rows, these in parts of `256 / bmm` columns, and these in halves of 16 rows. One byte has four adjacent
//! weights of a row, the first pair in its upper bits. The bytes of 16 rows are adjacent; they follow each other by fours of
//! columns, halves, parts, groups, blocks along the columns and blocks along the rows.

use super::FormatError;
use super::checkpoint::Checkpoint;
use super::dtype::DType;
use super::kernel_config::Tiling;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};
use super::tl::{self, decode_pair};

/// Rows whose bytes are adjacent.
const HALF: usize = 16;

/// Weights that a part has.
const PART: usize = 256;

/// The decoder.
struct Tl1 {
    codes: TensorData,
    tiling: Tiling,
}

/// Opens a TL1 matrix.
pub(super) fn open(site: &Site, checkpoint: &Checkpoint, data: &TensorData) -> Result<Decoded, FormatError> {
    let tiling = checkpoint.options().kernel_config.tiling(site, DType::Tl1)?;
    if ![32, 64].contains(&tiling.group_rows) {
        return Err(site.invalid(format!("bmm is {} where TL1 has 32 or 64", tiling.group_rows)));
    }
    tiling.check(site, site.cols, PART / tiling.group_rows)?;
    let (codes, scale) = tl::split(site, checkpoint, DType::Tl1, data)?;
    Ok((Box::new(Tl1 { codes, tiling }), Scales::One(scale)))
}

impl RowDecoder for Tl1 {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let Tiling { block_rows, block_cols, group_rows, .. } = self.tiling;
        let (block_row, row) = (row / block_rows, row % block_rows);
        let (group, row) = (row / group_rows, row % group_rows);
        let (half, row) = (row / HALF, row % HALF);
        let (groups, halves, blocks) = (block_rows / group_rows, group_rows / HALF, out.len() / block_cols);
        let part_cols = PART / group_rows;
        let (parts, fours) = (block_cols / part_cols, part_cols / 4);
        let mut valid = true;
        for (index, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            let (part, four) = (index / fours, index % fours);
            let (block, part) = (part / parts, part % parts);
            let part = ((block_row * blocks + block) * groups + group) * parts + part;
            let byte = self.codes[((part * halves + half) * fours + four) * HALF + row];
            let [first, second] = out.as_chunks_mut::<2>().0 else { continue };
            valid &= decode_pair(byte >> 4, first) & decode_pair(byte & 15, second);
        }
        if valid { Ok(()) } else { Err(InvalidCode) }
    }
}
