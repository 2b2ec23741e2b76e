//! What a model takes on the devices of a machine, how fast it runs there, and which placement is the fastest.
//!
//! The numbers come from the backends (bytes) and from a short run of a few blocks on each device (`measure`), which is kept
//! in the tuning file (`store`); where nothing can be run, times follow from bytes and the bandwidth of memory (`cost`).
//! `facts` makes a [`Machine`] of them, which [`crate::graph::planner`] plans for, and [`Report`] is what is shown.

mod cost;
mod facts;
mod measure;
mod report;
mod store;

pub use cost::{AssumedDevice, BlockCost, CostSource, cpu_bounds, shape_of};
pub use facts::{Priced, assumed, machine};
pub use measure::measure;
pub use report::{DeviceRow, PhaseRow, Report, StageRow};
pub use store::{load, save};

pub use crate::graph::planner::{Link, Machine, Phases, Prediction, Seconds, Workload};
