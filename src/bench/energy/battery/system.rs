//! Batteries as macOS and Windows tell of them.

use std::path::Path;

use starship_battery::units::power::watt;
use starship_battery::{Manager, State};

use super::super::Found;
use super::{NO_POWER, NOT_DISCHARGING};

/// The batteries of the machine.
#[derive(Debug)]
pub(in super::super) struct Battery {
    manager: Manager,
}

impl Battery {
    /// The batteries, or why they tell nothing. There are no files to read on these systems.
    pub(in super::super) fn find(_sysfs: &Path) -> Found<Battery> {
        let battery = Manager::new().map(|manager| Battery { manager }).map_err(|error| format!("battery: {error}"))?;
        let all = battery.manager.batteries().map_err(|error| format!("battery: {error}"))?;
        let states: Vec<State> = all.filter_map(|found| Some(found.ok()?.state())).collect();
        if states.is_empty() {
            return Err("battery: this machine has none".into());
        }
        if !states.contains(&State::Discharging) {
            return Err(NOT_DISCHARGING.into());
        }
        battery.watts().ok_or(NO_POWER)?;
        Ok(battery)
    }

    /// What is drawn now.
    pub(in super::super) fn watts(&self) -> Option<f64> {
        let all = self.manager.batteries().ok()?.filter_map(Result::ok);
        let drawn = all.filter(|battery| battery.state() == State::Discharging);
        // A driver that does not know the rate says zero.
        let watts: f64 = drawn.map(|battery| f64::from(battery.energy_rate().get::<watt>())).sum();
        (watts > 0.0).then_some(watts)
    }
}
