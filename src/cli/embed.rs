//! `sterna embed`: texts as vectors.

use std::fs::File;
use std::io::{BufWriter, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::common::{self, ModelArgs};

/// Arguments of `sterna embed`.
#[derive(clap::Args)]
#[command(
    after_help = "The embedding of a text is the hidden state of its last token behind the final norm, divided by its
length, so that the dot product of two is the cosine of their angle. Models such as
microsoft/bitnet-embedding-0.6b are trained for this; queries need the instruction of the model in
front of them.

Examples:
  sterna embed bitnet-embedding-0.6b \"query: What is BitNet?\" \"BitNet has ternary weights\" --matrix
  sterna embed bitnet-embedding-0.6b --file texts.txt --format npy --out texts.npy"
)]
pub(super) struct Args {
    /// The model
    model: PathBuf,

    /// The texts [default: one per line of standard input]
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,

    /// A file with one text per line; - for standard input
    #[arg(long, short, value_name = "FILE", conflicts_with = "texts")]
    file: Option<PathBuf>,

    /// What is written
    #[arg(long, value_enum, default_value_t = Format::Json)]
    format: Format,

    /// Write to this file instead of standard output
    #[arg(long, short)]
    out: Option<PathBuf>,

    /// Overwrite the file if it exists
    #[arg(long, requires = "out")]
    force: bool,

    /// Print the cosines of all pairs as a table instead of the vectors
    #[arg(long, conflicts_with_all = ["format", "out"])]
    matrix: bool,

    #[command(flatten)]
    options: ModelArgs,
}

/// Forms of the vectors.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// {"dimensions": D, "embeddings": [[...], ...]}
    Json,
    /// NumPy's array of float32, [texts, dimensions]
    Npy,
}

#[derive(Serialize)]
struct Embeddings<'a> {
    dimensions: usize,
    embeddings: &'a [Vec<f32>],
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(out) = &args.out {
        common::refuse_to_overwrite(out, args.force)?;
    }
    if args.format == Format::Npy && args.out.is_none() && std::io::stdout().is_terminal() {
        bail!("an array would garble the terminal; give --out FILE, or --format json");
    }
    let texts = if args.texts.is_empty() { read_lines(args.file.as_ref())? } else { args.texts };
    let model = args.options.open_for_embedding(&args.model)?;
    if !model.graph().is_trained_to_embed() {
        tracing::warn!("{} was trained to go on with texts: expect little of its vectors", args.model.display());
    }
    let embeddings = model.embed(&texts)?;
    let dimensions = model.config().hidden_size;
    if args.matrix {
        return Ok(writeln!(std::io::stdout().lock(), "{}", matrix(&texts, &embeddings))?);
    }
    let mut out: Box<dyn Write> = match &args.out {
        Some(path) => Box::new(File::create(path).with_context(|| format!("cannot write {}", path.display()))?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut out = BufWriter::new(&mut out);
    match args.format {
        Format::Json => {
            serde_json::to_writer(&mut out, &Embeddings { dimensions, embeddings: &embeddings })?;
            writeln!(out)?;
        }
        Format::Npy => {
            out.write_all(&npy_header(embeddings.len(), dimensions))?;
            for value in embeddings.iter().flatten() {
                out.write_all(&value.to_le_bytes())?;
            }
        }
    }
    Ok(out.flush()?)
}

/// The lines of a file or of standard input that are not empty.
fn read_lines(file: Option<&PathBuf>) -> anyhow::Result<Vec<String>> {
    let text = match file.filter(|file| file.as_os_str() != "-") {
        Some(file) => std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?,
        None => {
            let mut stdin = std::io::stdin().lock();
            if stdin.is_terminal() {
                bail!("give the texts as arguments, with --file, or through a pipe");
            }
            let mut text = String::new();
            stdin.read_to_string(&mut text).context("cannot read the texts from standard input")?;
            text
        }
    };
    let lines: Vec<String> = text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect();
    if lines.is_empty() {
        bail!("there is no text: every line is empty");
    }
    Ok(lines)
}

/// Cosines of all pairs; a text is shown by its beginning.
fn matrix(texts: &[String], embeddings: &[Vec<f32>]) -> Table {
    const SHOWN: usize = 24;
    let label = |text: &String| match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.clone(),
    };
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(std::iter::once(String::new()).chain((1..=texts.len()).map(|number| number.to_string())));
    for (number, (text, row)) in texts.iter().zip(embeddings).enumerate() {
        let cosine = |column: &Vec<f32>| {
            let dot: f64 = row.iter().zip(column).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            format!("{dot:.3}")
        };
        table.add_row(std::iter::once(format!("{} {}", number + 1, label(text))).chain(embeddings.iter().map(cosine)));
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// What stands in front of the numbers of an array in NumPy's format, version 1.0: its data begin at a multiple of 64.
/// Source: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>.
fn npy_header(rows: usize, columns: usize) -> Vec<u8> {
    const ALIGNMENT: usize = 64;
    let description = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {columns}), }}");
    let mut header = b"\x93NUMPY\x01\x00\x00\x00".to_vec();
    header.extend(description.as_bytes());
    header.resize((header.len() + 1).next_multiple_of(ALIGNMENT) - 1, b' ');
    header.push(b'\n');
    // Far below 64 KiB.
    let length = (header.len() - 10) as u16;
    header[8..10].copy_from_slice(&length.to_le_bytes());
    header
}
