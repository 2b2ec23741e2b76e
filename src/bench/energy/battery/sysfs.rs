//! Batteries as Linux shows them under `class/power_supply`.

use std::path::{Path, PathBuf};

use super::super::{Found, read_number};
use super::{NO_POWER, NOT_DISCHARGING};

/// The batteries that are being discharged.
#[derive(Debug)]
pub(in super::super) struct Battery {
    folders: Vec<PathBuf>,
}

impl Battery {
    /// The batteries below `sysfs`, or why they tell nothing.
    pub(in super::super) fn find(sysfs: &Path) -> Found<Battery> {
        let folder = sysfs.join("class/power_supply");
        let is = |path: &Path, file: &str, value: &str| {
            std::fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim().eq_ignore_ascii_case(value))
        };
        let entries = std::fs::read_dir(&folder).map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())));
        // A battery of a mouse is a battery too.
        let is_of_machine = |path: &PathBuf| is(path, "type", "battery") && !is(path, "scope", "device");
        let all: Vec<PathBuf> = entries.map(|paths| paths.filter(is_of_machine).collect()).unwrap_or_default();
        if all.is_empty() {
            return Err(format!("battery: none in {}", folder.display()));
        }
        let folders: Vec<PathBuf> = all.into_iter().filter(|path| is(path, "status", "discharging")).collect();
        if folders.is_empty() {
            return Err(NOT_DISCHARGING.into());
        }
        let battery = Battery { folders };
        battery.watts().ok_or(NO_POWER)?;
        Ok(battery)
    }

    /// What is drawn now.
    pub(in super::super) fn watts(&self) -> Option<f64> {
        let watts = |path: &PathBuf| {
            let microwatts = read_number(&path.join("power_now")).map(|power| power as f64);
            let product = || {
                let [current, voltage] = ["current_now", "voltage_now"].map(|file| read_number(&path.join(file)));
                Some(current? as f64 * voltage? as f64 / 1e6)
            };
            Some(microwatts.or_else(product)? / 1e6)
        };
        self.folders.iter().map(watts).sum()
    }
}
