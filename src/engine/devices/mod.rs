//! From options to stages: which backends a model needs (`backends`), which of them serves which layer (`choice`, and for
//! `auto` `planned`), and what happens when a GPU fails.

mod backends;
mod choice;
mod planned;

use std::sync::Arc;

use sterna_cpu::Kernels;

use super::{Error, OpenOptions};
use crate::backend::{Backend, KvOptions, Progress};
use crate::graph::{Executor, ExecutorError, Graph, Placement};
use backends::cpu_backend;
use choice::{Choice, Wanted};
pub(super) use planned::plan;

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
    let cpu = cpu_backend(options)?;
    let kernels = *cpu.kernels();
    let wanted = Wanted::of(options);
    let choice = match choice::choose(graph, options, kv, &wanted, &cpu) {
        // A model for which there is no room is not made smaller by the CPU.
        Err(error) if wanted == Wanted::Auto && !matches!(error, Error::Plan(_)) => {
            tracing::info!("using the CPU: {error}");
            Choice::cpu(graph, &cpu)
        }
        other => other?,
    };
    let build = |choice: &Choice, progress: &dyn Progress| {
        let [prefill, decode] = [&choice.prefill, &choice.decode].map(|p| cut(p.clone(), graph, &options.taps));
        Executor::build_phases(graph, [&prefill?, &decode?], &choice.backends, kv, progress).map_err(Error::from)
    };
    let opened = |choice: &Choice, executor| Opened {
        executor,
        fallback: None,
        description: choice.description(),
        kernels,
        placement: choice.text(),
    };
    if wanted != Wanted::Auto || choice.is_cpu() {
        return Ok(opened(&choice, build(&choice, progress)?));
    }
    let on_cpu = Choice::cpu(graph, &cpu);
    let mut result = match build(&choice, progress) {
        Ok(executor) => opened(&choice, executor),
        Err(error) => {
            tracing::warn!("{error}; using the CPU");
            return Ok(opened(&on_cpu, build(&on_cpu, progress)?));
        }
    };
    let (graph, placement) = (graph.clone(), cut(on_cpu.decode, graph, &options.taps)?);
    result.fallback = Some(fallback(graph, placement, cpu, kv));
    Ok(result)
}

/// What builds stages on `backend` when a device fails, with a warning.
pub(super) fn fallback(graph: Graph, placement: Placement, backend: Arc<dyn Backend>, kv: KvOptions) -> Fallback {
    Box::new(move |error| {
        tracing::warn!("{error}; going on with the CPU");
        Executor::build(&graph, &placement, &[Arc::clone(&backend)], kv, &())
    })
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
