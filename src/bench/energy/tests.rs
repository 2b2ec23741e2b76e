//! The sensors on trees of files as Linux shows them, and on a library that plays NVML.

use std::time::Duration;

use super::*;

/// A meter of what is below a folder, and all of its sensors.
fn meter(root: &Path) -> (Meter, Vec<usize>) {
    let mut meter = Meter::of_machine(root);
    meter.watch_idle(Duration::from_millis(1));
    let all = (0..meter.sensors.len()).collect();
    (meter, all)
}

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
    let (mut meter, all) = meter(root.path());
    let [sensor] = &meter.source.sensors[..] else { panic!("one sensor: {:?}", meter.source) };
    assert_eq!((sensor.name.as_str(), sensor.idle_watts), ("rapl", 0.0));
    assert_eq!(meter.source.not_measurable, [""; 0]);
    assert_eq!(meter.choose(&[Consumer::Package]), all);
    let before = meter.read(&all);
    let zones =
        ["intel-rapl:0", "intel-rapl:0:0", "intel-rapl:0:1", "intel-rapl:1", "intel-rapl:2", "intel-rapl-mmio:0"];
    let counters: Vec<String> = zones.iter().map(|zone| format!("class/powercap/{zone}/energy_uj")).collect();
    // Package 0 takes 2 J, its memory 0.5 J; the counter of package 1 begins anew and has taken 4.25 J.
    let values = ["3000000", "2900000", "1500000", "250000", "4900000", "3000000"];
    let files: Vec<(&str, &str)> = counters.iter().map(String::as_str).zip(values).collect();
    write(root.path(), &files);
    let joules = meter.joules_since(&all, before, 2.0).expect("a measurement");
    assert!((joules - 6.75).abs() < 1e-9, "{joules}");
    meter.source.sensors[0].idle_watts = 3.0;
    let before = meter.read(&all);
    write(root.path(), &[(&format!("{PACKAGE}/energy_uj"), "4000000")]);
    let joules = meter.joules_since(&all, before, 0.25).expect("a measurement");
    assert!((joules - 0.25).abs() < 1e-9, "{joules}");
    let before = meter.read(&all);
    assert_eq!(meter.joules_since(&all, before, 0.01), None, "too short");
    assert!(meter.source.not_measurable[0].contains("rapl: repetitions of less than 0.05 s"), "{:?}", meter.source);
}

#[cfg(not(any(target_os = "macos", target_os = "windows")))]
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
    let (mut meter, all) = meter(root.path());
    let sensor = &meter.source.sensors[0];
    assert!(sensor.name == "battery" && (sensor.idle_watts - 12.0).abs() < 1e-9, "{sensor:?}");
    assert!(meter.source.not_measurable[0].starts_with("RAPL: no counter"), "{:?}", meter.source);
    let before = meter.read(&all);
    write(root.path(), &[(&file("power_now"), "20000000")]);
    // 20 W at the end, 12 W idle.
    let joules = meter.joules_since(&all, before, 2.0).expect("a measurement");
    assert!((joules - (20.0 - 12.0) * 2.0).abs() < 1e-9, "{joules}");
    let before = meter.read(&all);
    assert_eq!(meter.joules_since(&all, before, 0.1), None, "too short");

    write(root.path(), &[(&file("status"), "Charging")]);
    let source = Meter::of_machine(root.path()).source;
    assert!(source.sensors.is_empty() && source.not_measurable[1].contains("unplug"), "{source:?}");
}

#[test]
fn what_is_not_there_is_said() {
    let root = tree(&[]);
    let mut meter = Meter::of_machine(root.path());
    if meter.has_battery() {
        println!("note: this machine runs on its battery, which is not among the files of the test");
        return;
    }
    let start = Instant::now();
    meter.watch_idle(IDLE);
    assert!(start.elapsed() < IDLE, "there is nothing to watch");
    let reasons = &meter.source.not_measurable;
    assert!(reasons.len() == 2 && reasons[1].starts_with("battery: "), "{reasons:?}");
    assert!(meter.source.describe().starts_with("energy is not measurable here: RAPL"), "{}", meter.source.describe());
    let chosen = meter.choose(&[Consumer::Package]);
    assert!(chosen.is_empty() && meter.read(&chosen).is_none() && meter.joules_since(&chosen, None, 1.0).is_none());
    // A counter without its range, and one that is no number, are none.
    let broken = tree(&[(&format!("{PACKAGE}/name"), "package-0"), (&format!("{PACKAGE}/energy_uj"), "many")]);
    assert!(Meter::of_machine(broken.path()).source.sensors.is_empty());
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
    let reasons = Meter::of_machine(root.path()).source.not_measurable;
    assert!(reasons[0].contains("only root") && reasons[0].contains("chmod"), "{reasons:?}");
}

#[cfg(feature = "gpu")]
mod of_gpus {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::super::nvml::{self, Nvml};
    use super::*;

    /// Two GPUs: one that counts, one that only says its power.
    #[derive(Debug, Default)]
    struct Fake {
        millijoules: Cell<u64>,
        milliwatts: Cell<u32>,
    }

    impl Nvml for Rc<Fake> {
        fn count(&self) -> Found<u32> {
            // The last one is for others.
            Ok(3)
        }

        fn describe(&self, index: u32) -> Found<(String, String)> {
            match index {
                0 => Ok(("Counting".into(), "00000000:3B:00.0".into())),
                1 => Ok(("Old".into(), "00000001:01:00.0".into())),
                _ => Err("NVML: the current user does not have permission to perform this operation".into()),
            }
        }

        fn millijoules(&self, index: u32) -> Option<u64> {
            (index == 0).then(|| self.millijoules.get())
        }

        fn milliwatts(&self, _index: u32) -> Option<u32> {
            Some(self.milliwatts.get())
        }
    }

    fn with(fake: &Rc<Fake>, root: &Path) -> Meter {
        let mut meter = Meter::of_machine(root);
        meter.add_boards(Ok(Rc::clone(fake)));
        meter.watch_idle(Duration::from_millis(1));
        meter
    }

    fn board(name: &str, pci: Option<&str>) -> Consumer {
        Consumer::Board { name: name.into(), pci: pci.map(str::to_owned) }
    }

    #[test]
    fn a_row_holds_what_computes_and_the_processors() {
        let (root, fake) = (rapl(), Rc::new(Fake::default()));
        fake.milliwatts.set(30_000);
        let mut meter = with(&fake, root.path());
        let names: Vec<(&str, &str)> = meter.source.sensors.iter().map(|s| (s.name.as_str(), s.of.as_str())).collect();
        assert_eq!(names[1..], [("nvml:0", "Counting"), ("nvml:1", "Old")]);
        assert!(names[0].0 == "rapl" && meter.source.not_measurable.is_empty(), "{:?}", meter.source);
        let idle: Vec<i64> = meter.source.sensors.iter().map(|sensor| sensor.idle_watts.round() as i64).collect();
        assert_eq!(idle, [0, 0, 30]);

        // The place on the bus counts, as each side writes it; else the name.
        let counting = meter.choose(&[board("as Vulkan calls it", Some("0000:3b:00.0"))]);
        assert_eq!(meter.names(&counting), ["rapl", "nvml:0"]);
        let both = meter.choose(&[Consumer::Package, board("old", None), board("counting", None)]);
        assert_eq!(meter.names(&both), ["rapl", "nvml:1", "nvml:0"]);
        let on_cpu = meter.choose(&[Consumer::Package]);
        assert_eq!(meter.names(&on_cpu), ["rapl"]);

        let before = meter.read(&both);
        write(root.path(), &[(&format!("{PACKAGE}/energy_uj"), "3000000")]);
        fake.millijoules.set(50_000);
        fake.milliwatts.set(100_000);
        // 2 J of the package, 50 J that were counted, and two seconds of 70 W beyond idle.
        let joules = meter.joules_since(&both, before, 2.0).expect("a measurement");
        assert!((joules - (2.0 + 50.0 + 140.0)).abs() < 1e-9, "{joules}");
        let before = meter.read(&counting);
        assert_eq!(meter.joules_since(&counting, before, 0.5), None, "too short");
        assert!(
            meter.source.not_measurable[0].starts_with("nvml:0: repetitions of less than 1 s"),
            "{:?}",
            meter.source
        );
        // A driver that was loaded again counts from zero.
        let before = meter.read(&counting);
        fake.millijoules.set(0);
        assert_eq!(meter.joules_since(&counting, before, 2.0), None);
    }

    #[test]
    fn what_nobody_measures_has_no_energy() {
        let (root, fake) = (rapl(), Rc::new(Fake::default()));
        let mut meter = with(&fake, root.path());
        // Another GPU, even of the same name as one that is measured.
        for unknown in [board("Radeon", None), board("Counting", Some("0000:3c:00.0"))] {
            assert_eq!(meter.choose(&[unknown]), [0; 0]);
        }
        assert_eq!(meter.source.not_measurable[0], "rows on Radeon: no sensor measures it");

        // Without a counter of the processors: what runs on the GPU alone is measured, what they share is not.
        let mut meter = Meter { sensors: vec![], source: EnergySource::default() };
        meter.add_boards(Ok(Rc::clone(&fake)));
        meter.watch_idle(Duration::from_millis(1));
        let alone = meter.choose(&[board("Counting", None)]);
        assert_eq!(meter.names(&alone), ["nvml:0"]);
        assert_eq!(meter.choose(&[board("Counting", None), Consumer::Package]), [0; 0]);
    }

    #[test]
    fn without_nvml_the_reason_is_said() {
        let root = rapl();
        let mut meter = Meter::of_machine(root.path());
        meter.add_boards(Err::<Rc<Fake>, _>("NVML: no library".into()));
        meter.watch_idle(Duration::from_millis(1));
        assert_eq!(
            (meter.source.sensors.len(), &meter.source.not_measurable[..]),
            (1, &["NVML: no library".into()][..])
        );
        assert!(meter.source.describe().ends_with("; not measured: NVML: no library"), "{}", meter.source.describe());
    }

    #[test]
    fn the_library_is_there_or_says_why_not() {
        match nvml::Library::open() {
            Ok(nvml) => println!("note: NVML sees {:?} GPUs", nvml.count()),
            Err(reason) => assert!(reason.starts_with("NVML: "), "{reason}"),
        }
    }
}
