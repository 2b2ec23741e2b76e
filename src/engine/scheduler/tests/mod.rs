//! Sequences on several devices, and on devices that fail.

mod faults;
mod phases;

use std::sync::Arc;

use sterna_cpu::kv::KvType;

use super::*;
use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::hooked::HookedBackend;
use crate::backend::{Backend, BackendError, KvOptions};
use crate::demo;
use crate::graph::{Graph, Placement};
use crate::model::build_graph;

/// Pages of the cache, tokens of a pass.
const PAGES: usize = 12;
const CHUNK: usize = 50;

fn graph() -> Graph {
    build_graph(Arc::new(demo::checkpoint().expect("the demo model"))).expect("a graph")
}

fn cpu() -> Arc<dyn Backend> {
    let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
    Arc::new(CpuBackend::new(options).expect("the CPU as it is"))
}

/// The CPU under another name.
fn twin(name: &'static str) -> Arc<dyn Backend> {
    Arc::new(HookedBackend::new(name, 1.0, |_| Ok(())))
}

const KV: KvOptions = KvOptions { kind: KvType::F16, pages: PAGES };

/// An engine over the demo model with these placements for prompts and generated tokens.
fn engine_with(placements: [&str; 2], backends: &[Arc<dyn Backend>], kind: KvType) -> Result<Engine, ExecutorError> {
    let graph = graph();
    let [prefill, decode] = placements.map(|text| Placement::parse(text, graph.blocks().len()).expect(text));
    let kv = KvOptions { kind, ..KV };
    let executor = Executor::build_phases(&graph, [&prefill, &decode], backends, kv, &())?;
    Ok(Engine::new(executor, graph.config().vocab_size, PAGES, 512, CHUNK))
}

/// Any tokens, but not the same ones everywhere.
fn text(len: usize, seed: u32) -> Vec<u32> {
    (0..len as u32).map(|i| (i * i * 31 + i * 7 + seed) % 4096).collect()
}

/// Appends tokens to sequences; all logits of the last token of each.
fn step(engine: &mut Engine, work: &[(SequenceId, &[u32])]) -> Result<Vec<Vec<f32>>, Error> {
    let mut rows = vec![Vec::new(); work.len()];
    let mut sink = |item: usize, _: usize, output: &mut Output<'_>| {
        rows[item] = output.all()?.to_vec();
        Ok(())
    };
    let item = |&(sequence, tokens): &(SequenceId, _)| Work { sequence, tokens, logits: LogitsFor::Last };
    engine.forward(&work.iter().map(item).collect::<Vec<_>>(), &mut sink, None)?;
    Ok(rows)
}

/// Logits of a conversation in several steps: prompts of several passes, single tokens, a fork, a sequence beside it that is
/// cut short and continued, a second prompt behind generated tokens.
fn conversation(engine: &mut Engine) -> Result<Vec<Vec<f32>>, Error> {
    let (first, second, third) = (text(120, 3), text(77, 11), text(30, 19));
    let mut rows = Vec::new();
    let (a, b) = (engine.create(), engine.create());
    rows.extend(step(engine, &[(a, &first)])?);
    rows.extend(step(engine, &[(a, &[5]), (b, &second)])?);
    let fork = engine.fork(a);
    rows.extend(step(engine, &[(a, &[6]), (b, &[7])])?);
    rows.extend(step(engine, &[(fork, &third), (a, &[9, 10, 11])])?);
    engine.truncate(b, 60);
    rows.extend(step(engine, &[(b, &[8]), (fork, &[12])])?);
    engine.truncate(fork, 40);
    rows.extend(step(engine, &[(a, &third), (b, &third), (fork, &third)])?);
    rows.extend(step(engine, &[(a, &[1]), (b, &[2]), (fork, &[3])])?);
    [a, b, fork].into_iter().for_each(|sequence| engine.release(sequence));
    assert_eq!(engine.available_pages(), PAGES, "no page is lost");
    assert!(engine.sequences.is_empty(), "no sequence is left");
    Ok(rows)
}
