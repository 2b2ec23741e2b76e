//! Layout Lut2: 2 bits a weight, for kernels that look up the sums of two weights.
//!
//! A tile is 128 rows × 16 columns in 512 bytes. Byte `128 i + r` holds two indices of row `r`: the low nibble those of
//! columns `4i` and `4i + 1`, the high nibble those of `4i + 2` and `4i + 3`. So 16 adjacent bytes are the indices of a
//! byte shuffle, which looks up 16 rows in one table.

/// Weights of an index.
pub(crate) const RUN: usize = 2;

/// Columns of a tile.
pub(crate) const COLS: usize = 8 * RUN;

/// The index of two weights: `3 (a + 1) + b + 1`, 0 to 8.
fn index(run: &[i8; RUN]) -> u8 {
    (3 * (run[0] + 1) + run[1] + 1) as u8
}

/// The weights that an index stands for; none of those above 8 is used.
pub(crate) const fn weights(index: usize) -> [i8; RUN] {
    if index < 9 { [(index / 3) as i8 - 1, (index % 3) as i8 - 1] } else { [0; RUN] }
}

/// Writes row `r` of a tile.
pub(super) fn pack(values: &[i8; COLS], r: usize, tile: &mut [u8]) {
    let runs = values.as_chunks().0;
    for (i, two) in runs.as_chunks::<2>().0.iter().enumerate() {
        tile[super::LUT_ROWS * i + r] = index(&two[0]) | index(&two[1]) << 4;
    }
}

/// Reads row `r` of a tile.
pub(super) fn unpack(tile: &[u8], r: usize) -> [i8; COLS] {
    std::array::from_fn(|c| weights((tile[super::LUT_ROWS * (c / 4) + r] >> (c / 2 % 2 * 4) & 15) as usize)[c % 2])
}
