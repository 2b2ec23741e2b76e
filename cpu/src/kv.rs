//! The paged key-value cache of one layer.
//!
//! A page holds [`PAGE_LEN`] positions of all heads. Within a page each head has its keys transposed,
//! `[head_dim, PAGE_LEN]`, so that 16 positions are the lanes of a register and a score needs no horizontal sum, and its
//! values as `[PAGE_LEN, head_dim]`.

use crate::buffer::AlignedBuf;
use crate::simd::{Lanes, lanes, per_isa};

/// Positions in a page; also the block in which attention sums (see [`mod@crate::attention`]).
pub const PAGE_LEN: usize = 64;

/// Number type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
}

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    store: Store,
    pages: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Debug)]
enum Store {
    F16(AlignedBuf<u16>),
    F32(AlignedBuf<f32>),
}

impl KvLayer {
    /// A cache of `pages` pages. Its memory is taken only as pages are written.
    pub fn new(pages: usize, kv_heads: usize, head_dim: usize, kind: KvType) -> KvLayer {
        let len = pages * 2 * kv_heads * head_dim * PAGE_LEN;
        let store = match kind {
            KvType::F16 => Store::F16(AlignedBuf::zeroed(len)),
            KvType::F32 => Store::F32(AlignedBuf::zeroed(len)),
        };
        KvLayer { store, pages, kv_heads, head_dim }
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Bytes of all pages.
    pub fn bytes(&self) -> usize {
        match &self.store {
            Store::F16(store) => store.len() * 2,
            Store::F32(store) => store.len() * 4,
        }
    }

    /// Numbers in the keys (or values) of one head in one page.
    fn head_len(&self) -> usize {
        self.head_dim * PAGE_LEN
    }

    /// Where head `head` of `page` starts: its keys, then its values.
    fn offset(&self, page: u32, head: usize) -> usize {
        (page as usize * self.kv_heads + head) * 2 * self.head_len()
    }

    /// Writes the key and the value, `[kv_heads · head_dim]` each, of position `slot` of `page`.
    ///
    /// # Panics
    /// If the page, the slot or the lengths are out of range.
    pub fn store(&mut self, isa: crate::Isa, page: u32, slot: usize, k: &[f32], v: &[f32]) {
        let (width, head_dim) = (self.kv_heads * self.head_dim, self.head_dim);
        assert!(k.len() == width && v.len() == width && slot < PAGE_LEN, "kv cache: lengths or slot");
        for head in 0..self.kv_heads {
            let start = self.offset(page, head);
            let (middle, end) = (start + self.head_len(), start + 2 * self.head_len());
            let heads = head * head_dim..(head + 1) * head_dim;
            let (k, v) = (&k[heads.clone()], &v[heads]);
            match &mut self.store {
                Store::F32(store) => {
                    for (i, &k) in k.iter().enumerate() {
                        store[start + i * PAGE_LEN + slot] = k;
                    }
                    store[middle + slot * head_dim..][..head_dim].copy_from_slice(v);
                }
                Store::F16(store) => {
                    let (keys, values) = store[start..end].split_at_mut(middle - start);
                    store_f16(isa, slot, k, v, keys, &mut values[slot * head_dim..][..head_dim]);
                }
            }
        }
    }

    /// Widens the keys, `[head_dim, PAGE_LEN]`, and the values, `[PAGE_LEN, head_dim]`, of a head in a page to f32:
    /// the first `positions` of them, rounded up to 16 for the keys. Single-precision pages are handed out as they are.
    #[inline(always)]
    pub(crate) fn read<'a, S: Lanes>(
        &'a self,
        page: u32,
        head: usize,
        positions: usize,
        scratch: &'a mut [f32],
    ) -> (&'a [f32], &'a [f32]) {
        let start = self.offset(page, head);
        let len = self.head_len();
        match &self.store {
            Store::F32(store) => store[start..start + 2 * len].split_at(len),
            Store::F16(store) => {
                let (keys, values) = store[start..start + 2 * len].split_at(len);
                let (k, v) = scratch[..2 * len].split_at_mut(len);
                let columns = positions.next_multiple_of(16);
                for (to, from) in k.chunks_exact_mut(PAGE_LEN).zip(keys.chunks_exact(PAGE_LEN)) {
                    for (to, from) in to[..columns].chunks_exact_mut(16).zip(from.chunks_exact(16)) {
                        to.copy_from_slice(&S::from_f16(lanes(from)));
                    }
                }
                // Whole chunks of 16 from the front: what lies behind the last position is not used.
                let used = (positions * self.head_dim).next_multiple_of(16).min(len);
                for (to, from) in v[..used].chunks_exact_mut(16).zip(values.chunks_exact(16)) {
                    to.copy_from_slice(&S::from_f16(lanes(from)));
                }
                (k, v)
            }
        }
    }

    /// Numbers of scratch that [`KvLayer::read`] needs.
    pub(crate) fn scratch_len(&self) -> usize {
        match self.store {
            Store::F16(_) => 2 * self.head_len(),
            Store::F32(_) => 0,
        }
    }

    /// Copies a page.
    ///
    /// # Panics
    /// If a page is out of range.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        assert!((from as usize) < self.pages && (to as usize) < self.pages, "kv cache: no such page");
        let len = 2 * self.kv_heads * self.head_len();
        let (from, to) = (from as usize * len, to as usize * len);
        match &mut self.store {
            Store::F16(store) => store.copy_within(from..from + len, to),
            Store::F32(store) => store.copy_within(from..from + len, to),
        }
    }
}

per_isa! {
    fn store_f16(slot: usize, k: &[f32], v: &[f32], keys: &mut [u16], values: &mut [u16]) = store_f16_body;
}

#[inline(always)]
fn store_f16_body<S: Lanes>(slot: usize, k: &[f32], v: &[f32], keys: &mut [u16], values: &mut [u16]) {
    for (i, k) in k.chunks(16).enumerate() {
        for (j, bits) in S::to_f16(&padded(k))[..k.len()].iter().enumerate() {
            keys[(16 * i + j) * PAGE_LEN + slot] = *bits;
        }
    }
    for (to, v) in values.chunks_mut(16).zip(v.chunks(16)) {
        to.copy_from_slice(&S::to_f16(&padded(v))[..v.len()]);
    }
}

/// Up to 16 numbers, filled up with zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; 16] {
    let mut out = [0.0; 16];
    out[..x.len()].copy_from_slice(x);
    out
}
