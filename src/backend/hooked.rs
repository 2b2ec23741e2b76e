//! A backend for tests: the CPU under another name, whose every call goes through a hook first. The hook may fail, wait or
//! count; a device that is not quite the CPU can be had with `skew`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sterna_cpu::AlignedBuf;

use super::cpu::{CpuBackend, CpuOptions};
use super::{Backend, BackendError, Batch, KvOptions, Observer, Outputs, Progress, Stage, StageMemory, StageNeeds};
use crate::graph::Graph;

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Call {
    Build,
    Forward,
    AllLogits,
    CopyPage,
    ExportPages,
    ImportPages,
}

type Hook = dyn Fn(Call) -> Result<(), BackendError> + Send + Sync;

/// The CPU behind a hook.
pub(crate) struct HookedBackend {
    cpu: CpuBackend,
    name: &'static str,
    hook: Arc<Hook>,
    /// What the hidden state is multiplied with behind each stage without the head.
    skew: f32,
    /// Stages that exist.
    alive: Arc<AtomicUsize>,
}

struct HookedStage {
    stage: Box<dyn Stage>,
    name: &'static str,
    hook: Arc<Hook>,
    skew: f32,
    alive: Arc<AtomicUsize>,
}

impl HookedBackend {
    pub(crate) fn new(
        name: &'static str,
        skew: f32,
        hook: impl Fn(Call) -> Result<(), BackendError> + Send + Sync + 'static,
    ) -> HookedBackend {
        let options = CpuOptions { threads: Some(1), ..CpuOptions::default() };
        let cpu = CpuBackend::new(options).expect("the CPU as it is");
        HookedBackend { cpu, name, hook: Arc::new(hook), skew, alive: Arc::default() }
    }

    /// Stages that exist.
    pub(crate) fn alive(&self) -> usize {
        self.alive.load(Ordering::SeqCst)
    }
}

impl Backend for HookedBackend {
    fn name(&self) -> &str {
        self.name
    }

    fn description(&self) -> String {
        format!("{} of a test", self.name)
    }

    fn needs(&self, graph: &Graph, layers: Range<usize>, kv: KvOptions) -> Result<StageNeeds, BackendError> {
        self.cpu.needs(graph, layers, kv)
    }

    fn free_memory(&self) -> Option<u64> {
        None
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
        (self.hook)(Call::Build)?;
        let stage = self.cpu.build_stage(graph, layers, kv, progress)?;
        self.alive.fetch_add(1, Ordering::SeqCst);
        let (hook, alive) = (Arc::clone(&self.hook), Arc::clone(&self.alive));
        Ok(Box::new(HookedStage { stage, name: self.name, hook, skew: self.skew, alive }))
    }
}

impl Stage for HookedStage {
    fn layers(&self) -> Range<usize> {
        self.stage.layers()
    }

    fn backend(&self) -> &str {
        self.name
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        hidden: &mut AlignedBuf<f32>,
        outputs: &mut Outputs,
    ) -> Result<(), BackendError> {
        (self.hook)(Call::Forward)?;
        self.stage.forward(batch, hidden, outputs)?;
        if self.skew != 1.0 {
            hidden.iter_mut().enumerate().for_each(|(i, x)| *x *= if i % 3 == 0 { self.skew } else { 1.0 });
        }
        Ok(())
    }

    fn all_logits(&mut self, output: usize, outputs: &mut Outputs) -> Result<(), BackendError> {
        (self.hook)(Call::AllLogits)?;
        self.stage.all_logits(output, outputs)
    }

    fn copy_page(&mut self, from: u32, to: u32) -> Result<(), BackendError> {
        (self.hook)(Call::CopyPage)?;
        self.stage.copy_page(from, to)
    }

    fn export_pages(&mut self, pages: &[u32], out: &mut [f32]) -> Result<(), BackendError> {
        (self.hook)(Call::ExportPages)?;
        self.stage.export_pages(pages, out)
    }

    fn import_pages(&mut self, pages: &[u32], from: &[f32]) -> Result<(), BackendError> {
        (self.hook)(Call::ImportPages)?;
        self.stage.import_pages(pages, from)
    }

    fn observe(&mut self, _observer: Option<Box<dyn Observer>>) {}

    fn memory(&self) -> StageMemory {
        self.stage.memory()
    }
}

impl Drop for HookedStage {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::SeqCst);
    }
}
