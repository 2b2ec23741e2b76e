//! Runs the stages of a graph, one after the other, over a batch.

use std::sync::Arc;

use sterna_cpu::AlignedBuf;

use super::{Graph, Placement};
use crate::backend::{
    Backend, BackendError, Batch, Counters, KvOptions, Logits, Observer, Outputs, Progress, Stage, StageMemory,
};

/// Sees the hidden state, `[tokens, hidden]`, behind the last layer of each stage.
pub type Trace<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// Why a pass through the graph failed.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {reason}")]
pub struct ExecutorError {
    backend: String,
    reason: BackendError,
}

/// The stages of a graph in order, and the buffers between them.
pub struct Executor {
    stages: Vec<Box<dyn Stage>>,
    hidden: AlignedBuf<f32>,
    outputs: Outputs,
}

impl Executor {
    /// Builds the stages of `placement`, which covers `graph`, on `backends`.
    ///
    /// # Errors
    /// If the placement names a backend that is not among `backends`, or a stage does not fit or cannot be built.
    pub fn build(
        graph: &Graph,
        placement: &Placement,
        backends: &[Arc<dyn Backend>],
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Executor, ExecutorError> {
        let build = |(layers, name): &(_, String)| {
            let error = |reason| ExecutorError { backend: name.clone(), reason };
            let backend = backends.iter().find(|backend| backend.name() == name).ok_or_else(|| {
                let known = backends.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(", ");
                error(BackendError::Unknown { name: name.clone(), known })
            })?;
            backend.build_stage(graph, std::ops::Range::clone(layers), kv, progress).map_err(error)
        };
        for backend in backends {
            let runs = placement.runs().iter().filter(|(_, name)| name == backend.name());
            let runs: Vec<_> = runs.map(|(layers, _)| layers.clone()).collect();
            if !runs.is_empty() {
                let error = |reason| ExecutorError { backend: backend.name().to_owned(), reason };
                backend.check(graph, &runs, kv).map_err(error)?;
            }
        }
        let stages = placement.runs().iter().map(build).collect::<Result<_, _>>()?;
        Ok(Executor { stages, hidden: AlignedBuf::default(), outputs: Outputs::default() })
    }

    /// Runs `batch` through all stages; [`Executor::output`] then gives the logits of its outputs.
    ///
    /// Token ids must be below the size of the vocabulary, positions below the context of the stages.
    ///
    /// # Errors
    /// If a backend fails; the cache entries of the batch's positions are then undefined.
    pub fn forward(&mut self, batch: &Batch<'_>, mut trace: Option<&mut Trace<'_>>) -> Result<(), ExecutorError> {
        for stage in &mut self.stages {
            stage
                .forward(batch, &mut self.hidden, &mut self.outputs)
                .map_err(|reason| ExecutorError { backend: stage.backend().to_owned(), reason })?;
            if let Some(trace) = &mut trace {
                trace(stage.layers().end - 1, &self.hidden);
            }
        }
        Ok(())
    }

    /// Output `index` of the last pass.
    ///
    /// # Panics
    /// If the pass had fewer outputs.
    pub fn output(&mut self, index: usize) -> Output<'_> {
        assert!(index < self.outputs.len(), "executor: an output of the pass");
        Output { executor: self, index }
    }

    /// Copies a page of the key-value cache in every stage.
    ///
    /// # Errors
    /// If a backend fails.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<(), ExecutorError> {
        for stage in &mut self.stages {
            stage
                .copy_page(from, to)
                .map_err(|reason| ExecutorError { backend: stage.backend().to_owned(), reason })?;
        }
        Ok(())
    }

    /// Sets the observer that `make` gives for each stage, or removes it.
    pub fn observe(&mut self, mut make: impl FnMut() -> Option<Box<dyn Observer>>) {
        for stage in &mut self.stages {
            stage.observe(make());
        }
    }

    /// What the stages have asked of their devices so far, where that is counted: layers, backend, counts.
    pub fn counters(&self) -> impl Iterator<Item = (std::ops::Range<usize>, &str, Counters)> {
        self.stages.iter().filter_map(|stage| Some((stage.layers(), stage.backend(), stage.counters()?)))
    }

    /// The stages' layers, backends and memory, in order.
    pub fn stages(&self) -> impl Iterator<Item = (std::ops::Range<usize>, &str, StageMemory)> {
        self.stages.iter().map(|stage| (stage.layers(), stage.backend(), stage.memory()))
    }
}

/// What the head says about one token.
#[derive(Debug)]
pub struct Output<'a> {
    executor: &'a mut Executor,
    index: usize,
}

impl Output<'_> {
    /// The logits that were asked for, or more.
    pub fn logits(&self) -> Logits<'_> {
        self.executor.outputs.get(self.index)
    }

    /// All logits, `[vocab]`; computed now if they have not been.
    ///
    /// # Errors
    /// If a backend fails.
    pub fn all(&mut self) -> Result<&[f32], ExecutorError> {
        let Executor { stages, outputs, .. } = &mut *self.executor;
        if matches!(outputs.get(self.index), Logits::Best(_)) {
            for stage in stages {
                stage
                    .all_logits(self.index, outputs)
                    .map_err(|reason| ExecutorError { backend: stage.backend().to_owned(), reason })?;
            }
        }
        match self.executor.outputs.get(self.index) {
            Logits::All(logits) => Ok(logits),
            Logits::Best(_) => unreachable!("the stage of the head has put them there"),
        }
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stages()).finish()
    }
}
