//! The short run that tells what a block costs on a device.

use std::time::{Duration, Instant};

use sterna_cpu::AlignedBuf;
use sterna_cpu::kv::PAGE_LEN;
use sterna_cpu::machine::median;

use super::BlockCost;
use super::cost::shape_of;
use crate::backend::{Backend, BackendError, Batch, BatchSequence, KvOptions, LogitsFor, Outputs, Stage};
use crate::graph::Graph;
use crate::graph::planner::{Link, Seconds};

/// Blocks are run until their weights are more than what caches hold.
const BEYOND_CACHES: u64 = 96 << 20;

/// Tokens of the prompt that is measured.
const PROMPT: usize = 256;

/// A number is measured so often or so long, whichever comes first, but three times at least.
const TIMES: usize = 9;
const LONG_ENOUGH: Duration = Duration::from_millis(700);

/// Runs a single block and several blocks of `graph` on `backend`, with a token and with a prompt of at most `chunk` tokens.
/// What several take more than one is the blocks; what is left of one is the way there and back.
///
/// # Errors
/// If the device lacks the memory or fails.
pub fn measure(backend: &dyn Backend, graph: &Graph, kv: KvOptions, chunk: usize) -> Result<BlockCost, BackendError> {
    let prompt = chunk.clamp(1, PROMPT);
    let kv = KvOptions { pages: prompt.div_ceil(PAGE_LEN) + 1, ..kv };
    let of_block = backend.needs(graph, 1..2, kv)?;
    let wanted = BEYOND_CACHES.div_ceil(of_block.weights.max(1)).max(2);
    let all = graph.blocks().len() as u64;
    // Half of what is free: the model is not the only one that may want it.
    let room = backend.free_memory().map_or(u64::MAX, |free| free / 2 / of_block.total().max(1));
    let many = wanted.min(room).min(all).max(1) as usize;
    tracing::info!("measuring {many} blocks on {}", backend.description());
    let time = |blocks: usize| -> Result<Seconds, BackendError> {
        backend.check(graph, std::slice::from_ref(&(1..blocks + 1)), kv)?;
        let mut stage = backend.build_stage(graph, 1..blocks + 1, kv, &())?;
        let width = graph.config().hidden_size;
        let mut time = |tokens| time(&mut *stage, tokens, width, kv.pages);
        Ok(Seconds { prefill: time(prompt)?, decode: time(1)? })
    };
    let one = time(1)?;
    let several = if many > 1 { time(many)? } else { one };
    let of = |one: f64, several: f64| {
        let fair = several / many as f64;
        // Noise may make one slower than it is; a block takes no less than half of its share.
        if many > 1 { ((several - one) / (many - 1) as f64).clamp(fair / 2.0, fair) } else { fair }
    };
    let block = Seconds { prefill: of(one.prefill, several.prefill), decode: of(one.decode, several.decode) };
    let way = |one: f64, block: f64| ((one - block) / 2.0).max(0.0);
    let (latency, with_prompt) = (way(one.decode, block.decode), way(one.prefill, block.prefill));
    let bytes = ((prompt - 1) * graph.config().hidden_size * size_of::<f32>()) as f64;
    // No bus is slower than the one nor faster than the other.
    let bytes_per_second = (bytes / (with_prompt - latency).max(1e-9)).clamp(0.5e9, 500e9);
    // The CPU's own memory is where hidden states are.
    let link = (backend.name() != "cpu").then_some(Link { latency, bytes_per_second });
    Ok(BlockCost {
        device: backend.description(),
        shape: shape_of(graph, kv),
        bytes: of_block.weights,
        block: Seconds { prefill: block.prefill / prompt as f64, decode: block.decode },
        link,
    })
}

/// The time of a pass of `tokens` tokens, from position 0 on.
fn time(stage: &mut dyn Stage, tokens: usize, width: usize, pages: usize) -> Result<f64, BackendError> {
    let (ids, pages): (Vec<u32>, Vec<u32>) = (vec![0; tokens], (0..pages as u32).collect());
    let sequence = BatchSequence { tokens: &ids, position: 0, pages: &pages, logits: LogitsFor::None };
    let batch = Batch { sequences: vec![sequence] };
    let (mut hidden, mut outputs) = (AlignedBuf::<f32>::default(), Outputs::default());
    let mut pass = || {
        // Any numbers will do, as long as they stay finite.
        hidden.resize(tokens * width);
        hidden.iter_mut().enumerate().for_each(|(i, x)| *x = ((i * 31 + 7) % 251) as f32 / 125.0 - 1.0);
        let start = Instant::now();
        stage.forward(&batch, &mut hidden, &mut outputs)?;
        Ok::<_, BackendError>(start.elapsed())
    };
    // Kernels are compiled, threads woken, pages filled in.
    pass()?;
    pass()?;
    let (mut times, mut total) = (Vec::new(), Duration::ZERO);
    while times.len() < 3 || (times.len() < TIMES && total < LONG_ENOUGH) {
        let time = pass()?;
        total += time;
        times.push(time.as_secs_f64());
    }
    Ok(median(times))
}
