//! `sterna bench`: tokens per second, next to the limits of the machine.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sterna::backend::Device;
use sterna::bench::{self, ModelSource, Options, Report, Row, Test};
use sterna::tune::Tuned;
use sterna::{Isa, Layout};

#[cfg(feature = "gpu")]
use super::common::GpuArgs;
use super::common::{self, KvArg, MmapArgs, TuningArgs};
use super::synth;
use super::{compare, explain};

/// Arguments of `sterna bench`.
#[derive(clap::Args)]
#[command(
    after_help = "Every combination of the values that are given is measured, in turn, round by round. `share` is
the part of what the machine can do at most: for generation the read bandwidth, for prompts the
rate of int8 multiply-adds, both measured next to each repetition.

Examples:
  sterna bench model.gguf
  sterna bench synth:2b-4t -p 512 -n 128 -t 1,2
  sterna bench synth:2b-4t -p 0 -n 64 --isa avx2,avxvnni,avx512 --layout t16,t16x5 --format json
  sterna bench model.gguf --compare cpu embed=cpu,0-9=gpu,10-=cpu -p 64 -n 16"
)]
pub(super) struct Args {
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

    /// Threads [default: one per core]
    #[arg(short, long, value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,

    /// Instruction sets [default: the best of this machine]
    #[arg(long, value_delimiter = ',')]
    isa: Vec<Isa>,

    /// Layouts of the weights [default: the best for the instruction set]
    #[arg(long, value_delimiter = ',')]
    layout: Vec<Layout>,

    #[command(flatten)]
    tuning: TuningArgs,

    /// Numbers in the key-value cache
    #[arg(long, value_enum, value_delimiter = ',', default_value = "f16")]
    kv: Vec<KvArg>,

    #[command(flatten)]
    mmap: MmapArgs,

    /// The device: cpu, gpu, gpu=NUMBER, gpu=NAME, software or auto
    #[arg(long, default_value = "cpu")]
    device: Device,

    /// Which backend serves which layer, instead of --device
    #[arg(long)]
    placement: Option<String>,
    #[cfg(feature = "gpu")]
    #[command(flatten)]
    gpu: GpuArgs,

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

    /// How the results are printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let (format, explain) = (args.format, args.explain);
    let (compare, text) = (args.compare.clone(), args.text.clone());
    let lengths = (args.prompt.first().copied().unwrap_or(0), args.generate.first().copied().unwrap_or(0));
    let options = options(args)?;
    if let [a, b] = &compare[..] {
        return print_comparison(&options, [a, b], text.as_deref(), lengths, format);
    }
    let specs = options.specs();
    if explain {
        return print_costs(&options, format);
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} (about {eta} left)")?;
    let bar = ProgressBar::new((specs.len() * options.repetitions) as u64).with_style(style);
    bar.tick();
    let report = bench::run(&options, &mut |spec| {
        bar.set_message(format!("{} {}{}", options.models[spec.model].name(), spec.test.name(), spec.test.tokens()));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    match format {
        Format::Table => print!("{}", as_table(&report)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

/// How far two placements of the first model are apart.
fn print_comparison(
    options: &Options,
    placements: [&str; 2],
    text: Option<&str>,
    lengths: (usize, usize),
    format: Format,
) -> anyhow::Result<()> {
    let (Some(spec), Some(model)) = (options.specs().into_iter().next(), options.models.first()) else {
        bail!("nothing to compare");
    };
    let opened = bench::open_options(options, &spec);
    let json = matches!(format, Format::Json);
    print!("{}", compare::describe(&model.prepare()?, &opened, placements, text, lengths, json)?);
    Ok(())
}

/// What a token costs each model, behind each number of tokens.
fn print_costs(options: &Options, format: Format) -> anyhow::Result<()> {
    let mut costs = Vec::new();
    for model in 0..options.models.len() {
        let Some(spec) = options.specs().into_iter().find(|spec| spec.model == model) else { continue };
        let opened = bench::open(options, &spec)?;
        let name = options.models[model].name();
        for &depth in &options.depths {
            let stages = bench::explain(&opened, depth, spec.kv)?;
            match format {
                Format::Table => print!("{}", explain::as_text(&name, opened.backend(), depth, &stages)),
                Format::Json => costs.push(json!({ "model": name, "depth": depth, "stages": stages })),
            }
        }
    }
    if let Format::Json = format {
        println!("{}", serde_json::to_string_pretty(&costs)?);
    }
    Ok(())
}

fn options(args: Args) -> anyhow::Result<Options> {
    let tests = |lengths: Vec<usize>, test: fn(usize) -> Test| lengths.into_iter().filter(|&len| len > 0).map(test);
    let tests: Vec<Test> = tests(args.prompt, Test::Prompt).chain(tests(args.generate, Test::Generate)).collect();
    if tests.is_empty() {
        bail!("nothing to measure: both -p and -n are 0");
    }
    if tests.contains(&Test::Generate(1)) {
        bail!("-n 1 generates nothing beside the prompt's token: use 2 at least");
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
        threads: threads.into_iter().map(usize::from).collect(),
        isas,
        layouts: if args.layout.is_empty() { vec![None] } else { args.layout.into_iter().map(Some).collect() },
        preferred_layout: tuned.as_ref().and_then(Tuned::layout),
        tuning: args.tuning.over(tuned.as_ref()),
        kvs: args.kv.into_iter().map(KvArg::kind).collect(),
        mmap: args.mmap.choice(),
        device: args.device,
        placement: args.placement,
        tuning_file: common::tuning_file(),
        #[cfg(feature = "gpu")]
        gpu: args.gpu.options(),
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

fn as_table(report: &Report) -> String {
    let machine = &report.machine;
    let mut out = format!("{}, {} cores\n", machine.cpu, machine.cores);
    for (threads, gbps) in &machine.read_gbps {
        let barrier = machine.barrier_ns.get(threads).copied().unwrap_or_default();
        let _ =
            writeln!(out, "  {threads} threads: reads {gbps:.1} GB/s, an empty parallel region takes {barrier:.0} ns");
    }
    for (isa, gmacs) in &machine.int8_gmacs {
        let _ = writeln!(out, "  {isa}: {gmacs:.0} G int8 multiply-adds/s");
    }
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["model", "test", "threads", "isa", "layout", "kv", "tok/s", "range", "limit", "share"]);
    for row in &report.rows {
        table.add_row(cells(row));
    }
    for column in [2, 6, 7, 8, 9] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let _ = writeln!(out, "{table}");
    out
}

fn cells(row: &Row) -> [String; 10] {
    let depth = if row.depth > 0 { format!(" @ {}", row.depth) } else { String::new() };
    let rate = &row.tokens_per_second;
    let limit = match (row.limit, row.limit_rate) {
        ("read", Some(rate)) => format!("{rate:.1} GB/s"),
        (_, Some(rate)) => format!("{rate:.0} GMAC/s"),
        (_, None) => "unknown".into(),
    };
    [
        row.model.clone(),
        format!("{}{}{depth}", row.test, row.n_prompt + row.n_gen),
        row.threads.to_string(),
        row.isa.into(),
        row.layout.into(),
        row.kv.into(),
        format!("{:.2}", rate.median),
        format!("{:.2}-{:.2} ({}x)", rate.min, rate.max, rate.n),
        limit,
        row.limit_share.map_or_else(String::new, |share| format!("{:.0} %", 100.0 * share)),
    ]
}
