//! Attention over the paged cache, both ways, against the CPU's.

use half::f16;
use sterna::backend::gpu::{Kernel, Memory, Shape};
use sterna::model::{Gate, ModelConfig};
use sterna_cpu::attention::{AttentionScratch, attention};
use sterna_cpu::kv::{KvLayer, KvSpan, KvType};
use sterna_cpu::{Isa, Pool};

use crate::support::{Bench, Random, benches, config, relative_diff, shape, turn};

/// Sequences in a cache: where the tokens at hand start, and how many they are.
struct Case {
    config: ModelConfig,
    kv: KvType,
    spans: Vec<(usize, usize)>,
}

/// Keys and values of all positions, `[positions, kv heads · head_dim]`, of one sequence.
struct Past {
    pages: Vec<u32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Case {
    fn pasts(&self, random: &mut Random) -> Vec<Past> {
        let width = self.config.kv_size();
        let mut page = 0;
        let pasts = self.spans.iter().map(|&(start, tokens)| {
            let positions = start + tokens;
            // Pages of different sequences lie between each other.
            let pages = (0..positions.div_ceil(64) as u32).map(|_| {
                page += 3;
                page % 31
            });
            Past {
                pages: pages.collect(),
                keys: random.units(positions * width),
                values: random.units(positions * width),
            }
        });
        pasts.collect()
    }

    /// What the CPU computes.
    fn want(&self, pasts: &[Past], q: &[f32]) -> Vec<f32> {
        let (pool, c) = (Pool::new(1), &self.config);
        let mut layer = KvLayer::new(31, c.num_kv_heads, c.head_dim, self.kv);
        for past in pasts {
            let tokens = past.keys.len() / c.kv_size();
            let span = KvSpan { pages: &past.pages, position: 0, tokens };
            layer.store(&pool, Isa::Scalar, &[span], &past.keys, &past.values);
        }
        let span = |(past, &(position, tokens)): (&'_ Past, &(usize, usize))| (past.pages.clone(), position, tokens);
        let owned: Vec<(Vec<u32>, usize, usize)> = pasts.iter().zip(&self.spans).map(span).collect();
        let spans: Vec<KvSpan<'_>> = owned
            .iter()
            .map(|(pages, position, tokens)| KvSpan { pages, position: *position, tokens: *tokens })
            .collect();
        let mut out = vec![0.0; q.len()];
        let scale = 1.0 / (c.head_dim as f32).sqrt();
        attention(
            &pool,
            Isa::detect(),
            q,
            &layer,
            &spans,
            c.num_heads,
            scale,
            usize::MAX,
            &mut AttentionScratch::default(),
            &mut out,
        );
        out
    }

    /// The caches as the kernels have them: keys in rotary pairs, transposed within a page; values in adjacent pairs.
    fn caches(&self, bench: &Bench, pasts: &[Past]) -> [Memory; 2] {
        let c = &self.config;
        let (heads, dim, pairs) = (c.num_kv_heads, c.head_dim, c.head_dim / 2);
        let mut keys = vec![[0.0f32; 2]; 31 * heads * pairs * 64];
        let mut values = keys.clone();
        for past in pasts {
            for position in 0..past.keys.len() / c.kv_size() {
                let (page, slot) = (past.pages[position / 64] as usize, position % 64);
                for head in 0..heads {
                    let row = position * c.kv_size() + head * dim;
                    for pair in 0..pairs {
                        keys[((page * heads + head) * pairs + pair) * 64 + slot] =
                            [past.keys[row + pair], past.keys[row + pairs + pair]];
                        values[((page * heads + head) * 64 + slot) * pairs + pair] =
                            [past.values[row + 2 * pair], past.values[row + 2 * pair + 1]];
                    }
                }
            }
        }
        [keys, values].map(|cache| match self.kv {
            KvType::F16 => {
                let word = |[a, b]: [f32; 2]| {
                    u32::from(f16::from_f32(a).to_bits()) | u32::from(f16::from_f32(b).to_bits()) << 16
                };
                bench.put(&cache.into_iter().map(word).collect::<Vec<u32>>())
            }
            _ => bench.put(&cache),
        })
    }

    fn check(&self, bench: &Bench) {
        let c = &self.config;
        let mut random = Random(17);
        let pasts = self.pasts(&mut random);
        let tokens: usize = self.spans.iter().map(|&(_, tokens)| tokens).sum();
        let mut q = random.units(tokens * c.q_size());
        // Some scores far apart.
        q.iter_mut().step_by(7).for_each(|x| *x *= 20.0);
        let want = self.want(&pasts, &q);
        let shape = shape(c, self.kv);
        let caches = self.caches(bench, &pasts);
        let (q_rows, dim, pairs) = (shape.q_rows(), c.head_dim, c.head_dim / 2);
        let mut in_pairs = vec![0.0f32; tokens * q_rows];
        for (token, row) in q.chunks_exact(c.q_size()).enumerate() {
            for (i, to) in in_pairs[token * q_rows..][..c.q_size()].iter_mut().enumerate() {
                *to = row[i / dim * dim + i % 2 * pairs + i % dim / 2];
            }
        }
        let queries = bench.put(&in_pairs);
        let (mut infos, mut tiles, mut pages) = (Vec::new(), Vec::new(), Vec::<u32>::new());
        for (past, &(start, count)) in pasts.iter().zip(&self.spans) {
            let (first_page, first_row) = (pages.len() as u32, infos.len());
            pages.extend(&past.pages);
            infos.extend((start..start + count).map(|position| [0, position as u32, first_page, 0]));
            for tile in (0..count).step_by(shape.tile_tokens()) {
                let of_tile = shape.tile_tokens().min(count - tile);
                tiles.push([(first_row + tile) as u32, of_tile as u32, (start + tile) as u32, first_page]);
            }
        }
        let memories = (bench.put(&infos), bench.put(&tiles), bench.put(&pages));
        let what =
            format!("{} {:?} {}/{} heads of {dim}, {:?}", bench.name, self.kv, c.num_heads, c.num_kv_heads, self.spans);
        // Sums of up to a thousand products in another order: a few hundred units in the last place of the largest.
        let compare = |got: &[f32], which: &str| {
            let got: Vec<f32> = got.chunks_exact(q_rows).flat_map(|row| &row[..c.q_size()]).copied().collect();
            let diff = relative_diff(&got, &want);
            assert!(diff <= 5e-6, "{what} {which}: {diff}");
        };
        let attended = bench.put(&vec![0.0f32; tokens * q_rows]);
        let bindings = [&queries, &caches[0], &caches[1], &memories.1, &memories.2, &attended];
        bench.run(Kernel::AttentionTile, &shape, &bindings, [tiles.len(), shape.head_groups(), 1]);
        compare(&bench.get::<f32>(&attended), "by tiles");
        if tokens <= 8 {
            let got =
                self.by_blocks(bench, &shape, [&queries, &caches[0], &caches[1], &memories.0, &memories.2], tokens);
            compare(&got, "by blocks");
        }
    }

    fn by_blocks(
        &self,
        bench: &Bench,
        shape: &Shape,
        [queries, keys, values, infos, pages]: [&Memory; 5],
        tokens: usize,
    ) -> Vec<f32> {
        let blocks = self.spans.iter().map(|&(start, count)| (start + count).div_ceil(256)).max().unwrap();
        let batch = bench.uniform([tokens as u32, blocks as u32]);
        let parts = tokens * blocks * shape.heads();
        let (part_values, part_stats) =
            (bench.put(&vec![0.0f32; parts * shape.pairs() * 2]), bench.put(&vec![0.0f32; parts * 2]));
        let attention = [&batch, queries, keys, values, infos, pages, &part_values, &part_stats];
        bench.run(Kernel::Attention, shape, &attention, [blocks, shape.head_groups(), tokens]);
        let attended = bench.put(&vec![9.0f32; tokens * shape.q_rows()]);
        let (acts, scales) = (bench.put(&vec![0u8; tokens * shape.q_rows()]), bench.put(&vec![0u32; 2 * tokens]));
        let nothing = bench.put(&[0.0f32; 4]);
        let combine = [&batch, infos, &part_values, &part_stats, &nothing, &attended, &acts, &scales];
        bench.run(Kernel::Combine { norm: false }, shape, &combine, [tokens, 1, 1]);
        let (got, q): (Vec<f32>, Vec<i8>) = (bench.get(&attended), bench.get(&acts));
        let scales: Vec<[u32; 2]> = bench.get(&scales);
        for (token, (row, q)) in got.chunks_exact(shape.q_rows()).zip(q.chunks_exact(shape.q_rows())).enumerate() {
            let scale = f32::from_bits(scales[token][0]);
            let largest = row.iter().fold(1e-5f32, |m, v| m.max(v.abs()));
            assert!((scale * largest - 127.0).abs() <= 1e-4, "the scale of token {token}");
            assert!(row.iter().zip(q).all(|(x, q)| (x * scale - f32::from(*q)).abs() <= 0.5001), "token {token}");
            assert_eq!(scales[token][1] as i32, q.iter().map(|&q| i32::from(q)).sum::<i32>());
        }
        got
    }
}

#[test]
fn attention_is_that_of_the_cpu() {
    let _turn = turn();
    let case = |heads, kv_heads, head_dim, kv, spans: &[(usize, usize)]| Case {
        config: config(heads, kv_heads, head_dim, 64, Gate::Relu2),
        kv,
        spans: spans.to_vec(),
    };
    for bench in benches() {
        case(1, 1, 2, KvType::F32, &[(0, 1)]).check(&bench);
        case(4, 2, 64, KvType::F16, &[(63, 1)]).check(&bench);
        case(4, 2, 64, KvType::F32, &[(255, 2), (0, 1), (700, 5)]).check(&bench);
        case(5, 1, 64, KvType::F16, &[(64, 3), (300, 1)]).check(&bench);
        case(2, 2, 100, KvType::F32, &[(130, 1), (10, 4)]).check(&bench);
        case(20, 5, 128, KvType::F16, &[(511, 1)]).check(&bench);
        case(16, 1, 32, KvType::F16, &[(100, 2)]).check(&bench);
        case(8, 1, 256, KvType::F32, &[(65, 3)]).check(&bench);
        case(4, 2, 64, KvType::F16, &[(0, 40), (100, 30), (5, 1)]).check(&bench);
        case(6, 2, 100, KvType::F32, &[(60, 70)]).check(&bench);
    }
}
