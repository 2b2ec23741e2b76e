//! `auto`: the devices of the machine are priced and the planner decides.

use std::path::Path;
use std::sync::Arc;

use super::backends::{candidates, cpu_backend};
use super::choice::{self, Choice, Wanted};
use crate::backend::cpu::CpuBackend;
use crate::backend::{Backend, BackendError, KvOptions};
use crate::engine::{Error, OpenOptions};
use crate::graph::planner::{self, Assignment, Machine, Phases, PlanError, Workload};
use crate::graph::{Graph, Placement};
use crate::plan::{self, AssumedDevice, BlockCost, CostSource, Priced, Report};

/// Devices and what they cost.
type Devices = Vec<(Arc<dyn Backend>, Priced)>;

/// The devices that `auto` plans for.
pub(super) struct Planner {
    pub(super) backends: Vec<Arc<dyn Backend>>,
    pub(super) machine: Machine,
    pub(super) workload: Workload,
}

impl Planner {
    /// The fastest placement.
    pub(super) fn choice(&self) -> Result<Choice, Error> {
        let (phases, prediction) = planner::plan(&self.machine, self.workload, true)?;
        let placement = |assignment| planner::placement(&self.machine, assignment);
        let (prefill, decode) = (placement(&phases.prefill), placement(&phases.decode));
        let choice = Choice { prefill, decode, backends: self.backends.clone() };
        tracing::info!("placement {}: {:.3} ms a token by prediction", choice.text(), 1e3 * prediction.token.decode);
        Ok(choice)
    }

    /// The fastest placement after all, when a device turned out to have no more than `bytes`; `None` if that is nothing new.
    pub(super) fn choice_within(&mut self, device: &str, bytes: u64) -> Option<Choice> {
        let device = self.machine.devices.iter_mut().find(|known| known.name == device)?;
        // Buffers come on top later, and others use the device too.
        let bytes = bytes / 10 * 9;
        if device.budget.is_some_and(|budget| budget <= bytes) {
            return None;
        }
        device.budget = Some(bytes);
        self.choice().ok()
    }
}

/// What `auto` plans for, if there is a GPU beside the CPU.
pub(super) fn planner(
    graph: &Graph,
    options: &OpenOptions,
    kv: KvOptions,
    cpu: &Arc<CpuBackend>,
) -> Result<Option<Planner>, Error> {
    let mut left_out = Vec::new();
    let mut backends = candidates(options, &mut left_out);
    let mut devices = Vec::new();
    if !backends.is_empty() {
        backends.insert(0, Arc::clone(cpu) as Arc<dyn Backend>);
        devices = price(graph, options, kv, backends, true, &mut left_out)?;
    }
    left_out.iter().for_each(|line| tracing::info!("{line}"));
    if devices.len() < 2 {
        return Ok(None);
    }
    let (backends, priced): (Vec<_>, Vec<_>) = devices.into_iter().unzip();
    let machine = plan::machine(&priced, graph, kv, options.chunk);
    Ok(Some(Planner { backends, machine, workload: options.workload }))
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
) -> Result<Devices, Error> {
    let file = options.tuning_file.as_deref().filter(|_| backends.len() > 1);
    let mut priced = Vec::new();
    for backend in backends {
        let cost = cost(&*backend, graph, kv, options.chunk, file, may_measure);
        let one = cost.and_then(|cost| {
            let Some(cost) = cost else { return Ok(None) };
            Priced::of(&*backend, graph, kv, options.workload, cost, CostSource::Measured).map(Some)
        });
        match one {
            Ok(Some(one)) => priced.push((backend, one)),
            Ok(None) if backend.name() == "cpu" => {}
            Ok(None) => left_out.push(format!("{}: it was not measured with such blocks yet", backend.description())),
            Err(error) if backend.name() != "cpu" => left_out.push(format!("{}: {error}", backend.description())),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(priced)
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
/// not there; with any of them, the GPUs that are there do not count. `has_weights` says whether blocks can be run.
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
    let devices = price(graph, options, kv, backends, has_weights, &mut left_out)?;
    let mut priced: Vec<Priced> = devices.into_iter().map(|(_, priced)| priced).collect();
    if !priced.iter().any(|device| device.facts.name == "cpu") {
        let bounds = plan::cpu_bounds(&cpu, graph, kv)?;
        priced.insert(0, Priced::of(&*cpu, graph, kv, options.workload, bounds, CostSource::Bounds)?);
    }
    if placements.is_some() && !left_out.is_empty() {
        return Err(Error::BadOption {
            option: "placement",
            found: left_out.join("; "),
            expected: "devices whose times are known: plan a model with such blocks first, or assume a device",
        });
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
                let mut machine = Machine { memory: None, ..machine.clone() };
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
fn assignment(machine: &Machine, placement: &Placement) -> Result<Assignment, Error> {
    let of_layer = |layer: usize| {
        let name = placement.backend_of(layer).unwrap_or("cpu");
        machine.devices.iter().position(|device| device.name == name).ok_or_else(|| {
            let known = machine.devices.iter().map(|device| device.name.as_str()).collect::<Vec<_>>().join(", ");
            Error::Backend(BackendError::Unknown { name: name.to_owned(), known })
        })
    };
    (0..machine.layers()).map(of_layer).collect()
}
