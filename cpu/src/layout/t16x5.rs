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

/// The codes that a byte holds, field by field. Without branches: a loop over bytes becomes vector code.
#[inline(always)]
pub(crate) fn codes(byte: u8) -> [u8; 5] {
    // Unsigned, `min(x, x - m)` is `x` less `m` if it is not below it.
    let less = |x: u8, m: u8| x.min(x.wrapping_sub(m));
    let digit = |x: u8, m: u8| u8::from(x >= m) + u8::from(x >= 2 * m);
    let rest = |x: u8, m: u8| less(less(x, 2 * m), m);
    let (r4, r3) = (rest(byte, PLACES[4]), rest(rest(byte, PLACES[4]), PLACES[3]));
    let r2 = rest(r3, PLACES[2]);
    let one = digit(r2, PLACES[1]);
    [r2 - 3 * one, one, digit(r3, PLACES[2]), digit(r4, PLACES[3]), digit(byte, PLACES[4])]
}
