//! Throughput of models on this machine, next to the machine's own limits.
//!
//! [`run`] takes the cross product of what is to be compared, opens a model for each combination (`spec`), and measures
//! them in turn, round by round (`measure`, `timing`), so that a machine whose speed drifts favours none. Next to each
//! repetition it measures what bounds it (`limits`): the read bandwidth for decoding, the rate of int8 multiply-adds for
//! prompts, of each device that takes part. A [`Row`] says how fast a test ran, how sure that is (`stats`) and what share of
//! the bound it reached (`bound`). What other programs do meanwhile (`load`) disturbs both: such repetitions are made again.
//! [`compare`] runs the same tokens on two placements, [`diff()`] compares two reports.

mod bound;
mod compare;
mod diff;
mod energy;
mod explain;
mod gpus;
mod html;
mod limits;
mod load;
mod measure;
mod peer;
mod peers;
mod profile;
mod row;
mod spec;
mod stats;
mod timing;

pub use compare::{Comparison, Difference, LayerTime, Side, compare, difference};
pub use diff::{Change, Diff, Key, diff};
pub use energy::{Energy, EnergySensor, EnergySource};
pub use explain::{StageCost, explain};
pub use html::html;
pub use measure::{open, open_options, run};
pub use profile::{Op, Profile, ProfiledStage, chrome_trace, profiles};
pub use row::{ENGINE, GpuLimits, Machine, Report, Row, Skipped};
pub use spec::{ModelSource, Options, Spec, Test, WeightsChoice};
pub use stats::{Interval, Rate, mann_whitney};
