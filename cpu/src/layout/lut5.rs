//! Layout Lut5: 1.6 bits a weight, for kernels that look up the sums of five weights.
//!
//! A tile is 128 rows × 30 columns in 768 bytes. Byte `128 j + r` is the value `81a + 27b + 9c + 3d + e` of run `j` of row
//! `r`: the magnitude, 0 to 121, in seven bits, the sign in the highest.

use super::LUT_ROWS;

/// Weights of an index.
pub(crate) const RUN: usize = 5;

/// Runs of a row of a tile.
pub(crate) const RUNS: usize = 6;

/// Columns of a tile.
pub(crate) const COLS: usize = RUNS * RUN;

/// The weights that a magnitude stands for; those above 121 are not used.
pub(crate) const fn weights(magnitude: usize) -> [i8; RUN] {
    // Digits 0, 1, 2 of v + 121, less one.
    let v = if magnitude < 122 { magnitude + 121 } else { 121 };
    [(v / 81) as i8 - 1, (v / 27 % 3) as i8 - 1, (v / 9 % 3) as i8 - 1, (v / 3 % 3) as i8 - 1, (v % 3) as i8 - 1]
}

/// Writes row `r` of a tile.
pub(super) fn pack(values: &[i8; COLS], r: usize, tile: &mut [u8]) {
    for (j, run) in values.as_chunks::<RUN>().0.iter().enumerate() {
        let value = run.iter().fold(0, |value, w| 3 * value + w);
        tile[LUT_ROWS * j + r] = value.unsigned_abs() | u8::from(value < 0) << 7;
    }
}

/// Reads row `r` of a tile.
pub(super) fn unpack(tile: &[u8], r: usize) -> [i8; COLS] {
    std::array::from_fn(|c| {
        let byte = tile[LUT_ROWS * (c / RUN) + r];
        let weight = weights((byte & 127) as usize)[c % RUN];
        if byte >> 7 == 1 { -weight } else { weight }
    })
}
