//! Options that several subcommands share, and opening a model with a progress bar.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
#[cfg(feature = "gpu")]
use sterna::backend::gpu::GpuOptions;
use sterna::backend::{Device, Progress};
use sterna::bench::WeightsChoice;
use sterna::format::{self, I2sLayout, KernelConfig};
use sterna::model::ActivationKind;
use sterna::plan::Workload;
use sterna::tune::Tuned;
use sterna::{GenerateOptions, HeadKind, Isa, KvType, Layout, Method, Model, OpenOptions, Sampling, Timings, Tuning};

/// Where weights are read that a file has as the kernels read them (files of `sterna convert`).
#[derive(Args, Clone)]
#[command(next_help_heading = "Machine")]
pub(super) struct MmapArgs {
    /// Read the weights of a converted file where it is mapped: they take no memory of their own [default: if they take more
    /// than half of the free memory]
    #[arg(long, conflicts_with = "no_mmap")]
    mmap: bool,

    /// Copy the weights of a converted file to memory, whose pages are read faster
    #[arg(long)]
    no_mmap: bool,
}

impl MmapArgs {
    /// What was said.
    pub(super) fn choice(&self) -> Option<bool> {
        (self.mmap || self.no_mmap).then_some(self.mmap)
    }
}

/// How a model is opened.
#[derive(Args, Clone)]
#[command(next_help_heading = "Machine")]
pub(super) struct ModelArgs {
    /// Threads [default: one per core]
    #[arg(short, long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Keep each thread on a core of its own
    #[arg(long)]
    pin: bool,

    #[command(flatten)]
    mmap: MmapArgs,

    /// What the inputs of ternary matrices are rounded to: int8 as BitNet models are trained, float (24 bits) as models are
    /// of which only the weights were quantized [default: what the file says]
    #[arg(long, value_enum)]
    activations: Option<ActivationsArg>,

    #[command(flatten)]
    files: FileArgs,

    /// Tokens of context: prompt and answer [default: what the model was trained for, at most 8192]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    ctx: Option<u32>,

    /// Instruction set: scalar, avx2, avxvnni, avx512bw, avx512, amx, neon, neondot or neoni8mm [default: the best of this
    /// machine]
    #[arg(long, env = "STERNA_ISA", hide_env_values = true)]
    isa: Option<Isa>,

    /// Layout of the packed weights: t16 (2 bits) or t16x5 (1.6 bits) to multiply, lut2 (2 bits), lut3 (1⅔) or lut5 (1.6)
    /// to look sums up [default: that of the file, or the best for the instruction set]
    #[arg(long, env = "STERNA_LAYOUT", hide_env_values = true)]
    layout: Option<Layout>,

    /// How the kernels make sums, if no layout is given
    #[arg(long, value_enum, default_value = "auto")]
    kernel: KernelArg,

    #[command(flatten)]
    tuning: TuningArgs,

    /// Numbers in the key-value cache
    #[arg(long, value_enum, default_value = "f16")]
    kv: KvArg,

    /// How the best logits are found: by an int8 copy of the head, or from all the exact logits. The text is the same
    #[arg(long, value_enum, default_value = "int8")]
    head: HeadArg,

    /// Prompt tokens computed in one pass
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    chunk: u32,

    /// Where the model runs: cpu, gpu (the best one), gpu=NUMBER or gpu=NAME (see `sterna devices`), software (a GPU
    /// emulated by the CPU), auto (what is fastest by measurement, layer by layer; the CPU takes over if a GPU fails), or
    /// auto=NUMBER, auto=NAME, auto=software (the same with that GPU) [default: cpu; of `plan`, auto]
    #[arg(long)]
    device: Option<Device>,

    #[cfg(feature = "gpu")]
    #[command(flatten)]
    gpu: GpuArgs,

    /// So many layers on the GPU, from the last block on: one more than there are blocks is the head too, two more the
    /// embedding
    #[arg(long, value_name = "N", conflicts_with_all = ["placement", "placement_prefill", "placement_decode"])]
    gpu_layers: Option<usize>,

    /// Which backend serves which layer, instead of --device: a name, a map such as embed=cpu,0-19=gpu,20-=cpu,head=cpu,
    /// or blocks or memory for each such as gpu=0:20,gpu=1:6G (the rest goes to the CPU)
    #[arg(long)]
    placement: Option<String>,

    /// The same for prompts only
    #[arg(long, value_name = "PLACEMENT")]
    placement_prefill: Option<String>,

    /// The same for generated tokens only
    #[arg(long, value_name = "PLACEMENT")]
    placement_decode: Option<String>,

    /// What `auto` is fast for: tokens of a prompt and of the answer
    #[arg(long, value_name = "PROMPT:ANSWER", default_value_t)]
    workload: Workload,
}

/// What files of bitnet.cpp do not say of themselves.
#[derive(Args, Clone)]
pub(super) struct FileArgs {
    /// The order of weights in an I2_S file, which nothing in it tells
    #[arg(long, value_enum, default_value = "x86", value_name = "ORDER")]
    i2s: I2sArg,

    /// The kernel_config.ini with which bitnet.cpp made a TL1 or TL2 file [default: what its set-up takes for the models that
    /// it knows]
    #[arg(long, value_name = "FILE")]
    kernel_config: Option<PathBuf>,
}

/// Orders of weights in I2_S files.
#[derive(Clone, Copy, ValueEnum)]
enum I2sArg {
    /// Blocks of 128 weights: all published files
    X86,
    /// Blocks of 64 weights: quantized by a build for ARM
    Arm64,
    /// Four rows in a byte: quantized by a build without ACT_PARALLEL
    Rows4,
}

impl FileArgs {
    /// The options for a file.
    pub(super) fn options(&self) -> anyhow::Result<format::OpenOptions> {
        Ok(format::OpenOptions {
            i2s_layout: match self.i2s {
                I2sArg::X86 => I2sLayout::X86,
                I2sArg::Arm64 => I2sLayout::Arm,
                I2sArg::Rows4 => I2sLayout::RowInterleaved,
            },
            kernel_config: match &self.kernel_config {
                Some(file) => KernelConfig::read(file)?,
                None => KernelConfig::default(),
            },
            ..format::OpenOptions::default()
        })
    }
}

/// How a GPU is used.
#[cfg(feature = "gpu")]
#[derive(Args, Clone, Copy)]
pub(super) struct GpuArgs {
    /// Most memory of the GPU that the model may take, such as 6G or 800M; one that takes more is refused [default: what is
    /// free, where the GPU shares the CPU's memory]
    #[arg(long, value_name = "SIZE", value_parser = sterna::size::parse)]
    gpu_memory: Option<u64>,
}

#[cfg(feature = "gpu")]
impl GpuArgs {
    /// The options, with the folder in which compiled kernels are kept.
    pub(super) fn options(self) -> GpuOptions {
        GpuOptions { memory: self.gpu_memory, cache: gpu_cache(), ..GpuOptions::default() }
    }
}

/// What `sterna tune` finds, set by hand. No value changes what a model says.
#[derive(Args, Clone, Copy)]
pub(super) struct TuningArgs {
    /// How far ahead of use weights are fetched [default: as tuned, or 8192, with a small first-level cache 4096]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(0..=1 << 20))]
    prefetch: Option<u32>,

    /// Weights that a thread takes at a time when few tokens are computed [default: as tuned, or 131072]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=1 << 30))]
    task_bytes: Option<u32>,

    /// Activations that meet a thread's weights before the next ones do [default: as tuned, or 524288]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=1 << 30))]
    block_bytes: Option<u32>,
}

impl TuningArgs {
    /// The options, then the file's settings, then the defaults.
    pub(super) fn over(self, tuned: Option<&Tuned>) -> Tuning {
        let base = tuned.map_or_else(Tuning::default, Tuned::tuning);
        let or = |given: Option<u32>, base| given.map_or(base, |given| given as usize);
        Tuning {
            prefetch: or(self.prefetch, base.prefetch),
            task_bytes: or(self.task_bytes, base.task_bytes),
            block_bytes: or(self.block_bytes, base.block_bytes),
        }
    }
}

/// The file that `sterna tune` writes: `STERNA_TUNING`, or one in the user's folder for settings. An empty `STERNA_TUNING`
/// means none.
pub(super) fn tuning_file() -> Option<PathBuf> {
    match std::env::var_os("STERNA_TUNING") {
        Some(file) => Some(PathBuf::from(file)).filter(|file| !file.as_os_str().is_empty()),
        None => Some(directories::ProjectDirs::from("", "", "sterna")?.config_dir().join("tuning.json")),
    }
}

/// What `sterna tune` found for this machine and instruction set. A file that cannot be used is a warning.
pub(super) fn tuned(isa: Isa) -> Option<Tuned> {
    Tuned::load(&tuning_file()?, isa).unwrap_or_else(|error| {
        tracing::warn!("{error}");
        None
    })
}

/// How kernels make sums.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KernelArg {
    /// As tuned, or the best for the instruction set
    Auto,
    /// Multiply-adds
    #[value(alias = "mul")]
    Mad,
    /// Look-ups in tables
    Lut,
}

impl KernelArg {
    /// What a benchmark makes of it.
    pub(super) fn weights(self) -> WeightsChoice {
        match self {
            KernelArg::Auto => WeightsChoice::Auto,
            KernelArg::Mad => WeightsChoice::Method(Method::Multiply),
            KernelArg::Lut => WeightsChoice::Method(Method::LookUp),
        }
    }

    /// The layout to choose, if the kernel decides it.
    fn layout(self, isa: Isa) -> Option<Layout> {
        match self {
            KernelArg::Auto => None,
            KernelArg::Mad => Some(Method::Multiply.layout(isa)),
            KernelArg::Lut => Some(Method::LookUp.layout(isa)),
        }
    }
}

/// Number types of the key-value cache.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum KvArg {
    F16,
    F32,
    /// 8 bits with a scale for each head and position: half the memory
    #[value(alias = "q8")]
    Int8,
}

impl KvArg {
    pub(super) fn kind(self) -> KvType {
        match self {
            KvArg::F16 => KvType::F16,
            KvArg::F32 => KvType::F32,
            KvArg::Int8 => KvType::Int8,
        }
    }
}

/// One thread per core.
pub(super) fn default_threads() -> u16 {
    std::thread::available_parallelism().map_or(1, |n| u16::try_from(n.get()).unwrap_or(u16::MAX))
}

/// Kinds of head.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum HeadArg {
    Int8,
    Exact,
}

/// What activations are rounded to.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ActivationsArg {
    Int8,
    Float,
}

impl ActivationsArg {
    fn kind(self) -> ActivationKind {
        match self {
            ActivationsArg::Int8 => ActivationKind::Int8,
            ActivationsArg::Float => ActivationKind::Float,
        }
    }
}

impl ModelArgs {
    /// How a model is opened, with these layers shown.
    pub(super) fn options(&self, taps: Vec<Option<usize>>) -> anyhow::Result<OpenOptions> {
        let isa = self.isa.map_or_else(Isa::from_env, Ok)?;
        let tuned = tuned(isa);
        let tuned = tuned.as_ref();
        let files = self.files.options()?;
        Ok(OpenOptions {
            i2s_layout: files.i2s_layout,
            kernel_config: files.kernel_config,
            threads: self.threads.map(usize::from).or(tuned.map(|tuned| tuned.threads)),
            pin: self.pin,
            mmap: self.mmap.choice(),
            activations: self.activations.map(ActivationsArg::kind),
            isa: Some(isa),
            layout: self.layout.or(self.kernel.layout(isa)),
            preferred_layout: tuned.and_then(Tuned::layout),
            tuning: self.tuning.over(tuned),
            context: self.ctx.map(|ctx| ctx as usize),
            kv: self.kv.kind(),
            head: match self.head {
                HeadArg::Int8 => HeadKind::Int8,
                HeadArg::Exact => HeadKind::Exact,
            },
            chunk: self.chunk as usize,
            device: self.device.clone().unwrap_or_default(),
            placement: self.placement.clone(),
            placement_prefill: self.placement_prefill.clone(),
            placement_decode: self.placement_decode.clone(),
            gpu_layers: self.gpu_layers,
            workload: self.workload,
            tuning_file: tuning_file(),
            taps,
            #[cfg(feature = "gpu")]
            gpu: self.gpu.options(),
            ..OpenOptions::default()
        })
    }

    /// How a model is opened for `sterna plan`, whose default is what is fastest.
    pub(super) fn options_for_plan(&self) -> anyhow::Result<OpenOptions> {
        let options = self.options(Vec::new())?;
        Ok(match self.device {
            Some(_) => options,
            None if self.gpu_layers.is_some() => options,
            None => OpenOptions { device: Device::Auto(None), ..options },
        })
    }

    /// Opens the model under `path`, with a progress bar when stderr is a terminal and the model is large.
    pub(super) fn open(&self, path: &Path, taps: Vec<Option<usize>>) -> anyhow::Result<Model> {
        self.open_with(path, &self.options(taps)?)
    }

    /// As [`ModelArgs::open`], to embed texts.
    pub(super) fn open_for_embedding(&self, path: &Path) -> anyhow::Result<Model> {
        self.open_with(path, &self.options(Vec::new())?.for_embedding())
    }

    /// Opens the model under `path` with `options`, as [`ModelArgs::open`] does.
    pub(super) fn open_with(&self, path: &Path, options: &OpenOptions) -> anyhow::Result<Model> {
        let model = Model::open_with_progress(path, options, PackingBar::new)?;
        if let Some(ctx) = self.ctx.filter(|&ctx| ctx as usize > model.config().max_position_embeddings) {
            let trained = model.config().max_position_embeddings;
            tracing::warn!("the model was trained for {trained} positions; beyond them, of {ctx}, it may ramble");
        }
        tracing::info!("{}: {}", path.display(), model.backend());
        Ok(model)
    }
}

/// Shows how much of the weights is packed.
struct PackingBar(ProgressBar);

impl PackingBar {
    /// Models below this size are ready before a bar is worth drawing.
    const WORTH_SHOWING: u64 = 64 << 20;

    fn new(bytes: u64) -> PackingBar {
        if bytes < Self::WORTH_SHOWING || !std::io::stderr().is_terminal() {
            return PackingBar(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template("packing weights {bar:30} {bytes}/{total_bytes} ({bytes_per_sec})");
        let bar = ProgressBar::new(bytes);
        if let Ok(style) = style {
            bar.set_style(style);
        }
        PackingBar(bar)
    }
}

impl Progress for PackingBar {
    fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    fn expect(&self, bytes: u64) {
        self.0.inc_length(bytes);
    }
}

impl Drop for PackingBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// Refuses to write to a path where something is, unless `force` says so.
pub(super) fn refuse_to_overwrite(path: &Path, force: bool) -> anyhow::Result<()> {
    if path.exists() && !force {
        bail!("{} exists; use --force to overwrite it", path.display());
    }
    Ok(())
}

/// Shows how much of a long task is done, and stops it when Ctrl-C is pressed.
pub(super) struct Watch {
    bar: ProgressBar,
    stopped: Arc<AtomicBool>,
}

impl Watch {
    /// A bar up to `len`, or a spinner, with a template of `indicatif`.
    pub(super) fn new(len: Option<u64>, template: &str) -> anyhow::Result<Watch> {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot listen for Ctrl-C")?;
        let bar = len.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
        Ok(Watch { bar: bar.with_style(ProgressStyle::with_template(template)?), stopped })
    }

    /// Counts what is done; says whether to go on.
    pub(super) fn advance(&self, done: u64) -> ControlFlow<()> {
        self.bar.inc(done);
        match self.stopped.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    /// Shows a message.
    pub(super) fn say(&self, message: String) {
        self.bar.set_message(message);
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How tokens are chosen. What is not given is as the model recommends.
#[derive(Args, Clone)]
#[command(next_help_heading = "Sampling")]
pub(super) struct SamplingArgs {
    /// Randomness: 0 always takes the most probable token [default: as the model recommends]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    temp: Option<f32>,

    /// Only the K most probable tokens; 0 for all
    #[arg(long, value_name = "K")]
    top_k: Option<usize>,

    /// Only the most probable tokens that reach P together; 1 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    top_p: Option<f32>,

    /// Only tokens at least P times as probable as the best; 0 for all
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    min_p: Option<f32>,

    /// Make recent tokens less likely; 1 for not
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    repeat_penalty: Option<f32>,

    /// How many recent tokens the penalty looks at
    #[arg(long, value_name = "N")]
    repeat_last_n: Option<usize>,

    /// Seed of the random numbers: the same seed gives the same text [default: from the clock]
    #[arg(long)]
    seed: Option<u64>,

    /// End the answer before this text; may be given several times
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,

    /// Go on after the end-of-text token
    #[arg(long)]
    ignore_eos: bool,
}

impl SamplingArgs {
    /// The options for an answer of `model` of at most `max_tokens` tokens.
    pub(super) fn options(&self, model: &Model, max_tokens: Option<usize>) -> GenerateOptions {
        let default = model.default_sampling();
        let sampling = Sampling {
            temperature: self.temp.unwrap_or(default.temperature),
            top_k: self.top_k.unwrap_or(default.top_k),
            top_p: self.top_p.unwrap_or(default.top_p),
            min_p: self.min_p.unwrap_or(default.min_p),
            repeat_penalty: self.repeat_penalty.unwrap_or(default.repeat_penalty),
            repeat_last_n: self.repeat_last_n.unwrap_or(default.repeat_last_n),
            seed: self.seed.or(default.seed),
            ..Sampling::default()
        };
        GenerateOptions { max_tokens, sampling, stop: self.stop.clone(), ignore_eos: self.ignore_eos }
    }
}

/// A line about speed, for stderr.
pub(super) fn summary(timings: &Timings) -> String {
    let seconds = |time: Duration| time.as_secs_f64();
    format!(
        "prompt {} tokens in {:.3} s ({:.1} tok/s); generated {} in {:.2} s ({:.1} tok/s)",
        timings.prompt_tokens,
        seconds(timings.prompt_time),
        timings.prompt_rate(),
        timings.generated_tokens,
        seconds(timings.decode_time),
        timings.decode_rate(),
    )
}

/// The folder in which compiled GPU kernels are kept: `STERNA_GPU_CACHE`, or one in the user's folder for caches. An empty
/// `STERNA_GPU_CACHE` means none.
#[cfg(feature = "gpu")]
fn gpu_cache() -> Option<PathBuf> {
    match std::env::var_os("STERNA_GPU_CACHE") {
        Some(folder) => Some(PathBuf::from(folder)).filter(|folder| !folder.as_os_str().is_empty()),
        None => Some(directories::ProjectDirs::from("", "", "sterna")?.cache_dir().join("gpu")),
    }
}

/// Token ids from a list such as `1,2,3`.
pub(super) fn parse_tokens(list: &str) -> anyhow::Result<Vec<u32>> {
    let tokens = list
        .split([',', ' '])
        .filter(|id| !id.is_empty())
        .map(|id| id.parse().with_context(|| format!("{id:?} in the list of tokens is not a token id")))
        .collect::<anyhow::Result<Vec<u32>>>()?;
    if tokens.is_empty() {
        bail!("the list of tokens is empty");
    }
    Ok(tokens)
}

/// The model of an optional argument; none is the demo model.
pub(super) fn model_or_demo(model: Option<PathBuf>) -> PathBuf {
    model.unwrap_or_else(|| sterna::demo::NAME.into())
}

/// Whether the reader of our output has gone (`sterna run … | head`), which is no error.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}
