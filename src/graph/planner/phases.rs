//! One choice for both phases, or one for each where that is faster although the cache has to be handed over.

use super::search::{Fixed, search};
use super::{Assignment, MAX_DEVICES, Machine, PlanError, Prediction, Workload, predict};
use crate::size;

/// The devices of the layers in each phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phases {
    /// For prompts.
    pub prefill: Assignment,
    /// For generated tokens.
    pub decode: Assignment,
}

impl Phases {
    /// One choice for both.
    pub fn same(assignment: Assignment) -> Phases {
        Phases { prefill: assignment.clone(), decode: assignment }
    }

    /// Whether the phases differ.
    pub fn differ(&self) -> bool {
        self.prefill != self.decode
    }
}

/// Two choices must be this much faster than one: they take the memory of both.
const CLEARLY: f64 = 1.05;

/// The best plan for `workload`, and what it takes. With `may_differ`, prompts and generated tokens may have different
/// devices.
///
/// The plan fits and is not slower by prediction than any single device on which the model fits. It is the fastest of those
/// with one choice for both phases in which the blocks of a device are one run; only where devices share memory that has no
/// room for the fastest, it may not be the next one.
///
/// # Errors
/// If nothing fits, or there are too many devices.
pub fn plan(machine: &Machine, workload: Workload, may_differ: bool) -> Result<(Phases, Prediction), PlanError> {
    if machine.devices.len() > MAX_DEVICES {
        return Err(PlanError::TooManyDevices { found: machine.devices.len() });
    }
    let predicted = |assignment: Assignment| {
        let phases = Phases::same(assignment);
        let prediction = predict(machine, workload, &phases);
        Some((phases, prediction)).filter(|(_, prediction)| prediction.fits(machine))
    };
    // Devices that share memory have it together: where their parts are too much, one device may still have all.
    let single = || {
        let whole = (0..machine.devices.len()).filter_map(|device| predicted(vec![device; machine.layers()]));
        whole.min_by(|a, b| a.1.request.total_cmp(&b.1.request))
    };
    let found = search(machine, workload, None).and_then(predicted).or_else(single);
    let mut best = found.ok_or_else(|| fits_nowhere(machine, workload))?;
    if !may_differ || machine.devices.len() < 2 {
        return Ok(best);
    }
    let to_beat = best.1.request / CLEARLY;
    // What is best for one phase alone, with what is then best for the other.
    for is_prefill in [true, false] {
        let alone = match is_prefill {
            true => Workload { generated: 0, ..workload },
            false => Workload { prompt: 0, ..workload },
        };
        let Some(first) = search(machine, alone, None) else { continue };
        let memory = predict(machine, workload, &Phases::same(first.clone())).memory;
        let taken = memory.iter().map(|memory| memory.total()).collect();
        let fixed = Fixed { other: &first, is_prefill, taken };
        let Some(second) = search(machine, workload, Some(&fixed)) else { continue };
        let phases = match is_prefill {
            true => Phases { prefill: first, decode: second },
            false => Phases { prefill: second, decode: first },
        };
        let prediction = predict(machine, workload, &phases);
        if prediction.fits(machine) && prediction.request < to_beat.min(best.1.request) {
            best = (phases, prediction);
        }
    }
    Ok(best)
}

/// What each device would take with `phases`, and what there is: the error of a plan that does not fit.
pub fn does_not_fit(machine: &Machine, workload: Workload, phases: &Phases) -> PlanError {
    let line = |(device, memory): (&super::DeviceFacts, &super::DeviceMemory)| {
        let budget = device.budget.map_or("as much as there is".into(), |budget| format!("of {}", size::text(budget)));
        let parts = [memory.weights, memory.cache, memory.buffers].map(size::text);
        let [weights, cache, buffers] = parts;
        let total = size::text(memory.total());
        format!("{} would hold {total} (weights {weights}, cache {cache}, buffers {buffers}) {budget}", device.name)
    };
    let memory = predict(machine, workload, phases).memory;
    PlanError::DoesNotFit(machine.devices.iter().zip(&memory).map(line).collect())
}

/// The error of a model that fits nowhere: what each device would hold if it had all layers.
fn fits_nowhere(machine: &Machine, workload: Workload) -> PlanError {
    let line = |device: usize| {
        let only = Machine { devices: vec![machine.devices[device].clone()], ..machine.clone() };
        match does_not_fit(&only, workload, &Phases::same(vec![0; machine.layers()])) {
            PlanError::DoesNotFit(lines) => lines,
            PlanError::TooManyDevices { .. } => Vec::new(),
        }
    };
    PlanError::DoesNotFit((0..machine.devices.len()).flat_map(line).collect())
}
