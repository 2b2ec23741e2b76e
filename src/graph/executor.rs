//! Runs the stages of a graph, one after the other, over a batch.

use std::sync::Arc;

use sterna_cpu::AlignedBuf;

use super::{Graph, Placement};
use crate::backend::{Backend, BackendError, Batch, KvOptions, Observer, Progress, Stage, StageMemory};

/// Sees the hidden state, `[tokens, hidden]`, behind the last layer of each stage.
pub type Trace<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// Why a pass through the graph failed.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {source}")]
pub struct ExecutorError {
    backend: String,
    source: BackendError,
}

/// The stages of a graph in order, and the buffers between them.
pub struct Executor {
    stages: Vec<Box<dyn Stage>>,
    hidden: AlignedBuf<f32>,
    logits: AlignedBuf<f32>,
}

impl Executor {
    /// Builds the stages of `placement`, which covers `graph`, on `backends`.
    ///
    /// # Errors
    /// If the placement names a backend that is not among `backends`, or a stage cannot be built.
    pub fn build(
        graph: &Graph,
        placement: &Placement,
        backends: &[Arc<dyn Backend>],
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Executor, ExecutorError> {
        let build = |(layers, name): &(_, String)| {
            let error = |source| ExecutorError { backend: name.clone(), source };
            let backend = backends.iter().find(|backend| backend.name() == name).ok_or_else(|| {
                let known = backends.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(", ");
                error(BackendError::Unknown { name: name.clone(), known })
            })?;
            backend.build_stage(graph, std::ops::Range::clone(layers), kv, progress).map_err(error)
        };
        let stages = placement.runs().iter().map(build).collect::<Result<_, _>>()?;
        Ok(Executor { stages, hidden: AlignedBuf::default(), logits: AlignedBuf::default() })
    }

    /// Runs `batch` through all stages; the logits of its outputs, `[outputs, vocab]`.
    ///
    /// Token ids must be below the size of the vocabulary, positions below the context of the stages.
    ///
    /// # Errors
    /// If a backend fails; the cache entries of the batch's positions are then undefined.
    pub fn forward(&mut self, batch: &Batch<'_>, mut trace: Option<&mut Trace<'_>>) -> Result<&[f32], ExecutorError> {
        for stage in &mut self.stages {
            stage
                .forward(batch, &mut self.hidden, &mut self.logits)
                .map_err(|source| ExecutorError { backend: stage.backend().to_owned(), source })?;
            if let Some(trace) = &mut trace {
                trace(stage.layers().end - 1, &self.hidden);
            }
        }
        Ok(&self.logits)
    }

    /// Copies a page of the key-value cache in every stage.
    ///
    /// # Errors
    /// If a backend fails.
    pub fn copy_page(&mut self, from: u32, to: u32) -> Result<(), ExecutorError> {
        for stage in &mut self.stages {
            stage
                .copy_page(from, to)
                .map_err(|source| ExecutorError { backend: stage.backend().to_owned(), source })?;
        }
        Ok(())
    }

    /// Sets the observer that `make` gives for each stage, or removes it.
    pub fn observe(&mut self, mut make: impl FnMut() -> Option<Box<dyn Observer>>) {
        for stage in &mut self.stages {
            stage.observe(make());
        }
    }

    /// The stages' layers, backends and memory, in order.
    pub fn stages(&self) -> impl Iterator<Item = (std::ops::Range<usize>, &str, StageMemory)> {
        self.stages.iter().map(|stage| (stage.layers(), stage.backend(), stage.memory()))
    }
}

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.stages()).finish()
    }
}
