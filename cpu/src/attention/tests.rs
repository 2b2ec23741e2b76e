use proptest::prelude::*;

use super::*;
use crate::kv::KvType;

/// Random numbers in [-1, 1), the same on every call.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|i| {
            let x = (i ^ seed.rotate_left(17)).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((x ^ x >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

/// Sequences with their keys and values, as a cache holds them.
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    /// Cached positions and new tokens of each sequence.
    sequences: Vec<(usize, usize)>,
    window: usize,
    seed: u64,
}

impl Case {
    fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.1).sum()
    }

    fn q(&self) -> Vec<f32> {
        numbers(self.tokens() * self.heads * self.head_dim, self.seed).iter().map(|v| v * 3.0).collect()
    }

    /// Keys and values of a sequence, `[positions, kv_heads · head_dim]`.
    fn kv(&self, sequence: usize) -> (Vec<f32>, Vec<f32>) {
        let (past, new) = self.sequences[sequence];
        let len = (past + new) * self.kv_heads * self.head_dim;
        (numbers(len, self.seed + 2 * sequence as u64 + 1), numbers(len, self.seed + 2 * sequence as u64 + 2))
    }

    fn scale(&self) -> f32 {
        1.0 / (self.head_dim as f32).sqrt()
    }

    /// Fills a cache, its pages in a scattered order, and computes all new tokens at once.
    fn run(&self, isa: Isa, threads: usize, kind: KvType) -> Vec<f32> {
        let pool = Pool::new(threads);
        let pages_of = |(past, new): (usize, usize)| (past + new).div_ceil(PAGE_LEN);
        let total: usize = self.sequences.iter().map(|&s| pages_of(s)).sum();
        let mut layer = KvLayer::new(total, self.kv_heads, self.head_dim, kind);
        let (mut tables, mut used) = (Vec::new(), 0);
        for (index, &(past, new)) in self.sequences.iter().enumerate() {
            let count = pages_of((past, new));
            let table: Vec<u32> = (used..used + count).map(|p| (total - 1 - p) as u32).collect();
            used += count;
            let (k, v) = self.kv(index);
            let span = KvSpan { pages: &table, position: 0, tokens: past + new };
            layer.store(&pool, isa, &[span], &k, &v);
            tables.push(table);
        }
        let spans: Vec<_> = self
            .sequences
            .iter()
            .zip(&tables)
            .map(|(&(past, new), pages)| KvSpan { pages, position: past, tokens: new })
            .collect();
        let q = self.q();
        let (mut out, mut scratch) = (vec![f32::NAN; q.len()], AttentionScratch::default());
        attention(&pool, isa, &q, &layer, &spans, self.heads, self.scale(), self.window, &mut scratch, &mut out);
        out
    }

    /// The definition, in double precision.
    fn expected(&self) -> Vec<f64> {
        let (q, width, mut row, mut out) = (self.q(), self.kv_heads * self.head_dim, 0, Vec::new());
        for (index, &(past, new)) in self.sequences.iter().enumerate() {
            let (k, v) = self.kv(index);
            for position in past..past + new {
                for head in 0..self.heads {
                    let q = &q[(row * self.heads + head) * self.head_dim..][..self.head_dim];
                    let start = head / (self.heads / self.kv_heads) * self.head_dim;
                    let first = (position + 1).saturating_sub(self.window);
                    let weights: Vec<f64> = (0..=position)
                        .map(|p| {
                            if p < first {
                                return 0.0;
                            }
                            let k = &k[p * width + start..][..self.head_dim];
                            let dot: f64 = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k)).sum();
                            (dot * f64::from(self.scale())).exp()
                        })
                        .collect();
                    let sum: f64 = weights.iter().sum();
                    out.extend((0..self.head_dim).map(|d| {
                        let value = |p: usize| f64::from(v[p * width + start + d]);
                        weights.iter().enumerate().map(|(p, w)| w * value(p)).sum::<f64>() / sum
                    }));
                }
                row += 1;
            }
        }
        out
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn it_is_close_to_the_true_value() {
    for (heads, kv_heads, head_dim, window) in [
        (20, 5, 128, usize::MAX),
        (4, 4, 64, usize::MAX),
        (3, 1, 6, usize::MAX),
        (8, 1, 80, usize::MAX),
        (6, 2, 36, usize::MAX),
        (6, 2, 36, 1),
        (4, 1, 64, 60),
        (4, 2, 64, 256),
        (4, 2, 32, 300),
    ] {
        let sequences = vec![(0, 70), (600, 1), (250, 9), (0, 600)];
        let case = Case { heads, kv_heads, head_dim, sequences, window, seed: 7 };
        let want = case.expected();
        for (kind, tolerance) in [(KvType::F32, 2e-6), (KvType::F16, 1e-3), (KvType::Int8, 2e-2)] {
            let got = case.run(Isa::detect(), 2, kind);
            let worst = got.iter().zip(&want).map(|(&g, w)| (f64::from(g) - w).abs()).fold(0.0, f64::max);
            assert!(worst < tolerance, "{heads} {kv_heads} {head_dim} {window} {kind:?}: {worst}");
        }
    }
}

#[test]
fn neither_company_nor_cuts_change_a_bit() {
    [usize::MAX, 1, 70, 300].into_iter().for_each(company_and_cuts);
}

fn company_and_cuts(window: usize) {
    let whole = Case { heads: 8, kv_heads: 2, head_dim: 48, sequences: vec![(0, 330)], window, seed: 3 };
    let row = whole.heads * whole.head_dim;
    for kind in [KvType::F32, KvType::F16, KvType::Int8] {
        let want = whole.run(Isa::detect(), 1, kind);
        for (past, new) in [(329, 1), (300, 30), (255, 3), (64, 65)] {
            // The first sequence of the case has the same keys; only its last queries are asked for.
            let pool = Pool::new(2);
            let (k, v) = whole.kv(0);
            let mut layer = KvLayer::new(6, 2, 48, kind);
            let pages: Vec<u32> = (0..6).collect();
            let span = |position, tokens| KvSpan { pages: &pages, position, tokens };
            let width = 2 * 48;
            layer.store(&pool, Isa::detect(), &[span(0, past)], &k[..past * width], &v[..past * width]);
            let new_rows = past * width..(past + new) * width;
            layer.store(&pool, Isa::detect(), &[span(past, new)], &k[new_rows.clone()], &v[new_rows]);
            let q = &whole.q()[past * row..(past + new) * row];
            let (mut out, mut scratch) = (vec![0.0; q.len()], AttentionScratch::default());
            // Twice the same span: a batch of two.
            let (q, twice) = ([q, q].concat(), [span(past, new), span(past, new)]);
            out.resize(q.len(), 0.0);
            attention(&pool, Isa::detect(), &q, &layer, &twice, 8, whole.scale(), window, &mut scratch, &mut out);
            for half in out.chunks_exact(new * row) {
                assert!(bits(half) == bits(&want[past * row..(past + new) * row]), "{kind:?} {past} {new}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn every_isa_and_thread_count_gives_the_same_bits(
        kv_heads in 1usize..4,
        group in 1usize..7,
        half_dim in 1usize..40,
        sequences in proptest::collection::vec((0usize..600, 1usize..20), 1..4),
        window in prop_oneof![Just(usize::MAX), 1usize..400],
        seed in 0u64..1000,
    ) {
        let case = Case { heads: kv_heads * group, kv_heads, head_dim: 2 * half_dim, sequences, window, seed };
        for kind in [KvType::F32, KvType::F16, KvType::Int8] {
            let want = bits(&case.run(Isa::Scalar, 1, kind));
            for isa in Isa::available() {
                for threads in [1, 3] {
                    prop_assert!(bits(&case.run(isa, threads, kind)) == want, "{} {} {:?}", isa, threads, kind);
                }
            }
        }
    }
}
