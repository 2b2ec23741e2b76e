//! What the machine can do at most: the figures that kernels are measured against.
//!
//! Rates of virtual machines drift within minutes: measure next to what is compared, in turns, and take medians.

mod cache;
mod peak;

pub use cache::first_level_bytes;

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::Isa;
use crate::buffer::AlignedBuf;
use crate::pool::Pool;
use crate::prefetch::prefetch;
use crate::simd::{Lanes, per_isa};

/// Memory to read from, well beyond all caches.
#[derive(Debug)]
pub struct ReadProbe {
    data: AlignedBuf<u64>,
}

/// Numbers that a task reads: 1 MiB.
const TASK: usize = (1 << 20) / size_of::<u64>();

impl ReadProbe {
    /// `bytes` of memory (1 MiB at least), written once.
    pub fn new(bytes: usize) -> ReadProbe {
        let mut data = AlignedBuf::streamed((bytes / size_of::<u64>()).next_multiple_of(TASK).max(TASK));
        data.iter_mut().zip(0..).for_each(|(word, i)| *word = i);
        ReadProbe { data }
    }

    /// Reads all of it once, each thread of the pool its part in order; GB/s.
    pub fn gbps(&self, pool: &Pool, isa: Isa) -> f64 {
        wake(pool);
        let start = Instant::now();
        pool.run_in_order(self.data.len() / TASK, &|task, _| {
            _ = black_box(read(isa, &self.data[task * TASK..][..TASK]))
        });
        size_of_val(&*self.data) as f64 / start.elapsed().as_secs_f64() / 1e9
    }
}

per_isa! {
    /// Reads 64 bytes at a time.
    fn read(data: &[u64]) -> [u64; 8] = read_body;
}

#[inline(always)]
fn read_body<S: Lanes>(data: &[u64]) -> [u64; 8] {
    let mut mixed = [[0u64; 8]; 4];
    for lines in data.as_chunks::<8>().0.as_chunks::<4>().0 {
        for (mixed, line) in mixed.iter_mut().zip(lines) {
            prefetch(line.as_ptr().cast(), 8 << 10);
            for (mixed, word) in mixed.iter_mut().zip(line) {
                *mixed ^= word;
            }
        }
    }
    std::array::from_fn(|i| mixed[0][i] ^ mixed[1][i] ^ mixed[2][i] ^ mixed[3][i])
}

/// Sequential reads from memory by all threads of the pool, GB/s: the median of five passes over 256 MiB.
pub fn read_gbps(pool: &Pool, isa: Isa) -> f64 {
    let probe = ReadProbe::new(256 << 20);
    median((0..5).map(|_| probe.gbps(pool, isa)))
}

/// The instructions of an instruction set that multiply and add int8 numbers.
pub struct Int8Probe(peak::Probe);

impl Int8Probe {
    /// `None` for an instruction set that the machine lacks, or without such instructions.
    pub fn new(isa: Isa) -> Option<Int8Probe> {
        peak::probe(isa).map(Int8Probe)
    }

    /// Multiply-adds that the cores of the pool can do, in 10^9 per second. Takes about a millisecond.
    pub fn gmacs(&self, pool: &Pool) -> f64 {
        let rounds = 250_000 / peak::CHAINS;
        wake(pool);
        let tasks = 8 * pool.threads();
        let start = Instant::now();
        pool.run(tasks, &|_| self.0.run(rounds));
        (tasks * rounds * peak::CHAINS * self.0.macs()) as f64 / start.elapsed().as_secs_f64() / 1e9
    }
}

/// The median of five passes of an [`Int8Probe`], if there is one for `isa`.
pub fn int8_gmacs(pool: &Pool, isa: Isa) -> Option<f64> {
    let probe = Int8Probe::new(isa)?;
    Some(median((0..5).map(|_| probe.gmacs(pool))))
}

/// What it costs to open and close a parallel region with nothing to do, in nanoseconds. Two states of a machine with
/// several core complexes can be told apart by it.
pub fn barrier_ns(pool: &Pool) -> f64 {
    const REGIONS: u32 = 1000;
    median((0..5).map(|_| {
        wake(pool);
        let start = Instant::now();
        for _ in 0..REGIONS {
            pool.run(pool.threads(), &|i| _ = black_box(i));
        }
        start.elapsed().as_secs_f64() * 1e9 / f64::from(REGIONS)
    }))
}

/// Regions until every worker, which may have parked, has taken part in one: until then they are not awake. Gives up
/// after 20 ms, since a busy machine may lack the cores.
fn wake(pool: &Pool) {
    let threads = pool.threads();
    let seen: Vec<AtomicBool> = (0..threads).map(|_| AtomicBool::new(false)).collect();
    let start = Instant::now();
    while !seen.iter().all(|seen| seen.load(Ordering::Relaxed)) && start.elapsed() < Duration::from_millis(20) {
        pool.run_with_slot(64 * threads, &|_, slot| {
            seen[slot].store(true, Ordering::Relaxed);
            (0..100).for_each(|_| std::hint::spin_loop());
        });
    }
}

/// The median of at least one value.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_plausible() {
        let pool = Pool::new(2);
        let probe = ReadProbe::new(8 << 20);
        for isa in Isa::available() {
            assert!(probe.gbps(&pool, isa) > 0.01);
            assert_eq!(int8_gmacs(&pool, isa).is_some(), isa != Isa::Scalar);
        }
        assert!(barrier_ns(&pool) > 0.0);
    }

    #[test]
    fn every_word_is_read() {
        let data: Vec<u64> = (0..256).map(|i| 1 << (i % 64)).collect();
        for isa in Isa::available() {
            let want = (0..8).map(|lane| data.iter().skip(lane).step_by(8).fold(0, |a, b| a ^ b)).collect::<Vec<_>>();
            assert_eq!(read(isa, &data).to_vec(), want);
        }
    }
}
