//! Keys and values as 8-bit codes with a scale for each head and position: half the bytes of half precision.
//!
//! A head in a page is
//! - keys as `code + 128`, `[PAGE_LEN / 16, head_dim / 4, 16 positions, 4 dimensions]`: 64 bytes are one operand of a
//!   four-way dot product whose lanes are positions;
//! - values as signed codes, `[head_dim / 16, PAGE_LEN / 4, 16 dimensions, 4 positions]`: the lanes are dimensions;
//! - [`PAGE_LEN`] scales of the keys, then of the values: `x ≈ code · scale`, `scale = |x|max / 127`.
//!
//! Dimensions are filled up with zeros to 4 for the keys and to 16 for the values.

use super::{PAGE_LEN, padded, padded_dim};
use crate::simd::{Lanes, absmax, per_isa};

/// What a key's code is stored with, so that it is unsigned.
pub(crate) const KEY_OFFSET: i32 = 128;

/// Positions that lie together in the keys.
const LANES: usize = 16;

/// Bytes that a head takes in a page.
pub(crate) const fn head_bytes(head_dim: usize) -> usize {
    PAGE_LEN * (head_dim.next_multiple_of(4) + padded_dim(head_dim)) + SCALE_BYTES
}

/// Bytes of the scales of a head in a page.
const SCALE_BYTES: usize = 2 * PAGE_LEN * size_of::<f32>();

/// A head in a page.
#[derive(Clone, Copy)]
pub(crate) struct Int8Head<'a> {
    /// Codes of the keys.
    pub(crate) keys: &'a [u8],
    /// Codes of the values.
    pub(crate) values: &'a [u8],
    /// Scales of the keys.
    pub(crate) key_scales: &'a [f32; PAGE_LEN],
    /// Scales of the values.
    pub(crate) value_scales: &'a [f32; PAGE_LEN],
}

impl<'a> Int8Head<'a> {
    /// Takes `bytes`, [`head_bytes`] of them, aligned to 64, apart.
    #[inline(always)]
    pub(super) fn new(bytes: &'a [u8], head_dim: usize) -> Int8Head<'a> {
        let (codes, scales) = bytes.split_at(bytes.len() - SCALE_BYTES);
        let (keys, values) = codes.split_at(PAGE_LEN * head_dim.next_multiple_of(4));
        let scales: &[[f32; PAGE_LEN]] = bytemuck::cast_slice(scales);
        Int8Head { keys, values, key_scales: &scales[0], value_scales: &scales[1] }
    }
}

per_isa! {
    /// Writes position `slot` of a head in a page.
    pub(super) fn store(page: &mut [u8], slot: usize, k: &[f32], v: &[f32]) = store_body;
}

#[inline(always)]
fn store_body<S: Lanes>(page: &mut [u8], slot: usize, k: &[f32], v: &[f32]) {
    let dims = k.len().next_multiple_of(4);
    let (codes, scales) = page.split_at_mut(page.len() - SCALE_BYTES);
    let (keys, values) = codes.split_at_mut(PAGE_LEN * dims);
    let scales: &mut [[f32; PAGE_LEN]] = bytemuck::cast_slice_mut(scales);
    scales[0][slot] = quantize(k, |d, code| {
        let tile = slot / LANES * (dims / 4) + d / 4;
        keys[tile * 64 + slot % LANES * 4 + d % 4] = (code + KEY_OFFSET) as u8;
    });
    scales[1][slot] = quantize(v, |d, code| {
        let tile = d / 16 * (PAGE_LEN / 4) + slot / 4;
        values[tile * 64 + d % 16 * 4 + slot % 4] = code as i8 as u8;
    });
}

/// Hands the codes of `x`, -127 to 127, to `put`; returns the scale.
#[inline(always)]
fn quantize(x: &[f32], mut put: impl FnMut(usize, i32)) -> f32 {
    let max = absmax(x);
    // Below this the inverse overflows; such a row is 0.
    let (scale, inverse) = if max > 1e-30 { (max / 127.0, 127.0 / max) } else { (0.0, 0.0) };
    for (i, x) in x.chunks(16).enumerate() {
        let codes = padded(x).map(|x| (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i32);
        for (j, code) in codes.into_iter().enumerate().take(x.len()) {
            put(16 * i + j, code);
        }
    }
    scale
}
