//! How `sterna bench` writes its results: as a table, Markdown, CSV, JSON or lines of JSON.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;
use sterna::bench::{Machine, Report, Row, Skipped};

/// Forms of the results.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    /// Markdown
    Md,
    /// A line for each row
    Csv,
    /// All of it; docs/bench.schema.json describes it
    Json,
    /// An object on each line: the machine, then each row, then what was skipped
    Jsonl,
}

/// The results in a format.
pub(super) fn describe(report: &Report, format: Format) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => as_table(report),
        Format::Md => as_markdown(report),
        Format::Csv => as_csv(report)?,
        Format::Json => serde_json::to_string_pretty(report)? + "\n",
        Format::Jsonl => as_lines(report)?,
    })
}

/// Writes a text to a file or to standard output.
pub(super) fn write(file: Option<&Path>, text: &str) -> anyhow::Result<()> {
    match file {
        Some(file) => std::fs::write(file, text).with_context(|| format!("{}: cannot be written", file.display())),
        None => Ok(std::io::stdout().lock().write_all(text.as_bytes())?),
    }
}

/// What a skipped combination was.
pub(super) fn combination(skipped: &Skipped) -> String {
    let Skipped { model, device, placement, threads, isa, layout, kv, .. } = skipped;
    let place = placement.as_ref().unwrap_or(device);
    let layout = layout.as_ref().map_or_else(String::new, |layout| format!(", {layout}"));
    format!("{model} on {place}, {threads} threads, {isa}{layout}, {kv}")
}

/// The machine and its limits, a line each.
fn machine_lines(machine: &Machine) -> Vec<String> {
    let mut lines = vec![format!("{}, {} cores", machine.cpu, machine.cores)];
    lines.extend(machine.read_gbps.iter().map(|(threads, gbps)| {
        let barrier = machine.barrier_ns.get(threads).copied().unwrap_or_default();
        let s = if *threads == 1 { "" } else { "s" };
        format!("{threads} thread{s}: reads {gbps:.1} GB/s, an empty parallel region takes {barrier:.0} ns")
    }));
    lines.extend(machine.int8_gmacs.iter().map(|(isa, gmacs)| format!("{isa}: {gmacs:.0} G int8 multiply-adds/s")));
    lines.extend(machine.gpu.iter().map(|gpu| {
        format!(
            "{}: {} ({}, {}), reads {:.1} GB/s, copies {:.1} GB/s, {:.0} G int8 multiply-adds/s",
            gpu.device, gpu.name, gpu.kind, gpu.api, gpu.read_gbps, gpu.copy_gbps, gpu.int8_gmacs
        )
    }));
    lines.push(machine.energy.describe());
    lines
}

fn as_table(report: &Report) -> String {
    let (first, others) = machine_lines(&report.machine)
        .split_first()
        .map_or_else(Default::default, |(first, others)| (first.clone(), others.to_vec()));
    let mut out = first + "\n";
    // Writing to a string cannot fail.
    others.iter().for_each(|line| _ = writeln!(out, "  {line}"));
    let _ = writeln!(out, "{}", table(report));
    disturbed(report).iter().for_each(|line| _ = writeln!(out, "{line}"));
    out
}

/// What to make of repetitions that were disturbed, if there are any.
fn disturbed(report: &Report) -> Option<String> {
    report.rows.iter().find(|row| row.unsteady > 0)?;
    let busy = report.rows.iter().filter_map(|row| row.others_busy).fold(0.0, f64::max);
    Some(format!(
        "unsteady: the limits changed meanwhile, or other programs were at work (up to {busy:.1} cores); such figures do not repeat"
    ))
}

fn as_markdown(report: &Report) -> String {
    let mut out = String::new();
    machine_lines(&report.machine).iter().for_each(|line| _ = writeln!(out, "- {line}"));
    let _ = writeln!(out, "\n{}", table(report));
    disturbed(report).iter().for_each(|line| _ = writeln!(out, "\n{line}"));
    if !report.skipped.is_empty() {
        let _ = writeln!(out, "\nLeft out:");
    }
    report.skipped.iter().for_each(|skipped| _ = writeln!(out, "- {}: {}", combination(skipped), skipped.reason));
    out
}

/// The columns of a table, and which of them hold numbers.
const HEADER: [&str; 13] = [
    "engine", "model", "test", "device", "threads", "isa", "layout", "kv", "tok/s", "interval", "limit", "share",
    "J/token",
];
const NUMBERS: [usize; 6] = [4, 8, 9, 10, 11, 12];

fn table(report: &Report) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(HEADER);
    for row in &report.rows {
        table.add_row(cells(row));
    }
    for column in NUMBERS {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The name of a row's test: `tg128`, `pp512 @ 1024` behind as many tokens, `tg64 x4` of four sequences.
fn test_name(row: &Row) -> String {
    let depth = if row.depth > 0 { format!(" @ {}", row.depth) } else { String::new() };
    let parallel = if row.parallel > 1 { format!(" x{}", row.parallel) } else { String::new() };
    format!("{}{}{depth}{parallel}", row.test, row.n_prompt + row.n_gen)
}

fn cells(row: &Row) -> [String; HEADER.len()] {
    let rate = &row.tokens_per_second;
    let limit = match (row.limit.as_str(), row.limit_rate) {
        ("read", Some(rate)) => format!("{rate:.1} GB/s"),
        (_, Some(rate)) => format!("{rate:.0} GMAC/s"),
        ("mixed", None) if row.limit_share.is_some() => "mixed".into(),
        (_, None) => "unknown".into(),
    };
    let place = match row.placement.as_str() {
        "cpu" | "gpu" => &row.device,
        placement => placement,
    };
    [
        row.engine.clone(),
        row.model.clone(),
        test_name(row),
        place.to_owned(),
        row.threads.to_string(),
        row.isa.clone().unwrap_or_default(),
        row.layout.clone(),
        row.kv.clone(),
        format!("{:.2}", rate.median),
        format!(
            "{:.2}-{:.2} ({:.0} % of {})",
            rate.interval.low,
            rate.interval.high,
            100.0 * rate.interval.level,
            rate.n
        ),
        limit,
        row.describe_share(),
        row.energy.as_ref().map_or_else(String::new, |energy| format!("{:.3}", energy.joules_per_token)),
    ]
}

/// The columns of a CSV file, in the names of the JSON output.
const COLUMNS: [&str; 32] = [
    "engine",
    "model",
    "test",
    "n_prompt",
    "n_gen",
    "depth",
    "parallel",
    "threads",
    "device",
    "placement",
    "isa",
    "layout",
    "kernel",
    "kv",
    "median",
    "min",
    "max",
    "n",
    "interval_low",
    "interval_high",
    "interval_level",
    "samples",
    "bytes_per_token",
    "macs_per_token",
    "limit",
    "limit_rate",
    "limit_share",
    "others_busy",
    "unsteady",
    "joules",
    "joules_per_token",
    "energy_sensors",
];

fn as_csv(report: &Report) -> anyhow::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(COLUMNS)?;
    let count = |value: Option<u64>| value.map_or_else(String::new, |value| value.to_string());
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
    for row in &report.rows {
        let rate = &row.tokens_per_second;
        let samples: Vec<String> = rate.samples.iter().map(f64::to_string).collect();
        writer.write_record([
            row.engine.clone(),
            row.model.clone(),
            row.test.clone(),
            row.n_prompt.to_string(),
            row.n_gen.to_string(),
            row.depth.to_string(),
            row.parallel.to_string(),
            row.threads.to_string(),
            row.device.clone(),
            row.placement.clone(),
            row.isa.clone().unwrap_or_default(),
            row.layout.clone(),
            row.kernel.clone(),
            row.kv.clone(),
            rate.median.to_string(),
            rate.min.to_string(),
            rate.max.to_string(),
            rate.n.to_string(),
            rate.interval.low.to_string(),
            rate.interval.high.to_string(),
            rate.interval.level.to_string(),
            samples.join(" "),
            count(row.bytes_per_token),
            count(row.macs_per_token),
            row.limit.clone(),
            number(row.limit_rate),
            number(row.limit_share),
            number(row.others_busy),
            row.unsteady.to_string(),
            number(row.energy.as_ref().map(|energy| energy.joules)),
            number(row.energy.as_ref().map(|energy| energy.joules_per_token)),
            row.energy.as_ref().map_or_else(String::new, |energy| energy.sensors.join(" ")),
        ])?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

fn as_lines(report: &Report) -> anyhow::Result<String> {
    let mut out = serde_json::to_string(&json!({ "machine": report.machine }))? + "\n";
    for row in &report.rows {
        let _ = writeln!(out, "{}", serde_json::to_string(&json!({ "row": row }))?);
    }
    for skipped in &report.skipped {
        let _ = writeln!(out, "{}", serde_json::to_string(&json!({ "skipped": skipped }))?);
    }
    Ok(out)
}
