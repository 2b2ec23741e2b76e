//! The GPU backend: WGSL kernels through wgpu, on Vulkan, Metal, DirectX 12 or OpenGL.
//!
//! [`adapters`] lists the GPUs of the machine and [`choose`] takes one; [`Gpu`] is the open device. A stage uploads its
//! weights once (`weights`, `rows`), binds them and its buffers to the kernels ([`Programs`], `workspace`), and for each
//! pass writes a few small buffers, records the dispatches of all its layers into one command buffer (`record`, `block`)
//! and reads back what was asked for (`head`: by `search`, or by all `logits`). The kernels are in `shaders`, put together
//! by [`shader`] for what the device can do ([`Variant`]).

mod adapter;
mod answer;
mod best;
mod block;
mod device;
mod disk_cache;
mod error;
mod exchange;
mod fit;
mod head;
mod int8_rows;
mod kernels;
mod logits;
mod parts;
mod probe;
mod programs;
mod record;
mod rows;
mod search;
pub mod shader;
mod stage;
mod support;
mod timestamps;
mod weights;
mod workspace;

pub use adapter::{AdapterChoice, AdapterSummary, Found, adapters, choose, usable, verdicts};
pub use device::{Gpu, Memory, Variant};
pub use error::GpuError;
pub use fit::{Budget, Needed};
pub use kernels::{Access, FEW_TOKENS, Kernel, Output, RowType, Shape};
pub use probe::{GpuProbe, Rates};
pub use programs::Programs;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Backend, BackendError, HeadKind, KvOptions, Progress, Stage, StageNeeds};
use crate::graph::Graph;

/// How bytes are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dot {
    /// By the packed dot product of WGSL, an instruction on most devices.
    Packed,
    /// One by one.
    Plain,
}

/// How a GPU is used.
#[derive(Clone, Debug, PartialEq)]
pub struct GpuOptions {
    /// Its name in placements.
    pub name: String,
    /// Which adapter.
    pub adapter: AdapterChoice,
    /// How bytes are multiplied.
    pub dot: Dot,
    /// How the best logits are found: by an int8 copy of the head only where there is memory for it beside the head.
    pub head: HeadKind,
    /// Sums by subgroups, where the adapter has them.
    pub subgroups: bool,
    /// The limits that WebGPU promises everywhere, instead of the adapter's.
    pub default_limits: bool,
    /// Most bytes that a kernel may see of one buffer, below the adapter's own limit.
    pub max_binding: Option<u64>,
    /// Most bytes that may be used of the device's memory; `None` for what the device is known to have.
    pub memory: Option<u64>,
    /// The folder in which compiled kernels are kept for the next start, where wgpu can do that; `None` for nowhere.
    pub cache: Option<PathBuf>,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Tokens that are computed together.
    pub chunk: usize,
    /// Multiply-adds of a submission: systems reset a GPU that is busy for two seconds, so that long prompts are handed over
    /// in several submissions, and in chunks so short that no product alone has more. The default takes a second on a
    /// device of 25 billion multiply-adds a second, slower than any that runs Vulkan in a computer of these ten years.
    pub work_limit: u64,
    /// Whether observers of stages are told when kernels began and ended, where the adapter has a clock for that. Each kernel
    /// is then a pass of its own, which costs time.
    pub timestamps: bool,
}

impl Default for GpuOptions {
    fn default() -> GpuOptions {
        GpuOptions {
            name: "gpu".into(),
            adapter: AdapterChoice::Best,
            dot: Dot::Packed,
            head: HeadKind::default(),
            subgroups: true,
            default_limits: false,
            max_binding: None,
            memory: None,
            cache: None,
            timeout: Duration::from_secs(60),
            chunk: 512,
            work_limit: 25_000_000_000,
            timestamps: false,
        }
    }
}

/// A GPU.
#[derive(Debug)]
pub struct GpuBackend {
    programs: Arc<Programs>,
    summary: AdapterSummary,
    options: GpuOptions,
    /// Whether the stages that were last checked leave memory for an int8 copy of the head.
    has_room: AtomicBool,
}

impl GpuBackend {
    /// Opens the adapter that the options name.
    ///
    /// # Errors
    /// If there is no such adapter, or it cannot be opened.
    pub fn new(options: GpuOptions) -> Result<GpuBackend, GpuError> {
        let found = adapters();
        let found = choose(&found, &options.adapter)?;
        let gpu = Arc::new(Gpu::open(found, &options)?);
        let summary = found.summary.clone();
        tracing::info!("GPU: {} ({}, {}, {})", summary.name, summary.kind, summary.api, summary.driver);
        Ok(GpuBackend { programs: Arc::new(Programs::new(gpu)), summary, options, has_room: AtomicBool::new(true) })
    }

    /// The open device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        self.programs.gpu()
    }

    /// What `stages`, runs of layers of `graph`, take of the device's memory.
    ///
    /// # Errors
    /// If the kernels cannot have the model, or the file lacks the embedding or head.
    pub fn needed(&self, graph: &Graph, stages: &[Range<usize>], kv: KvOptions) -> Result<Needed, BackendError> {
        support::check(graph, self.gpu().name())?;
        fit::needed(self.gpu(), &self.options, graph, stages, kv)
    }

    /// The adapter.
    pub fn summary(&self) -> &AdapterSummary {
        &self.summary
    }
}

impl Backend for GpuBackend {
    fn name(&self) -> &str {
        &self.options.name
    }

    fn description(&self) -> String {
        let summary = &self.summary;
        format!("{} ({}, {})", summary.name, summary.kind, summary.api)
    }

    fn check(&self, graph: &Graph, stages: &[Range<usize>], kv: KvOptions) -> Result<(), BackendError> {
        support::check(graph, self.gpu().name())?;
        let head = fit::check(self.gpu(), &self.options, graph, stages, kv)?;
        self.has_room.store(head == self.options.head, Ordering::Relaxed);
        Ok(())
    }

    fn needs(&self, graph: &Graph, layers: Range<usize>, kv: KvOptions) -> Result<StageNeeds, BackendError> {
        let needed = self.needed(graph, &[layers], kv)?;
        Ok(StageNeeds { weights: needed.blocks + needed.dense, kv_cache: needed.cache, buffers: needed.scratch })
    }

    fn free_memory(&self) -> Option<u64> {
        self.gpu().budget().map(|budget| budget.bytes.saturating_sub(self.gpu().held()))
    }

    fn shares_memory(&self) -> bool {
        fit::shares_memory(self.summary.kind)
    }

    fn build_stage(
        &self,
        graph: &Graph,
        layers: Range<usize>,
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Box<dyn Stage>, BackendError> {
        support::check(graph, self.gpu().name())?;
        let head = if self.has_room.load(Ordering::Relaxed) { self.options.head } else { HeadKind::Exact };
        let options = GpuOptions { head, ..self.options.clone() };
        Ok(Box::new(stage::GpuStage::build(&self.programs, &options, graph, layers, kv, progress)?))
    }
}
