//! The energy counters of processors: RAPL, as Linux shows it under `class/powercap` for Intel and AMD.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::{Found, read_number};

/// The counters of a machine: those of its packages, and of memory where that has one of its own.
#[derive(Debug)]
pub(super) struct Rapl {
    zones: Vec<Zone>,
}

#[derive(Debug)]
struct Zone {
    counter: PathBuf,
    /// Microjoules after which the counter begins anew.
    range: u64,
}

impl Rapl {
    /// The counters below `sysfs`, or why there are none.
    pub(super) fn find(sysfs: &Path) -> Found<Rapl> {
        let folder = sysfs.join("class/powercap");
        let mut names: Vec<PathBuf> = match std::fs::read_dir(&folder) {
            Ok(entries) => entries.filter_map(|entry| Some(entry.ok()?.path())).collect(),
            Err(_) => Vec::new(),
        };
        names.sort();
        let mut zones = Vec::new();
        for path in names.iter().filter(|path| is_counted(path)) {
            let counter = path.join("energy_uj");
            match std::fs::read_to_string(&counter) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    let counter = counter.display();
                    return Err(format!("RAPL: only root may read {counter}; run as root, or allow it with chmod a+r"));
                }
                Err(_) => continue,
            }
            let Some(range) = read_number(&path.join("max_energy_range_uj")) else { continue };
            zones.push(Zone { counter, range });
        }
        match zones.is_empty() {
            true => Err(format!("RAPL: no counter in {} (a virtual machine has none)", folder.display())),
            false => Ok(Rapl { zones }),
        }
    }

    /// The counters now, in microjoules.
    pub(super) fn read(&self) -> Option<Vec<u64>> {
        self.zones.iter().map(|zone| read_number(&zone.counter)).collect()
    }

    /// Joules between two readings. A counter that began anew meanwhile did so once: that takes minutes at full power.
    pub(super) fn joules(&self, before: &[u64], after: &[u64]) -> f64 {
        let zones = self.zones.iter().zip(before.iter().zip(after));
        let microjoules = zones.map(|(zone, (&before, &after))| match after >= before {
            true => after - before,
            false => after + zone.range.saturating_sub(before),
        });
        microjoules.sum::<u64>() as f64 / 1e6
    }
}

/// Whether a zone is a package, or the memory beside one. Cores are part of their package, `psys` is the whole platform, and
/// `intel-rapl-mmio` shows the same counters again.
fn is_counted(path: &Path) -> bool {
    let zone = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = std::fs::read_to_string(path.join("name")).unwrap_or_default();
    match zone.strip_prefix("intel-rapl:").map(|number| number.matches(':').count()) {
        Some(0) => name.starts_with("package"),
        Some(1) => name.trim() == "dram",
        _ => false,
    }
}
