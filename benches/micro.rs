//! What is done beside the matrix kernels (`cargo bench -p sterna-cpu` has those): packing weights, the tokenizer, sampling.
//!
//! `cargo bench --bench micro [-- NAME]`
#![allow(missing_docs, reason = "a program")]

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sterna::engine::{Sampler, Sampling, tokenizer_of};
use sterna::{Isa, Layout};
use sterna_cpu::{Activations, Kernels, Pool, TernaryMatrix};

/// A matrix of BitNet b1.58 2B-4T.
const ROWS: usize = 2560;
const COLS: usize = 6912;

/// Tokens that LLaMA 3 knows.
const VOCAB: usize = 128_256;

fn packing(c: &mut Criterion) {
    let mut group = c.benchmark_group("pack 2560x6912");
    group.throughput(Throughput::Elements((ROWS * COLS) as u64)).sample_size(10);
    let weight =
        |row: usize, col: usize| (((row * 8191 + col) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i8 % 2;
    let row: Vec<i8> = (0..COLS).map(|col| weight(1, col)).collect();
    for layout in [Layout::T16, Layout::T16x5, Layout::Lut2, Layout::Lut3, Layout::Lut5] {
        group.bench_function(BenchmarkId::from_parameter(layout.name()), |b| {
            b.iter(|| {
                TernaryMatrix::pack(layout, ROWS, COLS, |_, out| {
                    out.copy_from_slice(&row);
                    Ok::<(), Infallible>(())
                })
            });
        });
    }
    group.finish();
}

fn rounding(c: &mut Criterion) {
    let mut group = c.benchmark_group("norm and quantize a token of 2560");
    let x: Vec<f32> = (0..2560).map(|i| (i * 37 % 101) as f32 * 0.02 - 1.0).collect();
    let norm = vec![1.0; x.len()];
    let pool = Pool::new(1);
    for isa in Isa::available() {
        let kernels = Kernels::get(isa);
        let mut activations = Activations::default();
        group.bench_function(BenchmarkId::from_parameter(isa), |b| {
            b.iter(|| activations.quantize(&pool, &kernels, black_box(&x), x.len(), Some((&norm, 1e-5))));
        });
    }
    group.finish();
}

fn tokenizing(c: &mut Criterion) {
    let checkpoint = sterna::demo::checkpoint().expect("the demo model");
    let tokenizer = tokenizer_of(&checkpoint).expect("the demo model's tokenizer");
    let text = include_str!("../tests/data/demo/heldout.txt");
    let tokens = tokenizer.encode(text, true).expect("a text");
    let mut group = c.benchmark_group("tokenizer of the demo model");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("encode", |b| b.iter(|| tokenizer.encode(black_box(text), true)));
    group.bench_function("decode", |b| b.iter(|| tokenizer.decode(black_box(&tokens), false)));
    group.finish();
}

fn sampling(c: &mut Criterion) {
    let mut group = c.benchmark_group("sample from 128256 logits");
    let logits: Vec<f32> =
        (0..VOCAB as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 20) as f32).collect();
    let previous: Vec<u32> = (0..256).collect();
    let seeded = Sampling { seed: Some(1), ..Sampling::default() };
    let choices = [
        ("greedy", seeded.clone()),
        ("temperature", Sampling { temperature: 0.7, ..seeded.clone() }),
        ("top-k 40, top-p 0.95", Sampling { temperature: 0.7, top_k: 40, top_p: 0.95, ..seeded.clone() }),
        (
            "min-p 0.05, penalty",
            Sampling { temperature: 0.7, min_p: 0.05, repeat_penalty: 1.1, repeat_last_n: 64, ..seeded },
        ),
    ];
    for (name, options) in choices {
        let mut sampler = Sampler::new(options).expect("valid options");
        group.bench_function(name, |b| b.iter(|| sampler.sample(black_box(&logits), &previous)));
    }
    group.finish();
}

criterion_group!(benches, packing, rounding, tokenizing, sampling);
criterion_main!(benches);
