//! From options to stages: which backends a model needs (`backends`), which of them serves which layer (`choice`, and for
//! `auto` `planned`), and what happens when a GPU fails.

mod backends;
mod choice;
mod planned;
#[cfg(test)]
mod tests;

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
    let cpu = cpu_backend(options, graph)?;
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
    let cpu = (wanted == Wanted::Auto && !choice.is_cpu()).then(|| Arc::clone(&cpu) as Arc<dyn Backend>);
    let (executor, fallback, choice) = build(graph, choice, cpu, &options.taps, kv, progress)?;
    Ok(Opened { executor, fallback, description: choice.description(), kernels, placement: choice.text() })
}

/// Builds the stages of a choice; also gives what to do when one of them fails, and the choice. With a CPU, everything goes
/// there if a device cannot be built or fails.
fn build(
    graph: &Graph,
    choice: Choice,
    cpu: Option<Arc<dyn Backend>>,
    taps: &[Option<usize>],
    kv: KvOptions,
    progress: &dyn Progress,
) -> Result<(Executor, Option<Fallback>, Choice), Error> {
    let build = |choice: &Choice| {
        let [prefill, decode] = [&choice.prefill, &choice.decode].map(|p| cut(p.clone(), graph, taps));
        Executor::build_phases(graph, [&prefill?, &decode?], &choice.backends, kv, progress).map_err(Error::from)
    };
    let Some(cpu) = cpu else { return Ok((build(&choice)?, None, choice)) };
    let placement = Placement::single("cpu", graph.len());
    match build(&choice) {
        Ok(executor) => {
            let fallback = fallback(graph.clone(), cut(placement, graph, taps)?, cpu, kv);
            Ok((executor, Some(fallback), choice))
        }
        Err(error) => {
            tracing::warn!("{error}; using the CPU");
            let choice = Choice { prefill: placement.clone(), decode: placement, backends: vec![cpu] };
            Ok((build(&choice)?, None, choice))
        }
    }
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
