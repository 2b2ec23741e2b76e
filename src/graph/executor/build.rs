//! From placements to stages.

use std::ops::Range;
use std::sync::Arc;

use sterna_cpu::AlignedBuf;
use sterna_cpu::kv::KvType;

use super::handover::Handover;
use super::{Executor, ExecutorError, Phase, Slot, StageTime};
use crate::backend::{Backend, BackendError, KvOptions, Outputs, Progress};
use crate::graph::{Graph, Placement};

/// A stage to build: layers, number of the backend, phases that it serves.
type Planned = (Range<usize>, usize, [bool; 2]);

impl Executor {
    /// Builds the stages of `placement`, which covers `graph`, on `backends`.
    ///
    /// # Errors
    /// If the placement names a backend that is not among `backends`, or a stage does not fit or cannot be built.
    pub fn build(
        graph: &Graph,
        placement: &Placement,
        backends: &[Arc<dyn Backend>],
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Executor, ExecutorError> {
        Executor::build_phases(graph, [placement, placement], backends, kv, progress)
    }

    /// As [`Executor::build`], with a placement for prompts and one for generated tokens. Layers that both have on one
    /// backend are built once, others on both.
    ///
    /// # Errors
    /// As [`Executor::build`], or if the placements differ and the cache cannot be handed over.
    pub fn build_phases(
        graph: &Graph,
        placements: [&Placement; 2],
        backends: &[Arc<dyn Backend>],
        kv: KvOptions,
        progress: &dyn Progress,
    ) -> Result<Executor, ExecutorError> {
        let planned = planned(placements, backends)?;
        let differs = planned.iter().any(|(_, _, serves)| *serves != [true, true]);
        if differs && kv.kind == KvType::Int8 {
            let backend = placements[0].to_string();
            return Err(ExecutorError { backend, reason: BackendError::HandOver { kv: kv.kind.name() } });
        }
        for (index, backend) in backends.iter().enumerate() {
            let runs = planned.iter().filter(|(_, device, _)| *device == index);
            let runs: Vec<_> = runs.map(|(layers, ..)| layers.clone()).collect();
            if !runs.is_empty() {
                let error = |reason| ExecutorError { backend: backend.name().to_owned(), reason };
                backend.check(graph, &runs, kv).map_err(error)?;
            }
        }
        let build = |(layers, device, serves): Planned| {
            let backend = &backends[device];
            let error = |reason| ExecutorError { backend: backend.name().to_owned(), reason };
            let stage = backend.build_stage(graph, layers, kv, progress).map_err(error)?;
            Ok(Slot { stage, device, serves, time: StageTime::default() })
        };
        let slots = planned.into_iter().map(build).collect::<Result<Vec<_>, _>>()?;
        Ok(Executor {
            handovers: Handover::between(&slots, graph),
            slots,
            hidden: AlignedBuf::default(),
            outputs: Outputs::default(),
            phase: Phase::Decode,
        })
    }
}

/// The stages of two placements: their runs, cut where either of them is.
fn planned(placements: [&Placement; 2], backends: &[Arc<dyn Backend>]) -> Result<Vec<Planned>, ExecutorError> {
    let device = |name: &str| {
        backends.iter().position(|backend| backend.name() == name).ok_or_else(|| {
            let known = backends.iter().map(|backend| backend.name()).collect::<Vec<_>>().join(", ");
            ExecutorError { backend: name.to_owned(), reason: BackendError::Unknown { name: name.to_owned(), known } }
        })
    };
    let mut ends: Vec<usize> = placements.iter().flat_map(|p| p.runs().iter().map(|(run, _)| run.end)).collect();
    ends.sort_unstable();
    ends.dedup();
    let (mut planned, mut start) = (Vec::new(), 0);
    for end in ends {
        let layers = std::mem::replace(&mut start, end)..end;
        let [prefill, decode] = placements.map(|p| p.backend_of(layers.start).unwrap_or_default());
        let (prefill, decode) = (device(prefill)?, device(decode)?);
        if prefill == decode {
            planned.push((layers, prefill, [true, true]));
        } else {
            planned.push((layers.clone(), prefill, [true, false]));
            planned.push((layers, decode, [false, true]));
        }
    }
    Ok(planned)
}
