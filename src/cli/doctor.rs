//! `sterna doctor`: what this machine offers, and what would make it faster.

use std::fmt::Write as _;
use std::time::Instant;

use serde::Serialize;
use sterna::{Isa, Layout, tune};
use sterna_cpu::{Kernels, Pool, machine};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::graphics::Graphics;

/// Arguments of `sterna doctor`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What was found.
#[derive(Serialize)]
struct Findings {
    cpu: String,
    cores: usize,
    memory_total: u64,
    memory_available: u64,
    isa: &'static str,
    kernels: Vec<KernelCheck>,
    /// GB/s, by 1 and by all threads.
    read_gbps: [f64; 2],
    barrier_ns: f64,
    huge_pages: Option<String>,
    governor: Option<String>,
    graphics: Graphics,
    advice: Vec<String>,
}

/// A kernel against the definition.
#[derive(Serialize)]
struct KernelCheck {
    isa: &'static str,
    layout: &'static str,
    kernel: &'static str,
    correct: bool,
    check_ms: f64,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let findings = Findings::gather()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", findings.as_text());
    }
    anyhow::ensure!(findings.kernels.iter().all(|check| check.correct), "a kernel computes wrong sums on this machine");
    Ok(())
}

impl Findings {
    fn gather() -> anyhow::Result<Findings> {
        let what = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let system = System::new_with_specifics(what)?;
        let isa = Isa::from_env()?;
        let (one, all) = (Pool::new(1), Pool::new(Pool::default_threads()));
        let mut findings = Findings {
            cpu: tune::cpu_name(),
            cores: all.threads(),
            memory_total: system.total_memory(),
            memory_available: system.available_memory(),
            isa: isa.name(),
            kernels: kernel_checks(),
            read_gbps: [machine::read_gbps(&one, isa), machine::read_gbps(&all, isa)],
            barrier_ns: machine::barrier_ns(&all),
            huge_pages: setting("/sys/kernel/mm/transparent_hugepage/enabled").map(|modes| chosen(&modes)),
            governor: setting("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            graphics: Graphics::gather(),
            advice: Vec::new(),
        };
        findings.advice = findings.advise();
        Ok(findings)
    }

    /// What would make this machine faster.
    fn advise(&self) -> Vec<String> {
        let mut advice = Vec::new();
        if self.isa != Isa::detect().name() {
            advice.push(format!("STERNA_ISA={} holds back {}: unset it", self.isa, Isa::detect()));
        }
        if self.isa == Isa::Scalar.name() {
            advice.push(
                "this processor has no vector instructions that Sterna knows: expect a few tokens a second".into(),
            );
        }
        if self.huge_pages.as_deref() == Some("never") {
            advice.push(
                "huge pages are off: `echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled` makes reading \
                 weights a few percent faster"
                    .into(),
            );
        }
        if let Some(governor) = self.governor.as_deref().filter(|governor| *governor == "powersave") {
            advice.push(format!("the frequency governor is {governor}: `sudo cpupower frequency-set -g performance`"));
        }
        if self.memory_available < 2 << 30 {
            advice.push("less than 2 GB of memory are free: models beyond 2B parameters will be read from disk".into());
        }
        if self.barrier_ns > 2000.0 {
            advice.push(format!(
                "a parallel region takes {:.1} µs: other programs use the cores, or there are fewer than the system says; \
                 try --threads {}",
                self.barrier_ns / 1000.0,
                (self.cores / 2).max(1)
            ));
        }
        advice.extend(self.graphics.advice());
        advice
    }

    fn as_text(&self) -> String {
        let mut out = String::new();
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "{name:<16} {value}");
        };
        row("processor", format!("{}, {} cores", self.cpu, self.cores));
        row("memory", format!("{:.1} GiB, {:.1} free", gib(self.memory_total), gib(self.memory_available)));
        let [one, all] = self.read_gbps;
        row("reads", format!("{one:.1} GB/s with 1 thread, {all:.1} with {}", self.cores));
        row("parallel region", format!("{:.2} µs with {} threads", self.barrier_ns / 1000.0, self.cores));
        row("huge pages", self.huge_pages.clone().unwrap_or_else(|| "unknown".into()));
        row("governor", self.governor.clone().unwrap_or_else(|| "not shown by this system".into()));
        match self.graphics.adapters.as_deref() {
            None => row("GPU", "this build cannot use GPUs".into()),
            Some([]) => row("GPU", "none found".into()),
            Some(adapters) => adapters.iter().for_each(|adapter| row("GPU", adapter.clone())),
        }
        let drivers =
            if self.graphics.drivers.is_empty() { "none found".into() } else { self.graphics.drivers.join(", ") };
        row("Vulkan drivers", drivers);
        row("instruction set", self.isa.into());
        for check in &self.kernels {
            let verdict = if check.correct { "correct" } else { "WRONG" };
            row(
                "",
                format!(
                    "{:<9} {:<7} {:<22} {verdict} ({:.2} ms)",
                    check.isa, check.layout, check.kernel, check.check_ms
                ),
            );
        }
        if self.advice.is_empty() {
            row("advice", "none: this machine is set up well".into());
        }
        for advice in &self.advice {
            row("advice", advice.clone());
        }
        out
    }
}

/// Every kernel that this machine can run, checked as at the start of a run.
fn kernel_checks() -> Vec<KernelCheck> {
    let combinations =
        Isa::available().flat_map(|isa| Layout::ALL.into_iter().map(move |layout| Kernels::with(isa, layout)));
    let mut checks: Vec<KernelCheck> = Vec::new();
    for kernels in combinations {
        if checks.iter().any(|check| check.kernel == kernels.name()) {
            continue;
        }
        let start = Instant::now();
        let correct = kernels.verify().is_ok();
        checks.push(KernelCheck {
            isa: kernels.isa().name(),
            layout: kernels.layout().name(),
            kernel: kernels.name(),
            correct,
            check_ms: start.elapsed().as_secs_f64() * 1000.0,
        });
    }
    checks
}

/// A setting of the Linux kernel, where there is one.
fn setting(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The mode in brackets of a list such as `always [madvise] never`.
fn chosen(modes: &str) -> String {
    let inner = modes.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inner.map_or(modes, |(mode, _)| mode).to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_chosen_mode_is_read() {
        assert_eq!(super::chosen("always [madvise] never"), "madvise");
        assert_eq!(super::chosen("never"), "never");
    }

    #[test]
    fn every_kernel_of_this_machine_is_correct() {
        let checks = super::kernel_checks();
        assert!(!checks.is_empty() && checks.iter().all(|check| check.correct));
    }
}
