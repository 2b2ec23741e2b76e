//! A sensor, whatever it is: a counter of energy, or a reading of power.

use super::battery::Battery;
#[cfg(feature = "gpu")]
use super::nvml::Board;
use super::rapl::Rapl;

/// What measures.
#[derive(Debug)]
pub(super) enum Sensor {
    Rapl(Rapl),
    Battery(Battery),
    #[cfg(feature = "gpu")]
    Board(Board),
}

/// The state of a sensor at some moment.
#[derive(Debug)]
pub(in crate::bench) enum Reading {
    /// Counters, in the sensor's unit.
    Counters(Vec<u64>),
    /// What is taken now.
    Watts(f64),
}

impl Sensor {
    pub(super) fn name(&self) -> String {
        match self {
            Sensor::Rapl(_) => "rapl".into(),
            Sensor::Battery(_) => "battery".into(),
            #[cfg(feature = "gpu")]
            Sensor::Board(board) => board.sensor_name(),
        }
    }

    /// What it measures.
    pub(super) fn of(&self) -> String {
        match self {
            Sensor::Rapl(_) => "processors and, where it is counted, their memory".into(),
            Sensor::Battery(_) => "the whole machine".into(),
            #[cfg(feature = "gpu")]
            Sensor::Board(board) => board.name.clone(),
        }
    }

    #[cfg(feature = "gpu")]
    pub(super) fn board(&self) -> Option<&Board> {
        match self {
            Sensor::Board(board) => Some(board),
            _ => None,
        }
    }

    /// Seconds that a repetition must take: what is counted in a millisecond is 2 % of it at most; a battery says a mean of about a
    /// second, and GPUs count or take means ten times in it or less often.
    pub(super) fn shortest(&self) -> f64 {
        match self {
            Sensor::Rapl(_) => 0.05,
            _ => 1.0,
        }
    }

    /// The sensor now.
    pub(super) fn read(&self) -> Option<Reading> {
        match self {
            Sensor::Rapl(rapl) => rapl.read().map(Reading::Counters),
            Sensor::Battery(battery) => battery.watts().map(Reading::Watts),
            #[cfg(feature = "gpu")]
            Sensor::Board(board) => board.read(),
        }
    }

    /// Joules from a reading until now, `seconds` later. Power is that of the end, the mean of a time that lies behind the
    /// reading; that of the beginning is the mean of what was before.
    pub(super) fn joules_since(&self, before: &Reading, seconds: f64) -> Option<f64> {
        match (before, self.read()?) {
            (Reading::Watts(_), Reading::Watts(watts)) => Some(watts * seconds),
            (Reading::Counters(before), Reading::Counters(after)) => match self {
                Sensor::Rapl(rapl) => Some(rapl.joules(before, &after)),
                Sensor::Battery(_) => None,
                #[cfg(feature = "gpu")]
                Sensor::Board(_) => Board::joules(before, &after),
            },
            _ => None,
        }
    }
}
