//! The paged key-value cache of one layer.
//!
//! A page holds [`PAGE_LEN`] positions of all heads. Attention reads the keys of four pages of a head, then their values,
//! and so on: in this order 16 pages of a head lie together, so that pages which follow each other are one long stretch of
//! memory. Keys and values lie as attention needs them, without horizontal sums or shuffles:
//! - `F32`, `F16`: keys transposed, `[head_dim, PAGE_LEN]`, 16 positions in the lanes of a register; values in columns of
//!   up to `VALUE_COLS`, `[column, PAGE_LEN, width]`, filled up with zeros to a multiple of 16.
//! - `Int8`: codes in fours along what is summed over, for integer dot products of four bytes, and a scale for each
//!   position; see `int8`.

mod exchange;
pub(crate) mod int8;

use std::ops::Range;

use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::pool::{Pool, SharedSlice};
use crate::simd::{Lanes, lanes_mut, per_isa};
use int8::Codes;

/// Positions in a page.
pub const PAGE_LEN: usize = 64;

/// Width of a column of values: what attention keeps in registers at a time.
pub(crate) const VALUE_COLS: usize = 64;

/// With fewer tokens than this, opening a parallel region takes longer than writing them.
const FEW_TOKENS: usize = 4;

/// Number type of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Half precision.
    F16,
    /// Single precision.
    F32,
    /// 8 bits and a scale for each head and position.
    Int8,
}

impl KvType {
    /// The name that options and reports use.
    pub const fn name(self) -> &'static str {
        match self {
            KvType::F16 => "f16",
            KvType::F32 => "f32",
            KvType::Int8 => "int8",
        }
    }

    /// Bytes of the key or the value of a head at one position.
    pub const fn bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F16 => 2 * head_dim,
            KvType::F32 => 4 * head_dim,
            KvType::Int8 => head_dim + size_of::<f32>(),
        }
    }
}

/// Consecutive tokens of one sequence.
#[derive(Clone, Copy, Debug)]
pub struct KvSpan<'a> {
    /// Pages of the sequence: position p is slot `p % PAGE_LEN` of page `pages[p / PAGE_LEN]`.
    pub pages: &'a [u32],
    /// Position of the first token.
    pub position: usize,
    /// Number of tokens.
    pub tokens: usize,
}

/// Pages whose keys lie together, and then their values: a block of attention.
const BLOCK: usize = 4;

/// Pages of a head that lie together, if there are as many: streams of memory are slow at their beginning.
const STRETCH: usize = 4 * BLOCK;

/// Where the keys and the values of a head in a page are.
#[derive(Clone, Copy, Debug)]
struct Places {
    heads: usize,
    /// Pages of a head that lie together.
    stretch: usize,
    /// Numbers of a page.
    keys: usize,
    values: usize,
}

impl Places {
    fn new(pages: usize, heads: usize, head_dim: usize, kind: KvType) -> Places {
        let (keys, values) = match kind {
            KvType::F16 | KvType::F32 => (PAGE_LEN * head_dim, PAGE_LEN * padded_dim(head_dim)),
            KvType::Int8 => int8::bytes(head_dim),
        };
        let stretch = pages.next_multiple_of(BLOCK).clamp(BLOCK, STRETCH);
        Places { heads, stretch, keys, values }
    }

    /// Numbers of `pages` pages.
    fn len(self, pages: usize) -> usize {
        pages.next_multiple_of(self.stretch) * self.heads * (self.keys + self.values)
    }

    #[inline(always)]
    fn keys(self, page: usize, head: usize) -> Range<usize> {
        let start = self.block(page, head) + page % BLOCK * self.keys;
        start..start + self.keys
    }

    #[inline(always)]
    fn values(self, page: usize, head: usize) -> Range<usize> {
        let start = self.block(page, head) + BLOCK * self.keys + page % BLOCK * self.values;
        start..start + self.values
    }

    /// Where the block of `page` starts.
    #[inline(always)]
    fn block(self, page: usize, head: usize) -> usize {
        let stretch = page / self.stretch * self.heads + head;
        (stretch * self.stretch + page % self.stretch / BLOCK * BLOCK) * (self.keys + self.values)
    }
}

/// Writes a key and a value of a head to a slot of a page.
type Write<'a> = dyn FnMut(usize, usize, &[f32], &[f32]) + 'a;

/// Keys and values of one layer.
#[derive(Debug)]
pub struct KvLayer {
    store: Store,
    places: Places,
    pages: usize,
    kv_heads: usize,
    head_dim: usize,
}

#[derive(Debug)]
pub(crate) enum Store {
    F16(AlignedBuf<u16>),
    F32(AlignedBuf<f32>),
    Int8(AlignedBuf<u8>),
}

impl KvLayer {
    /// A cache of `pages` pages. Its memory is taken only as pages are written.
    pub fn new(pages: usize, kv_heads: usize, head_dim: usize, kind: KvType) -> KvLayer {
        let places = Places::new(pages, kv_heads, head_dim, kind);
        let len = places.len(pages);
        let store = match kind {
            KvType::F16 => Store::F16(AlignedBuf::streamed(len)),
            KvType::F32 => Store::F32(AlignedBuf::streamed(len)),
            KvType::Int8 => Store::Int8(AlignedBuf::streamed(len)),
        };
        KvLayer { store, places, pages, kv_heads, head_dim }
    }

    /// Bytes of a cache.
    pub fn bytes_of(pages: usize, kv_heads: usize, head_dim: usize, kind: KvType) -> usize {
        let number = match kind {
            KvType::F16 => 2,
            KvType::F32 => 4,
            KvType::Int8 => 1,
        };
        number * Places::new(pages, kv_heads, head_dim, kind).len(pages)
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
            Store::Int8(store) => store.len(),
        }
    }

    /// Writes the keys and values, `[tokens, kv_heads · head_dim]` each, of all tokens of `spans`.
    ///
    /// # Panics
    /// If the lengths do not agree or a span has too few pages.
    pub fn store(&mut self, pool: &Pool, isa: Isa, spans: &[KvSpan<'_>], k: &[f32], v: &[f32]) {
        let (head_dim, heads, places) = (self.head_dim, self.kv_heads, self.places);
        let (pages, width) = (self.pages, heads * head_dim);
        let tokens: usize = spans.iter().map(|span| span.tokens).sum();
        assert!(k.len() == tokens * width && v.len() == k.len(), "kv cache: a row per token");
        let each = |head: usize, write: &mut Write<'_>| {
            let mut row = head * head_dim;
            for span in spans {
                for position in span.position..span.position + span.tokens {
                    let page = span.pages[position / PAGE_LEN] as usize;
                    assert!(page < pages, "kv cache: no such page");
                    write(page, position % PAGE_LEN, &k[row..][..head_dim], &v[row..][..head_dim]);
                    row += width;
                }
            }
        };
        // A task writes one head of every page: no two of them write to the same memory, whatever the page tables say.
        let task: &(dyn Fn(usize) + Sync) = match &mut self.store {
            Store::F32(store) => {
                let store = SharedSlice::new(store);
                &move |head| {
                    each(head, &mut |page, slot, k, v| {
                        // SAFETY: as said above.
                        let (keys, values) = unsafe { parts(&store, places, page, head) };
                        store_float(keys, values, slot, k, v, |x| *x);
                    });
                }
            }
            Store::F16(store) => {
                let store = SharedSlice::new(store);
                &move |head| {
                    each(head, &mut |page, slot, k, v| {
                        // SAFETY: as said above.
                        let (keys, values) = unsafe { parts(&store, places, page, head) };
                        store_f16(isa, keys, values, slot, k, v);
                    });
                }
            }
            Store::Int8(store) => {
                let store = SharedSlice::new(store);
                &move |head| {
                    each(head, &mut |page, slot, k, v| {
                        // SAFETY: as said above.
                        let (keys, values) = unsafe { parts(&store, places, page, head) };
                        int8::store(isa, keys, values, slot, k, v);
                    });
                }
            }
        };
        if tokens < FEW_TOKENS { (0..heads).for_each(task) } else { pool.run(heads, task) }
    }

    /// The pages.
    pub(crate) fn data(&self) -> &Store {
        &self.store
    }

    /// Keys, `[head_dim, PAGE_LEN]`, and values, in columns, of a head in a page of `store`, which is that of this layer.
    #[inline(always)]
    pub(crate) fn floats<'a, E>(&self, store: &'a [E], page: u32, head: usize) -> (&'a [E], &'a [E]) {
        let page = page as usize;
        (&store[self.places.keys(page, head)], &store[self.places.values(page, head)])
    }

    /// Keys and values of a head in a page of `store`, which is that of this layer.
    #[inline(always)]
    pub(crate) fn int8<'a>(&self, store: &'a [u8], page: u32, head: usize) -> (Codes<'a>, Codes<'a>) {
        let (keys, values) = self.floats(store, page, head);
        (Codes::new(keys), Codes::new(values))
    }

    /// Copies a page.
    ///
    /// # Panics
    /// If a page is out of range.
    pub fn copy_page(&mut self, from: u32, to: u32) {
        assert!((from as usize) < self.pages && (to as usize) < self.pages, "kv cache: no such page");
        fn copy<T: bytemuck::Pod>(store: &mut [T], places: Places, from: usize, to: usize) {
            for head in 0..places.heads {
                store.copy_within(places.keys(from, head), places.keys(to, head).start);
                store.copy_within(places.values(from, head), places.values(to, head).start);
            }
        }
        let (from, to) = (from as usize, to as usize);
        match &mut self.store {
            Store::F16(store) => copy(store, self.places, from, to),
            Store::F32(store) => copy(store, self.places, from, to),
            Store::Int8(store) => copy(store, self.places, from, to),
        }
    }
}

/// Width of a head's values in memory.
pub(crate) const fn padded_dim(head_dim: usize) -> usize {
    head_dim.next_multiple_of(16)
}

/// The keys and the values of a head in a page.
///
/// # Safety
/// No other thread uses them.
#[allow(clippy::mut_from_ref, reason = "as of `SharedSlice::range`")]
unsafe fn parts<'a, E>(
    store: &'a SharedSlice<'_, E>,
    places: Places,
    page: usize,
    head: usize,
) -> (&'a mut [E], &'a mut [E]) {
    let (keys, values) = (places.keys(page, head), places.values(page, head));
    // SAFETY: the caller's promise; keys and values are apart.
    unsafe { (store.range(keys.start, keys.len()), store.range(values.start, values.len())) }
}

/// Writes a position of a head in a page; `round` makes 16 numbers those of the cache.
#[inline(always)]
fn store_float<E: Copy>(
    keys: &mut [E],
    values: &mut [E],
    slot: usize,
    k: &[f32],
    v: &[f32],
    round: impl Fn(&[f32; 16]) -> [E; 16],
) {
    for (k, keys) in k.chunks(16).zip(keys.chunks_mut(16 * PAGE_LEN)) {
        for (key, keys) in round(&padded(k)).iter().zip(keys.chunks_exact_mut(PAGE_LEN)) {
            keys[slot] = *key;
        }
    }
    let width = padded_dim(v.len());
    for (i, v) in v.chunks(16).enumerate() {
        let column = 16 * i / VALUE_COLS * VALUE_COLS;
        let start = column * PAGE_LEN + slot * VALUE_COLS.min(width - column) + 16 * i - column;
        *lanes_mut(&mut values[start..]) = round(&padded(v));
    }
}

per_isa! {
    fn store_f16(keys: &mut [u16], values: &mut [u16], slot: usize, k: &[f32], v: &[f32]) = store_f16_body;
}

#[inline(always)]
fn store_f16_body<S: Lanes>(keys: &mut [u16], values: &mut [u16], slot: usize, k: &[f32], v: &[f32]) {
    store_float(keys, values, slot, k, v, S::to_f16);
}

/// Up to 16 numbers, filled up with zeros.
#[inline(always)]
pub(crate) fn padded(x: &[f32]) -> [f32; 16] {
    x.first_chunk().copied().unwrap_or_else(|| std::array::from_fn(|i| x.get(i).copied().unwrap_or(0.0)))
}
