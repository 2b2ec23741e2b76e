//! What a notebook draws from its battery, as the system tells it: Linux in files (`sysfs`), macOS and Windows when they are asked
//! (`system`).

#[cfg(not(any(target_os = "macos", target_os = "windows")))]
mod sysfs;
#[cfg(any(target_os = "macos", target_os = "windows"))]
mod system;

#[cfg(not(any(target_os = "macos", target_os = "windows")))]
pub(super) use sysfs::Battery;
#[cfg(any(target_os = "macos", target_os = "windows"))]
pub(super) use system::Battery;

/// Why a battery that is charged, or full, tells nothing.
const NOT_DISCHARGING: &str = "battery: it is not discharging; unplug the machine";

/// Why one without a reading of its power tells nothing.
const NO_POWER: &str = "battery: its driver does not tell the power";
