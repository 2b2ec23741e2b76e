//! What is measured: models, tests and settings, and their combinations.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use sterna_cpu::kv::KvType;
use sterna_cpu::{Isa, Layout, Tuning};

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

/// What is compared: every combination of these is measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// The models.
    pub models: Vec<ModelSource>,
    /// The tests.
    pub tests: Vec<Test>,
    /// Tokens in the cache before a test starts.
    pub depths: Vec<usize>,
    /// Threads.
    pub threads: Vec<usize>,
    /// Instruction sets.
    pub isas: Vec<Isa>,
    /// Layouts of the weights; `None` for the best one for the instruction set.
    pub layouts: Vec<Option<Layout>>,
    /// Layout of weights that have to be packed, where none is given.
    pub preferred_layout: Option<Layout>,
    /// What suits the machine.
    pub tuning: Tuning,
    /// Number types of the cache.
    pub kvs: Vec<KvType>,
    /// Whether weights are read where a file is mapped; see [`crate::OpenOptions::mmap`].
    pub mmap: Option<bool>,
    /// The device.
    pub device: Device,
    /// Which backend serves which layer, instead of one device; see [`crate::OpenOptions::placement`].
    pub placement: Option<String>,
    /// Where times of blocks are kept.
    pub tuning_file: Option<PathBuf>,
    /// How a GPU is used.
    #[cfg(feature = "gpu")]
    pub gpu: GpuOptions,
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
    /// Threads.
    pub threads: usize,
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
        Spec { test: other.test, depth: other.depth, ..self.clone() } == *other
    }
}

impl Options {
    /// All combinations, those of one open model next to each other.
    pub fn specs(&self) -> Vec<Spec> {
        let mut specs = Vec::new();
        for model in 0..self.models.len() {
            for &isa in &self.isas {
                for &layout in &self.layouts {
                    for &kv in &self.kvs {
                        for &threads in &self.threads {
                            for &test in &self.tests {
                                specs.extend(self.depths.iter().map(|&depth| Spec {
                                    model,
                                    test,
                                    depth,
                                    threads,
                                    isa,
                                    layout,
                                    kv,
                                }));
                            }
                        }
                    }
                }
            }
        }
        specs
    }

    /// Positions that the largest test needs.
    pub(super) fn context(&self) -> usize {
        let tokens = self.tests.iter().map(|test| test.tokens()).max().unwrap_or(0);
        // A generation starts from a short prompt.
        tokens + self.depths.iter().max().unwrap_or(&0) + PROMPT
    }
}

/// Tokens of the prompt in front of a generation.
pub(super) const PROMPT: usize = 16;
