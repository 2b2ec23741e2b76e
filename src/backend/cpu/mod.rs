//! The CPU backend: the kernels of `sterna-cpu` over the thread pool.

mod block;
mod embedding;
mod head;
mod linears;
mod stage;

use std::ops::Range;
use std::sync::Arc;

use sterna_cpu::{Isa, Kernels, Layout, Pool, Tuning};

use super::{Backend, BackendError, HeadKind, KvOptions, Progress, Stage, StageNeeds, free_memory};
use crate::graph::Graph;

/// How the CPU is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuOptions {
    /// Threads; `None` for one per core.
    pub threads: Option<usize>,
    /// Keeps each thread on a core of its own.
    pub pin: bool,
    /// Instruction set; `None` for `STERNA_ISA` or the best one of the machine.
    pub isa: Option<Isa>,
    /// Layout of the packed weights; `None` for the best one for the instruction set.
    pub layout: Option<Layout>,
    /// How the best logits are found.
    pub head: HeadKind,
    /// What suits this machine.
    pub tuning: Tuning,
}

/// The CPU: an instruction set and a pool of threads.
#[derive(Debug)]
pub struct CpuBackend {
    kernels: Kernels,
    pool: Arc<Pool>,
    head: HeadKind,
}

impl CpuBackend {
    /// The CPU as the options say.
    ///
    /// # Errors
    /// If the instruction set is unknown or absent.
    pub fn new(options: CpuOptions) -> Result<CpuBackend, BackendError> {
        let isa = match options.isa {
            Some(isa) => isa.require()?,
            None => Isa::from_env()?,
        };
        let kernels = match options.layout {
            Some(layout) => Kernels::with(isa, layout),
            None => Kernels::get(isa),
        };
        let threads = options.threads.unwrap_or_else(Pool::default_threads);
        let pool = Arc::new(if options.pin { Pool::pinned(threads) } else { Pool::new(threads) });
        Ok(CpuBackend { kernels: verified(kernels).tuned(options.tuning), pool, head: options.head })
    }

    /// The kernels in use.
    pub fn kernels(&self) -> &Kernels {
        &self.kernels
    }

    /// The instruction set in use.
    pub fn isa(&self) -> Isa {
        self.kernels.isa()
    }

    /// The threads.
    pub fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }
}

/// The kernels, or the portable ones if they fail their check.
fn verified(kernels: Kernels) -> Kernels {
    match kernels.verify() {
        Ok(()) => kernels,
        Err(mismatch) => {
            tracing::warn!("{mismatch}: this machine or this build is at fault; going on with slow, portable kernels");
            Kernels::with(Isa::Scalar, kernels.layout())
        }
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &str {
        "cpu"
    }

    fn description(&self) -> String {
        let threads = self.threads();
        let (isa, kernels) = (self.isa(), self.kernels.name());
        format!("CPU, {isa}, kernels {kernels}, {threads} thread{}", if threads == 1 { "" } else { "s" })
    }

    fn needs(&self, graph: &Graph, layers: Range<usize>, kv: KvOptions) -> Result<StageNeeds, BackendError> {
        stage::needs(self.kernels.layout(), self.head, graph, layers, kv)
    }

    fn free_memory(&self) -> Option<u64> {
        free_memory()
    }

    fn shares_memory(&self) -> bool {
        true
    }

    fn build_stage(
        &self,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Stage>, BackendError> {
        let pool = Arc::clone(&self.pool);
        Ok(Box::new(stage::CpuStage::build(self.kernels, pool, self.head, graph, layers, kv, progress)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Batch, BatchSequence, LogitsFor, Outputs};
    use crate::demo;
    use crate::model::build_graph;
    use sterna_cpu::AlignedBuf;
    use sterna_cpu::kv::KvType;

    #[test]
    fn a_block_takes_five_parallel_regions_in_decode() {
        let graph = build_graph(Arc::new(demo::checkpoint().expect("the demo model"))).expect("a graph");
        let backend = CpuBackend::new(CpuOptions { threads: Some(2), ..CpuOptions::default() }).expect("a backend");
        let blocks = graph.blocks().len();
        let kv = KvOptions { kind: KvType::F16, pages: 8 };
        let mut stage = backend.build_stage(&graph, 1..blocks + 1, kv, &()).expect("a stage");
        let (mut hidden, mut outputs) = (AlignedBuf::<f32>::zeroed(graph.config().hidden_size), Outputs::default());
        hidden.fill(0.1);
        let pages: Vec<u32> = (0..8).collect();
        for position in [0, 1, 500] {
            let sequence = BatchSequence { tokens: &[1], position, pages: &pages, logits: LogitsFor::None };
            let before = backend.pool.regions();
            stage.forward(&Batch { sequences: vec![sequence] }, &mut hidden, &mut outputs).expect("a pass");
            let regions = backend.pool.regions() - before;
            assert!(regions <= 5 * blocks as u64, "{regions} regions for {blocks} blocks at {position}");
        }
    }
}
