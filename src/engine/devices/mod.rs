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
use planned::Planner;
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
    let planner = match wanted {
        Wanted::Auto => planned::planner(graph, options, kv, &cpu)?,
        _ => None,
    };
    let (executor, fallback, choice) = match planner {
        Some(planner) => build_planned(graph, planner, cpu, &options.taps, kv, progress)?,
        None => {
            let choice = choice::choose(graph, options, kv, &wanted, &cpu)?;
            (build(graph, &choice, &options.taps, kv, progress)?, None, choice)
        }
    };
    Ok(Opened { executor, fallback, description: choice.description(), kernels, placement: choice.text() })
}

/// Builds the stages of a choice.
fn build(
    graph: &Graph,
    choice: &Choice,
    taps: &[Option<usize>],
    kv: KvOptions,
    progress: &dyn Progress,
) -> Result<Executor, Error> {
    let [prefill, decode] = [&choice.prefill, &choice.decode].map(|p| cut(p.clone(), graph, taps));
    Ok(Executor::build_phases(graph, [&prefill?, &decode?], &choice.backends, kv, progress)?)
}

/// Builds the stages that are fastest by plan; also gives what to do when one of them fails, and the choice. A device that
/// has less memory than was known gets fewer layers; what cannot be built at all goes to the CPU.
fn build_planned(
    graph: &Graph,
    mut planner: Planner,
    cpu: Arc<dyn Backend>,
    taps: &[Option<usize>],
    kv: KvOptions,
    progress: &dyn Progress,
) -> Result<(Executor, Option<Fallback>, Choice), Error> {
    let mut choice = planner.choice()?;
    loop {
        let error = match build(graph, &choice, taps, kv, progress) {
            Ok(executor) => {
                let placement = cut(Placement::single("cpu", graph.len()), graph, taps)?;
                let fallback = (!choice.is_cpu()).then(|| fallback(graph.clone(), placement, cpu, kv));
                return Ok((executor, fallback, choice));
            }
            Err(error) => error,
        };
        let room = match &error {
            Error::Executor(error) => error.reason().room().map(|room| (error.backend(), room)),
            _ => None,
        };
        match room.and_then(|(device, room)| planner.choice_within(device, room)) {
            Some(smaller) => {
                tracing::info!("{error}; trying {}", smaller.text());
                choice = smaller;
            }
            None => {
                tracing::warn!("{error}; using the CPU");
                choice = Choice::on(&cpu, graph);
                return Ok((build(graph, &choice, taps, kv, progress)?, None, choice));
            }
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
