//! `sterna plan`: which device would serve which layer, what that takes, how fast it would be.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use comfy_table::{CellAlignment, Table, presets};
use sterna::engine::{plan_model, plan_shape};
use sterna::plan::{AssumedDevice, Report, StageRow};
use sterna::size;

use super::common::{self, ModelArgs};
use super::synth::known_shape;

/// Arguments of `sterna plan`.
#[derive(clap::Args)]
#[command(
    after_help = "Without --device or --placement the plan is the fastest one for --workload (`--device auto` runs it). Some blocks
of the model are run on each device; the times are kept in the file of `sterna tune`. With --shape
nothing is run: times are the least that memory and multiplications allow.

Examples:
  sterna plan model.gguf
  sterna plan model.gguf --gpu-layers 20 --ctx 4096
  sterna plan --shape bitnet-100b --assume gpu=24G:936:90
  sterna plan --shape 8b --assume gpu=0=8G:450:40 --assume gpu=1=8G:450:40 --json"
)]
pub(super) struct Args {
    /// The model [default: the demo model]
    model: Option<PathBuf>,

    /// A shape instead of a model: 0.7b, 2b-4t, 3b, 8b, 30b, 70b, 100b or embedding-0.6b, with bitnet- in front if you like
    #[arg(long, conflicts_with = "model")]
    shape: Option<String>,

    /// A device that is not there, instead of the GPUs of this machine: NAME=MEMORY:GB/s:10^12 int8 multiply-adds/s, such as
    /// gpu=24G:936:90; may be given several times
    #[arg(long, value_name = "DEVICE")]
    assume: Vec<AssumedDevice>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    machine: ModelArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let options = args.machine.options_for_plan()?;
    let report = match &args.shape {
        Some(name) => plan_shape(name, &known_shape(name)?, &options, &args.assume)?,
        None => plan_model(common::model_or_demo(args.model), &options, &args.assume)?,
    };
    let text = if args.json { serde_json::to_string_pretty(&report)? + "\n" } else { as_text(&report) };
    std::io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// Whether a phase goes through a stage.
type Serves = fn(&StageRow) -> bool;

/// Columns of a bar.
const WIDTH: usize = 60;

fn as_text(report: &Report) -> String {
    let mut out = String::new();
    let mut line = |text: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(out, "{text}");
    };
    let (positions, kv) = (report.positions, report.kv);
    line(format!("{}, cache of {positions} positions in {kv}, for {} (prompt:answer)", report.model, report.workload));
    line(String::new());
    for device in &report.devices {
        line(format!("{:<8} {}", device.name, device.description));
        let used = device.weights + device.kv_cache + device.buffers;
        let of = match device.memory {
            Some(memory) => format!("{:>10} of {} {}", size::text(used), size::text(memory), share_bar(used, memory)),
            None => format!("{:>10}, how much there is is not told", size::text(used)),
        };
        line(format!("  memory {of}"));
        let ms = &device.block_ms;
        line(format!("  block  {} ms a generated token, {} of a prompt", short(ms.decode), short(ms.prefill)));
        line(format!("         {}", device.source.text()));
    }
    report.left_out.iter().for_each(|reason| line(format!("left out: {reason}")));
    line(String::new());
    let layers = report.stages.iter().map(|stage| stage.layers[1] + 1).max().unwrap_or(0);
    let differ = report.placement.prefill != report.placement.decode;
    let phases: &[(&str, Serves)] = match differ {
        true => &[("prompts", |stage| stage.serves.prefill), ("generation", |stage| stage.serves.decode)],
        false => &[("layers", |_| true)],
    };
    for (phase, serves) in phases {
        line(format!("{phase:<10} {}", ruler(layers)));
        for device in &report.devices {
            let stages = report.stages.iter().filter(|stage| serves(stage) && stage.device == device.name);
            line(format!("{:>10} {}", device.name, layer_bar(stages, layers)));
        }
    }
    line(String::new());
    line(table(report, layers).to_string());
    let (token, rate) = (&report.token_ms, &report.tokens_per_second);
    line(format!(
        "generation {} ms a token ({} tokens/s), prompts {} ms ({} tokens/s)",
        short(token.decode),
        short(rate.decode),
        short(token.prefill),
        short(rate.prefill)
    ));
    let crossing = &report.crossing_ms;
    if crossing.decode + crossing.prefill > 0.0 {
        line(format!(
            "of that, {} and {} ms between devices; chunks of a prompt overlap on different ones and are faster than that",
            short(crossing.decode),
            short(crossing.prefill)
        ));
    }
    if differ {
        line(format!("the cache of a prompt is handed over in {} ms", short(report.handover_ms)));
    }
    line(format!("a request of {} tokens takes {} s", report.workload, short(report.request_s)));
    if let Some(problem) = &report.problem {
        line(problem.clone());
        return out;
    }
    line(match differ {
        true => format!(
            "run it with --placement-prefill {} --placement-decode {}",
            report.placement.prefill, report.placement.decode
        ),
        false => format!("run it with --placement {}", report.placement.decode),
    });
    out
}

/// A number with about three digits.
fn short(number: f64) -> String {
    match number {
        n if n >= 100.0 => format!("{n:.0}"),
        n if n >= 10.0 => format!("{n:.1}"),
        n if n >= 1.0 => format!("{n:.2}"),
        n if n >= 0.001 || n == 0.0 => format!("{n:.3}"),
        n => format!("{n:.1e}"),
    }
}

/// How much of something is used.
fn share_bar(used: u64, of: u64) -> String {
    let share = used as f64 / of.max(1) as f64;
    let filled = (20.0 * share).ceil().min(20.0) as usize;
    format!("[{}{}] {:.0} %", "#".repeat(filled), ".".repeat(20 - filled), 100.0 * share)
}

/// Columns of the picture: each layer has one, or several share one.
fn columns(layers: usize) -> usize {
    layers.clamp(1, WIDTH)
}

/// `E` over the embedding, tens over the blocks, `H` over the head.
fn ruler(layers: usize) -> String {
    let columns = columns(layers);
    let mut ruler = vec![b' '; columns];
    // With several blocks to a column there is no room for numbers between.
    for tens in (0..layers.saturating_sub(2)).step_by(10).filter(|_| columns == layers) {
        let digits = tens.to_string();
        if tens + digits.len() < columns {
            ruler[tens + 1..][..digits.len()].copy_from_slice(digits.as_bytes());
        }
    }
    ruler[0] = b'E';
    ruler[columns - 1] = b'H';
    String::from_utf8_lossy(&ruler).into_owned()
}

/// The layers of a device.
fn layer_bar<'a>(stages: impl Iterator<Item = &'a StageRow>, layers: usize) -> String {
    let columns = columns(layers);
    let mut bar = vec!["·"; columns];
    for stage in stages {
        let [first, last] = stage.layers;
        bar[first * columns / layers..=last * columns / layers].fill("█");
    }
    bar.concat()
}

fn table(report: &Report, layers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["layers", "device", "for", "weights", "cache", "ms/token", "ms/prompt token"]);
    for stage in &report.stages {
        let [first, last] = stage.layers;
        let serves = match (stage.serves.prefill, stage.serves.decode) {
            (true, true) => "both",
            (true, false) => "prompts",
            _ => "generation",
        };
        table.add_row([
            names(first, last, layers),
            stage.device.clone(),
            serves.into(),
            size::text(stage.weights),
            size::text(stage.kv_cache),
            short(stage.ms.decode),
            short(stage.ms.prefill),
        ]);
    }
    let sum = |f: fn(&StageRow) -> u64| size::text(report.stages.iter().map(f).sum());
    table.add_row([
        "total".into(),
        String::new(),
        String::new(),
        sum(|stage| stage.weights),
        sum(|stage| stage.kv_cache),
        short(report.token_ms.decode),
        short(report.token_ms.prefill),
    ]);
    for column in [3, 4, 5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// `embed, 0-29, head`.
fn names(first: usize, last: usize, layers: usize) -> String {
    let mut parts = Vec::new();
    if first == 0 {
        parts.push("embed".to_owned());
    }
    let blocks = first.max(1)..(last + 1).min(layers - 1);
    match blocks.len() {
        0 => {}
        1 => parts.push((blocks.start - 1).to_string()),
        _ => parts.push(format!("{}-{}", blocks.start - 1, blocks.end - 2)),
    }
    if last + 1 == layers {
        parts.push("head".into());
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_have_names() {
        assert_eq!(names(0, 31, 32), "embed, 0-29, head");
        assert_eq!((names(0, 0, 32), names(31, 31, 32)), ("embed".into(), "head".into()));
        assert_eq!((names(1, 1, 32), names(5, 31, 32)), ("0".into(), "4-29, head".into()));
    }

    #[test]
    fn the_picture_has_a_column_for_each_layer() {
        assert_eq!(ruler(14), "E0         10H");
        assert_eq!(ruler(5).len(), 5);
        assert_eq!(ruler(100).len(), WIDTH);
        assert_eq!(
            (short(1234.5), short(12.34), short(0.1234), short(0.0)),
            ("1234".into(), "12.3".into(), "0.123".into(), "0.000".into())
        );
    }
}
