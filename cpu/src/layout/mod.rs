//! Packed ternary matrices.
//!
//! Every layout has the same frame: a matrix is cut into groups of rows, a group into tiles along the columns. The tiles
//! of a group follow each other, and so do the groups: a product reads one sequential stream. Rows and columns are padded
//! with zeros. How a tile holds its weights is the layout's own matter: one file each.

pub(crate) mod lut2;
pub(crate) mod lut3;
pub(crate) mod lut5;
pub(crate) mod t16;
pub(crate) mod t16x5;

use std::fmt;
use std::str::FromStr;

use rayon::prelude::*;

use crate::buffer::{AlignedBuf, SharedBytes, SharedError, Stored};
use crate::readers::Readers;

/// Rows whose sums a kernel gives together; the groups of all layouts are multiples of it.
pub const GROUP: usize = 16;

/// Rows of a group of the layouts that are looked up: many, since each reads the whole table of a token.
pub(crate) const LUT_ROWS: usize = 128;

/// No layout's tile has more columns; rows of activations are padded so that a tile may reach beyond the last column.
pub(crate) const MAX_TILE_COLS: usize = 64;

/// How a tile holds its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// 2 bits a weight: tiles of 16 columns in 64 bytes, four codes `w + 1` in a byte. For every instruction set.
    T16,
    /// 1.6 bits a weight: tiles of 20 columns in 64 bytes, five codes in a byte. For AVX-512 VBMI.
    T16x5,
    /// 2 bits a weight, for looking up the sums of two weights: nibbles.
    Lut2,
    /// 1⅔ bits a weight, for looking up the sums of three weights: nibbles and signs.
    Lut3,
    /// 1.6 bits a weight, for looking up the sums of five weights: bytes. For AVX-512 VBMI.
    Lut5,
}

impl Layout {
    /// All layouts.
    pub const ALL: [Layout; 5] = [Layout::T16, Layout::T16x5, Layout::Lut2, Layout::Lut3, Layout::Lut5];

    /// The name used by `--layout` and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Layout::T16 => "t16",
            Layout::T16x5 => "t16x5",
            Layout::Lut2 => "lut2",
            Layout::Lut3 => "lut3",
            Layout::Lut5 => "lut5",
        }
    }

    /// Rows of a group, and of a tile.
    pub const fn group_rows(self) -> usize {
        match self {
            Layout::T16 | Layout::T16x5 => GROUP,
            Layout::Lut2 | Layout::Lut3 | Layout::Lut5 => LUT_ROWS,
        }
    }

    /// Parts of [`GROUP`] rows that make a group.
    pub(crate) const fn parts(self) -> usize {
        self.group_rows() / GROUP
    }

    /// Columns of a tile.
    pub const fn tile_cols(self) -> usize {
        match self {
            Layout::T16 => t16::COLS,
            Layout::T16x5 => t16x5::COLS,
            Layout::Lut2 => lut2::COLS,
            Layout::Lut3 => lut3::COLS,
            Layout::Lut5 => lut5::COLS,
        }
    }

    /// Bytes of a tile.
    pub const fn tile_bytes(self) -> usize {
        match self {
            Layout::T16 | Layout::T16x5 => 64,
            Layout::Lut2 => 4 * LUT_ROWS,
            Layout::Lut3 => 5 * LUT_ROWS,
            Layout::Lut5 => lut5::RUNS * LUT_ROWS,
        }
    }

    /// `cols`, padded to whole tiles.
    pub(crate) const fn pad(self, cols: usize) -> usize {
        cols.next_multiple_of(self.tile_cols())
    }

    /// Bytes of a matrix.
    pub const fn bytes(self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(self.group_rows()) * cols.div_ceil(self.tile_cols()) * self.tile_bytes()
    }

    /// Appends the groups of some rows of a matrix, of `cols` values each; rows that are missing in the last group are zero.
    ///
    /// # Panics
    /// If `weights` are not whole rows.
    pub fn pack_rows(self, weights: &[i8], cols: usize, out: &mut Vec<u8>) {
        assert!(cols > 0 && weights.len().is_multiple_of(cols), "pack_rows: whole rows");
        let group_bytes = self.bytes(self.group_rows(), cols);
        let mut padded = vec![0i8; self.pad(cols)];
        for group in weights.chunks(self.group_rows() * cols) {
            let start = out.len();
            out.resize(start + group_bytes, 0);
            for r in 0..self.group_rows() {
                match group.get(r * cols..(r + 1) * cols) {
                    Some(row) => padded[..cols].copy_from_slice(row),
                    None => padded.fill(0),
                }
                self.pack_row(&padded, r, &mut out[start..]);
            }
        }
    }

    /// Reads row `row` of a matrix, of which `tiles` are the bytes and whose rows are as long as `out`. Returns whether all
    /// that was read are -1, 0 and 1, and no byte that the layout does not use.
    ///
    /// # Panics
    /// If `tiles` do not reach to the row.
    pub fn read_row(self, tiles: &[u8], row: usize, out: &mut [i8]) -> bool {
        let (group_bytes, rows) = (self.bytes(self.group_rows(), out.len()), self.group_rows());
        let group = &tiles[row / rows * group_bytes..][..group_bytes];
        let r = row % rows;
        self.unpack_row(group, r, out);
        let in_range = out.iter().fold(true, |valid, w| valid & (-1..=1).contains(w));
        in_range
            && (self != Layout::T16x5
                || group.as_chunks::<64>().0.iter().all(|tile| t16x5::are_codes(&tile.as_chunks().0[r])))
    }

    /// Writes row `r` of a group from its values, padded to whole tiles with zeros.
    pub(crate) fn pack_row(self, values: &[i8], r: usize, group: &mut [u8]) {
        match self {
            Layout::T16 => pack_words(values, r, group, t16::pack),
            Layout::T16x5 => pack_words(values, r, group, t16x5::pack),
            Layout::Lut2 => self.pack_tiles(values, group, |values, tile| lut2::pack(values, r, tile)),
            Layout::Lut3 => self.pack_tiles(values, group, |values, tile| lut3::pack(values, r, tile)),
            Layout::Lut5 => self.pack_tiles(values, group, |values, tile| lut5::pack(values, r, tile)),
        }
    }

    /// Reads row `r` of a group back, as far as `out` reaches.
    pub(crate) fn unpack_row(self, group: &[u8], r: usize, out: &mut [i8]) {
        match self {
            Layout::T16 => unpack_words(group, r, out, t16::fields),
            Layout::T16x5 => unpack_words(group, r, out, t16x5::fields),
            Layout::Lut2 => self.unpack_tiles(group, out, |tile| lut2::unpack(tile, r)),
            Layout::Lut3 => self.unpack_tiles(group, out, |tile| lut3::unpack(tile, r)),
            Layout::Lut5 => self.unpack_tiles(group, out, |tile| lut5::unpack(tile, r)),
        }
    }

    fn pack_tiles<const COLS: usize>(self, values: &[i8], group: &mut [u8], pack: impl Fn(&[i8; COLS], &mut [u8])) {
        let tiles = group.chunks_exact_mut(self.tile_bytes());
        values.as_chunks().0.iter().zip(tiles).for_each(|(values, tile)| pack(values, tile));
    }

    fn unpack_tiles<const COLS: usize>(self, group: &[u8], out: &mut [i8], unpack: impl Fn(&[u8]) -> [i8; COLS]) {
        for (out, tile) in out.chunks_mut(COLS).zip(group.chunks_exact(self.tile_bytes())) {
            out.copy_from_slice(&unpack(tile)[..out.len()]);
        }
    }
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layout {
    type Err = UnknownLayout;

    fn from_str(name: &str) -> Result<Layout, UnknownLayout> {
        let layout = Layout::ALL.into_iter().find(|layout| layout.name().eq_ignore_ascii_case(name));
        layout.ok_or_else(|| UnknownLayout(name.to_owned()))
    }
}

/// The name is none of [`Layout::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown layout {0:?}: expected one of {names}", names = Layout::ALL.map(Layout::name).join(", "))]
pub struct UnknownLayout(String);

/// The codes `w + 1` of a row of a tile, four columns to a word.
fn codes<const COLS: usize, const WORDS: usize>(values: &[i8; COLS]) -> [u32; WORDS] {
    const { assert!(COLS == 4 * WORDS) }
    let (words, _) = values.as_chunks::<4>();
    std::array::from_fn(|f| u32::from_le_bytes(words[f].map(|w| (w + 1) as u8 & 3)))
}

/// Packs a row whose part of a tile is the word `r` of the tile.
fn pack_words<const COLS: usize>(values: &[i8], r: usize, group: &mut [u8], pack: impl Fn(&[i8; COLS]) -> [u8; 4]) {
    for (values, tile) in values.as_chunks().0.iter().zip(group.as_chunks_mut::<64>().0) {
        tile[4 * r..4 * r + 4].copy_from_slice(&pack(values));
    }
}

/// Reads a row back whose part of a tile is the word `r` of the tile.
fn unpack_words<const FIELDS: usize>(
    group: &[u8],
    r: usize,
    out: &mut [i8],
    fields: impl Fn(&[u8; 4]) -> [[u8; 4]; FIELDS],
) {
    for (out, tile) in out.chunks_mut(4 * FIELDS).zip(group.as_chunks::<64>().0) {
        let codes = fields(&tile.as_chunks().0[r]);
        out.iter_mut().zip(codes.as_flattened()).for_each(|(out, &code)| *out = code as i8 - 1);
    }
}

/// A matrix of -1, 0 and +1 in one of the layouts.
#[derive(Clone, Debug)]
pub struct TernaryMatrix {
    layout: Layout,
    rows: usize,
    cols: usize,
    tiles: Stored<u8>,
}

impl TernaryMatrix {
    /// Packs a matrix of `rows` × `cols`, on all cores. `read_row` fills in a row with -1, 0 and 1.
    ///
    /// # Errors
    /// The first error of `read_row` that is seen.
    pub fn pack<E: Send>(
        layout: Layout,
        rows: usize,
        cols: usize,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let tiles = AlignedBuf::streamed(layout.bytes(rows, cols));
        TernaryMatrix::filled(layout, rows, cols, tiles, read_row)
    }

    /// A matrix of `rows` × `cols` over tiles that are there already, as [`TernaryMatrix::tiles`] shows them; they are not
    /// copied. What they hold is not looked at: bytes that are no codes give wrong sums, and nothing worse.
    /// [`Layout::read_row`] finds them.
    ///
    /// # Errors
    /// If there are not as many bytes as the matrix has, or they do not begin at a multiple of 64.
    pub fn over(layout: Layout, rows: usize, cols: usize, tiles: SharedBytes) -> Result<TernaryMatrix, SharedError> {
        SharedError::check(&tiles, layout.bytes(rows, cols))?;
        Ok(TernaryMatrix { layout, rows, cols, tiles: Stored::Shared(tiles) })
    }

    /// The same in memory of its own, as [`TernaryMatrix::pack_near`] has it, if it was [`TernaryMatrix::over`] that of
    /// somebody else: huge pages are read faster than those of a mapped file.
    #[must_use]
    pub fn copied_near(self, near: Readers<'_>) -> TernaryMatrix {
        TernaryMatrix { tiles: self.tiles.copied(near, self.rows), ..self }
    }

    /// As [`TernaryMatrix::pack`], for a matrix that [`fn@crate::linear`] multiplies in one call with others, in the
    /// memory that is nearest to the threads which will read it.
    ///
    /// # Errors
    /// The first error of `read_row` that is seen.
    pub fn pack_near<E: Send>(
        near: Readers<'_>,
        layout: Layout,
        rows: usize,
        cols: usize,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let mut tiles = AlignedBuf::streamed(layout.bytes(rows, cols));
        near.touch(&mut tiles, rows);
        TernaryMatrix::filled(layout, rows, cols, tiles, read_row)
    }

    /// Fills in the rows of a matrix whose tiles are zero bytes.
    fn filled<E: Send>(
        layout: Layout,
        rows: usize,
        cols: usize,
        mut tiles: AlignedBuf<u8>,
        read_row: impl Fn(usize, &mut [i8]) -> Result<(), E> + Sync,
    ) -> Result<TernaryMatrix, E> {
        let group_bytes = layout.bytes(layout.group_rows(), cols);
        let padded = layout.pad(cols);
        tiles.par_chunks_exact_mut(group_bytes.max(1)).enumerate().try_for_each_init(
            || vec![0i8; padded],
            |row_buffer, (group, tiles)| {
                for r in 0..layout.group_rows() {
                    row_buffer.fill(0);
                    let row = group * layout.group_rows() + r;
                    if row < rows {
                        read_row(row, &mut row_buffer[..cols])?;
                    }
                    layout.pack_row(row_buffer, r, tiles);
                }
                Ok(())
            },
        )?;
        Ok(TernaryMatrix { layout, rows, cols, tiles: Stored::Own(tiles) })
    }

    /// How the tiles hold the weights.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Groups of rows.
    pub fn row_groups(&self) -> usize {
        self.rows.div_ceil(self.layout.group_rows())
    }

    /// Tiles along the columns.
    pub fn col_tiles(&self) -> usize {
        self.cols.div_ceil(self.layout.tile_cols())
    }

    /// Bytes of a group of rows.
    pub fn group_bytes(&self) -> usize {
        self.col_tiles() * self.layout.tile_bytes()
    }

    /// Bytes of the matrix.
    pub fn bytes(&self) -> usize {
        self.tiles.len()
    }

    /// All tiles, group by group.
    pub fn tiles(&self) -> &[u8] {
        &self.tiles
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
        let rows = self.layout.group_rows();
        self.layout.unpack_row(self.groups(row / rows, 1), row % rows, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(row: usize, col: usize) -> i8 {
        ((row * 31 + col * 17 + row * col) % 3) as i8 - 1
    }

    fn pack(layout: Layout, rows: usize, cols: usize) -> TernaryMatrix {
        TernaryMatrix::pack(layout, rows, cols, |row, out| {
            out.iter_mut().enumerate().for_each(|(col, v)| *v = value(row, col));
            Ok::<(), ()>(())
        })
        .expect("rows that cannot fail")
    }

    #[test]
    fn rows_come_back() {
        for layout in Layout::ALL {
            assert!(layout.tile_cols() <= MAX_TILE_COLS);
            assert_eq!(layout.name().parse(), Ok(layout));
            for (rows, cols) in [(1, 1), (16, 16), (17, 33), (50, 100), (3, 270), (130, 61)] {
                let matrix = pack(layout, rows, cols);
                assert_eq!(matrix.bytes(), layout.bytes(rows, cols));
                let mut out = vec![0; cols];
                for row in 0..rows {
                    matrix.unpack_row(row, &mut out);
                    assert!((0..cols).all(|col| out[col] == value(row, col)), "{layout} {rows}x{cols} row {row}");
                }
            }
        }
    }

    #[test]
    fn bytes_of_t16_are_as_documented() {
        let matrix = pack(Layout::T16, 20, 20);
        let tiles = matrix.groups(0, 2);
        // Row 18 (group 1, r = 2), column 13 (tile 0, f = 3, b = 1).
        let byte = tiles[2 * 64 + 4 * 2 + 1];
        assert_eq!((byte >> 6) as i8 - 1, value(18, 13));
        // Padding is code 1: row 20 and column 20 and beyond.
        assert_eq!(tiles[2 * 64 + 4 * 4], 0b01010101);
        assert_eq!(tiles[64] >> 2, 0b010101);
    }

    #[test]
    fn bytes_of_t16x5_are_as_documented() {
        let matrix = pack(Layout::T16x5, 20, 21);
        // Row 18 (group 1, r = 2), columns 1, 5, 9, 13, 17 (tile 0, b = 1).
        let code = |col: usize| (value(18, col) + 1) as u8;
        let byte = matrix.groups(1, 1)[4 * 2 + 1];
        assert_eq!(byte, code(1) + 3 * code(5) + 9 * code(9) + 27 * code(13) + 84 * code(17));
        // Padding is code 1.
        assert_eq!(matrix.groups(1, 1)[4 * 4], 1 + 3 + 9 + 27 + 84);
    }

    #[test]
    fn every_byte_of_t16x5_tells_its_codes() {
        for n in 0..243usize {
            let values: [i8; t16x5::COLS] = std::array::from_fn(|c| (n / 3usize.pow(c as u32 / 4) % 3) as i8 - 1);
            let byte = t16x5::pack(&values)[0];
            let codes = t16x5::fields(&[byte]).map(|[code]| code);
            assert_eq!(codes.map(|c| c as i8 - 1), std::array::from_fn(|f| values[4 * f]));
            // The upper six bits alone tell the last code.
            assert_eq!((byte & !3) / 84, codes[4]);
        }
    }

    #[test]
    fn bytes_of_the_looked_up_layouts_are_as_documented() {
        let values = |row: usize, first: usize, len: usize| (first..first + len).map(move |col| value(row, col));
        let number = |row, first, len| values(row, first, len).fold(0, |number, w| 3 * number + i32::from(w));
        // Row 130 (group 1, r = 2); padding of the group's other rows and columns.
        let (lut2, lut3) = (pack(Layout::Lut2, 131, 20), pack(Layout::Lut3, 131, 25));
        let lut5 = pack(Layout::Lut5, 131, 31);
        let tile = lut2.groups(1, 1);
        assert_eq!(i32::from(tile[128 + 2]), (number(130, 4, 2) + 4) | (number(130, 6, 2) + 4) << 4);
        assert_eq!((tile[3], tile[512 + 128 + 2]), (0x44, 0x44));
        let tile = lut3.groups(1, 1);
        assert_eq!(i32::from(tile[128 + 2]), number(130, 6, 3).abs() | number(130, 9, 3).abs() << 4);
        assert_eq!(tile[512 + 2] >> 4 & 1 == 1, number(130, 9, 3) < 0);
        assert_eq!((tile[3], tile[512 + 3], tile[640 + 128 + 2]), (0, 0, 0));
        let tile = lut5.groups(1, 1);
        assert_eq!(i32::from(tile[128 + 2] & 127), number(130, 5, 5).abs());
        assert_eq!(tile[128 + 2] >> 7 == 1, number(130, 5, 5) < 0);
        assert_eq!((tile[3], tile[768 + 128 + 2]), (0, 0));
    }

    #[test]
    fn rows_packed_in_parts_are_the_matrix_and_can_be_shared() {
        for layout in Layout::ALL {
            for (rows, cols) in [(1, 1), (17, 33), (300, 61)] {
                let matrix = pack(layout, rows, cols);
                let weights: Vec<i8> = (0..rows * cols).map(|i| value(i / cols, i % cols)).collect();
                let mut bytes = Vec::new();
                weights.chunks(128 * cols).for_each(|part| layout.pack_rows(part, cols, &mut bytes));
                assert_eq!(bytes, matrix.tiles());
                let mut row = vec![0; cols];
                assert!(layout.read_row(&bytes, rows - 1, &mut row));
                assert_eq!(row, weights[(rows - 1) * cols..]);
                let mut aligned = AlignedBuf::<u8>::zeroed(bytes.len() + 1);
                aligned[..bytes.len()].copy_from_slice(&bytes);
                struct Part(AlignedBuf<u8>, std::ops::Range<usize>);
                impl AsRef<[u8]> for Part {
                    fn as_ref(&self) -> &[u8] {
                        &self.0[self.1.clone()]
                    }
                }
                let over =
                    |range| TernaryMatrix::over(layout, rows, cols, SharedBytes::new(Part(aligned.clone(), range)));
                let shared = over(0..bytes.len()).expect("aligned bytes of the right length");
                assert_eq!(shared.tiles(), matrix.tiles());
                assert_eq!(over(1..bytes.len() + 1).err(), Some(SharedError::Alignment));
                assert!(matches!(over(0..bytes.len() - 1), Err(SharedError::Length { .. })));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_codes_are_found() {
        let mut row = [0; 20];
        for byte in 0..=255u8 {
            let mut tiles = vec![0b0101_0101; 128];
            tiles[17] = byte;
            let valid = byte & (byte >> 1) & 0x55 == 0;
            assert_eq!(Layout::T16.read_row(&tiles, 4, &mut row), valid, "{byte}");
            let mut tiles = vec![124; 64];
            tiles[17] = byte;
            let codes = (0..243usize).map(|n| n % 81 + n / 81 * 84);
            assert_eq!(
                Layout::T16x5.read_row(&tiles, 4, &mut row),
                codes.into_iter().any(|c| c == byte.into()),
                "{byte}"
            );
            assert!(Layout::T16x5.read_row(&tiles, 5, &mut row));
        }
    }

    #[test]
    fn an_error_of_a_row_is_returned() {
        let pack = |row, _: &mut [i8]| if row == 33 { Err("row 33") } else { Ok(()) };
        assert_eq!(TernaryMatrix::pack(Layout::T16, 40, 8, pack).err(), Some("row 33"));
    }
}
