//! Layout T16x5: 1.6 bits a weight.
//!
//! The geometry of T16 with five codes `w + 1` in a byte: byte `4r + b` of a tile is `c0 + 3 c1 + 9 c2 + 27 c3 + 84 c4`,
//! field `f` is column `4f + b` of row `r`. The last code counts 84 = 21 · 4 instead of 81, so that the upper six bits
//! of a byte tell it.

/// Columns of a tile.
pub(crate) const COLS: usize = 20;

/// What the codes of a byte count.
pub(crate) const PLACES: [u8; 5] = [1, 3, 9, 27, 84];

/// The four bytes of one row of a tile.
pub(super) fn pack(values: &[i8; COLS]) -> [u8; 4] {
    std::array::from_fn(|b| (0..5).map(|f| (values[4 * f + b] + 1) as u8 * PLACES[f]).sum())
}

/// The codes that a byte holds, field by field.
pub(crate) fn codes(byte: u8) -> [u8; 5] {
    let last = byte / PLACES[4];
    let mut rest = byte % PLACES[4];
    let mut codes = [0, 0, 0, 0, last];
    for code in &mut codes[..4] {
        *code = rest % 3;
        rest /= 3;
    }
    codes
}
