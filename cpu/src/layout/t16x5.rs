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
    let codes: [u32; 5] = super::codes(values);
    // No byte exceeds 248, so none carries into the next.
    codes.iter().zip(PLACES).fold(0, |word, (code, place)| word + code * u32::from(place)).to_le_bytes()
}

/// Whether some bytes stand for codes: 13 of the 256 do not.
pub(super) fn are_codes(bytes: &[u8; 4]) -> bool {
    bytes.iter().all(|&byte| byte % PLACES[4] < 81 && byte < 249)
}

/// The codes of some bytes, field by field. Without branches: it becomes vector code.
#[inline(always)]
pub(crate) fn fields<const N: usize>(bytes: &[u8; N]) -> [[u8; N]; 5] {
    let (four, rest) = divide(bytes, PLACES[4]);
    let (three, rest) = divide(&rest, PLACES[3]);
    let (two, rest) = divide(&rest, PLACES[2]);
    let (one, zero) = divide(&rest, PLACES[1]);
    [zero, one, two, three, four]
}

/// Quotients and remainders of bytes below `3 · by`.
#[inline(always)]
fn divide<const N: usize>(x: &[u8; N], by: u8) -> ([u8; N], [u8; N]) {
    // Unsigned, `min(x, x - m)` is `x` less `m` if it is not below it.
    let less = |x: u8, m: u8| x.min(x.wrapping_sub(m));
    (x.map(|x| u8::from(x >= by) + u8::from(x >= 2 * by)), x.map(|x| less(less(x, 2 * by), by)))
}
