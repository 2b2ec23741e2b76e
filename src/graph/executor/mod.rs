//! Runs the stages of a graph, one after the other, over a batch (`mod`), or several batches of a prompt at the same time on
//! different devices (`overlap`); hands the key-value cache over where prompts and generated tokens have different devices
//! (`handover`).

mod build;
mod handover;
mod overlap;

use std::ops::Range;
use std::time::{Duration, Instant};

use sterna_cpu::AlignedBuf;

use crate::backend::{BackendError, Batch, Counters, Logits, Observer, Outputs, Stage, StageMemory};
use handover::Handover;

/// Sees the hidden state, `[tokens, hidden]`, behind the last layer of each stage.
pub type Trace<'a> = dyn FnMut(usize, &[f32]) + 'a;

/// Why a pass through the graph failed.
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {reason}")]
pub struct ExecutorError {
    backend: String,
    reason: BackendError,
}

impl ExecutorError {
    /// The backend that failed.
    pub fn backend(&self) -> &str {
        &self.backend
    }

    /// Why.
    pub fn reason(&self) -> &BackendError {
        &self.reason
    }
}

/// What a pass works on: the two may have different placements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Prompts.
    Prefill,
    /// Generated tokens.
    Decode,
}

/// A stage and what is known of it.
struct Slot {
    stage: Box<dyn Stage>,
    /// Number of its backend among those of the executor.
    device: usize,
    /// Whether prompts and whether generated tokens go through it.
    serves: [bool; 2],
    time: StageTime,
}

/// How long a stage has worked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageTime {
    /// Passes.
    pub passes: u64,
    /// Tokens of all of them.
    pub tokens: u64,
    /// Time of all of them.
    pub time: Duration,
}

impl Slot {
    fn error(&self, reason: BackendError) -> ExecutorError {
        ExecutorError { backend: self.stage.backend().to_owned(), reason }
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), ExecutorError> {
        let start = Instant::now();
        let result = self.stage.forward(batch, hidden, outputs);
        self.time.passes += 1;
        self.time.tokens += batch.tokens() as u64;
        self.time.time += start.elapsed();
        result.map_err(|reason| self.error(reason))
    }
}

/// The stages of a graph in order, and the buffers between them.
pub struct Executor {
    slots: Vec<Slot>,
    /// Where the cache goes from a stage to another when the phase changes.
    handovers: Vec<Handover>,
    hidden: AlignedBuf<f32>,
    outputs: Outputs,
    /// The phase of the last pass: its stage of the head has the outputs.
    phase: Phase,
}

impl Executor {
    /// Runs `batch` through the stages of `phase`; [`Executor::output`] then gives the logits of its outputs.
    ///
    /// Token ids must be below the size of the vocabulary, positions below the context of the stages. What the cache holds of
    /// earlier positions must be there in this phase: see [`Executor::hand_over`].
    ///
    /// # Errors
    /// If a backend fails; the cache entries of the batch's positions are then undefined.
    pub fn forward(
        &mut self,
        phase: Phase,
        batch: &Batch<'_>,
        mut trace: Option<&mut Trace<'_>>,
    ) -> Result<(), ExecutorError> {
        self.phase = phase;
        let Executor { slots, hidden, outputs, .. } = self;
        for slot in slots.iter_mut().filter(|slot| slot.serves[phase as usize]) {
            slot.forward(batch, hidden, outputs)?;
            if let Some(trace) = &mut trace {
                trace(slot.stage.layers().end - 1, hidden);
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
        self.slots.iter_mut().try_for_each(|slot| slot.stage.copy_page(from, to).map_err(|reason| slot.error(reason)))
    }

    /// Sets the observer that `make` gives for each stage, or removes it.
    pub fn observe(&mut self, mut make: impl FnMut() -> Option<Box<dyn Observer>>) {
        for slot in &mut self.slots {
            slot.stage.observe(make());
        }
    }

    /// What the stages have asked of their devices so far, where that is counted: layers, backend, counts.
    pub fn counters(&self) -> impl Iterator<Item = (Range<usize>, &str, Counters)> {
        let stages = self.slots.iter().map(|slot| &slot.stage);
        stages.filter_map(|stage| Some((stage.layers(), stage.backend(), stage.counters()?)))
    }

    /// The stages' layers, backends and memory, in order.
    pub fn stages(&self) -> impl Iterator<Item = (Range<usize>, &str, StageMemory)> {
        self.slots.iter().map(|slot| (slot.stage.layers(), slot.stage.backend(), slot.stage.memory()))
    }

    /// As [`Executor::stages`], of those that serve a phase.
    pub fn stages_of(&self, phase: Phase) -> impl Iterator<Item = (Range<usize>, &str, StageMemory)> {
        self.stages().zip(&self.slots).filter(move |(_, slot)| slot.serves[phase as usize]).map(|(stage, _)| stage)
    }

    /// How long each stage has worked since it was built, or since this was last asked, in the order of
    /// [`Executor::stages`].
    pub fn take_times(&mut self) -> Vec<StageTime> {
        self.slots.iter_mut().map(|slot| std::mem::take(&mut slot.time)).collect()
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
        let Executor { slots, outputs, phase, .. } = &mut *self.executor;
        if matches!(outputs.get(self.index), Logits::Best(_)) {
            for slot in slots.iter_mut().filter(|slot| slot.serves[*phase as usize]) {
                slot.stage.all_logits(self.index, outputs).map_err(|reason| slot.error(reason))?;
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
