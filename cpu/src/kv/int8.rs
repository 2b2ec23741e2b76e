//! Keys and values as 8-bit codes with a scale for each head and position: half the bytes of half precision.
//!
//! A head in a page is
//! - keys as `code + 128`, `[PAGE_LEN / 16, head_dim / 4, 16 positions, 4 dimensions]`: 64 bytes are one operand of a
//!   four-way dot product whose lanes are positions; behind them [`PAGE_LEN`] scales;
//! - values as signed codes, `[head_dim / 16, PAGE_LEN / 4, 16 dimensions, 4 positions]`: the lanes are dimensions; and
//!   their scales.
//!
//! `x ≈ code · scale`, `scale = |x|max / 127`. Dimensions are filled up with zeros to 4 for the keys and to 16 for the
//! values.

use super::{PAGE_LEN, padded, padded_dim};
use crate::simd::{Lanes, absmax, per_isa};

/// What a key's code is stored with, so that it is unsigned.
pub(crate) const KEY_OFFSET: i32 = 128;

/// Positions that lie together in the keys.
const LANES: usize = 16;

/// Bytes of the keys and of the values of a head in a page, scales included.
pub(super) const fn bytes(head_dim: usize) -> (usize, usize) {
    (PAGE_LEN * head_dim.next_multiple_of(4) + SCALE_BYTES, PAGE_LEN * padded_dim(head_dim) + SCALE_BYTES)
}

/// Bytes of the scales of a page's keys or values.
pub(crate) const SCALE_BYTES: usize = PAGE_LEN * size_of::<f32>();

/// The keys or the values of a head in a page.
#[derive(Clone, Copy)]
pub(crate) struct Codes<'a> {
    /// The codes.
    pub(crate) codes: &'a [u8],
    /// What they are multiplied with.
    pub(crate) scales: &'a [f32; PAGE_LEN],
}

impl<'a> Codes<'a> {
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8]) -> Codes<'a> {
        let (codes, scales) = bytes.split_at(bytes.len() - SCALE_BYTES);
        Codes { codes, scales: &bytemuck::cast_slice::<_, [f32; PAGE_LEN]>(scales)[0] }
    }
}

per_isa! {
    /// Writes position `slot` of a head in a page.
    pub(super) fn store(keys: &mut [u8], values: &mut [u8], slot: usize, k: &[f32], v: &[f32]) = store_body;
}

#[inline(always)]
fn store_body<S: Lanes>(keys: &mut [u8], values: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
    let (words, columns) = (k.len().div_ceil(4), padded_dim(v.len()) / 16);
    store_codes(keys, slot, k, |d, code| {
        let tile = key_tile(slot / LANES, words, d / 4);
        (tile * 64 + slot % LANES * 4 + d % 4, (code + KEY_OFFSET) as u8)
    });
    store_codes(values, slot, v, |d, code| {
        let tile = value_tile(d / 16, columns, slot / 4);
        (tile * 64 + d % 16 * 4 + slot % 4, code as i8 as u8)
    });
}

/// The tile of four dimensions, `word` of `words`, of 16 positions.
#[inline(always)]
pub(crate) fn key_tile(lane: usize, words: usize, word: usize) -> usize {
    (lane / 2 * words + word) * 2 + lane % 2
}

/// The tile of four positions of 16 dimensions, `column` of `columns`.
#[inline(always)]
pub(crate) fn value_tile(column: usize, columns: usize, word: usize) -> usize {
    // The last of an odd number of columns is alone.
    let width = if column + 1 == columns { 1 + column % 2 } else { 2 };
    column / 2 * 2 * (PAGE_LEN / 4) + word * width + column % 2
}

/// Writes the codes of `x`, each where and as `place` says, and the scale.
#[inline(always)]
fn store_codes(to: &mut [u8], slot: usize, x: &[f32], place: impl Fn(usize, i32) -> (usize, u8)) {
    let (codes, scales) = to.split_at_mut(to.len() - SCALE_BYTES);
    let max = absmax(x);
    // Below this the inverse overflows; such a row is 0.
    let (scale, inverse) = if max > 1e-30 { (max / 127.0, 127.0 / max) } else { (0.0, 0.0) };
    for (i, x) in x.chunks(16).enumerate() {
        let rounded = padded(x).map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i32);
        for (j, code) in rounded.into_iter().enumerate().take(x.len()) {
            let (at, code) = place(16 * i + j, code);
            codes[at] = code;
        }
    }
    bytemuck::cast_slice_mut::<_, f32>(scales)[slot] = scale;
}
