//! The measuring: round by round through all combinations.

use std::collections::BTreeMap;
use std::time::Instant;

use sterna_cpu::machine::{self, ReadProbe};
use sterna_cpu::{Isa, Pool};

use super::row::{Repetition, by_state};
use super::spec::PROMPT;
use super::{Machine, Options, Rate, Report, Row, Spec, Test};
use crate::backend::{Best, LogitsFor};
use crate::engine::Work;
use crate::tune;
use crate::{Error, GenerateOptions, Model, OpenOptions};

/// Memory that the bandwidth is measured with: far beyond all caches.
const PROBE_BYTES: usize = 256 << 20;

/// Models that are kept open together; with more, they are opened anew in each round.
const MAX_OPEN: usize = 4;

/// Measures every combination `options.repetitions` times, after one warm-up. `progress` is told of each repetition.
///
/// # Errors
/// If a model cannot be opened, or a test does not fit it.
pub fn run(options: &Options, progress: &mut dyn FnMut(&Spec)) -> Result<Report, Error> {
    let specs = options.specs();
    let limits = Limits::new(options);
    let mut results: Vec<Vec<Repetition>> = vec![Vec::new(); specs.len()];
    let mut facts: Vec<Option<Facts>> = vec![None; specs.len()];
    let mut open: Vec<(Spec, Model)> = Vec::new();
    for round in 0..options.repetitions.max(1) {
        for (index, spec) in specs.iter().enumerate() {
            let model = opened(&mut open, options, spec)?;
            if round == 0 {
                facts[index] = Some(Facts::of(&model, spec));
                time(&model, spec, Some(WARM_UP))?;
            }
            let before = limits.bound(spec);
            let seconds = time(&model, spec, None)?;
            let after = limits.bound(spec);
            let bound = before.zip(after).map(|(before, after)| (before + after) / 2.0);
            let timed = match spec.test {
                Test::Prompt(tokens) => tokens,
                // The first token comes with the prompt.
                Test::Generate(tokens) => tokens - 1,
            };
            results[index].push(Repetition { tokens_per_second: timed as f64 / seconds, bound });
            progress(spec);
        }
    }
    let machine = limits.machine(&specs, &results);
    let rows = specs.iter().zip(results).zip(facts).flat_map(|((spec, repetitions), facts)| {
        let facts = facts.unwrap_or_default();
        by_state(repetitions).into_iter().map(move |state| row(options, spec, &facts, &state)).collect::<Vec<_>>()
    });
    Ok(Report { machine, rows: rows.collect() })
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
        mmap: options.mmap,
        device: options.device.clone(),
        placement: options.placement.clone(),
        tuning_file: options.tuning_file.clone(),
        #[cfg(feature = "gpu")]
        gpu: options.gpu.clone(),
        ..OpenOptions::default()
    }
}

/// What a row says of a model beside its speed.
#[derive(Clone, Debug, Default)]
struct Facts {
    placement: String,
    layout: &'static str,
    kernel: &'static str,
    bytes_per_token: u64,
    macs_per_token: u64,
}

impl Facts {
    fn of(model: &Model, spec: &Spec) -> Facts {
        let engine = model.engine();
        let stages = engine.executor().stages();
        let read: u64 = stages.map(|(_, _, memory)| memory.weights + memory.head).sum();
        let middle = match spec.test {
            Test::Prompt(_) => spec.depth,
            Test::Generate(tokens) => spec.depth.max(PROMPT) + tokens / 2,
        };
        let cached = middle as u64 * model.config().kv_bytes_per_position(spec.kv) as u64;
        Facts {
            placement: model.placement().to_owned(),
            layout: model.kernels().layout().name(),
            kernel: model.kernels().name(),
            bytes_per_token: read + cached,
            macs_per_token: model.graph().ternary_parameters(),
        }
    }
}

/// Tokens of a warm-up: enough to touch all weights and to wake the threads.
const WARM_UP: usize = 4;

/// What is asked of the head behind a prompt, as by a generation with the default options.
const GREEDY: Best<'_> = Best { count: 1, margin: 0.0, also: &[], temperature: None };

/// Runs a test, or only `limit` tokens of it; seconds of what is timed.
fn time(model: &Model, spec: &Spec, limit: Option<usize>) -> Result<f64, Error> {
    let tokens = |test: usize| limit.map_or(test, |limit| limit.min(test)).max(1);
    let vocab = model.config().vocab_size as u32;
    // Any tokens will do; they differ, so that no engine can take one for the other.
    let text = |len: usize| (0..len as u32).map(|i| (i * 31 + 7) % vocab).collect::<Vec<u32>>();
    match spec.test {
        Test::Prompt(prompt) => {
            let mut engine = model.engine();
            let sequence = engine.create();
            let text = text(spec.depth + tokens(prompt));
            let (depth, prompt) = text.split_at(spec.depth);
            let work = |tokens, logits| [Work { sequence, tokens, logits }];
            let mut result = Ok(());
            if !depth.is_empty() {
                result = engine.forward(&work(depth, LogitsFor::None), &mut |_, _, _| Ok(()), None);
            }
            let start = Instant::now();
            let timed = engine.forward(&work(prompt, LogitsFor::Best(GREEDY)), &mut |_, _, _| Ok(()), None);
            let seconds = start.elapsed().as_secs_f64();
            engine.release(sequence);
            result.and(timed)?;
            Ok(seconds)
        }
        Test::Generate(generate) => {
            let options = GenerateOptions {
                // Two tokens at least: the first one belongs to the prompt.
                max_tokens: Some(tokens(generate).max(2)),
                ignore_eos: true,
                ..GenerateOptions::default()
            };
            let mut session = model.session();
            let mut generation = session.generate_tokens(text(spec.depth.max(PROMPT)), options)?;
            for token in generation.by_ref() {
                token?;
            }
            Ok(generation.timings().decode_time.as_secs_f64())
        }
    }
}

/// What the machine can do at most.
struct Limits {
    pools: BTreeMap<usize, Pool>,
    probe: ReadProbe,
    isa: Isa,
}

impl Limits {
    fn new(options: &Options) -> Limits {
        let pools = options.threads.iter().map(|&threads| (threads, Pool::new(threads))).collect();
        Limits { pools, probe: ReadProbe::new(PROBE_BYTES), isa: Isa::detect() }
    }

    /// The bound of a test at this moment: GB/s or 10^9 multiply-adds per second.
    fn bound(&self, spec: &Spec) -> Option<f64> {
        let pool = self.pools.get(&spec.threads)?;
        match spec.test {
            Test::Prompt(_) => machine::int8_gmacs(pool, spec.isa),
            Test::Generate(_) => Some(machine::median((0..3).map(|_| self.probe.gbps(pool, self.isa)))),
        }
    }

    fn machine(&self, specs: &[Spec], results: &[Vec<Repetition>]) -> Machine {
        let mut machine = Machine { cpu: tune::cpu_name(), cores: Pool::default_threads(), ..Machine::default() };
        for (&threads, pool) in &self.pools {
            let generations = specs
                .iter()
                .zip(results)
                .filter(|(spec, _)| spec.threads == threads && matches!(spec.test, Test::Generate(_)));
            let measured: Vec<f64> = generations
                .flat_map(|(_, repetitions)| repetitions)
                .filter_map(|repetition| repetition.bound)
                .collect();
            let read = if measured.is_empty() { self.probe.gbps(pool, self.isa) } else { machine::median(measured) };
            machine.read_gbps.insert(threads, read);
            machine.barrier_ns.insert(threads, machine::barrier_ns(pool));
        }
        if let Some((_, pool)) = self.pools.last_key_value() {
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
                if let Some(rate) = machine::int8_gmacs(pool, isa) {
                    machine.int8_gmacs.insert(isa.name(), rate);
                }
            }
        }
        machine
    }
}

/// The row of repetitions in one state of the machine.
fn row(options: &Options, spec: &Spec, facts: &Facts, repetitions: &[Repetition]) -> Row {
    let rates: Vec<f64> = repetitions.iter().map(|repetition| repetition.tokens_per_second).collect();
    let (n_prompt, n_gen, limit, per_token) = match spec.test {
        Test::Prompt(tokens) => (tokens, 0, "int8", facts.macs_per_token),
        Test::Generate(tokens) => (0, tokens, "read", facts.bytes_per_token),
    };
    let bounds = repetitions.iter().filter_map(|repetition| repetition.bound).collect::<Vec<_>>();
    let share =
        |repetition: &Repetition| Some(repetition.tokens_per_second * per_token as f64 / 1e9 / repetition.bound?);
    let shares = repetitions.iter().filter_map(share).collect::<Vec<_>>();
    let middle = |values: Vec<f64>| if values.is_empty() { None } else { Some(machine::median(values)) };
    Row {
        model: options.models[spec.model].name(),
        test: spec.test.name(),
        n_prompt,
        n_gen,
        depth: spec.depth,
        parallel: 1,
        threads: spec.threads,
        device: options.device.to_string(),
        placement: facts.placement.clone(),
        isa: spec.isa.name(),
        layout: facts.layout,
        kernel: facts.kernel,
        kv: spec.kv.name(),
        tokens_per_second: Rate::of(&rates),
        bytes_per_token: facts.bytes_per_token,
        limit,
        limit_rate: middle(bounds),
        limit_share: middle(shares),
    }
}
