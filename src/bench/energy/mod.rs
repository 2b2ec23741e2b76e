//! Energy, where the machine measures it: processors (`rapl`), or all of a notebook that runs on its battery (`battery`). What
//! the machine takes when it does nothing is subtracted. Nothing is ever estimated.

mod battery;
mod rapl;

use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use battery::Battery;
use rapl::Rapl;

/// Something that was found, or why not.
type Found<T> = Result<T, String>;

/// What measures energy on a machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EnergySource {
    /// `rapl` or `battery`; absent where nothing measures it.
    pub sensor: Option<String>,
    /// What was taken with nothing to do, before the run; rows are what is beyond it.
    pub idle_watts: Option<f64>,
    /// Why others were not used.
    pub not_measurable: Vec<String>,
}

/// The energy of a row: medians of its repetitions, beyond that of the idle machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Energy {
    /// Of one repetition.
    pub joules: f64,
    /// Of one token.
    pub joules_per_token: f64,
}

/// How long the idle machine is watched.
const IDLE: Duration = Duration::from_secs(2);

/// What a battery says is a mean of about a second: shorter repetitions are not measured with it.
const SHORTEST: f64 = 1.0;

#[derive(Debug)]
enum Sensor {
    Rapl(Rapl),
    Battery(Battery),
}

/// A sensor, if there is one.
#[derive(Debug)]
pub(super) struct Meter {
    sensor: Option<Sensor>,
    source: EnergySource,
}

/// The state of a sensor at some moment.
#[derive(Debug)]
pub(super) enum Reading {
    Counters(Vec<u64>),
    Watts(f64),
}

impl Meter {
    /// What there is below `sysfs` (`/sys`), which measures the idle machine for two seconds.
    pub(super) fn new(sysfs: &Path) -> Meter {
        Meter::watching(sysfs, IDLE)
    }

    fn watching(sysfs: &Path, idle: Duration) -> Meter {
        let mut source = EnergySource::default();
        let rapl = Rapl::find(sysfs).map(Sensor::Rapl);
        let sensor = rapl.or_else(|reason| {
            source.not_measurable.push(reason);
            Battery::find(sysfs).map(Sensor::Battery)
        });
        let sensor = sensor.map_err(|reason| source.not_measurable.push(reason)).ok();
        let mut meter = Meter { sensor, source };
        let name = match &meter.sensor {
            Some(Sensor::Rapl(_)) => "rapl",
            Some(Sensor::Battery(_)) => "battery",
            None => return meter,
        };
        let (before, start) = (meter.read(), Instant::now());
        std::thread::sleep(idle);
        let seconds = start.elapsed().as_secs_f64();
        meter.source.sensor = Some(name.to_owned());
        meter.source.idle_watts =
            before.zip(meter.read()).and_then(|(a, b)| Some(meter.all(&a, &b, seconds)? / seconds));
        meter
    }

    /// What measures.
    pub(super) fn source(&self) -> &EnergySource {
        &self.source
    }

    /// The sensor now.
    pub(super) fn read(&self) -> Option<Reading> {
        match self.sensor.as_ref()? {
            Sensor::Rapl(rapl) => rapl.read().map(Reading::Counters),
            Sensor::Battery(battery) => battery.watts().map(Reading::Watts),
        }
    }

    /// Joules between two readings.
    fn all(&self, before: &Reading, after: &Reading, seconds: f64) -> Option<f64> {
        match (self.sensor.as_ref()?, before, after) {
            (Sensor::Rapl(rapl), Reading::Counters(before), Reading::Counters(after)) => {
                Some(rapl.joules(before, after))
            }
            (Sensor::Battery(_), Reading::Watts(before), Reading::Watts(after)) => {
                Some((before + after) / 2.0 * seconds)
            }
            _ => None,
        }
    }

    /// Joules from `before` until now, `seconds` later, beyond those of the idle machine.
    pub(super) fn joules_since(&self, before: Option<Reading>, seconds: f64) -> Option<f64> {
        let is_long_enough = !matches!(self.sensor, Some(Sensor::Battery(_))) || seconds >= SHORTEST;
        let (before, after) = (before?, self.read()?);
        let all = self.all(&before, &after, seconds).filter(|_| is_long_enough)?;
        Some(all - self.source.idle_watts? * seconds)
    }
}

/// The number in a file.
fn read_number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes files of a tree as the kernel shows them.
    fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), files);
        folder
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, format!("{text}\n")).expect("a file");
        }
    }

    const PACKAGE: &str = "class/powercap/intel-rapl:0";

    /// Two packages, the cores of one, and memory; the platform and another view of a package must not be counted.
    fn rapl() -> tempfile::TempDir {
        let zone = |zone: &str, name: &str| {
            let file = |file: &str| format!("class/powercap/{zone}/{file}");
            [
                (file("name"), name.to_owned()),
                (file("energy_uj"), "1000000".into()),
                (file("max_energy_range_uj"), "5000000".into()),
            ]
        };
        let zones = [
            ("intel-rapl:0", "package-0"),
            ("intel-rapl:0:0", "core"),
            ("intel-rapl:0:1", "dram"),
            ("intel-rapl:1", "package-1"),
            ("intel-rapl:2", "psys"),
            ("intel-rapl-mmio:0", "package-0"),
        ];
        let files: Vec<(String, String)> = zones.into_iter().flat_map(|(dir, name)| zone(dir, name)).collect();
        tree(&files.iter().map(|(file, text)| (file.as_str(), text.as_str())).collect::<Vec<_>>())
    }

    #[test]
    fn packages_and_memory_are_counted_beyond_idle() {
        let root = rapl();
        let mut meter = Meter::watching(root.path(), Duration::from_millis(1));
        assert_eq!((meter.source.sensor.as_deref(), meter.source.idle_watts), (Some("rapl"), Some(0.0)));
        assert_eq!(meter.source.not_measurable, [""; 0]);
        let before = meter.read();
        let zones =
            ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:2", "intel-rapl-mmio:0"];
        let counters: Vec<String> = zones.iter().map(|zone| format!("class/powercap/{zone}/energy_uj")).collect();
        // Package 0 takes 2 J, its memory 0.5 J; the counter of package 1 begins anew and has taken 4.25 J.
        let values = ["3000000", "2900000", "1500000", "250000", "4900000", "3000000"];
        let files: Vec<(&str, &str)> = counters.iter().map(String::as_str).zip(values).collect();
        write(root.path(), &files);
        let joules = meter.joules_since(before, 2.0).expect("a measurement");
        assert!((joules - 6.75).abs() < 1e-9, "{joules}");
        meter.source.idle_watts = Some(3.0);
        let before = meter.read();
        write(root.path(), &[(&format!("{PACKAGE}/energy_uj"), "4000000")]);
        let joules = meter.joules_since(before, 0.25).expect("a measurement");
        assert!((joules - 0.25).abs() < 1e-9, "{joules}");
    }

    #[test]
    fn batteries_are_measured_while_they_discharge() {
        let bat = "class/power_supply/BAT0";
        let file = |name: &str| format!("{bat}/{name}");
        let root = tree(&[
            (&file("type"), "Battery"),
            (&file("status"), "Discharging"),
            (&file("current_now"), "1000000"),
            (&file("voltage_now"), "12000000"),
            ("class/power_supply/mouse/type", "Battery"),
            ("class/power_supply/mouse/scope", "Device"),
            ("class/power_supply/mouse/status", "Discharging"),
            ("class/power_supply/mouse/power_now", "9000000"),
        ]);
        let meter = Meter::watching(root.path(), Duration::from_millis(1));
        assert_eq!(meter.source.sensor.as_deref(), Some("battery"));
        assert!((meter.source.idle_watts.expect("watts") - 12.0).abs() < 1e-9);
        assert!(meter.source.not_measurable[0].starts_with("RAPL: no counter"), "{:?}", meter.source);
        let before = meter.read();
        write(root.path(), &[(&file("power_now"), "20000000")]);
        // 12 W at first, 20 W at the end, 12 W idle.
        let joules = meter.joules_since(before, 2.0).expect("a measurement");
        assert!((joules - (16.0 - 12.0) * 2.0).abs() < 1e-9, "{joules}");
        assert_eq!(meter.joules_since(meter.read(), 0.1), None, "too short");

        write(root.path(), &[(&file("status"), "Charging")]);
        let source = Meter::watching(root.path(), IDLE).source;
        assert!(source.sensor.is_none() && source.not_measurable[1].contains("unplug"), "{source:?}");
    }

    #[test]
    fn what_is_not_there_is_said() {
        let root = tree(&[]);
        let start = Instant::now();
        let meter = Meter::new(root.path());
        assert!(start.elapsed() < IDLE, "there is nothing to watch");
        let reasons = &meter.source.not_measurable;
        assert!(reasons.len() == 2 && reasons[1].starts_with("battery: none"), "{reasons:?}");
        assert!(meter.read().is_none() && meter.joules_since(None, 1.0).is_none());
        // A counter without its range, and one that is no number, are none.
        let broken = tree(&[(&format!("{PACKAGE}/name"), "package-0"), (&format!("{PACKAGE}/energy_uj"), "many")]);
        assert!(Meter::new(broken.path()).source.sensor.is_none());
    }

    #[cfg(unix)]
    #[test]
    fn counters_for_root_only_are_said_to_be() {
        use std::os::unix::fs::PermissionsExt;
        let root = rapl();
        let counter = root.path().join(PACKAGE).join("energy_uj");
        std::fs::set_permissions(&counter, std::fs::Permissions::from_mode(0o000)).expect("permissions");
        if std::fs::read(&counter).is_ok() {
            println!("note: this user may read everything, as root does: the refusal is not tested");
            return;
        }
        let reasons = Meter::new(root.path()).source.not_measurable;
        assert!(reasons[0].contains("only root") && reasons[0].contains("chmod"), "{reasons:?}");
    }
}
