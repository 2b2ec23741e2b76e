//! What a choice takes, and how long it runs.

use std::ops::Range;

use super::{Machine, Phases, Seconds, Workload};

/// A stage of a plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedStage {
    /// The layers.
    pub layers: Range<usize>,
    /// The device, as an index into [`Machine::devices`].
    pub device: usize,
    /// Whether prompts go through it, and whether generated tokens do.
    pub serves: [bool; 2],
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the key-value cache.
    pub cache: u64,
    /// Time of a token in it.
    pub seconds: Seconds,
}

/// Memory of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceMemory {
    /// Bytes of the weights.
    pub weights: u64,
    /// Bytes of the key-value cache.
    pub cache: u64,
    /// Bytes of the buffers.
    pub buffers: u64,
}

impl DeviceMemory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.cache + self.buffers
    }
}

/// What a choice takes, and how long it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The stages, in the order of their layers; those of prompts first where the phases differ.
    pub stages: Vec<PlannedStage>,
    /// What each device holds.
    pub memory: Vec<DeviceMemory>,
    /// Time of a token, crossings included. Stages of different devices that work on a prompt at the same time make it
    /// faster than that.
    pub token: Seconds,
    /// Of that, the crossings.
    pub crossings: Seconds,
    /// Time of handing over the key-value cache of the prompt of a request.
    pub handover: f64,
    /// Time of a request.
    pub request: f64,
}

impl Prediction {
    /// Whether every device has the memory, and the machine that of all devices which share it.
    pub fn fits(&self, machine: &Machine) -> bool {
        let devices = || machine.devices.iter().zip(&self.memory);
        let shared: u64 = devices().filter(|(device, _)| device.shares_memory).map(|(_, memory)| memory.total()).sum();
        devices().all(|(device, memory)| device.budget.is_none_or(|budget| memory.total() <= budget))
            && machine.memory.is_none_or(|memory| shared <= memory)
    }
}

/// The runs of layers between which one of the phases, or both, change the device.
pub(super) fn runs(phases: &Phases) -> impl Iterator<Item = Range<usize>> {
    let (prefill, decode) = (&phases.prefill, &phases.decode);
    let mut start = 0;
    (1..=prefill.len()).filter_map(move |end| {
        let ends = end == prefill.len() || prefill[end] != prefill[start] || decode[end] != decode[start];
        ends.then(|| std::mem::replace(&mut start, end)..end)
    })
}

/// What `phases`, which name a device for each layer, take on `machine`, and how long they run.
///
/// # Panics
/// If they do not name a device of the machine for each layer.
pub fn predict(machine: &Machine, workload: Workload, phases: &Phases) -> Prediction {
    let (prefill, decode) = (&phases.prefill, &phases.decode);
    let layers = machine.layers();
    assert!(prefill.len() == layers && decode.len() == layers, "a plan names a device for each layer");
    let mut out = Prediction {
        stages: Vec::new(),
        memory: vec![DeviceMemory::default(); machine.devices.len()],
        token: Seconds::default(),
        crossings: Seconds::default(),
        handover: 0.0,
        request: 0.0,
    };
    let mut before: Option<[usize; 2]> = None;
    for run in runs(phases) {
        let now = [prefill[run.start], decode[run.start]];
        let mut add = |device: usize, serves: [bool; 2]| {
            let facts = &machine.devices[device];
            let mut stage =
                PlannedStage { layers: run.clone(), device, serves, weights: 0, cache: 0, seconds: Seconds::default() };
            for layer in &facts.layers[run.clone()] {
                stage.weights += layer.weights;
                stage.cache += layer.cache;
                stage.seconds.prefill += layer.seconds.prefill;
                stage.seconds.decode += layer.seconds.decode;
            }
            if run == (0..layers) {
                stage.weights = stage.weights.saturating_sub(facts.shared_bytes);
            }
            let memory = &mut out.memory[device];
            memory.weights += stage.weights;
            memory.cache += stage.cache;
            memory.buffers += facts.stage_bytes;
            out.token.prefill += if serves[0] { stage.seconds.prefill } else { 0.0 };
            out.token.decode += if serves[1] { stage.seconds.decode } else { 0.0 };
            out.stages.push(stage);
        };
        if now[0] == now[1] {
            add(now[0], [true, true]);
        } else {
            add(now[0], [true, false]);
            add(now[1], [false, true]);
            let positions = workload.prompt as f64;
            out.handover += run.clone().map(|l| positions * machine.handover(l, now[0], now[1])).sum::<f64>();
        }
        if let Some(before) = before.replace(now) {
            out.crossings.prefill += machine.crossing(before[0], now[0]).prefill;
            out.crossings.decode += machine.crossing(before[1], now[1]).decode;
        }
    }
    out.token.prefill += out.crossings.prefill;
    out.token.decode += out.crossings.decode;
    out.request = workload.seconds(out.token) + out.handover;
    out
}
