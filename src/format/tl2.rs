//! TL2 of bitnet.cpp: three weights in five bits, in the order of a look-up kernel for AVX2.
//!
//! Three adjacent weights of a row are the number `9 a + 3 b + c`: its magnitude is a code of four bits, its sign a bit
//! elsewhere. That goes for the columns that fill blocks of `bk`; those that are left are pairs as in TL1. The tensor has the
//! magnitudes, the signs, the pairs, and zeros up to a length that does not depend on `bk`.
//!
//! Blocks of `bm` rows and `bk` columns (32 for pairs) are cut in groups of 32 rows. One byte has two codes that follow each
//! other in a row, the first in the upper bits; the bytes of 32 rows are adjacent, in the order of rows 0 to 7, 16 to 23, 8 to
//! 15, 24 to 31, and follow each other by columns, groups, blocks along the columns and blocks along the rows. Signs are words
//! of 16 bits, one for the rows `r` and `r + 16` of a group: from the highest bit on that of eight numbers of the one row and of
//! the other in turns.

use super::FormatError;
use super::checkpoint::Checkpoint;
use super::dtype::DType;
use super::kernel_config::Tiling;
use super::storage::TensorData;
use super::ternary::{Decoded, InvalidCode, RowDecoder, Scales, Site};
use super::tl::{self, decode_pair};

/// Rows of a group, whose bytes are adjacent.
const GROUP: usize = 32;

/// Columns whose signs are one word.
const WORD_COLS: usize = 24;

/// Columns of a block of pairs.
const PAIR_BLOCK: usize = 32;

/// The decoder.
struct Tl2 {
    codes: TensorData,
    tiling: Tiling,
    /// Columns in threes.
    threes: usize,
    /// Where the signs begin.
    signs: usize,
    /// Where the pairs begin.
    pairs: usize,
}

/// Opens a TL2 matrix.
pub(super) fn open(site: &Site, checkpoint: &Checkpoint, data: &TensorData) -> Result<Decoded, FormatError> {
    let tiling = checkpoint.options().kernel_config.tiling(site, DType::Tl2)?;
    if tiling.group_rows != GROUP {
        return Err(site.invalid(format!("bmm is {} where TL2 has {GROUP}", tiling.group_rows)));
    }
    let rest = site.cols % tiling.block_cols;
    let threes = site.cols - rest;
    tiling.check(site, threes, WORD_COLS)?;
    let (codes, scale) = tl::split(site, checkpoint, DType::Tl2, data)?;
    // `split` found that the matrix has as many bytes, so that these products fit.
    let signs = site.rows * threes / 6;
    let pairs = signs + site.rows * threes / WORD_COLS;
    if !rest.is_multiple_of(PAIR_BLOCK) || pairs + site.rows * rest / 4 > codes.len() {
        return Err(
            site.invalid(format!("the {rest} columns beyond multiples of bk = {} are no TL2", tiling.block_cols))
        );
    }
    Ok((Box::new(Tl2 { codes, tiling, threes, signs, pairs }), Scales::One(scale)))
}

impl RowDecoder for Tl2 {
    fn decode(&self, row: usize, out: &mut [i8]) -> Result<(), InvalidCode> {
        let (threes, pairs) = out.split_at_mut(self.threes);
        let row = Row::of(row, self.tiling.block_rows);
        let mut valid = true;
        let block_words = self.tiling.block_cols / WORD_COLS;
        for (word, out) in threes.as_chunks_mut::<WORD_COLS>().0.iter_mut().enumerate() {
            let word =
                row.run(word / block_words, self.threes / self.tiling.block_cols) * block_words + word % block_words;
            let place = self.signs + (word * GROUP + 2 * (row.in_group % 16));
            let signs = u16::from_be_bytes([self.codes[place + 1], self.codes[place]]) << (row.in_group / 16);
            for (index, out) in out.as_chunks_mut::<3>().0.iter_mut().enumerate() {
                let byte = self.codes[(4 * word + index / 2) * GROUP + row.place()];
                let magnitude = if index % 2 == 0 { byte >> 4 } else { byte & 15 };
                let is_negative = (signs << (2 * index)) & 0x8000 != 0;
                valid &= decode_three(magnitude, is_negative, out);
            }
        }
        let blocks = pairs.len() / PAIR_BLOCK;
        for (four, out) in pairs.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            const FOURS: usize = PAIR_BLOCK / 4;
            let four = row.run(four / FOURS, blocks) * FOURS + four % FOURS;
            let byte = self.codes[self.pairs + four * GROUP + row.place()];
            let [first, second] = out.as_chunks_mut::<2>().0 else { continue };
            valid &= decode_pair(byte >> 4, first) & decode_pair(byte & 15, second);
        }
        if valid { Ok(()) } else { Err(InvalidCode) }
    }
}

/// Where a row is.
struct Row {
    block: usize,
    group: usize,
    groups: usize,
    in_group: usize,
}

impl Row {
    fn of(row: usize, block_rows: usize) -> Row {
        let (block, row) = (row / block_rows, row % block_rows);
        Row { block, group: row / GROUP, groups: block_rows / GROUP, in_group: row % GROUP }
    }

    /// The number of the row's group in the block `column` of `columns` along the columns.
    fn run(&self, column: usize, columns: usize) -> usize {
        (self.block * columns + column) * self.groups + self.group
    }

    /// The place of the row's byte among those of its group.
    fn place(&self) -> usize {
        let eight = [0, 2, 1, 3][self.in_group / 8];
        8 * eight + self.in_group % 8
    }
}

/// Decodes the three weights of a number; says whether it is that of three.
fn decode_three(magnitude: u8, is_negative: bool, out: &mut [i8; 3]) -> bool {
    let number = if is_negative { 13u8.wrapping_sub(magnitude) } else { 13 + magnitude };
    *out = [(number / 9) as i8 - 1, (number / 3 % 3) as i8 - 1, (number % 3) as i8 - 1];
    magnitude <= 13
}
