//! What a generated token costs each stage, counted: dispatches, submissions, bytes.

use serde::Serialize;

use super::spec::PROMPT;
use crate::backend::{Counters, LogitsFor};
use crate::engine::Work;
use crate::graph::Layer;
use crate::{Error, KvType, Model};

/// The cost of one token on one stage.
#[derive(Clone, Debug, Serialize)]
pub struct StageCost {
    /// First and last layer: 0 is the embedding, then come the blocks, then the head.
    pub layers: [usize; 2],
    /// The backend.
    pub backend: String,
    /// Starts of kernels; `None` where the backend does not count.
    pub dispatches: Option<u64>,
    /// Command buffers.
    pub submissions: Option<u64>,
    /// Bytes that come back.
    pub readback: Option<u64>,
    /// Name, starts and bytes read of each kernel.
    pub kernels: Vec<(&'static str, u64, u64)>,
    /// Bytes that are read.
    pub bytes: u64,
    /// Bytes that must be read: weights at 2 bits, the head as the stage keeps it, the cached keys and values.
    pub least_bytes: u64,
}

/// Counts what one token costs behind `depth` tokens (at least a few), greedily sampled.
///
/// # Errors
/// If the tokens do not fit or a device fails.
pub fn explain(model: &Model, depth: usize, kv: KvType) -> Result<Vec<StageCost>, Error> {
    let depth = depth.max(PROMPT);
    let vocab = model.config().vocab_size as u32;
    let text: Vec<u32> = (0..depth as u32).map(|i| (i * 31 + 7) % vocab).collect();
    let mut engine = model.engine();
    let sequence = engine.create();
    let best = crate::backend::Best { count: 1, margin: 0.0, also: &[], temperature: None };
    let mut run = |tokens: &[u32]| {
        let work = [Work { sequence, tokens, logits: LogitsFor::Best(best) }];
        engine.forward(&work, &mut |_, _, _| Ok(()), None)?;
        let stages = engine.executor().stages().map(|(layers, backend, memory)| (layers, backend.to_owned(), memory));
        let stages: Vec<_> = stages.collect();
        let counted: Vec<(usize, Counters)> =
            engine.executor().counters().map(|(layers, _, counters)| (layers.start, counters)).collect();
        Ok::<_, Error>((stages, counted))
    };
    let result = run(&text).and_then(|(_, before)| Ok((before, run(&[1])?)));
    engine.release(sequence);
    let (before, (stages, after)) = result?;
    let find = |counted: &[(usize, Counters)], start| counted.iter().find(|(s, _)| *s == start).map(|(_, c)| c.clone());
    let graph = model.graph();
    let config = model.config();
    Ok(stages
        .into_iter()
        .map(|(layers, backend, memory)| {
            let counted = find(&after, layers.start).zip(find(&before, layers.start)).map(|(a, b)| a.since(&b));
            let blocks = layers.clone().filter_map(|layer| match graph.layer(layer) {
                Layer::Block(_, block) => Some(block),
                _ => None,
            });
            let (mut weights, mut cached) = (0, 0);
            for block in blocks {
                weights += block.linears().map(|l| (l.rows * l.cols) as u64).sum::<u64>().div_ceil(4);
                cached += (depth as u64 + 1) * (2 * config.num_kv_heads * kv.bytes(config.head_dim)) as u64;
            }
            let kernels = counted.as_ref().map_or(Vec::new(), |counted| {
                counted.kernels.iter().map(|(name, count)| (*name, count.dispatches, count.bytes)).collect()
            });
            StageCost {
                layers: [layers.start, layers.end - 1],
                backend,
                dispatches: counted.as_ref().map(Counters::dispatches),
                submissions: counted.as_ref().map(|counted| counted.submissions),
                readback: counted.as_ref().map(|counted| counted.readback),
                kernels,
                bytes: counted.as_ref().map_or(memory.weights + memory.head + cached, Counters::bytes),
                least_bytes: weights + memory.head + cached,
            }
        })
        .collect())
}
