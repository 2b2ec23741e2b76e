//! What suits this machine, measured: threads, layout of the weights, prefetch distance, size of tasks and blocks.
//!
//! [`measure`] tries one setting after the other on matrices far larger than the caches, candidates in turn, medians;
//! another value than the default is taken only if it is clearly faster. [`Tuned::save`] keeps the result in a file that
//! later runs read ([`Tuned::load`]). No setting changes what a model says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sterna_cpu::machine::median;
use sterna_cpu::{Activations, Isa, Kernels, Layout, LinearJob, Pool, TernaryMatrix, Tuning, linear};

/// The settings for a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tuned {
    /// The machine that they were measured on, as [`machine_name`] has it.
    pub machine: String,
    /// The instruction set that they are for.
    pub isa: String,
    /// The layout of the weights.
    pub layout: String,
    /// Threads.
    pub threads: usize,
    /// [`Tuning::prefetch`].
    pub prefetch: usize,
    /// [`Tuning::task_bytes`].
    pub task_bytes: usize,
    /// [`Tuning::block_bytes`].
    pub block_bytes: usize,
}

/// Why a tuning file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TuneError {
    /// The file cannot be read or written.
    #[error("{file}: {reason}")]
    Io {
        /// The file.
        file: PathBuf,
        /// The reason.
        reason: std::io::Error,
    },
    /// The file is not what [`Tuned::save`] writes.
    #[error("{file} is no tuning file ({reason}): run `sterna tune` again, or remove it")]
    Invalid {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Tuned {
    /// Reads a file, if it is there and was made for this machine and instruction set.
    ///
    /// # Errors
    /// If it cannot be read, or is not what it should be.
    pub fn load(file: &Path, isa: Isa) -> Result<Option<Tuned>, TuneError> {
        let Some(content) = read(file)? else { return Ok(None) };
        let invalid = |reason: String| TuneError::Invalid { file: file.into(), reason };
        // A file may hold nothing but what blocks cost (`crate::plan`).
        if content.contains_key(BLOCKS) && !content.contains_key(MACHINE) {
            return Ok(None);
        }
        let tuned: Tuned = serde_json::from_value(content.into()).map_err(|e| invalid(e.to_string()))?;
        let in_range = |value, most| (64..=most).contains(&value);
        if !(1..=1024).contains(&tuned.threads)
            || tuned.prefetch > 1 << 20
            || !in_range(tuned.task_bytes, 1 << 30)
            || !in_range(tuned.block_bytes, 1 << 30)
        {
            return Err(invalid("a number is out of range".into()));
        }
        tuned.layout.parse::<Layout>().map_err(|e| invalid(e.to_string()))?;
        Ok(Some(tuned).filter(|tuned| tuned.machine == machine_name() && tuned.isa == isa.name()))
    }

    /// Writes the file, and the folder that it lies in. What else the file holds stays; one that cannot be read is replaced.
    ///
    /// # Errors
    /// If that fails.
    pub fn save(&self, file: &Path) -> Result<(), TuneError> {
        let error = |reason| TuneError::Io { file: file.into(), reason };
        let Value::Object(mut content) = serde_json::to_value(self).map_err(|e| error(e.into()))? else {
            return Err(error(std::io::ErrorKind::InvalidData.into()));
        };
        for (key, value) in read(file).ok().flatten().unwrap_or_default() {
            content.entry(key).or_insert(value);
        }
        write(file, &content)
    }

    /// The layout of the weights; `None` if the file was changed to something unknown.
    pub fn layout(&self) -> Option<Layout> {
        self.layout.parse().ok()
    }

    /// The settings of the kernels.
    pub fn tuning(&self) -> Tuning {
        Tuning { prefetch: self.prefetch, task_bytes: self.task_bytes, block_bytes: self.block_bytes }
    }
}

/// A key that every file with settings has, and the key of what blocks cost.
const MACHINE: &str = "machine";
pub(crate) const BLOCKS: &str = "blocks";

/// What a tuning file holds; `None` if there is none.
pub(crate) fn read(file: &Path) -> Result<Option<Map<String, Value>>, TuneError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(reason) => return Err(TuneError::Io { file: file.into(), reason }),
    };
    let invalid = |reason: serde_json::Error| TuneError::Invalid { file: file.into(), reason: reason.to_string() };
    serde_json::from_str(&text).map(Some).map_err(invalid)
}

/// Writes a tuning file, and the folder that it lies in.
pub(crate) fn write(file: &Path, content: &Map<String, Value>) -> Result<(), TuneError> {
    let error = |reason| TuneError::Io { file: file.into(), reason };
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder).map_err(error)?;
    }
    let text = serde_json::to_string_pretty(content).map_err(|e| error(e.into()))?;
    std::fs::write(file, text + "\n").map_err(error)
}

/// The processor's name and the number of cores.
pub fn machine_name() -> String {
    format!("{}, {} cores", cpu_name(), Pool::default_threads())
}

/// The name that the processor gives itself.
pub fn cpu_name() -> String {
    let what = sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(what).ok();
    let name = system.and_then(|system| Some(system.cpus().first()?.brand().trim().to_owned()));
    name.unwrap_or_else(|| std::env::consts::ARCH.to_owned())
}

/// Another setting must be this much faster than the present one to be taken.
const CLEARLY: f64 = 1.015;

/// The matrices that are multiplied: of 2B-4T's feed-forward network, together beyond all caches.
const SHAPE: (usize, usize) = (6912, 2560);

/// Tokens of the prompt with which blocks are tuned.
const PROMPT: usize = 192;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Matrices of 17.7 M weights.
    pub matrices: usize,
    /// Rounds through the candidates of a setting.
    pub rounds: usize,
}

impl Default for Effort {
    fn default() -> Effort {
        Effort { matrices: 24, rounds: 9 }
    }
}

/// A candidate and its speed in 10^9 weights (generation) or multiply-adds (prompts) per second.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// What is set, such as `layout`.
    pub setting: &'static str,
    /// To what.
    pub value: String,
    /// How fast that is.
    pub rate: f64,
    /// Whether it was taken.
    pub chosen: bool,
}

/// Finds the settings for `isa` with at most `threads` threads; `progress` sees every trial.
pub fn measure(isa: Isa, threads: usize, effort: Effort, progress: &mut dyn FnMut(&Trial)) -> Tuned {
    let mut state = State { isa, layout: Kernels::get(isa).layout(), threads, tuning: Tuning::default() };
    let mut weights = Weights::default();

    // The layout that is default for the instruction set comes first: ties are for it.
    let mut layouts = vec![state.layout];
    layouts.extend(Layout::ALL.into_iter().filter(|&layout| layout != state.layout));
    let layouts: Vec<_> =
        layouts.into_iter().map(|layout| (layout.name().to_owned(), State { layout, ..state })).collect();
    state = best("layout", 1, layouts, &mut weights, effort, progress);

    let mut counts = vec![threads, threads.saturating_sub(1), threads / 2];
    counts.retain(|&count| count > 0);
    counts.dedup();
    state = best("threads", 1, with(state, &counts, |s, threads| s.threads = threads), &mut weights, effort, progress);

    let set = |s: &mut State, v| s.tuning.prefetch = v;
    let values = first(state.tuning.prefetch, &[2 << 10, 4 << 10, 8 << 10, 16 << 10, 32 << 10]);
    state = best("prefetch", 1, with(state, &values, set), &mut weights, effort, progress);

    let set = |s: &mut State, v| s.tuning.task_bytes = v;
    let values = first(state.tuning.task_bytes, &[16 << 10, 32 << 10, 128 << 10, 256 << 10]);
    state = best("task_bytes", 1, with(state, &values, set), &mut weights, effort, progress);

    let set = |s: &mut State, v| s.tuning.block_bytes = v;
    let values = first(state.tuning.block_bytes, &[128 << 10, 256 << 10, 1 << 20]);
    state = best("block_bytes", PROMPT, with(state, &values, set), &mut weights, effort, progress);

    Tuned {
        machine: machine_name(),
        isa: isa.name().into(),
        layout: state.layout.name().into(),
        threads: state.threads,
        prefetch: state.tuning.prefetch,
        task_bytes: state.tuning.task_bytes,
        block_bytes: state.tuning.block_bytes,
    }
}

/// Settings that are tried.
#[derive(Clone, Copy)]
struct State {
    isa: Isa,
    layout: Layout,
    threads: usize,
    tuning: Tuning,
}

/// The present value, then the others.
fn first(present: usize, others: &[usize]) -> Vec<usize> {
    std::iter::once(present).chain(others.iter().copied().filter(|&value| value != present)).collect()
}

/// The states that differ in one value.
fn with(state: State, values: &[usize], set: impl Fn(&mut State, usize)) -> Vec<(String, State)> {
    let one = |&value: &usize| {
        let mut state = state;
        set(&mut state, value);
        (value.to_string(), state)
    };
    values.iter().map(one).collect()
}

/// The fastest of the candidates; the first one unless another is clearly faster.
fn best(
    setting: &'static str,
    tokens: usize,
    candidates: Vec<(String, State)>,
    weights: &mut Weights,
    effort: Effort,
    progress: &mut dyn FnMut(&Trial),
) -> State {
    // One pool for all that have as many threads: the workers of another would still be spinning.
    let pools: BTreeMap<usize, Pool> =
        candidates.iter().map(|(_, state)| (state.threads, Pool::new(state.threads))).collect();
    let mut rates = vec![Vec::new(); candidates.len()];
    // One round more: the first one wakes threads and fills in pages.
    for round in 0..=effort.rounds.max(1) {
        for ((_, state), rates) in candidates.iter().zip(&mut rates) {
            let matrices = weights.of(state.layout, effort.matrices);
            let rate = rate(state, &pools[&state.threads], tokens, matrices);
            if round > 0 {
                rates.push(rate);
            }
        }
    }
    let rates: Vec<f64> = rates.into_iter().map(median).collect();
    let fastest = (0..rates.len()).max_by(|&a, &b| rates[a].total_cmp(&rates[b])).unwrap_or(0);
    let chosen = if rates[fastest] >= CLEARLY * rates[0] { fastest } else { 0 };
    for (i, ((value, _), &rate)) in candidates.iter().zip(&rates).enumerate() {
        progress(&Trial { setting, value: value.clone(), rate, chosen: i == chosen });
    }
    candidates[chosen].1
}

/// Multiplies all matrices once; 10^9 weights times tokens per second.
fn rate(state: &State, pool: &Pool, tokens: usize, matrices: &[TernaryMatrix]) -> f64 {
    let kernels = Kernels::with(state.isa, state.layout).tuned(state.tuning);
    let (rows, cols) = SHAPE;
    let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 251) as f32 - 125.0).collect();
    let mut acts = Activations::default();
    let mut out = vec![0.0; tokens * rows];
    // A prompt's products do not depend on the memory: a few matrices tell enough.
    let matrices = if tokens > 1 { &matrices[..matrices.len().min(3)] } else { matrices };
    // A model quantizes about once for as many weights, which includes making the tables of kernels that look up.
    let mut multiply = |weight| {
        acts.quantize(pool, &kernels, &x, cols, None);
        linear(pool, &kernels, &acts, &mut [LinearJob { weight, scale: 1.0, out: &mut out, add: false }], &[]);
    };
    // Threads that parked wake up.
    matrices.iter().take(2).for_each(&mut multiply);
    let start = Instant::now();
    matrices.iter().for_each(&mut multiply);
    (matrices.len() * rows * cols * tokens) as f64 / start.elapsed().as_secs_f64() / 1e9
}

/// Matrices in the layouts that were asked for.
#[derive(Default)]
struct Weights {
    packed: Vec<(Layout, Vec<TernaryMatrix>)>,
}

impl Weights {
    fn of(&mut self, layout: Layout, count: usize) -> &[TernaryMatrix] {
        let index = match self.packed.iter().position(|(known, _)| *known == layout) {
            Some(index) => index,
            None => {
                let first = random_matrix(layout);
                // Copies take as long to read as other matrices would.
                self.packed.push((layout, vec![first; count.max(1)]));
                self.packed.len() - 1
            }
        };
        &self.packed[index].1
    }
}

fn random_matrix(layout: Layout) -> TernaryMatrix {
    let (rows, cols) = SHAPE;
    let fill = |row: usize, out: &mut [i8]| {
        for (col, weight) in out.iter_mut().enumerate() {
            let mixed = ((row * cols + col) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
            *weight = (mixed % 3) as i8 - 1;
        }
        Ok::<(), std::convert::Infallible>(())
    };
    match TernaryMatrix::pack(layout, rows, cols, fill) {
        Ok(matrix) => matrix,
        Err(never) => match never {},
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Tuned {
        let Tuning { prefetch, task_bytes, block_bytes } = Tuning::default();
        let (isa, layout) = (Isa::Scalar.name().into(), Layout::T16.name().into());
        Tuned { machine: machine_name(), isa, layout, threads: 2, prefetch, task_bytes, block_bytes }
    }

    #[test]
    fn a_file_serves_its_machine_only() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("deep").join("tuning.json");
        assert_eq!(Tuned::load(&file, Isa::Scalar).expect("no file is no error"), None);
        tuned().save(&file).expect("a place to write");
        assert_eq!(Tuned::load(&file, Isa::Scalar).expect("a file"), Some(tuned()));
        assert_eq!(Tuned::load(&file, Isa::Avx2).expect("a file"), None);
        Tuned { machine: "another".into(), ..tuned() }.save(&file).expect("a place to write");
        assert_eq!(Tuned::load(&file, Isa::Scalar).expect("a file"), None);
    }

    #[test]
    fn bad_files_are_explained() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("tuning.json");
        std::fs::write(&file, "{").expect("a place to write");
        assert!(Tuned::load(&file, Isa::Scalar).expect_err("no JSON").to_string().contains("sterna tune"));
        Tuned { threads: 0, ..tuned() }.save(&file).expect("a place to write");
        assert!(Tuned::load(&file, Isa::Scalar).expect_err("no threads").to_string().contains("range"));
        Tuned { layout: "t17".into(), ..tuned() }.save(&file).expect("a place to write");
        assert!(Tuned::load(&file, Isa::Scalar).expect_err("no layout").to_string().contains("t17"));
    }

    #[test]
    fn every_setting_is_tried_and_one_value_of_it_is_chosen() {
        let mut trials: Vec<Trial> = Vec::new();
        let effort = Effort { matrices: 1, rounds: 1 };
        let tuned = measure(Isa::detect(), 2, effort, &mut |trial| trials.push(trial.clone()));
        for setting in ["layout", "threads", "prefetch", "task_bytes", "block_bytes"] {
            let of = trials.iter().filter(|trial| trial.setting == setting);
            assert!(of.clone().all(|trial| trial.rate > 0.0), "{setting}");
            assert_eq!(of.filter(|trial| trial.chosen).count(), 1, "{setting}");
        }
        assert_eq!(tuned.machine, machine_name());
        assert!(tuned.layout().is_some());
    }
}
