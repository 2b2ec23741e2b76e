//! `auto`: the devices of the machine are priced and the planner decides.

use std::path::Path;
use std::sync::Arc;

use super::backends::{candidates, cpu_backend};
use super::choice::{self, Choice, Wanted};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, BackendError, KvOptions};
use crate::engine::{Error, OpenOptions};
use crate::graph::planner::{self, Assignment, Phases, PlanError};
use crate::graph::{Graph, Placement};
use crate::plan::{self, AssumedDevice, BlockCost, CostSource, Priced, Report};

/// The placement that is fastest on the devices of this machine.
pub(super) fn choose(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    cpu: &Arc<CpuBackend>,
) -> Result<Choice, Error> {
    let mut left_out = Vec::new();
    let mut backends = candidates(options, &mut left_out);
    let mut priced = Vec::new();
    if !backends.is_empty() {
        backends.insert(0, Arc::clone(cpu) as Arc<dyn Backend>);
        (backends, priced) = price(graph, options, kv, backends, true, &mut left_out)?;
    }
    left_out.iter().for_each(|line| tracing::info!("{line}"));
    if backends.len() < 2 {
        return Ok(Choice::cpu(graph, cpu));
    }
    let machine = plan::machine(&priced, graph, kv, options.chunk);
    let (phases, prediction) = planner::plan(&machine, options.workload, true)?;
    let [prefill, decode] =
        [&phases.prefill, &phases.decode].map(|assignment| planner::placement(&machine, assignment));
    let choice = Choice { prefill, decode, backends };
    tracing::info!("placement {}: {:.3} ms a token by prediction", choice.text(), 1e3 * prediction.token.decode);
    Ok(choice)
}

/// What a block costs on each of `backends`, the CPU first; those on which that cannot be told are left out. Nothing is run if
/// the graph has no weights (`may_measure`), nothing kept where the CPU is alone.
fn price(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    backends: Vec<Arc<dyn Backend>>,
    may_measure: bool,
    left_out: &mut Vec<String>,
) -> Result<(Vec<Arc<dyn Backend>>, Vec<Priced>), Error> {
    let file = options.tuning_file.as_deref().filter(|_| backends.len() > 1);
    let (mut kept, mut priced) = (Vec::new(), Vec::new());
    for backend in backends {
        let cost = cost(&*backend, graph, kv, options.chunk, file, may_measure);
        let one = cost.and_then(|cost| {
            let Some(cost) = cost else { return Ok(None) };
            Priced::of(&*backend, graph, kv, options.workload, cost, CostSource::Measured).map(Some)
        });
        match one {
            Ok(Some(one)) => {
                priced.push(one);
                kept.push(backend);
            }
            Ok(None) if backend.name() == "cpu" => {}
            Ok(None) => left_out.push(format!("{}: it was not measured with such blocks yet", backend.description())),
            Err(error) if backend.name() != "cpu" => left_out.push(format!("{}: {error}", backend.description())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok((kept, priced))
}

/// What a block costs: from the file, or measured and then kept there.
fn cost(
    backend: &dyn Backend,
    graph: &Graph,
    kv: KvOptions,
    chunk: usize,
    file: Option<&Path>,
    may_measure: bool,
) -> Result<Option<BlockCost>, BackendError> {
    let warn = |error: crate::tune::TuneError| tracing::warn!("{error}");
    let known = file.and_then(|file| {
        plan::load(file, &backend.description(), &plan::shape_of(graph, kv)).unwrap_or_else(|error| {
            warn(error);
            None
        })
    });
    if known.is_some() || !may_measure || graph.is_empty() {
        return Ok(known);
    }
    let cost = plan::measure(backend, graph, kv, chunk)?;
    if let Some(file) = file {
        plan::save(file, &cost).unwrap_or_else(warn);
    }
    Ok(Some(cost))
}

/// What `options` would make of `graph`: the placement that is asked for, or the fastest one. `assumed` are devices that are
/// not there; with any of them, those that are there count only as far as they are named. `has_weights` says whether blocks
/// can be run.
pub(in crate::engine) fn plan(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    model: String,
    assumed: &[AssumedDevice],
    has_weights: bool,
) -> Result<Report, Error> {
    let cpu = cpu_backend(options, graph)?;
    let mut left_out = Vec::new();
    let wanted = Wanted::of(options);
    let mut placements = None;
    let mut backends: Vec<Arc<dyn Backend>> = vec![Arc::clone(&cpu) as Arc<dyn Backend>];
    if !assumed.is_empty() {
        if wanted != Wanted::Auto {
            placements = Some(choice::of_names(graph, &wanted)?);
        }
    } else if wanted == Wanted::Auto {
        backends.extend(candidates(options, &mut left_out));
    } else {
        let choice = choice::choose(graph, options, kv, &wanted, &cpu)?;
        placements = Some([choice.prefill, choice.decode]);
        backends = choice.backends;
    }
    let (kept, mut priced) = price(graph, options, kv, backends, has_weights, &mut left_out)?;
    if !kept.iter().any(|backend| backend.name() == "cpu") {
        let bounds = plan::cpu_bounds(&cpu, graph, kv)?;
        priced.insert(0, Priced::of(&*cpu, graph, kv, options.workload, bounds, CostSource::Bounds)?);
    }
    for device in assumed {
        priced.push(plan::assumed(device, graph, kv, options.workload)?);
    }
    let machine = plan::machine(&priced, graph, kv, options.chunk);
    let mut problem = None;
    let (phases, prediction) = match placements {
        None => match planner::plan(&machine, options.workload, true) {
            // What it would be with memory enough.
            Err(error @ PlanError::DoesNotFit(_)) => {
                problem = Some(error.to_string());
                let mut machine = machine.clone();
                machine.devices.iter_mut().for_each(|device| device.budget = None);
                planner::plan(&machine, options.workload, true)?
            }
            planned => planned?,
        },
        Some([prefill, decode]) => {
            let phases = Phases { prefill: assignment(&machine, &prefill)?, decode: assignment(&machine, &decode)? };
            let prediction = planner::predict(&machine, options.workload, &phases);
            (phases, prediction)
        }
    };
    let mut report = Report::new(model, kv.kind.name(), options.workload, &machine, &priced, &phases, &prediction);
    if problem.is_none() && !prediction.fits(&machine) {
        problem = Some(planner::does_not_fit(&machine, options.workload, &phases).to_string());
    }
    (report.left_out, report.problem) = (left_out, problem);
    Ok(report)
}

/// A placement as the planner has it.
fn assignment(machine: &planner::Machine, placement: &Placement) -> Result<Assignment, Error> {
    let of_layer = |layer: usize| {
        let name = placement.backend_of(layer).unwrap_or("cpu");
        machine.devices.iter().position(|device| device.name == name).ok_or_else(|| {
            let known = machine.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::Backend(BackendError::Unknown { name: name.to_owned(), known })
        })
    };
    (0..machine.layers()).map(of_layer).collect()
}
