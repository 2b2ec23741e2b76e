//! Backends: who computes a run of layers, and the batch that is handed to them.
//!
//! A [`Backend`] turns adjacent layers into a [`Stage`]; a stage owns its packed weights and its part of the key-value
//! cache. Between stages travels one f32 buffer, `[tokens, hidden]`.

mod batch;
mod counters;
pub mod cpu;
mod device;
mod error;
#[cfg(feature = "gpu")]
pub mod gpu;
#[cfg(test)]
pub(crate) mod hooked;
mod memory;
mod outputs;

pub use batch::{Batch, BatchSequence, LogitsFor};
pub use counters::{Counters, KernelCount};
pub use device::{Device, UnknownDevice};
pub use error::BackendError;
pub use memory::{StageNeeds, free_memory};
pub use outputs::{Logits, Outputs};

use std::ops::Range;
use std::time::{Duration, Instant};

use sterna_cpu::AlignedBuf;
pub use sterna_cpu::head::{Best, Candidates};
use sterna_cpu::kv::KvType;

use crate::graph::Graph;

/// How a stage lays out its part of the key-value cache.
#[derive(Clone, Copy, Debug)]
pub struct KvOptions {
    /// Number type of keys and values.
    pub kind: KvType,
    /// Pages in each layer, [`sterna_cpu::kv::PAGE_LEN`] positions each.
    pub pages: usize,
}

/// How the best logits are found. The logits, and so the tokens, are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadKind {
    /// By an int8 copy of a head of f16, bf16 or f32; what may be among the best is then multiplied exactly.
    #[default]
    Int8,
    /// By all the exact logits.
    Exact,
}

/// Told of progress while weights are packed; called from the loading thread.
pub trait Progress {
    /// `bytes` more of the packed weights are ready.
    fn advance(&self, bytes: u64);

    /// There are `bytes` more than what was said at first: the embedding and the head, where they go to a device too.
    fn expect(&self, _bytes: u64) {}
}

impl Progress for () {
    fn advance(&self, _bytes: u64) {}
}

/// A device that runs layers.
pub trait Backend: Send + Sync {
    /// Short name, as used in placements: `cpu`, `gpu`, `gpu=1`.
    fn name(&self) -> &str;

    /// What it is, for people: instruction set and threads, or adapter and driver.
    fn description(&self) -> String;

    /// Whether the device has the memory for `stages`, runs of layers, as far as it is known; asked before the first of them
    /// is built.
    ///
    /// # Errors
    /// If it has not, with numbers and what would fit.
    fn check(&self, _graph: &Graph, _stages: &[Range<usize>], _kv: KvOptions) -> Result<(), BackendError> {
        Ok(())
    }

    /// What `layers` take of the device's memory as one stage. Reads no weights.
    ///
    /// # Errors
    /// If the device cannot have them, or the file lacks a tensor.
    fn needs(&self, graph: &Graph, layers: Range<usize>, kv: KvOptions) -> Result<StageNeeds, BackendError>;

    /// Bytes of the device's memory that are free for us, as far as that is known.
    fn free_memory(&self) -> Option<u64>;

    /// Whether that is the machine's memory, which the CPU and others use too.
    fn shares_memory(&self) -> bool;

    /// Reads and packs the weights of `layers` (indices of [`Graph::layer`]).
    ///
    /// # Errors
    /// If a tensor cannot be read, or the device lacks the memory.
    fn build_stage(
        &self,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Stage>, BackendError>;
}

/// A run of adjacent layers on one backend.
pub trait Stage: Send {
    /// The layers, as indices of [`Graph::layer`].
    fn layers(&self) -> Range<usize>;

    /// Name of the backend.
    fn backend(&self) -> &str;

    /// Runs the layers over `batch`.
    ///
    /// `hidden` is `[tokens, hidden]`: written by a stage that holds the embedding, read and overwritten by the others.
    /// `outputs` is written by the stage that holds the head; it may give all logits where only the best are wanted.
    ///
    /// # Errors
    /// If the device fails. The key-value cache of the batch's positions is then undefined.
    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), BackendError>;

    /// Puts all logits in the place of output `output` of the last pass: the best were not enough to choose from. Does
    /// nothing in a stage that does not hold the head.
    ///
    /// # Errors
    /// If the device fails.
    fn all_logits(&mut self, output: usize, outputs: &mut Outputs) -> Result<(), BackendError>;

    /// Copies a page of the key-value cache in every layer (a shared page that a sequence is about to write).
    ///
    /// # Errors
    /// If the device fails.
    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), BackendError>;

    /// Numbers of some pages of the key-value cache: for each block and each page the keys,
    /// `[kv_heads, PAGE_LEN, head_dim]`, and the values, likewise. Half precision is widened.
    ///
    /// # Errors
    /// If the device fails, or the cache has codes.
    fn export_pages(&mut self, pages: &[u32], out: &mut [f32]) -> Result<(), BackendError>;

    /// Writes pages as [`Stage::export_pages`] gives them; what came from a stage with the same number type is as it was.
    ///
    /// # Errors
    /// As [`Stage::export_pages`].
    fn import_pages(&mut self, pages: &[u32], from: &[f32]) -> Result<(), BackendError>;

    /// Sets or removes the observer of the stage's matrix products. Backends that cannot be observed ignore it.
    fn observe(&mut self, observer: Option<Box<dyn Observer>>);

    /// Memory that the stage holds, in bytes.
    fn memory(&self) -> StageMemory;

    /// What the stage has asked of its device so far, where that is counted.
    fn counters(&self) -> Option<Counters> {
        None
    }
}

/// Memory of a stage, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StageMemory {
    /// Packed ternary weights.
    pub weights: u64,
    /// What is read of the head for one token.
    pub head: u64,
    /// Key-value cache, when all its pages are in use.
    pub kv_cache: u64,
}

/// Sees the matrix products of a stage, for checks against other software and for profiles.
pub trait Observer: Send {
    /// The products that share one quantized input are done.
    fn linears(&mut self, _event: LinearEvent<'_>) {}

    /// An op is done. Ops are told in order, those of a GPU behind the pass.
    fn timed(&mut self, _op: OpTime) {}
}

/// An op and how long it took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// Index of the layer: 0 is the embedding, then come the blocks, then the head.
    pub layer: usize,
    /// What was done.
    pub name: &'static str,
    /// When it began. On a GPU, counted from the beginning of the pass by the device's clock.
    pub start: Instant,
    /// How long it took.
    pub time: Duration,
}

/// The products of one quantized input.
#[derive(Debug)]
pub struct LinearEvent<'a> {
    /// Block, from 0.
    pub block: usize,
    /// Names and outputs, `[tokens, rows]` each, of the projections. Where the product is added to the residual
    /// stream, the sum.
    pub outputs: &'a [(&'static str, &'a [f32])],
    /// The quantized input.
    pub input: &'a sterna_cpu::Activations,
}
