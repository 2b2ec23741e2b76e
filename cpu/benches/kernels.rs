//! Every kernel against the limits of the machine, measured in turns in one run.
//!
//! ```sh
//! cargo bench -p sterna-cpu --bench kernels                    # everything; takes minutes
//! cargo bench -p sterna-cpu --bench kernels -- isa=avx512 layout=t16 tokens=1,512 threads=1,2 shape=6912x2560 \
//!     from=dram rounds=9
//! ```
//!
//! Weights come from memory (`dram`: more matrices than the caches hold, one after the other) or from the caches
//! (`cache`: one matrix). Few tokens are limited by reading the weights, many by multiplying: the last columns say how
//! much of the read bandwidth, and of the rate of the instruction set's own int8 instruction, a kernel reaches. Medians.

use std::time::Instant;

use sterna_cpu::machine::{Int8Probe, ReadProbe, barrier_ns, median};
use sterna_cpu::{Activations, Isa, Kernels, Layout, LinearJob, Pool, TernaryMatrix, Tuning, linear};

/// Bytes of all matrices that are read in turn from memory.
const DRAM_BYTES: usize = 192 << 20;

/// What to measure.
struct Options {
    isas: Vec<Isa>,
    layouts: Vec<Layout>,
    shapes: Vec<(usize, usize)>,
    tokens: Vec<usize>,
    threads: Vec<usize>,
    from: Vec<String>,
    rounds: usize,
    tuning: Tuning,
}

impl Options {
    fn from_args() -> Options {
        let mut options = Options {
            isas: Isa::available().collect(),
            layouts: Layout::ALL.to_vec(),
            shapes: vec![(6912, 2560), (2560, 6912), (640, 2560)],
            tokens: vec![1, 2, 4, 8, 12, 512],
            threads: vec![1, Pool::default_threads()],
            from: vec!["dram".into(), "cache".into()],
            rounds: 5,
            tuning: Tuning::default(),
        };
        options.threads.dedup();
        for arg in std::env::args().skip(1) {
            // `cargo bench` adds an argument of its own.
            let Some((key, value)) = arg.split_once('=') else { continue };
            let list = || value.split(',');
            let numbers = || list().map(|n| n.parse().expect("a number")).collect();
            match key {
                "isa" => options.isas = list().map(|name| name.parse().expect("an instruction set")).collect(),
                "layout" => options.layouts = list().map(|name| name.parse().expect("a layout")).collect(),
                "shape" => {
                    let shape = |shape: &str| {
                        let (rows, cols) = shape.split_once('x').expect("ROWSxCOLS");
                        (rows.parse().expect("rows"), cols.parse().expect("columns"))
                    };
                    options.shapes = list().map(shape).collect();
                }
                "tokens" => options.tokens = numbers(),
                "threads" => options.threads = numbers(),
                "from" => options.from = list().map(str::to_owned).collect(),
                "prefetch" => options.tuning.prefetch = value.parse().expect("bytes"),
                "task" => options.tuning.task_bytes = value.parse().expect("bytes"),
                "block" => options.tuning.block_bytes = value.parse().expect("bytes"),
                "rounds" => options.rounds = value.parse().expect("a number"),
                _ => panic!(
                    "unknown option {key:?}: isa, layout, shape, tokens, threads, from, rounds, prefetch, task, block"
                ),
            }
        }
        options
    }
}

/// What was measured of the machine.
#[derive(Default)]
struct Limits {
    /// GB/s.
    read: Vec<f64>,
    /// GMAC/s.
    int8: Vec<(Isa, f64)>,
}

/// A product to measure: matrices that are multiplied one after the other.
struct Case<'a> {
    kernels: Kernels,
    matrices: &'a [TernaryMatrix],
    acts: Activations,
    out: Vec<f32>,
    seconds: Vec<f64>,
    /// Share of the read bandwidth, and of the rate of the int8 instruction, that were measured just before.
    of_read: Vec<f64>,
    of_int8: Vec<f64>,
    /// Seconds to quantize the activations.
    prepare: Vec<f64>,
}

impl Case<'_> {
    fn bytes(&self) -> f64 {
        self.matrices.iter().map(TernaryMatrix::bytes).sum::<usize>() as f64
    }

    fn macs(&self) -> f64 {
        let weights: usize = self.matrices.iter().map(|m| m.rows() * m.cols()).sum();
        (weights * self.acts.tokens()) as f64
    }

    /// Measures the limits, then runs once.
    fn measure(&mut self, pool: &Pool, x: &[f32], probe: &ReadProbe, limits: &mut Limits) {
        // The second time, as in a loop over tokens: with code and buffers in the caches.
        let mut start = Instant::now();
        for _ in 0..2 {
            start = Instant::now();
            self.acts.quantize(pool, &self.kernels, x, self.acts.cols(), None);
        }
        self.prepare.push(start.elapsed().as_secs_f64());
        let isa = self.kernels.isa();
        let read = probe.gbps(pool, Isa::detect());
        limits.read.push(read);
        // A single matrix is to come from the caches, and the outputs are where the last product left them.
        if self.matrices.len() == 1 {
            self.run(pool);
        }
        let int8 = Int8Probe::new(isa).map(|probe| probe.gmacs(pool));
        let start = Instant::now();
        self.run(pool);
        let seconds = start.elapsed().as_secs_f64();
        self.seconds.push(seconds);
        self.of_read.push(self.bytes() / seconds / 1e9 / read);
        if let Some(int8) = int8 {
            self.of_int8.push(self.macs() / seconds / 1e9 / int8);
            limits.int8.push((isa, int8));
        }
    }

    fn run(&mut self, pool: &Pool) {
        for weight in self.matrices {
            linear(
                pool,
                &self.kernels,
                &self.acts,
                &mut [LinearJob { weight, scale: 1.0, out: &mut self.out, add: false }],
                &[],
            );
        }
    }
}

fn matrix(layout: Layout, rows: usize, cols: usize) -> TernaryMatrix {
    let read = |row: usize, out: &mut [i8]| {
        for (col, value) in out.iter_mut().enumerate() {
            *value = (((row * cols + col) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as i8 % 2;
        }
        Ok::<(), ()>(())
    };
    TernaryMatrix::pack(layout, rows, cols, read).expect("rows that cannot fail")
}

fn main() {
    let options = Options::from_args();
    let is_wanted = |of: &Kernels| options.layouts.contains(&of.layout()) && options.isas.contains(&of.isa());
    assert!(
        Kernels::all().any(|kernels| is_wanted(&kernels)),
        "no instruction set asked for has a kernel of these layouts"
    );
    let probe = ReadProbe::new(DRAM_BYTES);
    println!(
        "{:<22} {:<9} {:<10} {:<5} {:>2} {:>4} {:>8} {:>8} {:>7} {:>7} {:>8}",
        "kernel", "isa", "shape", "from", "T", "tok", "GB/s", "GMAC/s", "% read", "% int8", "prep µs"
    );
    for &threads in &options.threads {
        let pool = Pool::new(threads);
        let mut limits = Limits::default();
        for &(rows, cols) in &options.shapes {
            for from in &options.from {
                let count = |layout: Layout| match from.as_str() {
                    "dram" => DRAM_BYTES.div_ceil(layout.bytes(rows, cols)),
                    _ => 1,
                };
                let matrices: Vec<(Layout, Vec<TernaryMatrix>)> = options
                    .layouts
                    .iter()
                    .map(|&layout| (layout, vec![matrix(layout, rows, cols); count(layout)]))
                    .collect();
                for &tokens in &options.tokens {
                    let x: Vec<f32> = (0..tokens * cols).map(|i| ((i * 7919) % 2001) as f32 - 1000.0).collect();
                    let mut cases = Vec::new();
                    for (layout, matrices) in &matrices {
                        let wanted = |kernels: &Kernels| kernels.layout() == *layout && is_wanted(kernels);
                        for kernels in Kernels::all().filter(wanted) {
                            let kernels = kernels.tuned(options.tuning);
                            let mut acts = Activations::default();
                            acts.quantize(&pool, &kernels, &x, cols, None);
                            // Many tokens take long enough with few matrices.
                            let matrices = &matrices[..matrices.len().min(4096 / tokens).max(1)];
                            let out = vec![0.0; tokens * rows];
                            let (seconds, of_read, of_int8) = (Vec::new(), Vec::new(), Vec::new());
                            let prepare = Vec::new();
                            cases.push(Case { kernels, matrices, acts, out, seconds, of_read, of_int8, prepare });
                        }
                    }
                    for _ in 0..options.rounds {
                        for case in &mut cases {
                            case.measure(&pool, &x, &probe, &mut limits);
                        }
                    }
                    for case in &cases {
                        let seconds = median(case.seconds.iter().copied());
                        let gmacs = case.macs() / seconds / 1e9;
                        let isa = case.kernels.isa();
                        println!(
                            "{:<22} {:<9} {:<10} {:<5} {:>2} {:>4} {:>8.1} {:>8.1} {:>7.1} {:>7} {:>8.1}",
                            case.kernels.name(),
                            isa.name(),
                            format!("{rows}x{cols}"),
                            from,
                            threads,
                            tokens,
                            case.bytes() / seconds / 1e9,
                            gmacs,
                            100.0 * median(case.of_read.iter().copied()),
                            match case.of_int8.is_empty() {
                                true => "-".into(),
                                false => format!("{:.1}", 100.0 * median(case.of_int8.iter().copied())),
                            },
                            1e6 * median(case.prepare.iter().copied()),
                        );
                    }
                }
            }
        }
        let rate = |isa: &Isa| {
            let rates: Vec<f64> = limits.int8.iter().filter(|(of, _)| of == isa).map(|(_, rate)| *rate).collect();
            (!rates.is_empty()).then(|| format!("{isa} {:.0}", median(rates)))
        };
        let peaks: Vec<String> = options.isas.iter().filter_map(rate).collect();
        println!(
            "limits with {threads} thread(s): read {:.1} GB/s; int8 GMAC/s: {}; a parallel region {:.0} ns",
            median(limits.read),
            peaks.join(", "),
            barrier_ns(&pool)
        );
    }
}
