//! The results, in the names of the JSON output.

use std::collections::BTreeMap;

use serde::Serialize;
use sterna_cpu::machine::median;

/// All results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The machine and its limits.
    pub machine: Machine,
    /// A row for each combination, in order.
    pub rows: Vec<Row>,
}

/// The machine and its limits, measured in the same run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Machine {
    /// The name of the processor.
    pub cpu: String,
    /// Processors that the system shows.
    pub cores: usize,
    /// Sequential reads from memory, GB/s, by number of threads: the median of what was measured next to each repetition.
    pub read_gbps: BTreeMap<usize, f64>,
    /// Multiply-adds of int8 numbers, 10^9 per second, by instruction set, with the most threads of the run.
    pub int8_gmacs: BTreeMap<&'static str, f64>,
    /// An empty parallel region, nanoseconds, by number of threads.
    pub barrier_ns: BTreeMap<usize, f64>,
}

/// Repetitions of one number.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// The middle value.
    pub median: f64,
    /// The smallest value.
    pub min: f64,
    /// The largest value.
    pub max: f64,
    /// Number of values.
    pub n: usize,
}

impl Rate {
    /// Of at least one value.
    pub(super) fn of(values: &[f64]) -> Rate {
        Rate {
            median: median(values.iter().copied()),
            min: values.iter().copied().fold(f64::INFINITY, f64::min),
            max: values.iter().copied().fold(0.0, f64::max),
            n: values.len(),
        }
    }
}

/// How fast one combination is.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The model.
    pub model: String,
    /// `pp` (prompt) or `tg` (generation).
    pub test: &'static str,
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
    /// Instruction set.
    pub isa: &'static str,
    /// Layout of the ternary weights.
    pub layout: &'static str,
    /// The matrix kernels.
    pub kernel: &'static str,
    /// Number type of the cache.
    pub kv: &'static str,
    /// The result.
    pub tokens_per_second: Rate,
    /// Bytes that must be read for one generated token: ternary weights, head, cached keys and values at the middle of the
    /// generation.
    pub bytes_per_token: u64,
    /// What bounds the test: `read` or `int8`.
    pub limit: &'static str,
    /// The bound in GB/s or 10^9 multiply-adds per second, measured next to the repetitions; absent where it cannot be
    /// measured.
    pub limit_rate: Option<f64>,
    /// The share of it that was reached.
    pub limit_share: Option<f64>,
}

/// One repetition: tokens per second, and the bound that was measured next to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repetition {
    pub(super) tokens_per_second: f64,
    pub(super) bound: Option<f64>,
}

/// Bounds this much apart belong to different states of the machine.
const STATES_APART: f64 = 1.3;

/// Groups the repetitions by the state that the machine was in: where the largest step between neighbouring bounds is a
/// big one, it separates two states. Their results are not averaged.
pub(super) fn by_state(mut repetitions: Vec<Repetition>) -> Vec<Vec<Repetition>> {
    let bound = |repetition: &Repetition| repetition.bound.unwrap_or(0.0);
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
        bounds.iter().map(|&bound| Repetition { tokens_per_second: bound, bound: Some(bound) }).collect()
    }

    #[test]
    fn states_are_kept_apart() {
        let states = by_state(repetitions(&[45.0, 76.0, 46.0, 75.0, 47.0]));
        assert_eq!(states.iter().map(Vec::len).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(by_state(repetitions(&[45.0, 50.0, 55.0, 58.0])).len(), 1);
        assert_eq!(by_state(repetitions(&[45.0])).len(), 1);
        let unknown = vec![Repetition { tokens_per_second: 1.0, bound: None }; 3];
        assert_eq!(by_state(unknown).len(), 1);
    }

    #[test]
    fn rates_have_median_and_range() {
        assert_eq!(Rate::of(&[3.0, 1.0, 2.0]), Rate { median: 2.0, min: 1.0, max: 3.0, n: 3 });
    }
}
