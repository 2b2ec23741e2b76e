//! Throughput of models on this machine, next to the machine's own limits.
//!
//! [`run`] takes the cross product of what is to be compared, opens a model for each combination (`spec`), and measures
//! them in turn, round by round (`measure`), so that a machine whose speed drifts favours none. Next to each repetition
//! it measures what bounds it: the read bandwidth for decoding, the rate of int8 multiply-adds for prompts. A [`Row`]
//! says how fast a test ran and what share of that bound it reached (`row`). [`compare`] runs the same tokens on two
//! placements.

mod compare;
mod explain;
mod measure;
mod row;
mod spec;

pub use compare::{Comparison, Difference, LayerTime, Side, compare, difference};
pub use explain::{StageCost, explain};
pub use measure::{open, open_options, run};
pub use row::{Machine, Rate, Report, Row};
pub use spec::{ModelSource, Options, Spec, Test};
