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
    /// The GPUs that served combinations alone.
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
    /// What bounds the test: `read`, or `int8` for prompts and where so many sequences run together that it takes longer.
    pub limit: String,
    /// The bound in GB/s or 10^9 multiply-adds per second, measured next to the repetitions; absent where it cannot be
    /// measured.
    pub limit_rate: Option<f64>,
    /// The share of it that was reached.
    pub limit_share: Option<f64>,
    /// What it took, where everything that computed is measured.
    pub energy: Option<Energy>,
}

/// One repetition: tokens per second, and the bounds that were measured next to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repetition {
    pub(super) tokens_per_second: f64,
    pub(super) bounds: Bounds,
    /// Joules, where they are measured.
    pub(super) joules: Option<f64>,
}

/// What the devices of a combination can do at most, where that is known.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Bounds {
    /// Reads from memory, GB/s.
    pub(super) read: Option<f64>,
    /// Multiply-adds of int8 numbers, 10^9 per second.
    pub(super) int8: Option<f64>,
}

impl Bounds {
    /// Between two measurements.
    pub(super) fn middle(self, other: Bounds) -> Bounds {
        let middle = |a: Option<f64>, b: Option<f64>| a.zip(b).map(|(a, b)| (a + b) / 2.0);
        Bounds { read: middle(self.read, other.read), int8: middle(self.int8, other.int8) }
    }

    /// The one that tells states of the machine apart: that of memory, where it was measured.
    fn state(self) -> f64 {
        self.read.or(self.int8).unwrap_or(0.0)
    }
}

/// Bounds this much apart belong to different states of the machine.
const STATES_APART: f64 = 1.3;

/// Groups the repetitions by the state that the machine was in: where the largest step between neighbouring bounds is a
/// big one, it separates two states. Their results are not averaged.
pub(super) fn by_state(mut repetitions: Vec<Repetition>) -> Vec<Vec<Repetition>> {
    let bound = |repetition: &Repetition| repetition.bounds.state();
    repetitions.sort_by(|a, b| bound(a).total_cmp(&bound(b)));
    let step = |i: &usize| bound(&repetitions[*i]) / bound(&repetitions[i - 1]).max(f64::MIN_POSITIVE);
    let widest = (1..repetitions.len()).max_by(|a, b| step(a).total_cmp(&step(b)));
    match widest.filter(|i| bound(&repetitions[i - 1]) > 0.0 && step(i) >= STATES_APART) {
        Some(i) => {
            let fast = repetitions.split_off(i);
            vec![repetitions, fast]
        }
        None => vec![repetitions],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repetitions(bounds: &[f64]) -> Vec<Repetition> {
        let repetition = |&read: &f64| Repetition {
            tokens_per_second: read,
            bounds: Bounds { read: Some(read), int8: None },
            joules: None,
        };
        bounds.iter().map(repetition).collect()
    }

    #[test]
    fn states_are_kept_apart() {
        let states = by_state(repetitions(&[45.0, 76.0, 46.0, 75.0, 47.0]));
        assert_eq!(states.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(by_state(repetitions(&[45.0, 50.0, 55.0, 58.0])).len(), 1);
        assert_eq!(by_state(repetitions(&[45.0])).len(), 1);
        let unknown = vec![Repetition { tokens_per_second: 1.0, bounds: Bounds::default(), joules: None }; 3];
        assert_eq!(by_state(unknown).len(), 1);
    }
}
