//! Which device serves which layer, decided from numbers: a pure function of what the layers take on each device, what the
//! devices have, and how long everything takes.
//!
//! [`Machine`] holds the numbers, [`predict`] says what a choice takes and how long it runs, [`plan`] finds the best choice
//! for prompts and generation together and, where that pays, one for each (`phases`). Within a choice the blocks of a device
//! are one run and embedding and head are anywhere; among these, `search` finds the best one by dynamic programming.

mod machine;
mod phases;
mod predict;
mod search;

pub use machine::{DeviceFacts, LayerFacts, Link, Machine, Seconds, Workload};
pub use phases::{Phases, does_not_fit, plan};
pub use predict::{DeviceMemory, PlannedStage, Prediction, predict};

use super::Placement;

/// Devices that a plan chooses from at most: the search tries their subsets.
pub const MAX_DEVICES: usize = 6;

/// The device of each layer, as an index into [`Machine::devices`].
pub type Assignment = Vec<usize>;

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The model does not fit, however it is cut.
    #[error("it does not fit: {}; use a shorter context (--ctx), fewer sequences, or more memory", .0.join("; "))]
    DoesNotFit(
        /// For each device what the model would take there and what there is.
        Vec<String>,
    ),
    /// More devices than a plan chooses from.
    #[error("{found} devices are more than the {MAX_DEVICES} that a plan chooses from: name some in --placement")]
    TooManyDevices {
        /// How many there are.
        found: usize,
    },
}

/// The plan of a single choice for both phases as a placement.
pub fn placement(machine: &Machine, assignment: &Assignment) -> Placement {
    Placement::of_layers(assignment.iter().map(|&device| machine.devices[device].name.as_str()))
}

#[cfg(test)]
mod tests;
