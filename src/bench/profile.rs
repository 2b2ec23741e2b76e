//! Where the time of a test goes: each op of each layer on its backend, as Chrome's trace format and as sums.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::measure::{is_skipped, layout_and_kernel, open_options};
use super::row::Skipped;
use super::timing::time_watched;
use super::{Options, Spec, Test};
use crate::backend::{Observer, OpTime};
use crate::{Error, Model};

/// The ops of one combination.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Profile {
    /// The combination, for people.
    pub name: String,
    /// Tokens that were computed, of all sequences.
    pub tokens: usize,
    /// Milliseconds of the test. Observing costs a little, on a GPU more.
    pub ms: f64,
    /// The stages, in order.
    pub stages: Vec<ProfiledStage>,
    /// The ops of all stages.
    pub ops: Vec<Op>,
}

/// A stage of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProfiledStage {
    /// Its backend.
    pub backend: String,
    /// Its first and last layer: 0 is the embedding, then come the blocks, then the head.
    pub layers: [usize; 2],
}

/// An op.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Op {
    /// The stage, an index of [`Profile::stages`].
    pub stage: usize,
    /// The layer.
    pub layer: usize,
    /// What was done.
    pub name: String,
    /// Microseconds from the beginning of the test.
    pub start_us: f64,
    /// Microseconds that it took.
    pub us: f64,
}

/// Generated tokens of a profile: they are all alike.
const TOKENS: usize = 16;

/// Collects what a stage tells.
struct Collector {
    stage: usize,
    ops: Arc<Mutex<Vec<(usize, OpTime)>>>,
}

impl Observer for Collector {
    fn timed(&mut self, op: OpTime) {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).push((self.stage, op));
    }
}

/// Runs each combination once that is not among `skipped`, after a warm-up, and looks where the time goes. Of a generation, few
/// tokens are enough.
///
/// # Errors
/// If a model cannot be opened, or a device fails.
pub fn profiles(options: &Options, skipped: &[Skipped]) -> Result<Vec<Profile>, Error> {
    let mut open: Option<(Spec, Model)> = None;
    let mut profiles = Vec::new();
    for spec in options.specs().into_iter().filter(|spec| !is_skipped(options, spec, skipped)) {
        let model = match open.take().filter(|(known, _)| known.same_model(&spec)) {
            Some((_, model)) => model,
            None => open_to_observe(options, &spec)?,
        };
        profiles.push(profile(options, &spec, &model)?);
        open = Some((spec, model));
    }
    Ok(profiles)
}

fn open_to_observe(options: &Options, spec: &Spec) -> Result<Model, Error> {
    #[allow(unused_mut, reason = "only a GPU is opened otherwise")]
    let mut opened = open_options(options, spec);
    #[cfg(feature = "gpu")]
    {
        opened.gpu.timestamps = true;
    }
    Model::open(options.models[spec.model].prepare()?, &opened)
}

fn profile(options: &Options, spec: &Spec, model: &Model) -> Result<Profile, Error> {
    let limit = match spec.test {
        Test::Prompt(_) => None,
        Test::Generate(_) => Some(TOKENS),
    };
    time_watched(model, spec, limit, &mut |_| ())?;
    let ops = Arc::new(Mutex::new(Vec::new()));
    let mut began = Instant::now();
    let seconds = time_watched(model, spec, limit, &mut |engine| {
        let mut stage = 0..;
        engine.executor_mut().observe(|| {
            let stage = stage.next().unwrap_or(0);
            Some(Box::new(Collector { stage, ops: Arc::clone(&ops) }) as Box<dyn Observer>)
        });
        began = Instant::now();
    })?;
    let mut engine = model.engine();
    engine.executor_mut().observe(|| None);
    let stages = engine.executor().stages();
    let stages = stages.map(|(layers, backend, _)| ProfiledStage {
        backend: backend.to_owned(),
        layers: [layers.start, layers.end - 1],
    });
    let us = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let told = std::mem::take(&mut *ops.lock().unwrap_or_else(PoisonError::into_inner));
    let ops = told.into_iter().map(|(stage, op)| Op {
        stage,
        layer: op.layer,
        name: op.name.to_owned(),
        start_us: us(op.start.saturating_duration_since(began)),
        us: us(op.time),
    });
    let tokens = limit.map_or(spec.test.tokens(), |limit| limit.min(spec.test.tokens()));
    Ok(Profile {
        name: name(options, spec, layout_and_kernel(model, &engine)),
        tokens: tokens * spec.parallel,
        ms: seconds * 1e3,
        stages: stages.collect(),
        ops: ops.collect(),
    })
}

fn name(options: &Options, spec: &Spec, (layout, kernel): (&str, &str)) -> String {
    let place = spec.placement.clone().unwrap_or_else(|| spec.device.to_string());
    let threads = if spec.is_gpu_only() {
        String::new()
    } else {
        format!(", {} thread{}", spec.threads, if spec.threads == 1 { "" } else { "s" })
    };
    let depth = if spec.depth > 0 { format!(" @ {}", spec.depth) } else { String::new() };
    let parallel = if spec.parallel > 1 { format!(" x{}", spec.parallel) } else { String::new() };
    let test = format!("{}{}{depth}{parallel}", spec.test.name(), spec.test.tokens());
    format!("{} {test}, {place}{threads}, {layout} ({kernel})", options.models[spec.model].name())
}

impl Profile {
    /// Microseconds of a token by op, in the order in which ops first come.
    pub fn by_op(&self) -> Vec<(String, f64)> {
        let mut sums: Vec<(String, f64)> = Vec::new();
        for op in &self.ops {
            match sums.iter_mut().find(|(name, _)| *name == op.name) {
                Some((_, sum)) => *sum += op.us,
                None => sums.push((op.name.clone(), op.us)),
            }
        }
        sums.iter_mut().for_each(|(_, sum)| *sum /= self.tokens.max(1) as f64);
        sums
    }
}

/// Profiles in Chrome's trace format, which Perfetto and chrome://tracing show: a process for each profile, a thread for each
/// stage, an event for each op.
pub fn chrome_trace(profiles: &[Profile]) -> Value {
    let mut events = Vec::new();
    let named = |what: &str, pid: usize, tid: usize, name: &str| json!({ "ph": "M", "name": what, "pid": pid, "tid": tid, "args": { "name": name } });
    for (pid, profile) in (1..).zip(profiles) {
        events.push(named("process_name", pid, 0, &profile.name));
        for (tid, stage) in (1..).zip(&profile.stages) {
            let [first, last] = stage.layers;
            events.push(named("thread_name", pid, tid, &format!("{}, layers {first} to {last}", stage.backend)));
        }
        events.extend(profile.ops.iter().map(|op| {
            json!({
                "ph": "X",
                "name": op.name,
                "cat": profile.stages.get(op.stage).map_or("", |stage| &stage.backend),
                "pid": pid,
                "tid": op.stage + 1,
                "ts": op.start_us,
                "dur": op.us,
                "args": { "layer": op.layer },
            })
        }));
    }
    json!({ "displayTimeUnit": "ms", "traceEvents": events })
}
