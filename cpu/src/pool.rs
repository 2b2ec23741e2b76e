//! The thread pool of the token loop: a parallel region costs about a microsecond.
//!
//! Workers spin for a short while after a region and then park, so that an idle pool takes no time. Work is claimed task by
//! task, so a core that is disturbed costs no more than its share; a worker that is late (parked, or taken off its core) is
//! not waited for.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::marker::PhantomData;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use core_affinity::CoreId;

use crate::prefetch::prefetch;

/// A worker parks after this long without work.
const SPIN: Duration = Duration::from_micros(500);

/// A worker offers its core to others only after this long: the call takes longer than a step between two regions.
const PATIENCE: Duration = Duration::from_micros(20);

/// Polls between two looks at the clock or offers of the core to others.
const POLLS: u32 = 64;

/// A cache line.
const LINE: usize = 64;

/// Keeps what one thread writes often off the cache lines of its neighbours (two lines: the prefetcher takes pairs).
#[repr(align(128))]
#[derive(Default)]
struct Padded<T>(T);

/// A task of a region: its index, and the slot of the thread that runs it.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Workers that run parallel regions.
pub struct Pool {
    shared: Arc<Shared>,
    /// One region at a time.
    region: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    /// The cores of the threads, the calling one's first; none if they may wander.
    cores: Vec<CoreId>,
}

struct Shared {
    /// Number of the region in the upper half, odd while it is open; workers inside it in the lower half.
    state: Padded<AtomicU64>,
    /// The next task to claim.
    next: Padded<AtomicUsize>,
    /// What is left for each thread of a region that was dealt out: first task in the upper half, end in the lower.
    hands: Vec<Padded<AtomicU64>>,
    /// What the open region runs. Written only while no worker is inside a region.
    work: UnsafeCell<Option<Work>>,
    /// What each worker fetches when it has left the region: where it will read in the next one.
    ahead: Vec<Padded<Ahead>>,
    /// Which workers are parked.
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Memory that will be read soon. It is only prefetched, so it may be gone.
#[derive(Default)]
struct Ahead {
    start: AtomicPtr<u8>,
    len: AtomicUsize,
}

#[derive(Clone, Copy)]
struct Work {
    task: *const Task<'static>,
    tasks: usize,
}

// SAFETY: `work` is written by the one thread that holds `Pool::region`, while the region is closed and no worker is
// counted as inside; workers read it only after they were counted in an open region. The task itself is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: the pointer in `work` is used only within a region, whose caller keeps the task alive.
unsafe impl Send for Shared {}

/// One region in the upper half of `Shared::state`.
const REGION: u64 = 1 << 32;

thread_local! {
    /// Whether this thread runs a task: regions inside regions run where they are.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// Whether this thread was bound to a core.
    static BOUND: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// A pool of `threads` threads, the calling one included (at least 1).
    pub fn new(threads: usize) -> Pool {
        Pool::on_cores(threads, Vec::new())
    }

    /// A pool whose threads stay on a core each, if the system can do that. A thread that calls the pool is bound to the
    /// first core when it first does so.
    pub fn pinned(threads: usize) -> Pool {
        Pool::on_cores(threads, core_affinity::get_core_ids().unwrap_or_default())
    }

    fn on_cores(threads: usize, cores: Vec<CoreId>) -> Pool {
        let workers = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: Padded::default(),
            next: Padded::default(),
            hands: (0..=workers).map(|_| Padded::default()).collect(),
            work: UnsafeCell::new(None),
            ahead: (0..workers).map(|_| Padded::default()).collect(),
            parked: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let spawn = |index| {
            let shared = Arc::clone(&shared);
            let core = if cores.is_empty() { None } else { Some(cores[(index + 1) % cores.len()]) };
            let name = format!("sterna-cpu-{}", index + 1);
            // A system that refuses threads leaves fewer of them: the tasks are claimed, so all the work is done.
            thread::Builder::new().name(name).spawn(move || shared.serve(index, core)).ok()
        };
        let workers = (0..workers).map_while(spawn).collect();
        Pool { shared, region: Mutex::new(()), workers, cores }
    }

    /// One thread per core that this process may use.
    pub fn default_threads() -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }

    /// Number of threads, the calling one included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Parallel regions so far; what ran on the calling thread alone is none.
    pub fn regions(&self) -> u64 {
        self.shared.state.0.load(Ordering::Relaxed) / REGION / 2
    }

    /// Runs `task(i)` once for each `i` in `0..tasks`, in any order, on all threads; returns when all are done.
    ///
    /// A call from inside a task runs on the thread that makes it. A panic in a task ends the region and goes on in the
    /// caller.
    pub fn run(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        self.run_with_slot(tasks, &|i, _| task(i));
    }

    /// As [`Pool::run`]; the task is also given a slot below [`Pool::threads`] and the number of tasks, which no other
    /// thread uses at the same time: an index to memory of its own.
    pub fn run_with_slot(&self, tasks: usize, task: &Task<'_>) {
        self.region(tasks, task, || ());
    }

    /// As [`Pool::run_with_slot`], for tasks that read memory one behind the other: each thread is dealt a run of
    /// adjacent tasks and takes them in order. Who is done early takes from the end of another's run.
    ///
    /// # Panics
    /// If there are 2^32 tasks or more, or as [`Pool::run`].
    pub fn run_in_order(&self, tasks: usize, task: &Task<'_>) {
        self.run_in_runs(tasks, 1, &|run, slot| run.for_each(|i| task(i, slot)));
    }

    /// As [`Pool::run_in_order`]; the task is given up to `most` adjacent tasks at a time, less when few are left: large
    /// pieces cost little, and small ones at the end keep the threads from waiting for each other.
    ///
    /// # Panics
    /// As [`Pool::run_in_order`].
    pub fn run_in_runs(&self, tasks: usize, most: usize, task: &(dyn Fn(Range<usize>, usize) + Sync)) {
        if self.is_alone(tasks) {
            (0..tasks).step_by(most).for_each(|i| task(i..tasks.min(i + most), 0));
            return;
        }
        let shared = &*self.shared;
        let threads = self.threads();
        let take_all = |_: usize, slot: usize| {
            while let Some(run) = shared.take(slot, most) {
                task(run, slot);
            }
        };
        self.region(threads.min(tasks), &take_all, || shared.deal(tasks));
    }

    /// Runs `task(slot)` once on each thread, with the slots of [`Pool::run_in_order`], and waits for all of them.
    pub fn run_on_each(&self, task: &(dyn Fn(usize) + Sync)) {
        let threads = self.threads();
        if self.is_alone(threads) {
            (0..threads).for_each(task);
            return;
        }
        // No thread takes a second task while another has none.
        let all_here = Barrier::new(threads);
        self.region(
            threads,
            &|_, slot| {
                all_here.wait();
                task(slot);
            },
            || (),
        );
    }

    /// The first task that [`Pool::run_in_order`] deals to the thread in `slot`.
    pub(crate) fn first_task(&self, tasks: usize, slot: usize) -> usize {
        self.shared.first_task(tasks, slot)
    }

    /// Tells the workers what they will read first in the region after the next one, by slot: they fetch it into their
    /// caches as soon as they have left the next one, while the calling thread prepares the other.
    pub(crate) fn read_ahead<'a>(&self, of_slot: impl Fn(usize) -> &'a [u8]) {
        for (slot, Padded(ahead)) in (1..).zip(&self.shared.ahead) {
            let memory = of_slot(slot);
            ahead.start.store(memory.as_ptr().cast_mut(), Ordering::Relaxed);
            ahead.len.store(memory.len(), Ordering::Relaxed);
        }
    }

    /// Whether a region runs on the calling thread alone. Every region asks: the thread is bound if it shall be.
    fn is_alone(&self, tasks: usize) -> bool {
        if let Some(&core) = self.cores.first() {
            bind(core);
        }
        tasks <= 1 || self.workers.is_empty() || INSIDE.get()
    }

    /// Runs a region; `prepare` is called while no other is open.
    fn region(&self, tasks: usize, task: &Task<'_>, prepare: impl FnOnce()) {
        if self.is_alone(tasks) {
            (0..tasks).for_each(|i| task(i, 0));
            return;
        }
        let _region = self.region.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        let task: *const Task<'_> = task;
        // SAFETY: only the lifetime changes. The region is closed and empty before this function returns, also when a
        // task panics, so no worker uses the task after that.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: this thread holds `region`, the last region is closed and empty.
        unsafe { *shared.work.get() = Some(Work { task, tasks }) };
        shared.next.0.store(0, Ordering::Relaxed);
        prepare();
        shared.state.0.fetch_add(REGION, Ordering::SeqCst);
        for (parked, worker) in shared.parked.iter().zip(&self.workers) {
            if parked.load(Ordering::SeqCst) && parked.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.claim(Work { task, tasks }, 0);
        // Closed: who is not inside by now stays outside.
        shared.state.0.fetch_add(REGION, Ordering::SeqCst);
        let mut polls = 0u32;
        while shared.state.0.load(Ordering::Acquire) & (REGION - 1) != 0 {
            polls += 1;
            if polls.is_multiple_of(POLLS) {
                thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }
}

/// Binds this thread to `core`, unless it was bound before.
fn bind(core: CoreId) {
    if !BOUND.replace(true) {
        // Where the system cannot do it the thread wanders, which is only slower.
        let _ = core_affinity::set_for_current(core);
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of its tasks; there is no other way for it to fail.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Gives each thread its share of the tasks.
    fn deal(&self, tasks: usize) {
        let tasks = u32::try_from(tasks).expect("fewer than 2^32 tasks") as usize;
        for (slot, hand) in self.hands.iter().enumerate() {
            let (first, end) = (self.first_task(tasks, slot) as u64, self.first_task(tasks, slot + 1) as u64);
            hand.0.store((first << 32) | end, Ordering::Relaxed);
        }
    }

    /// The first of the tasks that are dealt to the thread in `slot`.
    fn first_task(&self, tasks: usize, slot: usize) -> usize {
        slot * tasks / self.hands.len()
    }

    /// The next tasks of the thread in `slot`, at most `most` and half of what it has left; when it has none left, the
    /// last of another.
    fn take(&self, slot: usize, most: usize) -> Option<Range<usize>> {
        let bounds = |hand: u64| (hand >> 32, hand & u64::from(u32::MAX));
        let count = |(first, end): (u64, u64)| (end.saturating_sub(first).div_ceil(2)).min(most as u64);
        let run = |first: u64, count: u64| first as usize..(first + count) as usize;
        let Padded(own) = &self.hands[slot];
        let own = own.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hand| {
            Some(count(bounds(hand))).filter(|&count| count > 0).map(|count| hand + (count << 32))
        });
        if let Ok(hand) = own {
            return Some(run(bounds(hand).0, count(bounds(hand))));
        }
        let others = self.hands[slot + 1..].iter().chain(&self.hands[..slot]);
        let mut taken = others.filter_map(|Padded(hand)| {
            let taken = hand.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |hand| {
                Some(count(bounds(hand))).filter(|&count| count > 0).map(|count| hand - count)
            });
            taken.ok().map(|hand| run(bounds(hand).1 - count(bounds(hand)), count(bounds(hand))))
        });
        taken.next()
    }

    /// Claims and runs tasks until none is left. A panic is kept for the caller of the region.
    fn claim(&self, work: Work, slot: usize) {
        INSIDE.set(true);
        // SAFETY: the caller of the region keeps the task alive until every thread has left the region.
        let task = unsafe { &*work.task };
        let result = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let i = self.next.0.fetch_add(1, Ordering::Relaxed);
                if i >= work.tasks {
                    break;
                }
                task(i, slot);
            }
        }));
        INSIDE.set(false);
        if let Err(payload) = result {
            // No more tasks are started.
            self.next.0.store(work.tasks, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
        }
    }

    /// The life of worker `index`.
    fn serve(&self, index: usize, core: Option<CoreId>) {
        if let Some(core) = core {
            bind(core);
        }
        let mut last = 0;
        while let Some(region) = self.wait(index, last) {
            last = region;
            // SAFETY: the worker is counted as inside an open region.
            let work = unsafe { *self.work.get() };
            if let Some(work) = work.filter(|work| index + 1 < work.tasks) {
                self.claim(work, index + 1);
            }
            self.state.0.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an open region other than `last` and enters it; `None` when the pool ends.
    fn wait(&self, index: usize, last: u64) -> Option<u64> {
        let mut polls = 0u32;
        let mut since = None;
        let Padded(ahead) = &self.ahead[index];
        let (start, len) = (ahead.start.load(Ordering::Relaxed), ahead.len.swap(0, Ordering::Relaxed));
        let mut fetched = 0;
        loop {
            let state = self.state.0.load(Ordering::SeqCst);
            let region = state / REGION;
            if region % 2 == 1 && region != last {
                let entered = self.state.0.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::Relaxed);
                if entered.is_ok() {
                    return Some(region);
                }
                continue;
            }
            if self.stop.load(Ordering::SeqCst) {
                return None;
            }
            if fetched < len {
                prefetch(start, fetched);
                fetched += LINE;
                continue;
            }
            polls += 1;
            if !polls.is_multiple_of(POLLS) {
                std::hint::spin_loop();
                continue;
            }
            let waited = since.get_or_insert_with(Instant::now).elapsed();
            if waited < SPIN {
                if waited > PATIENCE {
                    thread::yield_now();
                }
                continue;
            }
            // The flag, then another look: a region that opens in between sees the flag or is seen here.
            self.parked[index].store(true, Ordering::SeqCst);
            let state = self.state.0.load(Ordering::SeqCst) / REGION;
            if (state.is_multiple_of(2) || state == last) && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            self.parked[index].store(false, Ordering::SeqCst);
            since = None;
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

/// A slice that the tasks of a region write to in disjoint parts.
pub(crate) struct SharedSlice<'a, T> {
    start: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: the unsafe methods make their callers promise that no two threads use the same elements.
unsafe impl<T: Send> Sync for SharedSlice<'_, T> {}

impl<'a, T> SharedSlice<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> SharedSlice<'a, T> {
        SharedSlice { start: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// `len` elements from `start`.
    ///
    /// # Safety
    /// No other reference to any of them may be in use at the same time.
    #[allow(clippy::mut_from_ref, reason = "that is what the type is for; the callers promise disjoint parts")]
    pub(crate) unsafe fn range(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "shared slice: out of range");
        // SAFETY: in bounds by the check above; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }

    /// Asks for the cache line of element `index`, which need not exist.
    pub(crate) fn prefetch(&self, index: usize) {
        prefetch(self.start.wrapping_add(index).cast(), 0);
    }
}

/// Runs `task(row, x[row])` for each row of `x`, `[rows, cols]`, on the threads of `pool`.
///
/// # Panics
/// If `x` does not consist of whole rows.
pub fn for_each_row(pool: &Pool, x: &mut [f32], cols: usize, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    assert!(x.len().is_multiple_of(cols), "for_each_row: whole rows");
    let rows = x.len() / cols;
    let shared = SharedSlice::new(x);
    pool.run(rows, &|row| {
        // SAFETY: each row belongs to one task.
        task(row, unsafe { shared.range(row * cols, cols) });
    });
}

#[cfg(test)]
mod tests;
