//! `sterna bench`: tokens per second, next to the limits of the machine.

use std::path::PathBuf;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sterna::backend::Device;
use sterna::bench::{self, ModelSource, Options, Report, Test, WeightsChoice};
use sterna::tune::Tuned;
use sterna::{Isa, Layout};

#[cfg(feature = "gpu")]
use super::common::GpuArgs;
use super::common::{self, KernelArg, KvArg, MmapArgs, TuningArgs};
use super::report::{self, Format};
use super::synth;
use super::{bench_diff, compare, explain};

/// Arguments of `sterna bench`.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Every combination of the values that are given is measured, in turn, round by round. `share` is
the part of what the machine can do at most: for generation the read bandwidth, for prompts the
rate of int8 multiply-adds, both measured next to each repetition; where several devices share the
layers, the times of their parts at the limit of each are added. What cannot run on this machine is
left out, with the reason.

Examples:
  sterna bench model.gguf
  sterna bench synth:2b-4t -p 512 -n 128 -t 1,2
  sterna bench synth:2b-4t -p 0 -n 64 --isa avx2,avxvnni,avx512 --layout t16,t16x5 --format json
  sterna bench synth:0.7b --device cpu,gpu -b 1,4 --format csv -o rates.csv
  sterna bench model.gguf --compare cpu embed=cpu,0-9=gpu,10-=cpu -p 64 -n 16
  sterna bench diff before.json after.json --fail-below 0.95"
)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,

    /// Files, folders, `demo`, or random weights of a known shape as synth:2b-4t [default: the demo model]
    models: Vec<String>,

    /// Lengths of prompts; 0 for no such test
    #[arg(short = 'p', long, value_delimiter = ',', default_value = "512")]
    prompt: Vec<usize>,

    /// Lengths of generations; 0 for no such test
    #[arg(short = 'n', long, value_delimiter = ',', default_value = "128")]
    generate: Vec<usize>,

    /// Tokens in the cache before a test starts
    #[arg(short = 'd', long, value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,

    /// Sequences that run together; tokens per second are those of all of them
    #[arg(short = 'b', long, value_delimiter = ',', default_value = "1",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: Vec<u16>,

    /// Threads [default: one per core]
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,

    /// Instruction sets [default: the best of this machine]
    #[arg(long, value_delimiter = ',')]
    isa: Vec<Isa>,

    /// Layouts of the weights [default: the best for the instruction set]
    #[arg(long, value_delimiter = ',')]
    layout: Vec<Layout>,

    /// How the kernels make sums, each with the layout that suits it best
    #[arg(long, value_enum, value_delimiter = ',', conflicts_with = "layout")]
    kernel: Vec<KernelArg>,

    #[command(flatten)]
    tuning: TuningArgs,

    /// Numbers in the key-value cache
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16")]
    kv: Vec<KvArg>,

    #[command(flatten)]
    mmap: MmapArgs,

    /// Devices: cpu, gpu, gpu=NUMBER, gpu=NAME, software or auto
    #[arg(long, value_delimiter = ',', default_value = "cpu")]
    device: Vec<Device>,

    /// Which backend serves which layer, instead of --device, which then only says what gpu is; several with semicolons
    /// between them, or this option several times
    #[arg(long, value_delimiter = ';')]
    placement: Vec<String>,
    #[cfg(feature = "gpu")]
    #[command(flatten)]
    gpu: GpuArgs,

    /// A command that measures another program on the same files, in turn with Sterna; may be given several times.
    /// benches/peers/README.md describes what it reads and prints
    #[arg(long, value_name = "COMMAND")]
    peer: Vec<String>,

    /// Instead of measuring, count what one generated token costs: kernels started, command buffers, bytes
    #[arg(long)]
    explain: bool,

    /// Instead of measuring speed, run the same tokens (-p as a prompt, then -n one by one) on two placements: how far the
    /// logits are apart, and the time of each layer. A placement is that of `sterna run --placement`, or software
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "explain")]
    compare: Vec<String>,

    /// The text for --compare [default: any tokens]; its last -n tokens are computed one by one
    #[arg(long, requires = "compare")]
    text: Option<String>,

    /// How often each combination is measured
    #[arg(short, long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,

    /// Also write a page with charts, which needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Also run each combination once with every op timed, and write that as a trace for https://ui.perfetto.dev or
    /// chrome://tracing
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,

    /// How the results are printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,

    /// The file to write them to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Compare two reports: what became faster or slower
    Diff(bench_diff::Args),
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(Command::Diff(args)) = &args.command {
        return bench_diff::run(args);
    }
    let (format, explain, output) = (args.format, args.explain, args.output.clone());
    let (html, trace) = (args.html.clone(), args.profile.clone());
    let (compare, text) = (args.compare.clone(), args.text.clone());
    let lengths = (args.prompt.first().copied().unwrap_or(0), args.generate.first().copied().unwrap_or(0));
    let options = options(args)?;
    if let [a, b] = &compare[..] {
        let text = describe_comparison(&options, [a, b], text.as_deref(), lengths, format)?;
        return report::write(output.as_deref(), &text);
    }
    let specs = options.specs();
    if explain {
        return report::write(output.as_deref(), &describe_costs(&options, format)?);
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")?;
    let bar = ProgressBar::new((specs.len() * options.repetitions) as u64).with_style(style);
    bar.tick();
    let report = bench::run(&options, &mut |spec| {
        bar.set_message(format!("{} {}{}", options.models[spec.model].name(), spec.test.name(), spec.test.tokens()));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    explain_skipped(&report)?;
    let profiles =
        if html.is_some() || trace.is_some() { bench::profiles(&options, &report.skipped)? } else { Vec::new() };
    if let Some(file) = html {
        report::write(Some(&file), &bench::html(&report, &profiles))?;
    }
    if let Some(file) = trace {
        report::write(Some(&file), &bench::chrome_trace(&profiles).to_string())?;
    }
    report::write(output.as_deref(), &report::describe(&report, format)?)
}

/// Says what was left out.
fn explain_skipped(report: &Report) -> anyhow::Result<()> {
    if report.rows.is_empty() {
        let reason = report.skipped.first().map_or("there are no combinations", |skipped| &skipped.reason);
        bail!("nothing could be measured: {reason}");
    }
    for skipped in &report.skipped {
        eprintln!("skipped {}: {}", report::combination(skipped), skipped.reason);
    }
    Ok(())
}

/// How far two placements of the first model are apart.
fn describe_comparison(
    options: &Options,
    placements: [&str; 2],
    text: Option<&str>,
    lengths: (usize, usize),
    format: Format,
) -> anyhow::Result<String> {
    let (Some(spec), Some(model)) = (options.specs().into_iter().next(), options.models.first()) else {
        bail!("nothing to compare");
    };
    let opened = bench::open_options(options, &spec);
    compare::describe(&model.prepare()?, &opened, placements, text, lengths, is_json(format)?)
}

/// What a token costs each model, behind each number of tokens.
fn describe_costs(options: &Options, format: Format) -> anyhow::Result<String> {
    let (mut costs, mut text) = (Vec::new(), String::new());
    let is_json = is_json(format)?;
    for model in 0..options.models.len() {
        let Some(spec) = options.specs().into_iter().find(|spec| spec.model == model) else { continue };
        let opened = bench::open(options, &spec)?;
        let name = options.models[model].name();
        for &depth in &options.depths {
            let stages = bench::explain(&opened, depth, spec.kv)?;
            match is_json {
                false => text += &explain::as_text(&name, opened.backend(), depth, &stages),
                true => costs.push(json!({ "model": name, "depth": depth, "stages": stages })),
            }
        }
    }
    Ok(if is_json { serde_json::to_string_pretty(&costs)? + "\n" } else { text })
}

/// Whether the format of what is not measured speed is JSON.
fn is_json(format: Format) -> anyhow::Result<bool> {
    match format {
        Format::Table => Ok(false),
        Format::Json => Ok(true),
        _ => bail!("--compare and --explain have --format table and json only"),
    }
}

fn options(args: Args) -> anyhow::Result<Options> {
    let tests = |lengths: Vec<usize>, test: fn(usize) -> Test| lengths.into_iter().filter(|&len| len > 0).map(test);
    let tests: Vec<Test> = tests(args.prompt, Test::Prompt).chain(tests(args.generate, Test::Generate)).collect();
    if tests.is_empty() {
        bail!("nothing to measure: both -p and -n are 0");
    }
    let isas = if args.isa.is_empty() { vec![Isa::from_env()?] } else { args.isa };
    // What was tuned is for one instruction set.
    let tuned = if let [isa] = isas[..] { common::tuned(isa) } else { None };
    let threads = if args.threads.is_empty() { vec![common::default_threads()] } else { args.threads };
    let models = if args.models.is_empty() { vec![sterna::demo::NAME.into()] } else { args.models };
    Ok(Options {
        models: models.iter().map(|model| source(model)).collect::<anyhow::Result<_>>()?,
        tests,
        depths: args.depth,
        parallel: args.parallel.into_iter().map(usize::from).collect(),
        threads: threads.into_iter().map(usize::from).collect(),
        isas,
        weights: match (args.layout.is_empty(), args.kernel.is_empty()) {
            (false, _) => args.layout.into_iter().map(WeightsChoice::Layout).collect(),
            (_, false) => args.kernel.into_iter().map(KernelArg::weights).collect(),
            _ => vec![WeightsChoice::Auto],
        },
        preferred_layout: tuned.as_ref().and_then(Tuned::layout),
        tuning: args.tuning.over(tuned.as_ref()),
        kvs: args.kv.into_iter().map(KvArg::kind).collect(),
        mmap: args.mmap.choice(),
        devices: args.device,
        placements: match args.placement.is_empty() {
            true => vec![None],
            false => args.placement.into_iter().map(Some).collect(),
        },
        tuning_file: common::tuning_file(),
        #[cfg(feature = "gpu")]
        gpu: args.gpu.options(),
        peers: args.peer,
        sysfs: "/sys".into(),
        repetitions: args.repetitions.into(),
    })
}

/// The model of an argument.
fn source(model: &str) -> anyhow::Result<ModelSource> {
    let Some(name) = model.strip_prefix("synth:") else { return Ok(ModelSource::Path(PathBuf::from(model))) };
    let cache = directories::ProjectDirs::from("", "", "sterna")
        .context("this system has no folder for caches: write the model with sterna synth and give its path")?;
    Ok(ModelSource::Synthetic {
        name: name.to_ascii_lowercase(),
        shape: synth::known_shape(name)?,
        cache: cache.cache_dir().join("synth"),
    })
}
