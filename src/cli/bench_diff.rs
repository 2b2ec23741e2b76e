//! `sterna bench diff`: what became faster or slower between two runs.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use sterna::bench::{self, Change, Diff, Key, Report};

/// Arguments of `sterna bench diff`.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What sterna bench --format json wrote before
    a: PathBuf,

    /// What it wrote after
    b: PathBuf,

    /// Fail (exit code 1) if a row has become significantly slower than this share of what it was
    #[arg(long, value_name = "RATIO", value_parser = ratio)]
    fail_below: Option<f64>,

    /// How improbable samples as different as these must be, if nothing changed, to count as significant (rank test of Mann
    /// and Whitney; with 4 repetitions each it can be 0.029 at best, with 5 0.008)
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = ratio)]
    level: f64,

    /// How the result is printed
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// A number above 0 and up to 10.
fn ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && number <= 10.0 => Ok(number),
        _ => Err("expected a number above 0, such as 0.95".into()),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let (a, b) = (read(&args.a)?, read(&args.b)?);
    if a.machine.cpu != b.machine.cpu {
        eprintln!("warning: the runs are of different machines: {} and {}", a.machine.cpu, b.machine.cpu);
    }
    let diff = bench::diff(&a, &b, args.level);
    match args.format {
        Format::Table => print!("{}", as_text(&diff)),
        Format::Json => println!("{}", serde_json::to_string_pretty(&diff)?),
    }
    if diff.rows.is_empty() {
        bail!("the two reports have no row in common");
    }
    let drops = args.fail_below.map_or(0, |least| diff.drops(least).count());
    if drops > 0 {
        let s = if drops == 1 { " is" } else { "s are" };
        bail!("{drops} row{s} significantly slower than {} of what it was", args.fail_below.unwrap_or_default());
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    serde_json::from_str(&text)
        .with_context(|| format!("{}: not what sterna bench --format json writes", file.display()))
}

fn as_text(diff: &Diff) -> String {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(["row", "A tok/s", "B tok/s", "B/A", "share B/A", "p", ""]);
    for change in &diff.rows {
        table.add_row(cells(change));
    }
    for column in 1..6 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = format!("{table}\n");
    for (name, keys) in [("A", &diff.only_a), ("B", &diff.only_b)] {
        // Writing to a string cannot fail.
        keys.iter().for_each(|key| _ = writeln!(out, "only in {name}: {}", describe(key)));
    }
    out
}

fn cells(change: &Change) -> [String; 7] {
    let verdict = match (change.is_significant, change.ratio >= 1.0) {
        (false, _) => "",
        (true, true) => "faster",
        (true, false) => "slower",
    };
    [
        describe(&change.key),
        format!("{:.2}", change.a),
        format!("{:.2}", change.b),
        format!("{:.3}", change.ratio),
        change.share_ratio.map_or_else(String::new, |ratio| format!("{ratio:.3}")),
        format!("{:.3}", change.p),
        verdict.into(),
    ]
}

/// A row on one line.
fn describe(key: &Key) -> String {
    let depth = if key.depth > 0 { format!(" @ {}", key.depth) } else { String::new() };
    let parallel = if key.parallel > 1 { format!(" x{}", key.parallel) } else { String::new() };
    let place = match key.placement.as_str() {
        "cpu" | "gpu" => &key.device,
        placement => placement,
    };
    let engine = if key.engine == bench::ENGINE { String::new() } else { format!("{}: ", key.engine) };
    let isa = key.isa.as_ref().map_or_else(String::new, |isa| format!(" {isa}"));
    format!(
        "{engine}{} {}{}{depth}{parallel}, {place}{isa} {} {}, {} threads",
        key.model,
        key.test,
        key.n_prompt + key.n_gen,
        key.layout,
        key.kv,
        key.threads
    )
}
