//! Memory near to the threads that read it.

use std::ops::Range;

use bytemuck::Pod;

use crate::pool::{Pool, SharedSlice};

/// The threads that will read a matrix, and what they read in the same region.
#[derive(Clone, Copy, Debug)]
pub struct Readers<'a> {
    /// The threads.
    pub pool: &'a Pool,
    /// Rows of the matrices in front of it.
    pub before: usize,
    /// Rows of all matrices.
    pub all: usize,
}

impl Readers<'_> {
    /// Has each thread write first to what it will read of `memory`, which holds `rows` rows and is zero then.
    pub(crate) fn touch<T: Pod + Send>(self, memory: &mut [T], rows: usize) {
        self.write(memory, rows, |_, part| part.fill(T::zeroed()));
    }

    /// Has each thread write with `write` what it will read of `memory`, which holds `rows` rows: systems with several nodes
    /// of memory take a page from the node of the thread that first writes to it.
    pub(crate) fn write<T: Pod + Send>(
        self,
        memory: &mut [T],
        rows: usize,
        write: impl Fn(Range<usize>, &mut [T]) + Sync,
    ) {
        let len = memory.len();
        let shared = SharedSlice::new(memory);
        let start = |slot| {
            let row = self.pool.first_task(self.all, slot).clamp(self.before, self.before + rows) - self.before;
            (row as u64 * len as u64 / rows.max(1) as u64) as usize
        };
        self.pool.run_on_each(&|slot| {
            let (start, end) = (start(slot), start(slot + 1));
            // SAFETY: the shares of the slots do not overlap, and each slot is one thread's.
            write(start..end, unsafe { shared.range(start, end - start) });
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_touched_whoever_reads_it() {
        for threads in 1..=4 {
            let pool = Pool::new(threads);
            for (before, rows, all) in [(0, 10, 10), (0, 3, 50), (40, 10, 50), (13, 20, 50), (0, 0, 0), (5, 1, 6)] {
                let (mut memory, source) = (vec![1u8; rows * 7], (0..rows * 7).map(|i| i as u8).collect::<Vec<_>>());
                let readers = Readers { pool: &pool, before, all };
                readers.touch(&mut memory, rows);
                assert!(memory.iter().all(|&byte| byte == 0), "{before} {rows} {all}");
                readers.write(&mut memory, rows, |range, part| part.copy_from_slice(&source[range]));
                assert_eq!(memory, source, "{before} {rows} {all}");
            }
        }
    }
}
