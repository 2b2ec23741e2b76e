//! Attention at the shape of BitNet b1.58 2B-4T (30 layers, 20 heads, 5 key-value heads, head_dim 128): decode with 4096
//! cached positions against the machine's read bandwidth, prefill of 512 tokens against its multiply-add rate, all
//! measured in turn in the same run. Medians.
//!
//! `cargo bench -p sterna-cpu --bench attention [-- ROUNDS] [decode]`
#![allow(missing_docs, reason = "a program")]

use std::hint::black_box;
use std::time::Instant;

use sterna_cpu::attention::{AttentionScratch, attention};
use sterna_cpu::kv::{KvLayer, KvSpan, KvType, PAGE_LEN};
use sterna_cpu::machine::{ReadProbe, median};
use sterna_cpu::{Isa, Pool};

const LAYERS: usize = 30;
const HEADS: usize = 20;
const KV_HEADS: usize = 5;
const HEAD_DIM: usize = 128;
const CONTEXT: usize = 4096;
const PROMPT: usize = 512;
/// Bytes of the ternary weights (2 bits) and the 8-bit head that a token of the model reads.
const WEIGHT_BYTES: f64 = 521e6 + 328e6;

/// Caches of all layers, filled.
fn fill(pool: &Pool, kind: KvType, positions: usize) -> Vec<KvLayer> {
    let width = KV_HEADS * HEAD_DIM;
    let numbers = |seed: u32| -> Vec<f32> {
        let random = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 / (1 << 23) as f32 - 1.0;
        (0..(positions * width) as u32).map(random).collect()
    };
    let (k, v) = (numbers(1), numbers(77));
    let pages: Vec<u32> = (0..positions.div_ceil(PAGE_LEN) as u32).collect();
    (0..LAYERS)
        .map(|_| {
            let mut layer = KvLayer::new(pages.len(), KV_HEADS, HEAD_DIM, kind);
            let span = KvSpan { pages: &pages, position: 0, tokens: positions };
            layer.store(pool, Isa::detect(), &[span], &k, &v);
            layer
        })
        .collect()
}

/// Seconds of a pass of `tokens` queries through all layers.
fn pass(pool: &Pool, layers: &[KvLayer], position: usize, tokens: usize, scratch: &mut AttentionScratch) -> f64 {
    let pages: Vec<u32> = (0..(position + tokens).div_ceil(PAGE_LEN) as u32).collect();
    let spans = [KvSpan { pages: &pages, position, tokens }];
    let q: Vec<f32> = (0..tokens * HEADS * HEAD_DIM).map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0).collect();
    let mut out = vec![0.0; q.len()];
    let start = Instant::now();
    for layer in layers {
        attention(pool, Isa::detect(), &q, layer, &spans, HEADS, 0.088, usize::MAX, scratch, &mut out);
    }
    black_box(&out);
    start.elapsed().as_secs_f64()
}

fn main() {
    // cargo passes --bench.
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(9);
    let decode_only = std::env::args().any(|arg| arg == "decode");
    let memory = ReadProbe::new(300 << 20);
    let fillers = Pool::new(Pool::default_threads());
    let kinds = [KvType::F16, KvType::Int8];
    let long = kinds.map(|kind| fill(&fillers, kind, CONTEXT));
    let short = kinds.map(|kind| fill(&fillers, kind, PROMPT));
    let mut scratch = AttentionScratch::default();
    println!("{}; {CONTEXT} positions, prompt of {PROMPT}, {rounds} rounds", Isa::detect());
    for threads in 1..=Pool::default_threads().min(2) {
        let pool = Pool::new(threads);
        let mut reads = Vec::new();
        let mut decodes = [vec![], vec![]];
        let mut prefills = [vec![], vec![]];
        for _ in 0..rounds {
            reads.push(memory.gbps(&pool, Isa::detect()) * 1e9);
            for (layers, samples) in long.iter().zip(&mut decodes) {
                samples.push(pass(&pool, layers, CONTEXT - 1, 1, &mut scratch));
            }
            for (layers, samples) in short.iter().zip(&mut prefills).filter(|_| !decode_only) {
                samples.push(pass(&pool, &layers[..10], 0, PROMPT, &mut scratch) * LAYERS as f64 / 10.0);
            }
        }
        let bandwidth = median(reads);
        println!("{threads} threads: reads {:.1} GB/s", bandwidth / 1e9);
        for (i, kind) in kinds.iter().enumerate() {
            let bytes: usize = long[i].iter().map(KvLayer::bytes).sum();
            let decode = median(decodes[i].clone());
            let rate = bytes as f64 / decode;
            let weights = WEIGHT_BYTES / bandwidth;
            println!(
                "  {kind:?}: decode {:.2} ms a token, {:.1} GB/s ({:.0} % of reading), {:.1} % of a token whose weights \
                 take {:.1} ms",
                decode * 1e3,
                rate / 1e9,
                100.0 * rate / bandwidth,
                100.0 * decode / (decode + weights),
                weights * 1e3,
            );
            if !decode_only {
                let prefill = median(prefills[i].clone());
                let macs = (LAYERS * HEADS * HEAD_DIM * PROMPT * (PROMPT + 1)) as f64;
                println!("    prefill {:.0} ms, {:.1} G multiply-adds/s", prefill * 1e3, macs / prefill / 1e9);
            }
        }
    }
}
