//! Pages in an order that all devices understand, to hand a cache from one to another.

use super::{KvLayer, PAGE_LEN, Store, VALUE_COLS, padded_dim, store_float};
use half::f16;

/// The cache holds codes, which other devices do not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a key-value cache of int8 cannot be handed over")]
pub struct NotFloats;

impl KvLayer {
    /// Numbers of a page as [`KvLayer::export_page`] gives it.
    pub fn page_len(kv_heads: usize, head_dim: usize) -> usize {
        2 * kv_heads * PAGE_LEN * head_dim
    }

    /// The keys of a page, `[kv_heads, PAGE_LEN, head_dim]`, and behind them its values, likewise. Half precision is widened,
    /// so nothing is lost.
    ///
    /// # Errors
    /// If the cache does not hold floats.
    ///
    /// # Panics
    /// If there is no such page, or `out` has another length than [`KvLayer::page_len`].
    pub fn export_page(&self, page: u32, out: &mut [f32]) -> Result<(), NotFloats> {
        match &self.store {
            Store::F32(store) => self.export(store, page, out, |x| *x),
            Store::F16(store) => self.export(store, page, out, |bits| f16::from_bits(*bits).to_f32()),
            Store::Int8(_) => return Err(NotFloats),
        }
        Ok(())
    }

    /// Writes a page as [`KvLayer::export_page`] gives it. What came from the same number type is as it was.
    ///
    /// # Errors
    /// If the cache does not hold floats.
    ///
    /// # Panics
    /// As [`KvLayer::export_page`].
    pub fn import_page(&mut self, page: u32, from: &[f32]) -> Result<(), NotFloats> {
        let (heads, dim, places) = (self.kv_heads, self.head_dim, self.places);
        self.check(page, from.len());
        fn import<E: Copy>(
            keys: &mut [E],
            values: &mut [E],
            from: [&[f32]; 2],
            dim: usize,
            round: impl Fn(&[f32; 16]) -> [E; 16],
        ) {
            let rows = from[0].chunks_exact(dim).zip(from[1].chunks_exact(dim));
            for (slot, (k, v)) in rows.enumerate() {
                store_float(keys, values, slot, k, v, &round);
            }
        }
        let (keys, values) = from.split_at(from.len() / 2);
        let of_head = PAGE_LEN * dim;
        for head in 0..heads {
            let part = head * of_head..(head + 1) * of_head;
            let from = [&keys[part.clone()], &values[part]];
            let (keys, values) = (places.keys(page as usize, head), places.values(page as usize, head));
            match &mut self.store {
                Store::F32(store) => {
                    let [keys, values] = two(store, keys, values);
                    import(keys, values, from, dim, |x| *x);
                }
                Store::F16(store) => {
                    let [keys, values] = two(store, keys, values);
                    import(keys, values, from, dim, |x| x.map(|x| f16::from_f32(x).to_bits()));
                }
                Store::Int8(_) => return Err(NotFloats),
            }
        }
        Ok(())
    }

    fn export<E>(&self, store: &[E], page: u32, out: &mut [f32], widen: impl Fn(&E) -> f32) {
        self.check(page, out.len());
        let (dim, width) = (self.head_dim, padded_dim(self.head_dim));
        let (keys_out, values_out) = out.split_at_mut(out.len() / 2);
        let heads = keys_out.chunks_exact_mut(PAGE_LEN * dim).zip(values_out.chunks_exact_mut(PAGE_LEN * dim));
        for (head, (keys_out, values_out)) in heads.enumerate() {
            let (keys, values) = self.floats(store, page, head);
            let rows = keys_out.chunks_exact_mut(dim).zip(values_out.chunks_exact_mut(dim));
            for (slot, (key_out, value_out)) in rows.enumerate() {
                for (d, (key, value)) in key_out.iter_mut().zip(value_out).enumerate() {
                    *key = widen(&keys[d * PAGE_LEN + slot]);
                    let column = d / VALUE_COLS * VALUE_COLS;
                    *value = widen(&values[column * PAGE_LEN + slot * VALUE_COLS.min(width - column) + d - column]);
                }
            }
        }
    }

    fn check(&self, page: u32, len: usize) {
        assert!((page as usize) < self.pages, "kv cache: no such page");
        assert_eq!(len, KvLayer::page_len(self.kv_heads, self.head_dim), "kv cache: a page");
    }
}

/// Two ranges of a slice, the second behind the first.
fn two<E>(store: &mut [E], keys: std::ops::Range<usize>, values: std::ops::Range<usize>) -> [&mut [E]; 2] {
    let (before, behind) = store.split_at_mut(values.start);
    [&mut before[keys], &mut behind[..values.end - values.start]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KvSpan, KvType};
    use crate::{Isa, Pool};

    #[test]
    fn pages_come_back_as_they_were() {
        let pool = Pool::new(1);
        for (kind, heads, dim) in
            [(KvType::F16, 2, 64), (KvType::F32, 1, 100), (KvType::F16, 3, 12), (KvType::F32, 2, 80)]
        {
            let width = heads * dim;
            let number = |i: usize, of: usize| ((i * 7919 + of) % 1013) as f32 / 97.0 - 5.0;
            let [k, v]: [Vec<f32>; 2] = [1, 2].map(|of| (0..100 * width).map(|i| number(i, of)).collect());
            let (mut from, mut to) = (KvLayer::new(3, heads, dim, kind), KvLayer::new(5, heads, dim, kind));
            let span = KvSpan { pages: &[2, 0], position: 0, tokens: 100 };
            from.store(&pool, Isa::Scalar, &[span], &k, &v);
            let mut page = vec![f32::NAN; KvLayer::page_len(heads, dim)];
            from.export_page(0, &mut page).expect("floats");
            // Position 64 + 5 of head 0.
            let round = |x: f32| if kind == KvType::F16 { f16::from_f32(x).to_f32() } else { x };
            let (key, value) = (&page[5 * dim..][..dim], &page[page.len() / 2 + 5 * dim..][..dim]);
            assert!(key.iter().zip(&k[69 * width..]).all(|(a, b)| *a == round(*b)), "{kind:?}");
            assert!(value.iter().zip(&v[69 * width..]).all(|(a, b)| *a == round(*b)), "{kind:?}");
            to.import_page(4, &page).expect("floats");
            let mut again = vec![f32::NAN; page.len()];
            to.export_page(4, &mut again).expect("floats");
            assert!(page.iter().zip(&again).all(|(a, b)| a.to_bits() == b.to_bits()), "{kind:?}");
        }
        let mut codes = KvLayer::new(1, 1, 64, KvType::Int8);
        let mut page = vec![0.0; KvLayer::page_len(1, 64)];
        assert_eq!(codes.export_page(0, &mut page), Err(NotFloats));
        assert_eq!(codes.import_page(0, &page), Err(NotFloats));
    }

    #[test]
    fn bytes_are_known_before() {
        for kind in [KvType::F16, KvType::F32, KvType::Int8] {
            for pages in [1, 5, 40] {
                assert_eq!(KvLayer::bytes_of(pages, 3, 100, kind), KvLayer::new(pages, 3, 100, kind).bytes());
            }
        }
    }
}
