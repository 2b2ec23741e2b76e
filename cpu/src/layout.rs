//! Layout T16: ternary matrices at 2 bits a weight.
//!
//! Tiles of 16 rows × 16 columns in 64 bytes. Byte `4r + b` of a tile holds four codes `w + 1`: field `f` (bits 2f and
//! 2f + 1) is column `4f + b` of row `r`. So the 32-bit word `r` is 16 consecutive columns of one row, and
//! `(word >> 2f) & 0x03030303` is the operand of a four-way int8 dot product with activations `4f … 4f + 3`. The tiles
//! of a group of 16 rows follow each other along the columns; rows and columns are padded to 16 with zeros (code 1).

use rayon::prelude::*;

use crate::buffer::AlignedBuf;

/// Rows and columns of a tile.
pub const TILE: usize = 16;

/// Bytes of a tile.
pub const TILE_BYTES: usize = 64;

/// A matrix of -1, 0 and +1 in layout T16.
#[derive(Clone, Debug)]
pub struct TernaryMatrix {
    rows: usize,
    cols: usize,
    tiles: AlignedBuf<u8>,
}

impl TernaryMatrix {
    /// Packs a matrix of `rows` × `cols`, on all cores. `read_row` fills in a row with -1, 0 and 1.
    ///
    /// # Errors
    /// The first error of `read_row` that is seen.
    pub fn pack<E: Send>(
        rows: usize,
        cols: usize,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let mut matrix = TernaryMatrix { rows, cols, tiles: AlignedBuf::default() };
        let group_bytes = matrix.group_bytes();
        matrix.tiles = AlignedBuf::zeroed(matrix.row_groups() * group_bytes);
        let padded = cols.next_multiple_of(TILE);
        matrix.tiles.par_chunks_exact_mut(group_bytes.max(1)).enumerate().try_for_each_init(
            || vec![0i8; padded],
            |row_buffer, (group, tiles)| {
                for r in 0..TILE {
                    row_buffer.fill(0);
                    let row = group * TILE + r;
                    if row < rows {
                        read_row(row, &mut row_buffer[..cols])?;
                    }
                    pack_row(row_buffer, r, tiles);
                }
                Ok(())
            },
        )?;
        Ok(matrix)
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Groups of 16 rows.
    pub fn row_groups(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    /// Tiles along the columns.
    pub fn col_tiles(&self) -> usize {
        self.cols.div_ceil(TILE)
    }

    /// Bytes of a group of 16 rows.
    pub fn group_bytes(&self) -> usize {
        self.col_tiles() * TILE_BYTES
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        self.tiles.len()
    }

    /// The tiles of `count` groups from `first`.
    pub(crate) fn groups(&self, first: usize, count: usize) -> &[u8] {
        let bytes = self.group_bytes();
        &self.tiles[first * bytes..(first + count) * bytes]
    }

    /// Reads a row back.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not `cols` long.
    pub fn unpack_row(&self, row: usize, out: &mut [i8]) {
        assert!(row < self.rows && out.len() == self.cols, "unpack_row: row or length");
        let group = self.groups(row / TILE, 1);
        for (col, out) in out.iter_mut().enumerate() {
            let (tile, c) = (col / TILE, col % TILE);
            let byte = group[tile * TILE_BYTES + 4 * (row % TILE) + c % 4];
            *out = (byte >> (2 * (c / 4)) & 3) as i8 - 1;
        }
    }
}

/// Writes row `r` of a group from its values (padded to whole tiles).
fn pack_row(values: &[i8], r: usize, tiles: &mut [u8]) {
    for (values, tile) in values.chunks_exact(TILE).zip(tiles.chunks_exact_mut(TILE_BYTES)) {
        // Word f holds the codes of columns 4f … 4f + 3; no code exceeds two bits, so no byte carries into the next.
        let word = |f: usize| {
            u32::from_le_bytes(
                [values[4 * f], values[4 * f + 1], values[4 * f + 2], values[4 * f + 3]].map(|v| (v + 1) as u8 & 3),
            )
        };
        let packed = word(0) | word(1) << 2 | word(2) << 4 | word(3) << 6;
        tile[4 * r..4 * r + 4].copy_from_slice(&packed.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(row: usize, col: usize) -> i8 {
        ((row * 31 + col * 17 + row * col) % 3) as i8 - 1
    }

    fn pack(rows: usize, cols: usize) -> TernaryMatrix {
        TernaryMatrix::pack(rows, cols, |row, out| {
            out.iter_mut().enumerate().for_each(|(col, v)| *v = value(row, col));
            Ok::<(), ()>(())
        })
        .expect("rows that cannot fail")
    }

    #[test]
    fn rows_come_back() {
        for (rows, cols) in [(1, 1), (16, 16), (17, 33), (50, 100), (3, 270)] {
            let matrix = pack(rows, cols);
            assert_eq!(matrix.bytes(), rows.div_ceil(16) * cols.div_ceil(16) * 64);
            let mut out = vec![0; cols];
            for row in 0..rows {
                matrix.unpack_row(row, &mut out);
                assert!((0..cols).all(|col| out[col] == value(row, col)), "{rows}x{cols} row {row}");
            }
        }
    }

    #[test]
    fn bytes_are_as_documented() {
        let matrix = pack(20, 20);
        let tiles = matrix.groups(0, 2);
        // Row 18 (group 1, r = 2), column 13 (tile 0, f = 3, b = 1).
        let byte = tiles[2 * TILE_BYTES + 4 * 2 + 1];
        assert_eq!((byte >> 6) as i8 - 1, value(18, 13));
        // Padding is code 1: row 20 and column 20 and beyond.
        assert_eq!(tiles[2 * TILE_BYTES + 4 * 4], 0b01010101);
        assert_eq!(tiles[TILE_BYTES] >> 2, 0b010101);
    }

    #[test]
    fn an_error_of_a_row_is_returned() {
        let result = TernaryMatrix::pack(40, 8, |row, _| if row == 33 { Err("row 33") } else { Ok(()) });
        assert_eq!(result.err(), Some("row 33"));
    }
}
