//! A plan as it is shown.

use serde::Serialize;

use super::facts::Priced;
use super::{CostSource, Phases, Prediction, Seconds, Workload};
use crate::graph::planner::{self, Machine};

/// A plan: which device has what, what that takes, how fast it will be.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The model.
    pub model: String,
    /// Positions of the key-value cache.
    pub positions: u64,
    /// Number type of the cache.
    pub kv: &'static str,
    /// What the plan is made for.
    pub workload: Workload,
    /// The devices.
    pub devices: Vec<DeviceRow>,
    /// Devices that were left out, and why.
    pub left_out: Vec<String>,
    /// Why this cannot be run: it does not fit. The numbers are then those of devices with memory enough.
    pub problem: Option<String>,
    /// Which device serves which layer, for prompts and for generated tokens.
    pub placement: PhaseRow<String>,
    /// The stages, in the order of their layers.
    pub stages: Vec<StageRow>,
    /// Milliseconds of a token, crossings included.
    pub token_ms: PhaseRow<f64>,
    /// Of that, the crossings.
    pub crossing_ms: PhaseRow<f64>,
    /// Tokens per second.
    pub tokens_per_second: PhaseRow<f64>,
    /// Milliseconds for handing the key-value cache of a prompt over.
    pub handover_ms: f64,
    /// Seconds of a request of the workload.
    pub request_s: f64,
}

/// A number for each phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PhaseRow<T> {
    /// Prompts.
    pub prefill: T,
    /// Generated tokens.
    pub decode: T,
}

impl PhaseRow<f64> {
    fn ms(seconds: Seconds) -> PhaseRow<f64> {
        PhaseRow { prefill: 1e3 * seconds.prefill, decode: 1e3 * seconds.decode }
    }
}

/// A device.
#[derive(Clone, Debug, Serialize)]
pub struct DeviceRow {
    /// Its name in placements.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Bytes that are free there, where that is known.
    pub memory: Option<u64>,
    /// Bytes of weights, cache and buffers that the plan puts there.
    pub weights: u64,
    /// As above.
    pub kv_cache: u64,
    /// As above.
    pub buffers: u64,
    /// Milliseconds of a token in a block.
    pub block_ms: PhaseRow<f64>,
    /// Where that comes from.
    pub source: CostSource,
}

/// A stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageRow {
    /// First and last layer: 0 is the embedding, then come the blocks, then the head.
    pub layers: [usize; 2],
    /// The device.
    pub device: String,
    /// Whether prompts and whether generated tokens go through it.
    pub serves: PhaseRow<bool>,
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the cache.
    pub kv_cache: u64,
    /// Milliseconds of a token in it.
    pub ms: PhaseRow<f64>,
}

impl Report {
    /// The report on a prediction for `phases` on `devices`.
    pub fn new(
        model: String,
        kv: &'static str,
        workload: Workload,
        machine: &Machine,
        devices: &[Priced],
        phases: &Phases,
        prediction: &Prediction,
    ) -> Report {
        let device = |(priced, memory): (&Priced, &planner::DeviceMemory)| DeviceRow {
            name: priced.facts.name.clone(),
            description: priced.description.clone(),
            memory: priced.facts.budget,
            weights: memory.weights,
            kv_cache: memory.cache,
            buffers: memory.buffers,
            block_ms: PhaseRow::ms(priced.cost.block),
            source: priced.source,
        };
        let stage = |stage: &planner::PlannedStage| StageRow {
            layers: [stage.layers.start, stage.layers.end - 1],
            device: machine.devices[stage.device].name.clone(),
            serves: PhaseRow { prefill: stage.serves[0], decode: stage.serves[1] },
            weights: stage.weights,
            kv_cache: stage.cache,
            ms: PhaseRow::ms(stage.seconds),
        };
        let placement = |assignment| planner::placement(machine, assignment).to_string();
        let token = prediction.token;
        Report {
            model,
            positions: machine.positions,
            kv,
            workload,
            devices: devices.iter().zip(&prediction.memory).map(device).collect(),
            left_out: Vec::new(),
            problem: None,
            placement: PhaseRow { prefill: placement(&phases.prefill), decode: placement(&phases.decode) },
            stages: prediction.stages.iter().map(stage).collect(),
            token_ms: PhaseRow::ms(token),
            crossing_ms: PhaseRow::ms(prediction.crossings),
            tokens_per_second: PhaseRow { prefill: 1.0 / token.prefill, decode: 1.0 / token.decode },
            handover_ms: 1e3 * prediction.handover,
            request_s: prediction.request,
        }
    }
}
