//! The measuring: round by round through all combinations.

use std::time::{Duration, Instant};

use sterna_cpu::machine;

use super::bound::{Bounds, Part, Repetition, TRIES, by_state, limit};
use super::energy::{Energy, Meter};
use super::gpus::Consumer;
use super::limits::Limits;
use super::load::Load;
use super::peers::Peers;
use super::row::Skipped;
use super::spec::PROMPT;
use super::stats::Rate;
use super::timing::{time, time_watched};
use super::{ENGINE, Machine, Options, Report, Row, Spec, Test};
use crate::engine::Engine;
use crate::graph::{Layer, Phase};
use crate::{Error, Model, OpenOptions};

/// Models that are kept open together; with more, they are opened anew in each round.
const MAX_OPEN: usize = 4;

/// Tokens of a warm-up: enough to touch all weights and to wake the threads.
const WARM_UP: usize = 4;

/// Measures every combination `options.repetitions` times, after one warm-up. `progress` is told of each repetition. What
/// cannot run on this machine is left out, with the reason.
///
/// # Errors
/// If a model cannot be read, or a test does not fit it.
pub fn run(options: &Options, progress: &mut dyn FnMut(&Spec)) -> Result<Report, Error> {
    let specs = options.specs();
    let mut limits = Limits::new(options);
    let mut meter = Meter::new(options, &specs, &limits.gpus);
    let mut results: Vec<Vec<Repetition>> = vec![Vec::new(); specs.len()];
    let mut facts: Vec<Option<Facts>> = vec![None; specs.len()];
    let mut skipped: Vec<(&Spec, String)> = Vec::new();
    let mut open: Vec<(Spec, Model)> = Vec::new();
    let mut peers = Peers::start(options, &specs);
    for round in 0..options.repetitions.max(1) {
        for (index, spec) in specs.iter().enumerate() {
            if !skipped.iter().any(|(known, _)| known.same_model(spec)) {
                let measured = measure(options, spec, round == 0, &mut open, &mut limits, &mut meter);
                match measured {
                    Ok((repetition, known)) => {
                        results[index].push(repetition);
                        facts[index] = Some(known);
                    }
                    Err(error) => skipped.push((spec, reason(error)?)),
                }
            }
            progress(spec);
        }
        peers.measure(options, round == 0, &mut limits)?;
    }
    let machine = Machine { energy: meter.source().clone(), ..limits.machine() };
    let mut skipped: Vec<Skipped> =
        skipped.into_iter().map(|(spec, reason)| describe_skipped(options, spec, reason)).collect();
    let macs = |model: usize| {
        specs
            .iter()
            .zip(&facts)
            .find_map(|(spec, facts)| total(&facts.as_ref().filter(|_| spec.model == model)?.parts, |part| part.macs))
    };
    let (of_peers, skipped_peers) = peers.finish(options, &macs);
    skipped.extend(skipped_peers);
    let rows = specs.iter().zip(results).zip(facts).filter_map(|((spec, all), facts)| Some((spec, all, facts?)));
    let rows = rows.flat_map(|(spec, all, facts)| {
        by_state(&facts.parts, all).into_iter().map(|state| row(options, spec, &facts, &state)).collect::<Vec<_>>()
    });
    Ok(Report { machine, rows: rows.chain(of_peers).collect(), skipped })
}

/// One repetition of a combination, after a warm-up if it is the first.
fn measure(
    options: &Options,
    spec: &Spec,
    is_first: bool,
    open: &mut Vec<(Spec, Model)>,
    limits: &mut Limits,
    meter: &mut Meter,
) -> Result<(Repetition, Facts), Failure> {
    if let Some(reason) = spec.problem().filter(|_| !spec.is_gpu_only()) {
        return Err(Failure::Impossible(reason));
    }
    let model = opened(open, options, spec)?;
    let mut facts = Facts::of(&model, spec);
    let consumers: Vec<Consumer> =
        facts.parts.iter().map(|part| limits.gpus.consumer(options, spec, &part.backend)).collect();
    let sensors = meter.choose(&consumers);
    facts.sensors = meter.names(&sensors);
    if is_first {
        time(&model, spec, Some(WARM_UP))?;
    }
    let once = &mut || {
        let mut watched = None;
        let seconds = time_watched(&model, spec, None, &mut |_| {
            let load = Load::now();
            watched = Some((meter.read(&sensors), load));
        })?;
        let (reading, load) = watched.unzip();
        let others = load.flatten().and_then(Load::others);
        let joules = meter.joules_since(&sensors, reading.flatten(), seconds);
        let tokens_per_second = (spec.test.tokens() * spec.parallel) as f64 / seconds;
        Ok::<_, Error>(Repetition { tokens_per_second, others, joules, ..Repetition::default() })
    };
    let repetition = steady(&mut || limits.bounds(options, spec, &facts.parts), once)?;
    Ok((repetition, facts))
}

/// Repetitions are not made again after this time: a run shall not take three times as long on a busy machine, and what takes
/// seconds is a mean of what disturbs it.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `once` measures, between two measurements of the bounds: again, a few times at most, if other programs are at work or
/// the machine changed meanwhile. The one that was disturbed least.
pub(super) fn steady<E>(
    bounds: &mut dyn FnMut() -> Vec<Bounds>,
    once: &mut dyn FnMut() -> Result<Repetition, E>,
) -> Result<Repetition, E> {
    let start = Instant::now();
    let mut before = bounds();
    let mut measure = || {
        let repetition = once()?;
        let after = bounds();
        Ok(repetition.between(std::mem::replace(&mut before, after.clone()), after))
    };
    let mut best = measure()?;
    for _ in 1..TRIES {
        if best.is_steady() || start.elapsed() > PATIENCE {
            break;
        }
        best = best.steadier(measure()?);
    }
    Ok(best)
}

/// Why there is no repetition.
enum Failure {
    /// This machine cannot run the combination.
    Impossible(String),
    /// Opening the model or a pass failed.
    Error(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// The reason to leave a combination out. What is wrong with a file or a test is an error still.
fn reason(failure: Failure) -> Result<String, Error> {
    match failure {
        Failure::Impossible(reason) => Ok(reason),
        Failure::Error(
            error @ (Error::Backend(_)
            | Error::Executor(_)
            | Error::Placement(_)
            | Error::Plan(_)
            | Error::BadOption { .. }),
        ) => Ok(error.to_string()),
        Failure::Error(error) => Err(error),
    }
}

pub(super) fn describe_skipped(options: &Options, spec: &Spec, reason: String) -> Skipped {
    Skipped {
        model: options.models[spec.model].name(),
        device: spec.device.to_string(),
        placement: spec.placement.clone(),
        threads: spec.threads,
        isa: spec.isa.name().to_owned(),
        layout: spec.layout.map(|layout| layout.name().to_owned()),
        kv: spec.kv.name().to_owned(),
        reason,
    }
}

/// Whether a combination is among those that were left out.
pub(super) fn is_skipped(options: &Options, spec: &Spec, skipped: &[Skipped]) -> bool {
    skipped.iter().any(|known| *known == describe_skipped(options, spec, known.reason.clone()))
}

/// The model for a combination, opened if it is not open yet.
fn opened(open: &mut Vec<(Spec, Model)>, options: &Options, spec: &Spec) -> Result<Model, Error> {
    if let Some((_, model)) = open.iter().find(|(known, _)| known.same_model(spec)) {
        return Ok(model.clone());
    }
    if open.len() >= MAX_OPEN {
        open.remove(0);
    }
    let model = self::open(options, spec)?;
    open.push((spec.clone(), model.clone()));
    Ok(model)
}

/// Opens the model of a combination.
///
/// # Errors
/// If it cannot be opened.
pub fn open(options: &Options, spec: &Spec) -> Result<Model, Error> {
    let path = options.models[spec.model].prepare()?;
    Model::open(path, &open_options(options, spec))
}

/// How the model of a combination is opened.
pub fn open_options(options: &Options, spec: &Spec) -> OpenOptions {
    OpenOptions {
        threads: Some(spec.threads),
        isa: Some(spec.isa),
        layout: spec.layout,
        preferred_layout: options.preferred_layout,
        tuning: options.tuning,
        kv: spec.kv,
        context: Some(options.context()),
        sequences: options.sequences(),
        mmap: options.mmap,
        device: spec.device.clone(),
        placement: spec.placement.clone(),
        tuning_file: options.tuning_file.clone(),
        #[cfg(feature = "gpu")]
        gpu: options.gpu.clone(),
        ..OpenOptions::default()
    }
}

/// What a row says of a model beside its speed.
#[derive(Clone, Debug)]
struct Facts {
    placement: String,
    /// What computes.
    parts: Vec<Part>,
    /// What measures the energy of all of them.
    sensors: Vec<String>,
    isa: Option<&'static str>,
    layout: &'static str,
    kernel: &'static str,
}

impl Facts {
    fn of(model: &Model, spec: &Spec) -> Facts {
        let engine = model.engine();
        let (layout, kernel) = layout_and_kernel(model, &engine);
        let parts = parts(model, &engine, spec);
        Facts {
            placement: model.placement().to_owned(),
            isa: parts.iter().any(|part| part.backend == "cpu").then(|| model.kernels().isa().name()),
            parts,
            sensors: Vec::new(),
            layout,
            kernel,
        }
    }
}

/// What each backend does for a token of a test.
fn parts(model: &Model, engine: &Engine, spec: &Spec) -> Vec<Part> {
    let (phase, middle) = match spec.test {
        Test::Prompt(_) => (Phase::Prefill, spec.depth),
        Test::Generate(tokens) => (Phase::Decode, spec.depth.max(PROMPT) + tokens / 2),
    };
    let (config, graph) = (model.config(), model.graph());
    let cached_by_block = middle * config.kv_bytes_per_position(spec.kv) / config.num_layers.max(1);
    let mut parts: Vec<Part> = Vec::new();
    for (layers, backend, memory) in engine.executor().stages_of(phase) {
        let (mut bytes, mut macs) = ((memory.weights + memory.head) / spec.parallel as u64, 0);
        for layer in layers {
            let Layer::Block(_, block) = graph.layer(layer) else { continue };
            bytes += cached_by_block as u64;
            macs += block.linears().map(|linear| (linear.rows * linear.cols) as u64).sum::<u64>();
        }
        match parts.iter_mut().find(|part| part.backend == backend) {
            Some(part) => {
                part.bytes = part.bytes.map(|known| known + bytes);
                part.macs = part.macs.map(|known| known + macs);
            }
            None => parts.push(Part { backend: backend.to_owned(), bytes: Some(bytes), macs: Some(macs) }),
        }
    }
    parts
}

/// The layout of a model's ternary weights and the kernels for it: the CPU's, if it computes layers.
pub(super) fn layout_and_kernel(model: &Model, engine: &Engine) -> (&'static str, &'static str) {
    let kernels = model.kernels();
    match engine.executor().stages().any(|(_, backend, _)| backend == "cpu") {
        true => (kernels.layout().name(), kernels.name()),
        false => ("t16", "T16 WGSL"),
    }
}

/// The row of repetitions in one state of the machine.
fn row(options: &Options, spec: &Spec, facts: &Facts, repetitions: &[Repetition]) -> Row {
    Row {
        placement: facts.placement.clone(),
        isa: facts.isa.map(str::to_owned),
        layout: facts.layout.to_owned(),
        kernel: facts.kernel.to_owned(),
        energy: energy(spec, facts, repetitions),
        ..row_of(options, spec, ENGINE, &facts.parts, repetitions)
    }
}

/// The energy of repetitions, where it was measured.
fn energy(spec: &Spec, facts: &Facts, repetitions: &[Repetition]) -> Option<Energy> {
    let joules: Vec<f64> = repetitions.iter().filter_map(|repetition| repetition.joules).collect();
    let joules = (!joules.is_empty()).then(|| machine::median(joules))?;
    let joules_per_token = joules / (spec.test.tokens() * spec.parallel) as f64;
    Some(Energy { joules, joules_per_token, sensors: facts.sensors.clone() })
}

/// The work of all parts, if it is known.
fn total(parts: &[Part], of: fn(&Part) -> Option<u64>) -> Option<u64> {
    parts.iter().map(of).sum()
}

/// What rows of all programs have: all but what computes.
pub(super) fn row_of(options: &Options, spec: &Spec, engine: &str, parts: &[Part], repetitions: &[Repetition]) -> Row {
    let rates: Vec<f64> = repetitions.iter().map(|repetition| repetition.tokens_per_second).collect();
    let others: Vec<f64> = repetitions.iter().filter_map(|repetition| repetition.others).collect();
    let limit = limit(spec.test, parts, repetitions);
    let (n_prompt, n_gen) = match spec.test {
        Test::Prompt(tokens) => (tokens, 0),
        Test::Generate(tokens) => (0, tokens),
    };
    Row {
        engine: engine.to_owned(),
        model: options.models[spec.model].name(),
        test: spec.test.name().to_owned(),
        n_prompt,
        n_gen,
        depth: spec.depth,
        parallel: spec.parallel,
        threads: spec.threads,
        device: spec.device.to_string(),
        placement: spec.device.to_string(),
        isa: None,
        layout: String::new(),
        kernel: String::new(),
        kv: spec.kv.name().to_owned(),
        tokens_per_second: Rate::of(&rates),
        bytes_per_token: total(parts, |part| part.bytes),
        macs_per_token: total(parts, |part| part.macs),
        limit: limit.name.to_owned(),
        limit_rate: limit.rate,
        limit_share: limit.share,
        others_busy: (!others.is_empty()).then(|| machine::median(others)),
        unsteady: repetitions.iter().filter(|repetition| !repetition.is_steady()).count(),
        energy: None,
    }
}
