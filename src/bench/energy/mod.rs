//! Energy, where the machine measures it: processors (`rapl`), all of a notebook that runs on its battery (`battery`), NVIDIA's
//! GPUs (`nvml`). What the machine takes when it does nothing is subtracted. Nothing is ever estimated.

mod battery;
#[cfg(feature = "gpu")]
mod nvml;
mod rapl;
mod sensor;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::gpus::{Consumer, Gpus};
use super::{Options, Spec};
use battery::Battery;
use rapl::Rapl;
use sensor::{Reading, Sensor};

/// Something that was found, or why not.
type Found<T> = Result<T, String>;

/// What measures energy on a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnergySource {
    /// The sensors; rows say which of them their joules are of.
    pub sensors: Vec<EnergySensor>,
    /// Why others were not used, or not for some rows.
    pub not_measurable: Vec<String>,
}

/// A sensor of energy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EnergySensor {
    /// `rapl`, `battery`, or `nvml:` and the number that NVIDIA's tools give a GPU.
    pub name: String,
    /// What it measures.
    pub of: String,
    /// Watts that were taken with nothing to do, before the run; rows are what is beyond it.
    pub idle_watts: f64,
}

/// The energy of a row: medians of its repetitions, beyond that of the idle machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Of one repetition.
    pub joules: f64,
    /// Of one token.
    pub joules_per_token: f64,
    /// The sensors whose joules were added.
    pub sensors: Vec<String>,
}

impl EnergySource {
    /// For people: what measures, and why others do not.
    pub fn describe(&self) -> String {
        let sensor = |sensor: &EnergySensor| {
            format!("{} ({}, beyond {:.1} W of the idle machine)", sensor.name, sensor.of, sensor.idle_watts)
        };
        let sensors: Vec<String> = self.sensors.iter().map(sensor).collect();
        match (&sensors[..], &self.not_measurable[..]) {
            ([], reasons) => format!("energy is not measurable here: {}", reasons.join("; ")),
            (sensors, []) => format!("energy by {}", sensors.join(" and ")),
            (sensors, reasons) => format!("energy by {}; not measured: {}", sensors.join(" and "), reasons.join("; ")),
        }
    }
}

/// How long the idle machine is watched.
const IDLE: Duration = Duration::from_secs(2);

/// The sensors of a machine.
#[derive(Debug)]
pub(super) struct Meter {
    sensors: Vec<Sensor>,
    source: EnergySource,
}

impl Meter {
    /// What there is on this machine, for combinations of `specs`; the idle machine is watched for two seconds.
    pub(super) fn new(options: &Options, specs: &[Spec], gpus: &Gpus) -> Meter {
        let mut meter = Meter::of_machine(&options.sysfs);
        #[cfg(feature = "gpu")]
        if !meter.has_battery() && gpus.have_boards(options, specs) {
            meter.add_boards(nvml::Library::open());
        }
        #[cfg(not(feature = "gpu"))]
        let _ = (specs, gpus);
        meter.watch_idle(IDLE);
        meter
    }

    /// The sensor of the processors, else the battery.
    fn of_machine(sysfs: &Path) -> Meter {
        let mut source = EnergySource::default();
        let sensor = Rapl::find(sysfs).map(Sensor::Rapl).or_else(|reason| {
            source.not_measurable.push(reason);
            Battery::find(sysfs).map(Sensor::Battery)
        });
        let sensor = sensor.map_err(|reason| source.not_measurable.push(reason)).ok();
        Meter { sensors: sensor.into_iter().collect(), source }
    }

    /// Adds those of the GPUs that NVML knows, or why there are none.
    #[cfg(feature = "gpu")]
    fn add_boards(&mut self, nvml: Found<impl nvml::Nvml + 'static>) {
        let boards = nvml.and_then(|nvml| nvml::boards(std::rc::Rc::new(nvml)));
        match boards {
            Ok(boards) => self.sensors.extend(boards.into_iter().map(Sensor::Board)),
            Err(reason) => self.source.not_measurable.push(reason),
        }
    }

    /// Measures what the idle machine takes; a sensor that does not tell is none.
    fn watch_idle(&mut self, time: Duration) {
        if self.sensors.is_empty() {
            return;
        }
        let (before, start) = (self.sensors.iter().map(Sensor::read).collect::<Vec<_>>(), Instant::now());
        std::thread::sleep(time);
        let seconds = start.elapsed().as_secs_f64();
        for (sensor, before) in std::mem::take(&mut self.sensors).into_iter().zip(before) {
            match before.and_then(|before| sensor.joules_since(&before, seconds)) {
                Some(joules) => {
                    let (name, of) = (sensor.name(), sensor.of());
                    self.source.sensors.push(EnergySensor { name, of, idle_watts: joules / seconds });
                    self.sensors.push(sensor);
                }
                None => self.note(format!("{}: it could not be read", sensor.name())),
            }
        }
    }

    /// What measures.
    pub(super) fn source(&self) -> &EnergySource {
        &self.source
    }

    fn note(&mut self, reason: String) {
        if !self.source.not_measurable.contains(&reason) {
            self.source.not_measurable.push(reason);
        }
    }

    fn has_battery(&self) -> bool {
        self.sensors.iter().any(|sensor| matches!(sensor, Sensor::Battery(_)))
    }

    /// The sensors that together measure all of `consumers`, as indices: those that compute must be measured each; that of the
    /// processors, which start the work of GPUs, is added where there is one. None if one is not measured.
    pub(super) fn choose(&mut self, consumers: &[Consumer]) -> Vec<usize> {
        let machine = self.sensors.iter().position(|sensor| matches!(sensor, Sensor::Rapl(_) | Sensor::Battery(_)));
        if self.has_battery() {
            return machine.into_iter().collect();
        }
        if machine.is_none() && consumers.contains(&Consumer::Package) {
            return Vec::new();
        }
        #[cfg_attr(not(feature = "gpu"), expect(unused_mut, reason = "GPUs are added to it"))]
        let mut chosen: Vec<usize> = machine.into_iter().collect();
        #[cfg(feature = "gpu")]
        for consumer in consumers {
            let Consumer::Board { name, pci } = consumer else { continue };
            let boards = self.sensors.iter().enumerate();
            let boards = boards.filter_map(|(index, sensor)| Some((index, sensor.board()?)));
            match nvml::matching(boards, name, pci.as_deref()) {
                Some(index) if chosen.contains(&index) => {}
                Some(index) => chosen.push(index),
                None => {
                    self.note(format!("rows on {name}: no sensor measures it"));
                    return Vec::new();
                }
            }
        }
        chosen
    }

    /// The names of chosen sensors.
    pub(super) fn names(&self, chosen: &[usize]) -> Vec<String> {
        chosen.iter().map(|&index| self.sensors[index].name()).collect()
    }

    /// Chosen sensors now. `None` if there are none, or one does not tell.
    pub(super) fn read(&self, chosen: &[usize]) -> Option<Vec<Reading>> {
        let readings = chosen.iter().map(|&index| self.sensors[index].read());
        readings.collect::<Option<Vec<_>>>().filter(|readings| !readings.is_empty())
    }

    /// Joules of chosen sensors from `before` until now, `seconds` later, beyond those of the idle machine.
    pub(super) fn joules_since(&mut self, chosen: &[usize], before: Option<Vec<Reading>>, seconds: f64) -> Option<f64> {
        let mut sum = 0.0;
        for (&index, before) in chosen.iter().zip(before?) {
            let sensor = &self.sensors[index];
            if seconds < sensor.shortest() {
                let (name, least) = (sensor.name(), sensor.shortest());
                self.note(format!("{name}: repetitions of less than {least} s are too short for it"));
                return None;
            }
            sum += sensor.joules_since(&before, seconds)? - self.source.sensors[index].idle_watts * seconds;
        }
        Some(sum)
    }
}

/// The number in a file.
fn read_number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}
