//! The head of BitNet-b1.58-2B-4T, 128256 × 2560: int8 with exact candidates, and the exact product, beside what the
//! machine can read, measured in turns.
//!
//! `cargo bench -p sterna-cpu --bench head [-- ROWS]`; the instruction set is that of `STERNA_ISA`.
#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::Instant;

use sterna_cpu::dense::{DenseMatrix, DenseType, logits};
use sterna_cpu::head::{Best, Candidates, Finder, Head, Int8Rows};
use sterna_cpu::machine::ReadProbe;
use sterna_cpu::{AlignedBuf, Isa, Pool};

const COLS: usize = 2560;
const ROUNDS: usize = 9;

fn main() {
    let rows = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(128_256);
    let isa = Isa::from_env().unwrap();
    // Rows and tokens of roughly Gaussian numbers.
    let mut state = 1u64;
    let mut normal = move || {
        let mut sum = 0.0f32;
        for _ in 0..4 {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            sum += (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum
    };
    let noise: Vec<f32> = (0..1 << 20).map(|_| normal()).collect();
    let mut bytes = vec![0u8; rows * COLS * 2];
    let x: Vec<f32> = (0..96 * COLS).map(|_| normal() * 2.0).collect();

    for (ty, bytes) in [(DenseType::Q8_0, 34), (DenseType::Q6K, 210)] {
        // Any bytes will do but for the scales, which are f16.
        let block = if bytes == 34 { 0..2 } else { 208..210 };
        let mut bytes: Vec<u8> = (0..rows * COLS / ty.block_len() * bytes).map(|i| ((i * 37) >> 3) as u8).collect();
        bytes.chunks_exact_mut(ty.block_bytes()).for_each(|b| b[block.clone()].copy_from_slice(&[0, 0x1c]));
        let matrix = DenseMatrix { ty, rows, cols: COLS, bytes: &bytes };
        for threads in [1, 2] {
            let (pool, mut scratch, mut out) = (Pool::new(threads), AlignedBuf::default(), vec![0.0; rows]);
            let mut best = f64::INFINITY;
            for _ in 0..3 {
                let start = Instant::now();
                logits(&pool, isa, matrix, &x[..COLS], &mut scratch, &mut out);
                best = best.min(start.elapsed().as_secs_f64());
            }
            println!(
                "{isa}, {ty:?} rows, {threads} threads: {:.2} ms, {:.1} GB/s",
                best * 1e3,
                bytes.len() as f64 / best / 1e9
            );
        }
    }

    for ty in [DenseType::F16, DenseType::Bf16] {
        for (i, row) in bytes.chunks_exact_mut(COLS * 2).enumerate() {
            let start = i * 7919 % (noise.len() - COLS);
            for (b, x) in row.chunks_exact_mut(2).zip(&noise[start..]) {
                b.copy_from_slice(&match ty {
                    DenseType::F16 => half::f16::from_f32(x * 0.05).to_le_bytes(),
                    _ => half::bf16::from_f32(x * 0.05).to_le_bytes(),
                });
            }
        }
        let matrix = DenseMatrix { ty, rows, cols: COLS, bytes: &bytes };
        let start = Instant::now();
        let copy = Int8Rows::pack(&Pool::new(Pool::default_threads()), isa, matrix, |_| ());
        println!(
            "{isa}, {ty:?} rows: int8 copy of {:.0} MB made in {:.2} s",
            copy.bytes() as f64 / 1e6,
            start.elapsed().as_secs_f64()
        );
        for threads in [1, 2] {
            bench(&Pool::new(threads), isa, matrix, &copy, &x);
        }
    }
}

fn bench(pool: &Pool, isa: Isa, matrix: DenseMatrix<'_>, copy: &Int8Rows, x: &[f32]) {
    const READ: f64 = (256u64 << 20) as f64;
    let probe = ReadProbe::new(READ as usize);
    let mut finder = Finder::default();
    let mut out = Candidates::default();
    let (mut scratch, mut all) = (AlignedBuf::default(), vec![0.0f32; 96 * matrix.rows]);
    let head = Head { pool, isa, matrix, copy };
    let greedy = Best { count: 1, margin: 0.0, also: &[], temperature: None };
    let top_k = Best { count: 40, margin: 0.0, also: &[], temperature: None };
    let mut counts = [0; 2];
    let mut times: Vec<(&str, f64, Vec<f64>)> = Vec::new();
    let int8 = copy.bytes() as f64;
    let dense = matrix.bytes.len() as f64;
    for round in 0..ROUNDS {
        let mut index = 0;
        let mut time = |name: &'static str, bytes: f64, run: &mut dyn FnMut()| {
            let start = Instant::now();
            run();
            let seconds = start.elapsed().as_secs_f64();
            if round == 0 {
                times.push((name, bytes, Vec::new()));
            } else {
                times[index].2.push(seconds);
            }
            index += 1;
        };
        time("read", READ, &mut || _ = probe.gbps(pool, Isa::detect()));
        time("int8 intervals", int8, &mut || finder.bound(head, x[..COLS].chunks_exact(COLS)));
        time("int8 greedy", int8, &mut || {
            finder.bound(head, x[..COLS].chunks_exact(COLS));
            assert!(finder.best(head, 0, &x[..COLS], &greedy, &mut out));
            counts[0] = out.ids.len();
        });
        time("int8 top-k 40", int8, &mut || {
            finder.bound(head, x[..COLS].chunks_exact(COLS));
            finder.best(head, 0, &x[..COLS], &top_k, &mut out);
            counts[1] = out.ids.len();
        });
        for (name, tokens) in [("int8 intervals, 4 tokens", 4), ("int8 intervals, 8 tokens", 8)] {
            time(name, int8, &mut || finder.bound(head, x[..tokens * COLS].chunks_exact(COLS)));
        }
        time("read", READ, &mut || _ = probe.gbps(pool, Isa::detect()));
        time("exact", dense, &mut || logits(pool, isa, matrix, &x[..COLS], &mut scratch, &mut all[..matrix.rows]));
        for (name, tokens) in [("exact, 8 tokens", 8), ("exact, 96 tokens", 96)] {
            let out = &mut all[..tokens * matrix.rows];
            time(name, dense, &mut || logits(pool, isa, matrix, &x[..tokens * COLS], &mut scratch, out));
        }
    }
    let median = |times: &[f64]| {
        let mut times = times.to_vec();
        times.sort_unstable_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let limit = times.iter().filter(|t| t.0 == "read").map(|t| t.1 / median(&t.2)).fold(0.0, f64::max);
    println!("  {} threads; candidates: greedy {}, top-k 40 {}", pool.threads(), counts[0], counts[1]);
    for (name, bytes, seconds) in &times {
        let seconds = median(seconds);
        let rate = bytes / seconds;
        println!("  {name:26} {:7.2} ms {:6.1} GB/s {:5.1} %", seconds * 1e3, rate / 1e9, rate / limit * 100.0);
    }
}
