//! Products of ternary matrices: exact sums, and what is made of them.

use half::f16;
use sterna::backend::gpu::{FEW_TOKENS, Kernel, Memory, Output, Shape};
use sterna::model::Gate;
use sterna_cpu::activation::{Gate as GateFunction, gated};
use sterna_cpu::kv::KvType;
use sterna_cpu::rope::{Rope, RopeRows, RopeScaling};
use sterna_cpu::{Isa, Layout, TernaryMatrix};

use crate::support::{Bench, Random, benches, config, padded_rows, relative_diff, shape, turn};

/// `Linear` of the shaders.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
struct Params {
    groups: u32,
    first_group: u32,
    tiles: u32,
    stride: u32,
    scale: [f32; 4],
}

/// A random matrix, and quantized tokens that it multiplies.
struct Case {
    rows: usize,
    cols: usize,
    tokens: usize,
    weights: Vec<i8>,
    matrix: TernaryMatrix,
    acts: Vec<i8>,
}

impl Case {
    fn new(rows: usize, cols: usize, tokens: usize, seed: u64) -> Case {
        let mut random = Random(seed);
        let weights: Vec<i8> = (0..rows * cols).map(|_| (random.next() % 3) as i8 - 1).collect();
        let matrix = TernaryMatrix::pack(Layout::T16, rows, cols, |row, out| {
            out.copy_from_slice(&weights[row * cols..][..cols]);
            Ok::<(), ()>(())
        });
        // Extremes too: -128 and 127 in a third of all places, and a token of nothing else.
        let act = |i: usize, r: u64| match (i / cols, r % 6) {
            (1, r) => [-128, 127][r as usize % 2],
            (_, 0) => -128,
            (_, 1) => 127,
            (_, _) => (r / 6 % 256) as u8 as i8,
        };
        let acts = (0..tokens * cols).map(|i| act(i, random.next())).collect();
        Case { rows, cols, tokens, weights, matrix: matrix.unwrap(), acts }
    }

    /// The exact sums, `[tokens, rows]`.
    fn sums(&self) -> Vec<i32> {
        let dot = |w: &[i8], q: &[i8]| w.iter().zip(q).map(|(&w, &q)| i32::from(w) * i32::from(q)).sum();
        let rows = || self.weights.chunks_exact(self.cols);
        self.acts.chunks_exact(self.cols).flat_map(|q| rows().map(move |w| dot(w, q))).collect()
    }

    /// Activations as the kernels read them, with room for those that kernels of eight tokens read in vain; their scales.
    fn inputs(&self, bench: &Bench, scale: f32) -> [Memory; 2] {
        let mut acts = padded_rows(&self.acts, self.cols);
        acts.resize(acts.len().max(FEW_TOKENS * self.cols.next_multiple_of(16)), 77);
        let sums = self.acts.chunks_exact(self.cols).map(|q| q.iter().map(|&q| i32::from(q)).sum::<i32>());
        let scales: Vec<[u32; 2]> = sums.map(|sum| [scale.to_bits(), sum as u32]).collect();
        [bench.put(&acts), bench.put(&scales)]
    }

    /// Groups from `first` as one buffer.
    fn params(&self, first: usize, groups: usize, stride: usize, scale: [f32; 4]) -> Params {
        Params {
            groups: groups as u32,
            first_group: first as u32,
            tiles: self.cols.div_ceil(16) as u32,
            stride: stride as u32,
            scale,
        }
    }
}

/// Runs a product in pieces of `at_once` groups.
#[allow(clippy::too_many_arguments, reason = "what a product needs")]
fn multiply(
    bench: &Bench,
    shape: &Shape,
    case: &Case,
    kernel: Kernel,
    at_once: usize,
    stride: usize,
    scale: [f32; 4],
    outputs: &[&Memory],
) {
    let batch = bench.uniform([case.tokens as u32, 1]);
    let acts = case.inputs(bench, 2.0);
    let group_bytes = case.matrix.group_bytes();
    for (i, bytes) in case.matrix.tiles().chunks(at_once * group_bytes).enumerate() {
        let groups = bytes.len() / group_bytes;
        let (params, weights) = (bench.uniform(case.params(i * at_once, groups, stride, scale)), bench.put(bytes));
        let mut buffers = vec![&batch, &params, &weights, &acts[0], &acts[1]];
        buffers.extend(outputs);
        let grid = match kernel {
            Kernel::Gemm(_) => [groups.div_ceil(4), case.tokens.div_ceil(64), 1],
            _ => [groups, 1, 1],
        };
        bench.run(kernel, shape, &buffers, grid);
    }
}

/// The kernels for so many tokens.
fn kernels(output: Output, tokens: usize) -> Vec<Kernel> {
    let few = [1, 2, 4, 8].into_iter().filter(|&most| most as usize >= tokens).map(|most| Kernel::Gemv(output, most));
    few.chain([Kernel::Gemm(output)]).collect()
}

#[test]
fn sums_are_exact() {
    let _turn = turn();
    for bench in benches() {
        let shape = shape(&config(1, 1, 16, 16, Gate::Relu2), KvType::F32);
        for (seed, (rows, cols, tokens)) in [
            (1, 1, 1),
            (16, 16, 1),
            (17, 33, 3),
            (50, 100, 8),
            (130, 270, 2),
            (40, 2560, 5),
            (33, 6912, 1),
            (64, 64, 64),
            (70, 48, 65),
            (200, 130, 37),
        ]
        .into_iter()
        .enumerate()
        {
            let case = Case::new(rows, cols, tokens, seed as u64);
            let stride = rows.next_multiple_of(16);
            for kernel in kernels(Output::Residual, tokens) {
                for at_once in [usize::MAX >> 20, 2] {
                    let before = vec![3.0f32; tokens * stride];
                    let hidden = bench.put(&before);
                    // Scales that multiply exactly: sum · 0.5 / 2.
                    multiply(&bench, &shape, &case, kernel, at_once, stride / 4, [0.5; 4], &[&hidden]);
                    let got: Vec<f32> = bench.get(&hidden);
                    for (token, want) in case.sums().chunks_exact(rows).enumerate() {
                        let got = &got[token * stride..][..rows];
                        let want: Vec<f32> = want.iter().map(|&sum| 3.0 + sum as f32 * 0.25).collect();
                        assert!(got == want, "{} {kernel:?} {rows}x{cols}, token {token}", bench.name);
                    }
                }
            }
        }
    }
}

#[test]
fn gate_and_up_are_multiplied() {
    let _turn = turn();
    for bench in benches() {
        for (gate, function) in [(Gate::Relu2, GateFunction::Relu2), (Gate::Silu, GateFunction::Silu)] {
            let shape = shape(&config(1, 1, 16, 16, gate), KvType::F32);
            for (width, cols, tokens) in [(9, 20, 1), (40, 100, 7), (135, 64, 20)] {
                let case = Case::new(2 * width, cols, tokens, 5);
                let stride = width.next_multiple_of(16);
                for kernel in kernels(Output::Gated, tokens) {
                    let out = bench.put(&vec![0.0f32; tokens * stride]);
                    multiply(&bench, &shape, &case, kernel, 3, stride / 2, [0.01, 0.03, 0.0, 0.0], &[&out]);
                    let got: Vec<f32> = bench.get(&out);
                    for (token, sums) in case.sums().chunks_exact(2 * width).enumerate() {
                        let (mut want, up): (Vec<f32>, Vec<f32>) = sums
                            .chunks_exact(2)
                            .map(|pair| (pair[0] as f32 * (0.01 / 2.0), pair[1] as f32 * (0.03 / 2.0)))
                            .unzip();
                        gated(Isa::Scalar, function, &mut want, &up);
                        // Each number is a few roundings away from its twin.
                        for (got, want) in got[token * stride..][..width].iter().zip(&want) {
                            let bound = 2e-6 * want.abs() + 1e-30;
                            assert!((got - want).abs() <= bound, "{} {kernel:?}: {got} {want}", bench.name);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn queries_turn_and_keys_and_values_reach_the_cache() {
    let _turn = turn();
    for bench in benches() {
        for (heads, kv_heads, head_dim, tokens, kv) in [
            (4, 2, 64, 1, KvType::F16),
            (5, 1, 6, 3, KvType::F32),
            (2, 2, 100, 70, KvType::F16),
            (3, 3, 10, 8, KvType::F32),
        ] {
            let shape = shape(&config(heads, kv_heads, head_dim, 64, Gate::Relu2), kv);
            let (q_size, kv_size, pairs) = (heads * head_dim, kv_heads * head_dim, head_dim / 2);
            let (q_rows, kv_rows) = (shape.q_rows(), shape.kv_rows());
            let case = Case::new(q_rows + 2 * kv_rows, 40, tokens, 11);
            let scale = [0.002, 0.003, 0.004, 0.0];
            // Positions far apart, pages in disorder.
            let positions: Vec<usize> = (0..tokens).map(|t| t * 37 % 190).collect();
            let place = |position: usize| [2, 0, 1][position / 64] * 64 + position % 64;
            let infos: Vec<[u32; 4]> = positions.iter().map(|&p| [0, p as u32, 0, place(p) as u32]).collect();
            let mut rope = RopeRows::default();
            Rope::new(head_dim, 1e4, &RopeScaling::None).rows(positions.iter().copied(), &mut rope);
            let turns: Vec<[f32; 2]> = rope.turns().collect();
            let cache_words = 3 * 64 * kv_heads * pairs * if kv == KvType::F16 { 1 } else { 2 };
            for kernel in kernels(Output::Qkv, tokens) {
                let queries = bench.put(&vec![0.0f32; tokens * q_rows]);
                let caches = [0; 2].map(|_| bench.put(&vec![0u32; cache_words]));
                let (tokens_in, rope_in) = (bench.put(&infos), bench.put(&turns));
                let outputs = [&queries, &caches[0], &caches[1], &tokens_in, &rope_in];
                multiply(&bench, &shape, &case, kernel, 5, q_rows / 2, scale, &outputs);
                let got_queries: Vec<f32> = bench.get(&queries);
                let [keys, values] = caches.each_ref().map(|cache| {
                    let words: Vec<u32> = bench.get(cache);
                    match kv {
                        KvType::F16 => words
                            .iter()
                            .flat_map(|w| [w & 0xffff, w >> 16])
                            .map(|h| f16::from_bits(h as u16).to_f32())
                            .collect::<Vec<f32>>(),
                        _ => words.iter().map(|w| f32::from_bits(*w)).collect(),
                    }
                });
                for (token, sums) in case.sums().chunks_exact(case.rows).enumerate() {
                    // The twin turns half-split heads: from pairs to halves, turn, and back.
                    let turned = |sums: &[i32], scale: f32| {
                        let mut x: Vec<f32> = vec![0.0; sums.len()];
                        let half_split = |i: usize| i / head_dim * head_dim + i % 2 * pairs + i % head_dim / 2;
                        for (i, sum) in sums.iter().enumerate() {
                            x[half_split(i)] = *sum as f32 * (scale / 2.0);
                        }
                        rope.apply(Isa::Scalar, token, &mut x, None);
                        (0..x.len()).map(|i| x[half_split(i)]).collect::<Vec<f32>>()
                    };
                    let want_q = turned(&sums[..q_size], scale[0]);
                    let want_k = turned(&sums[q_rows..q_rows + kv_size], scale[1]);
                    let want_v: Vec<f32> =
                        sums[q_rows + kv_rows..][..kv_size].iter().map(|s| *s as f32 * (scale[2] / 2.0)).collect();
                    let what = format!("{} {kernel:?} {heads}x{head_dim} token {token}", bench.name);
                    assert!(
                        relative_diff(&got_queries[token * q_rows..][..q_size], &want_q) <= 1e-6,
                        "{what}: queries"
                    );
                    let (page, slot) = (place(positions[token]) / 64, place(positions[token]) % 64);
                    // Half a step of f16, or the roundings of f32.
                    let bound = if kv == KvType::F16 { 5e-4 } else { 1e-6 };
                    let key = |i: usize| {
                        let (head, pair) = (i / head_dim, i % head_dim / 2);
                        keys[2 * (((page * kv_heads + head) * pairs + pair) * 64 + slot) + i % 2]
                    };
                    let value = |i: usize| {
                        let (head, pair) = (i / head_dim, i % head_dim / 2);
                        values[2 * (((page * kv_heads + head) * 64 + slot) * pairs + pair) + i % 2]
                    };
                    let got_k: Vec<f32> = (0..kv_size).map(key).collect();
                    let got_v: Vec<f32> = (0..kv_size).map(value).collect();
                    assert!(relative_diff(&got_k, &want_k) <= bound, "{what}: keys");
                    assert!(relative_diff(&got_v, &want_v) <= bound, "{what}: values");
                    if kv == KvType::F16 {
                        // Values take no detour: their rounding is exact.
                        let rounded: Vec<f32> = want_v.iter().map(|v| f16::from_f32(*v).to_f32()).collect();
                        assert_eq!(got_v, rounded, "{what}: rounding");
                    }
                }
            }
        }
    }
}
