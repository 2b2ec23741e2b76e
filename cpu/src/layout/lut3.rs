//! Layout Lut3: 1⅔ bits a weight, for kernels that look up the sums of three weights.
//!
//! A tile is 128 rows × 24 columns in 640 bytes: eight runs of three weights a row. Of the value `9a + 3b + c` of a run,
//! a nibble holds the magnitude, 0 to 13, and a bit the sign. Byte `128 i + r` holds the magnitudes of runs `2i` (low
//! nibble) and `2i + 1` (high) of row `r`; byte `512 + r` the signs of its runs, the first in the highest bit.

use super::LUT_ROWS;

/// Weights of an index.
pub(crate) const RUN: usize = 3;

/// Columns of a tile.
pub(crate) const COLS: usize = 8 * RUN;

/// Where the signs of a tile start.
pub(crate) const SIGNS: usize = 4 * LUT_ROWS;

fn value(run: &[i8; RUN]) -> i8 {
    9 * run[0] + 3 * run[1] + run[2]
}

/// The weights that a magnitude stands for; 14 and 15 are not used.
pub(crate) const fn weights(magnitude: usize) -> [i8; RUN] {
    // Digits 0, 1, 2 of v + 13, less one.
    let v = if magnitude < 14 { magnitude + 13 } else { 13 };
    [(v / 9) as i8 - 1, (v / 3 % 3) as i8 - 1, (v % 3) as i8 - 1]
}

/// Writes row `r` of a tile.
pub(super) fn pack(values: &[i8; COLS], r: usize, tile: &mut [u8]) {
    let mut signs = 0;
    for (j, run) in values.as_chunks().0.iter().enumerate() {
        let value = value(run);
        let byte = &mut tile[LUT_ROWS * (j / 2) + r];
        *byte = if j % 2 == 0 { value.unsigned_abs() } else { *byte | value.unsigned_abs() << 4 };
        signs |= u8::from(value < 0) << (7 - j);
    }
    tile[SIGNS + r] = signs;
}

/// Reads row `r` of a tile.
pub(super) fn unpack(tile: &[u8], r: usize) -> [i8; COLS] {
    std::array::from_fn(|c| {
        let j = c / RUN;
        let weight = weights((tile[LUT_ROWS * (j / 2) + r] >> (j % 2 * 4) & 15) as usize)[c % RUN];
        if tile[SIGNS + r] >> (7 - j) & 1 == 1 { -weight } else { weight }
    })
}
