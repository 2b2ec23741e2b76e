//! The results, in the names of the JSON output.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::energy::{Energy, EnergySource};
use super::stats::Rate;

/// All results of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The machine and its limits.
    pub machine: Machine,
    /// A row for each combination, in order.
    pub rows: Vec<Row>,
    /// What could not be measured here.
    pub skipped: Vec<Skipped>,
}

/// The machine and its limits, measured in the same run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Machine {
    /// The name of the processor.
    pub cpu: String,
    /// Processors that the system shows.
    pub cores: usize,
    /// Sequential reads from memory, GB/s, by number of threads: the median of what was measured next to each repetition.
    pub read_gbps: BTreeMap<usize, f64>,
    /// Multiply-adds of int8 numbers, 10^9 per second, by instruction set, with the most threads of the run.
    pub int8_gmacs: BTreeMap<String, f64>,
    /// An empty parallel region, nanoseconds, by number of threads.
    pub barrier_ns: BTreeMap<usize, f64>,
    /// The GPUs that took part.
    pub gpu: Vec<GpuLimits>,
    /// What measures energy.
    pub energy: EnergySource,
}

/// A GPU and its limits.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GpuLimits {
    /// The device, as rows call it.
    pub device: String,
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    /// `vulkan`, `metal`, `dx12` or `gl`.
    pub api: String,
    /// Driver and version.
    pub driver: String,
    /// Sequential reads by a kernel, GB/s: the median of what was measured next to each repetition.
    pub read_gbps: f64,
    /// Copies from memory to memory, GB/s; each byte is read and written and counts twice.
    pub copy_gbps: f64,
    /// Multiply-adds of int8 numbers in registers, 10^9 per second, likewise the median.
    pub int8_gmacs: f64,
    /// What was measured of reads and multiply-adds.
    #[cfg(feature = "gpu")]
    #[serde(skip)]
    measured: [Vec<f64>; 2],
}

#[cfg(feature = "gpu")]
impl GpuLimits {
    /// Of an adapter, measured once.
    pub(super) fn new(
        device: &str,
        adapter: &crate::backend::gpu::AdapterSummary,
        rates: &crate::backend::gpu::Rates,
    ) -> GpuLimits {
        GpuLimits {
            device: device.to_owned(),
            name: adapter.name.clone(),
            kind: adapter.kind.to_owned(),
            api: adapter.api.to_owned(),
            driver: adapter.driver.clone(),
            read_gbps: rates.read_gbps,
            copy_gbps: rates.copy_gbps,
            int8_gmacs: rates.int8_gmacs,
            measured: [vec![], vec![]],
        }
    }

    /// Adds what was measured next to a repetition.
    pub(super) fn note(&mut self, read: Option<f64>, int8: Option<f64>) {
        self.measured.iter_mut().zip([read, int8]).for_each(|(all, new)| all.extend(new));
    }

    /// With the medians of what was noted.
    pub(super) fn finished(&self) -> GpuLimits {
        let middle = |values: &Vec<f64>, first: f64| match values.is_empty() {
            true => first,
            false => sterna_cpu::machine::median(values.iter().copied()),
        };
        let [read, int8] = &self.measured;
        GpuLimits { read_gbps: middle(read, self.read_gbps), int8_gmacs: middle(int8, self.int8_gmacs), ..self.clone() }
    }
}

/// A combination that was not measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    /// The model.
    pub model: String,
    /// The device.
    pub device: String,
    /// Which backend should have served which layer, where that was said.
    pub placement: Option<String>,
    /// Threads.
    pub threads: usize,
    /// Instruction set.
    pub isa: String,
    /// Layout of the ternary weights, where one was asked for.
    pub layout: Option<String>,
    /// Number type of the cache.
    pub kv: String,
    /// Why.
    pub reason: String,
}

/// What rows of this program call it.
pub const ENGINE: &str = "sterna";

/// How fast one combination is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    /// `sterna`, or the name of a peer.
    pub engine: String,
    /// The model.
    pub model: String,
    /// `pp` (prompt) or `tg` (generation).
    pub test: String,
    /// Tokens of the timed prompt.
    pub n_prompt: usize,
    /// Generated tokens.
    pub n_gen: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences at the same time.
    pub parallel: usize,
    /// Threads.
    pub threads: usize,
    /// The device.
    pub device: String,
    /// Which backend served which layer.
    pub placement: String,
    /// Instruction set of the CPU; absent where it computes no layer.
    pub isa: Option<String>,
    /// Layout of the ternary weights.
    pub layout: String,
    /// The matrix kernels.
    pub kernel: String,
    /// Number type of the cache.
    pub kv: String,
    /// The result.
    pub tokens_per_second: Rate,
    /// Bytes that must be read for one generated token: ternary weights and head, shared by all parallel sequences, and cached
    /// keys and values at the middle of the generation.
    pub bytes_per_token: Option<u64>,
    /// Multiply-adds with ternary weights for one token.
    pub macs_per_token: Option<u64>,
    /// What bounds the test: `read`, or `int8` for prompts and where so many sequences run together that it takes longer, or
    /// `mixed` where it is not the same on all devices that take part.
    pub limit: String,
    /// The bound in GB/s or 10^9 multiply-adds per second, measured next to the repetitions; of several devices, all that they
    /// read or multiply over the time that it takes each at its own bound, added. Absent where it cannot be measured, and if
    /// the limit is mixed.
    pub limit_rate: Option<f64>,
    /// The share of it that was reached: the time that the work of each device takes at its bound, added, over the time that
    /// was taken.
    pub limit_share: Option<f64>,
    /// Cores that other programs kept busy meanwhile, the median of the repetitions; absent where the system does not tell, for
    /// repetitions of less than 0.2 s, and of peers.
    pub others_busy: Option<f64>,
    /// Repetitions that were disturbed, each in the best of three tries: other programs kept more than a tenth of a core busy,
    /// or the bounds before and after were more than a tenth apart.
    pub unsteady: usize,
    /// What it took, where everything that computed is measured.
    pub energy: Option<Energy>,
}

impl Row {
    /// For people: the share of the limit, and how many of the repetitions were disturbed.
    pub fn describe_share(&self) -> String {
        let share = self.limit_share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share));
        match self.unsteady {
            0 => share,
            unsteady => format!("{share} ({unsteady} unsteady)").trim().to_owned(),
        }
    }
}
