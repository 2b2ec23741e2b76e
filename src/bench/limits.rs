//! What the devices of a run can do at most, measured next to what is compared (`bound` compares).

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sterna_cpu::machine::{self, Int8Probe, ReadProbe};
use sterna_cpu::{Isa, Pool};

use super::bound::{Bounds, Part};
use super::gpus::Gpus;
#[cfg(feature = "gpu")]
use super::row::GpuLimits;
use super::{Machine, Options, Spec, Test};
#[cfg(feature = "gpu")]
use crate::backend::gpu::{Gpu, GpuProbe};
use crate::tune;

/// Memory that the bandwidth is measured with: far beyond all caches.
const PROBE_BYTES: usize = 256 << 20;

/// How long a limit is measured next to a repetition, in many passes: in a few milliseconds it is another one each time.
const PROBE_TIME: Duration = Duration::from_millis(60);

/// The median of passes of a probe.
fn for_a_while(mut pass: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let mut rates = vec![pass()];
    while start.elapsed() < PROBE_TIME || rates.len() < 3 {
        rates.push(pass());
    }
    machine::median(rates)
}

/// Probes of the CPU and of the GPUs.
pub(super) struct Limits {
    pools: BTreeMap<usize, Pool>,
    probe: ReadProbe,
    isa: Isa,
    /// Reads next to repetitions, by number of threads.
    reads: BTreeMap<usize, Vec<f64>>,
    /// The GPUs of the machine.
    pub(super) gpus: Gpus,
    #[cfg(feature = "gpu")]
    of_gpus: BTreeMap<String, Option<(GpuLimits, GpuProbe)>>,
}

impl Limits {
    pub(super) fn new(options: &Options) -> Limits {
        let pools = options.threads.iter().map(|&threads| (threads, Pool::new(threads))).collect();
        Limits {
            pools,
            probe: ReadProbe::new(PROBE_BYTES),
            isa: Isa::detect(),
            reads: BTreeMap::new(),
            gpus: Gpus::default(),
            #[cfg(feature = "gpu")]
            of_gpus: BTreeMap::new(),
        }
    }

    /// The bounds of each part of a test at this moment, where it has something to do.
    pub(super) fn bounds(&mut self, options: &Options, spec: &Spec, parts: &[Part]) -> Vec<Bounds> {
        let work = |part: &Part| match spec.test {
            Test::Prompt(_) => part.macs,
            Test::Generate(_) => part.bytes,
        };
        let of = |part: &Part| match part.backend.as_str() {
            _ if work(part) == Some(0) => Bounds::default(),
            "cpu" => self.cpu(spec),
            gpu => self.gpu(options, spec, gpu),
        };
        parts.iter().map(of).collect()
    }

    fn cpu(&mut self, spec: &Spec) -> Bounds {
        let Some(pool) = self.pools.get(&spec.threads) else { return Bounds::default() };
        let is_prompt = matches!(spec.test, Test::Prompt(_));
        let read = (!is_prompt).then(|| for_a_while(|| self.probe.gbps(pool, self.isa)));
        self.reads.entry(spec.threads).or_default().extend(read);
        let probe = if is_prompt || spec.parallel > 1 { Int8Probe::new(spec.isa) } else { None };
        Bounds { read, int8: probe.map(|probe| for_a_while(|| probe.gmacs(pool))) }
    }

    #[cfg(feature = "gpu")]
    fn gpu(&mut self, options: &Options, spec: &Spec, backend: &str) -> Bounds {
        let known = self.of_gpus.entry(gpu_name(spec, backend));
        let known = known.or_insert_with(|| open(&self.gpus, options, spec, backend));
        let Some((limits, probe)) = known else { return Bounds::default() };
        let is_prompt = matches!(spec.test, Test::Prompt(_));
        // A device that fails here fails in the next pass too, which says so.
        let read = if is_prompt { None } else { probe.read_gbps().ok() };
        let int8 = if is_prompt || spec.parallel > 1 { probe.int8_gmacs().ok() } else { None };
        limits.note(read, int8);
        Bounds { read, int8 }
    }

    #[cfg(not(feature = "gpu"))]
    fn gpu(&mut self, _options: &Options, _spec: &Spec, _backend: &str) -> Bounds {
        Bounds::default()
    }

    /// The limits of the machine: of what was measured next to repetitions, the medians.
    pub(super) fn machine(&self) -> Machine {
        let mut machine = Machine { cpu: tune::cpu_name(), cores: Pool::default_threads(), ..Machine::default() };
        for (&threads, pool) in &self.pools {
            let read = match self.reads.get(&threads).filter(|reads| !reads.is_empty()) {
                Some(reads) => machine::median(reads.iter().copied()),
                None => self.probe.gbps(pool, self.isa),
            };
            machine.read_gbps.insert(threads, read);
            machine.barrier_ns.insert(threads, machine::barrier_ns(pool));
        }
        if let Some((_, pool)) = self.pools.last_key_value() {
            for isa in Isa::available() {
                if let Some(rate) = machine::int8_gmacs(pool, isa) {
                    machine.int8_gmacs.insert(isa.name().to_owned(), rate);
                }
            }
        }
        #[cfg(feature = "gpu")]
        machine.gpu.extend(self.of_gpus.values().flatten().map(|(limits, _)| limits.finished()));
        machine
    }
}

/// What rows call a GPU: the device's name, or that of a backend in a placement.
#[cfg(feature = "gpu")]
fn gpu_name(spec: &Spec, backend: &str) -> String {
    match (&spec.device, backend) {
        (gpu @ crate::backend::Device::Gpu(_), "gpu") => gpu.to_string(),
        _ => backend.to_owned(),
    }
}

/// Opens a GPU of a combination once more, to measure it. `None`, with a warning, if that fails.
#[cfg(feature = "gpu")]
fn open(gpus: &Gpus, options: &Options, spec: &Spec, backend: &str) -> Option<(GpuLimits, GpuProbe)> {
    let name = gpu_name(spec, backend);
    let opened = gpus.of(options, spec, backend).and_then(|found| {
        let probe = GpuProbe::new(std::sync::Arc::new(Gpu::open(found, &options.gpu)?))?;
        let rates = probe.rates()?;
        Ok((GpuLimits::new(&name, &found.summary, &rates), probe))
    });
    opened.inspect_err(|error| tracing::warn!("{name}: its limits cannot be measured: {error}")).ok()
}
