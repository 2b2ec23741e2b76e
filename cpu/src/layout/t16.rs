//! Layout T16: 2 bits a weight.
//!
//! Byte `4r + b` of a tile holds four codes `w + 1`: field `f` (bits 2f and 2f + 1) is column `4f + b` of row `r`. So
//! the 32-bit word `r` is 16 consecutive columns of one row, and `(word >> 2f) & 0x03030303` is the operand of a
//! four-way int8 dot product with activations `4f … 4f + 3`.

/// Columns of a tile.
pub(crate) const COLS: usize = 16;

/// The four bytes of one row of a tile.
pub(super) fn pack(values: &[i8; COLS]) -> [u8; 4] {
    // No code exceeds two bits, so no byte carries into the next.
    let [a, b, c, d] = super::codes(values);
    (a | b << 2 | c << 4 | d << 6).to_le_bytes()
}

/// The codes of some bytes, field by field. Without branches: it becomes vector code.
#[inline(always)]
pub(crate) fn fields<const N: usize>(bytes: &[u8; N]) -> [[u8; N]; 4] {
    std::array::from_fn(|f| bytes.map(|byte| (byte >> (2 * f)) & 3))
}
