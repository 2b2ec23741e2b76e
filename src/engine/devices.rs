//! From options to stages: which backends a model needs, and what happens when a GPU fails.

use std::sync::Arc;

use sterna_cpu::Kernels;

use super::{Error, OpenOptions};
use crate::backend::cpu::{CpuBackend, CpuOptions};
use crate::backend::{Backend, Device, KvOptions, Progress};
use crate::graph::{Executor, ExecutorError, Graph, Placement};

/// Builds stages that take the place of those that failed.
pub(super) type Fallback = Box<dyn FnMut(&ExecutorError) -> Result<Executor, ExecutorError> + Send>;

/// The stages of a model, and what is known of them.
pub(super) struct Opened {
    pub(super) executor: Executor,
    pub(super) fallback: Option<Fallback>,
    /// What computes, for people.
    pub(super) description: String,
    pub(super) kernels: Kernels,
    /// Which backend serves which layer.
    pub(super) placement: String,
}

/// Builds the stages of `graph` as `options` say.
pub(super) fn open(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    progress: &dyn Progress,
) -> Result<Opened, Error> {
    let cpu = Arc::new(CpuBackend::new(CpuOptions {
        threads: options.threads,
        pin: options.pin,
        isa: options.isa,
        layout: options.layout,
        head: options.head,
        tuning: options.tuning,
    })?);
    let kernels = *cpu.kernels();
    let place = |text: &str| {
        let placement = Placement::parse(text, graph.blocks().len())?;
        cut(placement, graph, &options.taps)
    };
    let on_cpu = |text: &str| -> Result<Opened, Error> {
        let backend = Arc::clone(&cpu) as Arc<dyn Backend>;
        let description = backend.description();
        let executor = Executor::build(graph, &place(text)?, &[backend], kv, progress)?;
        Ok(Opened { executor, fallback: None, description, kernels, placement: text.to_owned() })
    };
    let wanted = match (&options.placement, &options.device) {
        (Some(placement), _) => placement.as_str(),
        (None, Device::Cpu) => "cpu",
        (None, Device::Gpu(_) | Device::Auto) => "gpu",
    };
    let placement = place(wanted)?;
    if !placement.names("gpu") {
        return on_cpu(wanted);
    }
    let may_fall_back = options.device == Device::Auto;
    let opened = gpu(options).and_then(|gpu| {
        let description = match placement.names("cpu") {
            true => format!("{}; {}", gpu.description(), cpu.description()),
            false => gpu.description(),
        };
        let backends = [gpu, Arc::clone(&cpu) as Arc<dyn Backend>];
        let executor = Executor::build(graph, &placement, &backends, kv, progress)?;
        Ok(Opened { executor, fallback: None, description, kernels, placement: wanted.to_owned() })
    });
    let mut opened = match opened {
        Ok(opened) => opened,
        Err(error) if may_fall_back => {
            tracing::info!("using the CPU: {error}");
            return on_cpu("cpu");
        }
        Err(error) => return Err(error),
    };
    if may_fall_back {
        let (graph, placement) = (graph.clone(), place("cpu")?);
        opened.fallback = Some(Box::new(move |error| {
            tracing::warn!("{error}; going on with the CPU");
            Executor::build(&graph, &placement, &[Arc::clone(&cpu) as Arc<dyn Backend>], kv, &())
        }));
    }
    Ok(opened)
}

/// The GPU that is asked for.
#[cfg(feature = "gpu")]
fn gpu(options: &OpenOptions) -> Result<Arc<dyn Backend>, Error> {
    use crate::backend::BackendError;
    use crate::backend::gpu::{GpuBackend, GpuError, GpuOptions};

    let mut wanted = GpuOptions { head: options.head, ..options.gpu.clone() };
    if let Device::Gpu(Some(which)) = &options.device {
        // Any text is a choice.
        wanted.adapter = which.parse().unwrap_or_default();
    }
    let backend = GpuBackend::new(wanted).map_err(BackendError::from)?;
    if options.device == Device::Auto && backend.summary().kind != "discrete" {
        // Memory that is shared with the CPU is as fast for the CPU, whose kernels are known to use it well.
        let reason = format!("its memory is not its own ({}); choose it with --device gpu", backend.summary().kind);
        return Err(BackendError::from(GpuError::Unsuitable { adapter: backend.summary().name.clone(), reason }).into());
    }
    Ok(Arc::new(backend))
}

#[cfg(not(feature = "gpu"))]
fn gpu(_options: &OpenOptions) -> Result<Arc<dyn Backend>, Error> {
    Err(crate::backend::BackendError::NoGpuSupport.into())
}

/// The placement with a stage boundary behind each block, or the embedding, whose hidden state is to be seen.
fn cut(mut placement: Placement, graph: &Graph, taps: &[Option<usize>]) -> Result<Placement, Error> {
    for tap in taps {
        let layer = match tap {
            Some(block) if *block < graph.blocks().len() => block + 1,
            Some(block) => {
                return Err(Error::BadOption {
                    option: "hidden",
                    found: block.to_string(),
                    expected: "the number of a block of the model, from 0",
                });
            }
            None => 0,
        };
        placement = placement.cut_after(layer);
    }
    Ok(placement)
}
