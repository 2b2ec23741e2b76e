//! An idle pool takes no processor time.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::time::Duration;

use sterna_cpu::Pool;

/// Nanoseconds that the threads of this process have run.
fn cpu_time() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let time = |stat: String| stat.split(' ').next().unwrap().parse::<u64>().unwrap();
    tasks.map(|task| time(std::fs::read_to_string(task.unwrap().path().join("schedstat")).unwrap())).sum()
}

#[test]
fn threads_sleep_after_a_tenth_of_a_second() {
    let pool = Pool::new(4);
    pool.run(64, &|i| _ = std::hint::black_box(i));
    std::thread::sleep(Duration::from_millis(100));
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(300));
    let used = cpu_time() - before;
    assert!(used < 3_000_000, "{used} ns in 300 ms");
}
