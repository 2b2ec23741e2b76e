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
            pool.run_in_order(region % 100, &|i, _| _ = counts[i].fetch_add(1, Ordering::Relaxed));
        }
        for (i, count) in counts.iter().enumerate() {
            assert_eq!(count.load(Ordering::Relaxed) as usize, 20 * (99 - i), "task {i}");
        }
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
