//! Sequences whose device fails.

use std::ops::Range;
use std::sync::Arc;

use sterna_cpu::AlignedBuf;
use sterna_cpu::kv::KvType;

use super::*;
use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::{Backend, BackendError, KvOptions, Observer, Outputs, Progress, Stage, StageMemory, StageNeeds};
use crate::demo;
use crate::graph::{Graph, Placement};
use crate::model::build_graph;

/// The CPU, until it has made some passes or is to copy a page.
struct Failing {
    cpu: CpuBackend,
    passes: usize,
}

struct FailingStage {
    stage: Box<dyn Stage>,
    passes: usize,
}

impl Backend for Failing {
    fn name(&self) -> &str {
        "failing"
    }

    fn description(&self) -> String {
        String::new()
    }

    fn needs(&self, graph: &Graph, layers: Range<usize>, kv: KvOptions) -> Result<StageNeeds, BackendError> {
        self.cpu.needs(graph, layers, kv)
    }

    fn free_memory(&self) -> Option<u64> {
        None
    }

    fn build_stage(
        &self,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Stage>, BackendError> {
        let stage = self.cpu.build_stage(graph, layers, kv, progress)?;
        Ok(Box::new(FailingStage { stage, passes: self.passes }))
    }
}

impl Stage for FailingStage {
    fn layers(&self) -> Range<usize> {
        self.stage.layers()
    }

    fn backend(&self) -> &str {
        "failing"
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), BackendError> {
        self.passes = self.passes.checked_sub(1).ok_or(BackendError::NoGpuSupport)?;
        self.stage.forward(batch, hidden, outputs)
    }

    fn all_logits(&mut self, output: usize, outputs: &mut Outputs) -> Result<(), BackendError> {
        self.stage.all_logits(output, outputs)
    }

    fn copy_page(&mut self, _from: u32, _to: u32) -> Result<(), BackendError> {
        Err(BackendError::NoGpuSupport)
    }

    fn export_pages(&mut self, pages: &[u32], out: &mut [f32]) -> Result<(), BackendError> {
        self.stage.export_pages(pages, out)
    }

    fn import_pages(&mut self, pages: &[u32], from: &[f32]) -> Result<(), BackendError> {
        self.stage.import_pages(pages, from)
    }

    fn observe(&mut self, _observer: Option<Box<dyn Observer>>) {}

    fn memory(&self) -> StageMemory {
        self.stage.memory()
    }
}

/// An engine whose device fails after some passes; with `rescue`, the CPU takes over.
fn engine(passes: usize, rescue: bool) -> Engine {
    let graph = build_graph(Arc::new(demo::checkpoint().expect("the demo model"))).expect("a graph");
    let cpu = || CpuBackend::new(CpuOptions { threads: Some(1), ..CpuOptions::default() }).expect("a backend");
    let kv = KvOptions { kind: KvType::F16, pages: 8 };
    let layers = graph.len();
    let build = move |graph: &Graph, backend: Arc<dyn Backend>| {
        Executor::build(graph, &Placement::single(backend.name(), layers), &[backend], kv, &())
    };
    let executor = build(&graph, Arc::new(Failing { cpu: cpu(), passes })).expect("stages");
    let mut engine = Engine::new(executor, graph.config().vocab_size, 8, 512, 50);
    if rescue {
        engine.set_fallback(Some(Box::new(move |_| build(&graph, Arc::new(cpu())))));
    }
    engine
}

/// Logits of the last token of each step: a prompt of several passes, single tokens, a fork.
fn run(engine: &mut Engine) -> Result<Vec<Vec<f32>>, Error> {
    let mut rows = Vec::new();
    let tokens: Vec<u32> = (0..140).map(|i| (i * 31 + 7) % 4096).collect();
    let a = engine.create();
    let mut step = |engine: &mut Engine, sequence, tokens: &[u32]| {
        let work = [Work { sequence, tokens, logits: LogitsFor::Last }];
        let mut sink = |_: usize, _: usize, output: &mut Output<'_>| {
            rows.push(output.all()?.to_vec());
            Ok(())
        };
        engine.forward(&work, &mut sink, None)
    };
    step(engine, a, &tokens[..120])?;
    step(engine, a, &tokens[120..121])?;
    let fork = engine.fork(a);
    step(engine, fork, &tokens[130..])?;
    step(engine, a, &tokens[121..122])?;
    engine.release(a);
    engine.release(fork);
    assert_eq!(engine.available_pages(), 8, "no page is lost");
    Ok(rows)
}

#[test]
fn another_device_takes_over_wherever_one_fails() {
    let want = run(&mut engine(0, true)).expect("the CPU takes over at once");
    for passes in 1..6 {
        let got = run(&mut engine(passes, true)).expect("the CPU takes over");
        assert!(got == want, "after {passes} passes");
        assert!(matches!(run(&mut engine(passes, false)), Err(Error::Executor(_))), "nobody takes over");
    }
}
