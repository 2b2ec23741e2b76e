//! From backends and costs to the numbers of a plan.

use sterna_cpu::kv::{KvType, PAGE_LEN};

use super::cost::AssumedDevice;
use super::{BlockCost, CostSource};
use crate::backend::{Backend, BackendError, KvOptions, StageNeeds};
use crate::graph::planner::{DeviceFacts, LayerFacts, Link, Machine, Seconds, Workload};
use crate::graph::{Graph, Layer};

/// A device and what a block costs on it.
#[derive(Clone, Debug)]
pub struct Priced {
    /// What the planner is told.
    pub facts: DeviceFacts,
    /// What it is, for people.
    pub description: String,
    /// What a block costs.
    pub cost: BlockCost,
    /// Where that comes from.
    pub source: CostSource,
}

impl Priced {
    /// The device behind `backend`. What is not a block costs as many times as much as a block as it has bytes, and
    /// attention reads the cache at the rate of the weights.
    ///
    /// # Errors
    /// If the device cannot have the layers, or the file lacks a tensor.
    pub fn of(
        backend: &dyn Backend,
        graph: &Graph,
        kv: KvOptions,
        workload: Workload,
        cost: BlockCost,
        source: CostSource,
    ) -> Result<Priced, BackendError> {
        let needs = (0..graph.len()).map(|layer| backend.needs(graph, layer..layer + 1, kv));
        let needs = needs.collect::<Result<Vec<_>, _>>()?;
        let whole = backend.needs(graph, 0..graph.len(), kv)?;
        let memory = (backend.free_memory(), backend.shares_memory());
        let facts = facts(backend.name(), memory, graph, kv, workload, &cost, &needs, whole.weights);
        Ok(Priced { facts, description: backend.description(), cost, source })
    }
}

/// A device that is not there: its kernels take T16 and half precision.
///
/// # Errors
/// If the file lacks the embedding or head.
pub fn assumed(
    device: &AssumedDevice,
    graph: &Graph,
    kv: KvOptions,
    workload: Workload,
) -> Result<Priced, BackendError> {
    let config = graph.config();
    let matrix = (2 * config.vocab_size * config.hidden_size) as u64;
    let bytes = |kind: KvType| (kv.pages * PAGE_LEN * 2 * config.num_kv_heads * kind.bytes(config.head_dim)) as u64;
    let row = config.hidden_size + 2 * (config.q_size() + config.kv_size()) + 2 * config.intermediate_size;
    let buffers = (512 * size_of::<f32>() * row) as u64;
    let needs = |layer: usize| match graph.layer(layer) {
        Layer::Block(number, _) => StageNeeds { weights: graph.block_bytes(number), kv_cache: bytes(kv.kind), buffers },
        Layer::Embed | Layer::Head => StageNeeds { weights: matrix, kv_cache: 0, buffers },
    };
    let needs: Vec<StageNeeds> = (0..graph.len()).map(needs).collect();
    let shared = if graph.is_tied() { matrix } else { 0 };
    let whole = needs.iter().map(|needs| needs.weights).sum::<u64>() - shared;
    let cost = device.cost(graph, kv, needs.get(1).map_or(0, |block| block.weights));
    let facts = facts(&device.name, (Some(device.memory), false), graph, kv, workload, &cost, &needs, whole);
    Ok(Priced { facts, description: device.to_string(), cost, source: CostSource::Assumed })
}

#[allow(clippy::too_many_arguments, reason = "what is known of one device")]
fn facts(
    name: &str,
    (budget, shares_memory): (Option<u64>, bool),
    graph: &Graph,
    kv: KvOptions,
    workload: Workload,
    cost: &BlockCost,
    needs: &[StageNeeds],
    whole: u64,
) -> DeviceFacts {
    let positions = (kv.pages * PAGE_LEN).max(1) as f64;
    let per_byte = cost.block.decode / cost.bytes.max(1) as f64;
    let stage_bytes = needs.get(1).map_or(0, |block| block.buffers);
    let layer = |(layer, needs): (usize, &StageNeeds)| {
        let read = needs.weights as f64 + needs.kv_cache as f64 / positions * workload.depth();
        let seconds = match graph.layer(layer) {
            // A row of it is read.
            Layer::Embed => Seconds::default(),
            Layer::Block(..) => Seconds {
                prefill: cost.block.prefill * needs.weights as f64 / cost.bytes.max(1) as f64,
                decode: per_byte * read,
            },
            // Once for a prompt.
            Layer::Head => {
                Seconds { prefill: per_byte * read / workload.prompt.max(1) as f64, decode: per_byte * read }
            }
        };
        // What a head needs beyond the buffers of blocks.
        let more = needs.buffers.saturating_sub(stage_bytes);
        LayerFacts { weights: needs.weights + more, cache: needs.kv_cache, seconds }
    };
    let parts: u64 = needs.iter().map(|needs| needs.weights).sum();
    DeviceFacts {
        name: name.to_owned(),
        budget,
        shares_memory,
        layers: needs.iter().enumerate().map(layer).collect(),
        stage_bytes,
        shared_bytes: parts.saturating_sub(whole),
        link: cost.link.unwrap_or(Link::NONE),
    }
}

/// The machine that has these devices.
pub fn machine(devices: &[Priced], graph: &Graph, kv: KvOptions, chunk: usize) -> Machine {
    let shared = devices.iter().filter(|device| device.facts.shares_memory);
    Machine {
        memory: shared.filter_map(|device| device.facts.budget).max(),
        devices: devices.iter().map(|device| device.facts.clone()).collect(),
        hidden_bytes: (graph.config().hidden_size * size_of::<f32>()) as u64,
        positions: (kv.pages * PAGE_LEN) as u64,
        chunk,
    }
}
