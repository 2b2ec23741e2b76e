//! Pages of the key-value cache as other devices understand them: see [`crate::backend::Stage::export_pages`].
//!
//! On the device keys are `[head, pair, position]` and values `[head, position, pair]`. A pair of a key is turned together:
//! numbers `i` and `i + half` of the head; a pair of a value are neighbours.

use half::f16;
use half::slice::HalfFloatSliceExt;
use sterna_cpu::kv::PAGE_LEN;

use super::kernels::Shape;

/// Bytes of the keys, or values, of a page in a block.
pub(super) fn page_bytes(shape: &Shape) -> usize {
    let number = if shape.f16_cache() { 2 } else { 4 };
    number * page_len(shape)
}

/// Numbers of the keys, or values, of a page in a block.
pub(super) fn page_len(shape: &Shape) -> usize {
    shape.kv_heads() * PAGE_LEN * 2 * shape.pairs()
}

/// Keys or values of a page from the bytes of the device, `[head, position, number]`.
pub(super) fn export(shape: &Shape, are_keys: bool, bytes: &[u8], out: &mut [f32]) {
    let numbers = widen(shape, bytes);
    for (index, place) in places(shape, are_keys).enumerate() {
        out[index] = numbers[place];
    }
}

/// The bytes of the device for keys or values of a page.
pub(super) fn import(shape: &Shape, are_keys: bool, from: &[f32]) -> Vec<u8> {
    let mut numbers = vec![0.0; from.len()];
    for (index, place) in places(shape, are_keys).enumerate() {
        numbers[place] = from[index];
    }
    match shape.f16_cache() {
        true => {
            let halves: Vec<f16> = numbers.iter().map(|&x| f16::from_f32(x)).collect();
            bytemuck::cast_slice(&halves).to_vec()
        }
        false => bytemuck::cast_slice(&numbers).to_vec(),
    }
}

/// The numbers of a page on the device.
fn widen(shape: &Shape, bytes: &[u8]) -> Vec<f32> {
    match shape.f16_cache() {
        true => bytemuck::pod_collect_to_vec::<u8, f16>(bytes).as_slice().to_f32_vec(),
        false => bytemuck::pod_collect_to_vec(bytes),
    }
}

/// Where each number of `[head, position, number]` is on the device.
fn places(shape: &Shape, are_keys: bool) -> impl Iterator<Item = usize> + use<> {
    let (heads, pairs) = (shape.kv_heads(), shape.pairs());
    (0..heads).flat_map(move |head| {
        (0..PAGE_LEN).flat_map(move |slot| {
            (0..2 * pairs).map(move |d| match are_keys {
                true => 2 * ((head * pairs + d % pairs) * PAGE_LEN + slot) + d / pairs,
                false => 2 * ((head * PAGE_LEN + slot) * pairs) + d,
            })
        })
    })
}
