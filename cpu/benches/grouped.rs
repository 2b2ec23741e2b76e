//! Products of matrices with a scale for each group of columns, against the bandwidth of memory and against those of the same
//! values with one scale and int8 activations, measured in turns.
//!
//! ```sh
//! cargo bench -p sterna-cpu --bench grouped                  # every instruction set
//! cargo bench -p sterna-cpu --bench grouped -- isa=avx2 tokens=1,512 threads=2 bits=8 rounds=9
//! ```

use std::time::Instant;

use sterna_cpu::grouped::{self, GroupedActivations, GroupedJob, GroupedMatrix, Precision, Rounding, ScaleType};
use sterna_cpu::machine::{ReadProbe, median};
use sterna_cpu::{Activations, Isa, Kernels, Layout, LinearJob, Pool, Readers, TernaryMatrix, linear};

/// Bytes of all matrices that are read in turn from memory.
const DRAM_BYTES: usize = 192 << 20;

/// Columns of a group.
const GROUP: usize = 128;

fn value(row: usize, col: usize) -> i8 {
    (((row * 8191 + col) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i8 % 2
}

fn main() {
    let (mut isas, mut tokens) = (Isa::available().collect::<Vec<_>>(), vec![1usize, 4, 512]);
    let mut precision = Precision::Float;
    let (mut threads, mut rounds) = (vec![1, Pool::default_threads()], 5usize);
    threads.dedup();
    for arg in std::env::args().skip(1) {
        // `cargo bench` adds an argument of its own.
        let Some((key, value)) = arg.split_once('=') else { continue };
        let numbers = || value.split(',').map(|n| n.parse().expect("a number")).collect();
        match key {
            "isa" => isas = value.split(',').map(|name| name.parse().expect("an instruction set")).collect(),
            "tokens" => tokens = numbers(),
            "threads" => threads = numbers(),
            "bits" => precision = if value == "8" { Precision::Int8 } else { Precision::Float },
            "rounds" => rounds = value.parse().expect("a number"),
            _ => panic!("unknown option {key:?}: isa, tokens, threads, bits, rounds"),
        }
    }
    println!(
        "{:>9} {:>12} {:>7} {:>7} {:>10} {:>14}",
        "isa", "rows x cols", "tokens", "threads", "of reading", "of int8's time"
    );
    for (rows, cols) in [(6144, 2048), (2048, 6144)] {
        let count = DRAM_BYTES.div_ceil(GroupedMatrix::bytes_of(rows, cols, GROUP, ScaleType::F16));
        for &threads in &threads {
            let pool = Pool::new(threads);
            let probe = ReadProbe::new(DRAM_BYTES);
            let near = Readers { pool: &pool, before: 0, all: rows };
            let pack_grouped = || {
                GroupedMatrix::pack_near(near, rows, cols, GROUP, ScaleType::F16, |row, values, scales| {
                    values.iter_mut().enumerate().for_each(|(col, v)| *v = value(row, col));
                    scales.fill(0.5);
                    Ok::<(), ()>(())
                })
            };
            let pack = || {
                TernaryMatrix::pack_near(near, Layout::T16, rows, cols, |row, values| {
                    values.iter_mut().enumerate().for_each(|(col, v)| *v = value(row, col));
                    Ok::<(), ()>(())
                })
            };
            let grouped: Vec<_> = (0..count).map(|_| pack_grouped().expect("rows that cannot fail")).collect();
            let plain: Vec<_> = (0..count).map(|_| pack().expect("rows that cannot fail")).collect();
            for (&isa, &tokens) in isas.iter().flat_map(|isa| tokens.iter().map(move |tokens| (isa, tokens))) {
                let kernels = Kernels::with(isa, Layout::T16);
                let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 7919) % 2001) as f32 - 1000.0).collect();
                let mut out = vec![0.0f32; tokens * rows];
                let (mut float, mut int8) = (GroupedActivations::default(), Activations::default());
                let (mut of_reading, mut of_int8) = (Vec::new(), Vec::new());
                // Many tokens take long, and nothing is read twice anyway.
                let matrices = if tokens > 12 { 1 } else { count };
                for _ in 0..rounds {
                    let read = probe.gbps(&pool, Isa::detect());
                    let start = Instant::now();
                    float.quantize(&pool, &kernels, &x, cols, Rounding { group: GROUP, precision }, None);
                    for weight in &grouped[..matrices] {
                        let mut jobs = [GroupedJob { weight, out: &mut out, add: false }];
                        grouped::linear(&pool, &kernels, &float, &mut jobs);
                    }
                    let seconds = start.elapsed().as_secs_f64();
                    let start = Instant::now();
                    int8.quantize(&pool, &kernels, &x, cols, None);
                    for weight in &plain[..matrices] {
                        let mut jobs = [LinearJob { weight, scale: 0.5, out: &mut out, add: false }];
                        linear(&pool, &kernels, &int8, &mut jobs, &[]);
                    }
                    let bytes: usize = grouped[..matrices].iter().map(GroupedMatrix::bytes).sum();
                    of_reading.push(bytes as f64 / seconds / 1e9 / read);
                    of_int8.push(seconds / start.elapsed().as_secs_f64());
                }
                let (of_reading, of_int8) = (100.0 * median(of_reading), median(of_int8));
                let shape = format!("{rows} x {cols}");
                println!("{isa:>9} {shape:>12} {tokens:>7} {threads:>7} {of_reading:>9.0}% {of_int8:>14.2}");
            }
        }
    }
}
