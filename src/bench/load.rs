//! What other programs do while something is measured: they take cores, and memory bandwidth, of which no limit knows.

use std::time::Instant;

use sysinfo::{MINIMUM_CPU_UPDATE_INTERVAL, Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// The processors at some moment.
pub(super) struct Load {
    system: System,
    pid: Pid,
    /// Seconds that this process had taken.
    own: f64,
    start: Instant,
}

impl Load {
    /// The processors now. `None` if the system does not tell.
    pub(super) fn now() -> Option<Load> {
        let (mut system, pid) = (System::new().ok()?, sysinfo::get_current_pid().ok()?);
        system.refresh_cpu_usage();
        let own = seconds_of(&mut system, pid)?;
        Some(Load { system, pid, own, start: Instant::now() })
    }

    /// Cores that other programs have kept busy since then, on the average. `None` if that was too short a time ago for the
    /// system to tell (0.2 s).
    pub(super) fn others(mut self) -> Option<f64> {
        let elapsed = self.start.elapsed();
        if elapsed < MINIMUM_CPU_UPDATE_INTERVAL {
            return None;
        }
        self.system.refresh_cpu_usage();
        let all = f64::from(self.system.global_cpu_usage()) / 100.0 * self.system.cpus().len() as f64;
        let own = (seconds_of(&mut self.system, self.pid)? - self.own) / elapsed.as_secs_f64();
        all.is_finite().then(|| (all - own).max(0.0))
    }
}

/// Seconds of processors that a process has taken.
fn seconds_of(system: &mut System, pid: Pid) -> Option<f64> {
    let what = ProcessRefreshKind::nothing().with_cpu().without_tasks();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), false, what);
    Some(system.process(pid)?.accumulated_cpu_time() as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_others_take_is_told() {
        let load = || Load::now().expect("this system tells");
        assert_eq!(load().others(), None, "too short");
        if !cfg!(unix) {
            return;
        }
        let mut other = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        std::thread::sleep(Duration::from_millis(100));
        let load = load();
        std::thread::sleep(Duration::from_millis(600));
        let others = load.others();
        other.kill().and_then(|()| other.wait()).expect("it runs until then");
        let others = others.expect("this system tells");
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        // Unless the machine is so busy that the shell gets less; then others take all the more.
        assert!(others > 0.5 && others < cores.max(1.0) * 1.5, "{others}");
    }

    #[test]
    fn what_this_process_does_is_not_others() {
        let mut load = Load::now().expect("this system tells");
        while load.start.elapsed() < Duration::from_millis(300) {
            std::hint::spin_loop();
        }
        let taken = seconds_of(&mut load.system, load.pid).expect("this process") - load.own;
        let others = load.others().expect("this system tells");
        assert!(taken > 0.05, "{taken}");
        // All that is busy, without the loop.
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        assert!(others <= cores - taken / 0.3 + 0.3, "{others} of {cores} cores, {taken} s here");
    }
}
