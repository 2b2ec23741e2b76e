use super::*;
use std::sync::atomic::AtomicU32;

#[test]
fn every_task_runs_once_in_many_regions() {
    for threads in 1..=4 {
        let pool = Pool::new(threads);
        let counts: Vec<AtomicU32> = (0..100).map(|_| AtomicU32::new(0)).collect();
        for region in 0..2000 {
            pool.run_with_slot(region % 100, &|i, slot| {
                assert!(slot < threads.min(region % 100));
                counts[i].fetch_add(1, Ordering::Relaxed);
            });
        }
        for (i, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed) as usize, 20 * (99 - i), "task {i}");
        }
    }
}

#[test]
fn tasks_in_order_run_once_each() {
    for threads in 1..=4 {
        let pool = Pool::new(threads);
        let counts: Vec<AtomicU32> = (0..100).map(|_| AtomicU32::new(0)).collect();
        for region in 0..2000 {
            pool.run_in_runs(region % 100, 1 + region % 7, &|run, _| {
                assert!(!run.is_empty() && run.len() <= 1 + region % 7);
                run.for_each(|i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
            });
        }
        for (i, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed) as usize, 20 * (99 - i), "task {i}");
        }
    }
}

#[test]
fn each_thread_is_asked_once() {
    for threads in 1..=4 {
        let pool = Pool::new(threads);
        for _ in 0..50 {
            let ids = Mutex::new(Vec::new());
            pool.run_on_each(&|slot| ids.lock().expect("no panic").push((slot, thread::current().id())));
            let mut ids = ids.into_inner().expect("no panic");
            ids.sort_by_key(|id| id.0);
            assert_eq!(ids.iter().map(|id| id.0).collect::<Vec<_>>(), (0..threads).collect::<Vec<_>>());
            let different: std::collections::HashSet<_> = ids.iter().map(|id| id.1).collect();
            assert_eq!(different.len(), threads);
        }
        // Inside a region there is one thread.
        let count = AtomicU32::new(0);
        pool.run(1, &|_| pool.run_on_each(&|_| _ = count.fetch_add(1, Ordering::Relaxed)));
        assert_eq!(count.into_inner(), threads as u32);
    }
}

#[test]
fn slots_are_used_by_one_thread_at_a_time() {
    let pool = Pool::new(4);
    let busy: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
    for _ in 0..200 {
        pool.run_with_slot(16, &|_, slot| {
            assert!(!busy[slot].swap(true, Ordering::SeqCst));
            std::hint::black_box((0..100).sum::<u32>());
            assert!(busy[slot].swap(false, Ordering::SeqCst));
        });
    }
}

#[test]
fn regions_inside_regions_and_from_several_threads_work() {
    let pool = Pool::new(3);
    let sum = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.run(4, &|_| pool.run(5, &|i| _ = sum.fetch_add(i as u32, Ordering::Relaxed)));
                }
            });
        }
    });
    assert_eq!(sum.into_inner(), 3 * 100 * 4 * 10);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = Pool::new(3);
    for round in 0..50 {
        let result = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert!(i != round % 8, "task {i}"))));
        assert!(result.is_err());
        let sum = AtomicU32::new(0);
        pool.run(8, &|i| _ = sum.fetch_add(i as u32, Ordering::Relaxed));
        assert_eq!(sum.into_inner(), 28);
    }
}

#[test]
fn parked_workers_wake() {
    let pool = Pool::new(2);
    for _ in 0..3 {
        let start = Instant::now();
        let parks = || pool.shared.parked[0].load(Ordering::SeqCst);
        while !parks() && start.elapsed() < Duration::from_secs(10) {
            thread::sleep(SPIN);
        }
        assert!(parks(), "the worker parks");
        let ran_by_worker = AtomicBool::new(false);
        let start = Instant::now();
        while !ran_by_worker.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(10) {
            pool.run_with_slot(64, &|_, slot| {
                ran_by_worker.fetch_or(slot == 1, Ordering::Relaxed);
                thread::yield_now();
            });
        }
        assert!(ran_by_worker.into_inner());
    }
}

#[test]
fn pinned_pools_work_and_regions_are_counted() {
    let pool = Pool::pinned(2);
    let sum = AtomicU32::new(0);
    for tasks in [5, 1, 7] {
        pool.run(tasks, &|i| _ = sum.fetch_add(i as u32, Ordering::Relaxed));
    }
    assert_eq!((sum.into_inner(), pool.regions()), (10 + 21, 2));
}
