//! What is measured: models, tests and settings, and their combinations.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sterna_cpu::kv::KvType;
use sterna_cpu::{Isa, Kernels, Layout, Method, Tuning};

use crate::backend::Device;
#[cfg(feature = "gpu")]
use crate::backend::gpu::GpuOptions;
use crate::format::{Encoding, FormatError};
use crate::synth::{self, Shape};

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelSource {
    /// A file, a folder or `demo`.
    Path(PathBuf),
    /// Random weights, by the name of their shape; written to the folder on first use.
    Synthetic {
        /// A name of [`Shape::named`].
        name: String,
        /// The shape.
        shape: Shape,
        /// The folder that keeps the file.
        cache: PathBuf,
    },
}

impl ModelSource {
    /// What reports call the model.
    pub fn name(&self) -> String {
        match self {
            ModelSource::Path(path) => path.display().to_string(),
            ModelSource::Synthetic { name, .. } => format!("synth:{name}"),
        }
    }

    /// The file or folder to open; a synthetic model is made if it is not there yet.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn prepare(&self) -> Result<PathBuf, FormatError> {
        match self {
            ModelSource::Path(path) => Ok(path.clone()),
            ModelSource::Synthetic { name, shape, cache } => {
                let path = cache.join(format!("{name}-i2_s.gguf"));
                if !path.exists() {
                    create_folder(cache)?;
                    synth::write(&path, shape, Encoding::I2S, 0, true, &mut |_| ControlFlow::Continue(()))?;
                }
                Ok(path)
            }
        }
    }
}

fn create_folder(folder: &Path) -> Result<(), FormatError> {
    std::fs::create_dir_all(folder).map_err(|reason| FormatError::Io { file: folder.into(), reason })
}

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// A prompt of so many tokens, up to the logits of its last token.
    Prompt(usize),
    /// So many tokens, one after the other, sampled greedily.
    Generate(usize),
}

impl Test {
    /// `pp` or `tg`, as llama-bench calls them.
    pub const fn name(self) -> &'static str {
        match self {
            Test::Prompt(_) => "pp",
            Test::Generate(_) => "tg",
        }
    }

    /// Tokens that are timed.
    pub const fn tokens(self) -> usize {
        match self {
            Test::Prompt(tokens) | Test::Generate(tokens) => tokens,
        }
    }
}

/// Which layout the weights have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightsChoice {
    /// That of the file, or the best one for the instruction set.
    Auto,
    /// This one.
    Layout(Layout),
    /// The best one for kernels of the instruction set that work this way.
    Method(Method),
}

/// What is compared: every combination of these is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The models.
    pub models: Vec<ModelSource>,
    /// The tests.
    pub tests: Vec<Test>,
    /// Tokens in the cache before a test starts.
    pub depths: Vec<usize>,
    /// Numbers of sequences that run together.
    pub parallel: Vec<usize>,
    /// Threads.
    pub threads: Vec<usize>,
    /// Instruction sets.
    pub isas: Vec<Isa>,
    /// Layouts of the weights.
    pub weights: Vec<WeightsChoice>,
    /// Layout of weights that have to be packed, where none is given.
    pub preferred_layout: Option<Layout>,
    /// What suits the machine.
    pub tuning: Tuning,
    /// Number types of the cache.
    pub kvs: Vec<KvType>,
    /// Whether weights are read where a file is mapped; see [`crate::OpenOptions::mmap`].
    pub mmap: Option<bool>,
    /// The devices.
    pub devices: Vec<Device>,
    /// Which backend serves which layer, `None` for one device for all; see [`crate::OpenOptions::placement`].
    pub placements: Vec<Option<String>>,
    /// Where times of blocks are kept.
    pub tuning_file: Option<PathBuf>,
    /// How a GPU is used.
    #[cfg(feature = "gpu")]
    pub gpu: GpuOptions,
    /// Commands that measure other programs; see `benches/peers/README.md`.
    pub peers: Vec<String>,
    /// Where the system shows its sensors: `/sys` on Linux.
    pub sysfs: PathBuf,
    /// How often each combination is measured.
    pub repetitions: usize,
}

/// One combination.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Index into [`Options::models`].
    pub model: usize,
    /// What is timed.
    pub test: Test,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences that run together.
    pub parallel: usize,
    /// Threads.
    pub threads: usize,
    /// The device.
    pub device: Device,
    /// Which backend serves which layer, instead.
    pub placement: Option<String>,
    /// Instruction set.
    pub isa: Isa,
    /// Layout of the weights.
    pub layout: Option<Layout>,
    /// Number type of the cache.
    pub kv: KvType,
}

impl Spec {
    /// Whether one open model serves both.
    pub(super) fn same_model(&self, other: &Spec) -> bool {
        Spec { test: other.test, depth: other.depth, parallel: other.parallel, ..self.clone() } == *other
    }

    /// Whether the CPU computes nothing.
    pub(super) fn is_gpu_only(&self) -> bool {
        self.placement.is_none() && matches!(self.device, Device::Gpu(_))
    }

    /// Why the CPU of this machine cannot run it with kernels of its own, if so.
    pub(super) fn problem(&self) -> Option<String> {
        if let Err(error) = self.isa.require() {
            return Some(error.to_string());
        }
        let layout = self.layout.filter(|&layout| Kernels::with(self.isa, layout).is_portable())?;
        (self.isa != Isa::Scalar).then(|| {
            format!(
                "there are only portable kernels for the layout {} here, not for {}",
                layout.name(),
                self.isa.name()
            )
        })
    }
}

impl Options {
    /// All combinations, those of one open model next to each other. What runs on a GPU alone is there once, whatever the
    /// choices for the CPU.
    pub fn specs(&self) -> Vec<Spec> {
        let mut specs = Vec::new();
        for model in 0..self.models.len() {
            for (device, placement) in self.targets() {
                for &isa in &self.isas {
                    for &weights in &self.weights {
                        let layout = match weights {
                            WeightsChoice::Auto => None,
                            WeightsChoice::Layout(layout) => Some(layout),
                            WeightsChoice::Method(method) => Some(method.layout(isa)),
                        };
                        for &kv in &self.kvs {
                            for &threads in &self.threads {
                                let (device, placement) = (device.clone(), placement.clone());
                                // Each test takes its place.
                                let (test, depth, parallel) = (Test::Prompt(0), 0, 1);
                                let settings =
                                    Spec { model, test, depth, parallel, threads, device, placement, isa, layout, kv };
                                self.add_tests(&settings, &mut specs);
                            }
                        }
                    }
                }
            }
        }
        specs
    }

    /// Devices and placements.
    fn targets(&self) -> impl Iterator<Item = (&Device, &Option<String>)> {
        self.devices.iter().flat_map(|device| self.placements.iter().map(move |placement| (device, placement)))
    }

    /// Appends the combinations with one way to open a model, unless they are there.
    fn add_tests(&self, settings: &Spec, specs: &mut Vec<Spec>) {
        let is_known = |known: &Spec| {
            let Spec { threads, isa, layout, .. } = known.clone();
            let alike =
                if known.is_gpu_only() { Spec { threads, isa, layout, ..settings.clone() } } else { settings.clone() };
            known.same_model(&alike)
        };
        if specs.iter().any(is_known) {
            return;
        }
        for &parallel in &self.parallel {
            for &test in &self.tests {
                specs.extend(self.depths.iter().map(|&depth| Spec { test, depth, parallel, ..settings.clone() }));
            }
        }
    }

    /// Positions that the largest test needs.
    pub(super) fn context(&self) -> usize {
        let tokens = self.tests.iter().map(|test| test.tokens()).max().unwrap_or(0);
        // A generation starts from a short prompt.
        tokens + self.depths.iter().max().unwrap_or(&0) + PROMPT
    }

    /// Most sequences at the same time.
    pub(super) fn sequences(&self) -> usize {
        self.parallel.iter().copied().max().unwrap_or(1)
    }
}

/// Tokens of the prompt in front of a generation.
pub(super) const PROMPT: usize = 16;

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::bench) fn options() -> Options {
        Options {
            models: vec![ModelSource::Path("demo".into())],
            tests: vec![Test::Prompt(8), Test::Generate(4)],
            depths: vec![0],
            parallel: vec![1, 3],
            threads: vec![1, 2],
            isas: vec![Isa::Scalar],
            weights: vec![WeightsChoice::Auto],
            preferred_layout: None,
            tuning: Tuning::default(),
            kvs: vec![KvType::F16],
            mmap: None,
            devices: vec![Device::Cpu, Device::Gpu(None)],
            placements: vec![None],
            tuning_file: None,
            #[cfg(feature = "gpu")]
            gpu: GpuOptions::default(),
            peers: vec![],
            sysfs: "/sys".into(),
            repetitions: 1,
        }
    }

    #[test]
    fn a_gpu_is_measured_once_whatever_the_cpu_does() {
        let mut options = options();
        let count = |options: &Options, device: Device| options.specs().iter().filter(|s| s.device == device).count();
        assert_eq!((count(&options, Device::Cpu), count(&options, Device::Gpu(None))), (8, 4));
        options.weights = vec![WeightsChoice::Layout(Layout::T16), WeightsChoice::Method(Method::LookUp)];
        assert_eq!((count(&options, Device::Cpu), count(&options, Device::Gpu(None))), (16, 4));
        // A placement may leave layers to the CPU.
        options.placements = vec![None, Some("embed=cpu,0-=gpu".into())];
        assert_eq!(count(&options, Device::Gpu(None)), 4 + 16);
        assert!(options.specs().iter().any(|spec| spec.layout == Some(Method::LookUp.layout(Isa::Scalar))));
    }

    #[test]
    fn what_is_the_same_is_measured_once() {
        let mut options = options();
        let once = options.specs().len();
        options.weights = vec![WeightsChoice::Auto, WeightsChoice::Auto];
        options.devices.push(Device::Cpu);
        assert_eq!(options.specs().len(), once);
    }

    #[test]
    fn what_this_machine_lacks_is_a_problem() {
        let spec = options().specs().swap_remove(0);
        assert_eq!(spec.problem(), None);
        let missing = Isa::ALL.into_iter().find(|isa| !isa.is_available()).expect("no machine is of two architectures");
        let reason = Spec { isa: missing, ..spec.clone() }.problem().expect("an instruction set that is not there");
        assert!(reason.contains(missing.name()), "{reason}");
    }
}
