//! `sterna pull`: a model from the Hugging Face hub to the cache.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use sterna::hub::{self, Cache, Client, HubError, KNOWN, PullEvent, Reference};
use sterna::model::build_graph;

/// Arguments of `sterna pull`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sterna pull                                        list the short names
  sterna pull bitnet-2b                              microsoft/bitnet-b1.58-2B-4T-gguf
  sterna pull owner/repository                       the GGUF file that runs here, or the Hugging Face folder
  sterna pull owner/repository/file.gguf --revision v2

Models go to the cache that Python's huggingface_hub uses (HF_HUB_CACHE, HF_HOME) and run by the name
they were pulled by. HF_TOKEN is the access token, HF_ENDPOINT another hub. A download that was cut
short goes on where it stopped; checksums are compared.")]
pub(super) struct Args {
    /// A short name, or owner/repository[/file][@revision]
    name: Option<Reference>,

    /// The branch, tag or commit [default: main]
    #[arg(long, requires = "name")]
    revision: Option<String>,

    /// Print one JSON object: name, path, files, bytes
    #[arg(long, requires = "name")]
    json: bool,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let Some(reference) = args.name else { return list_names() };
    let reference = match args.revision {
        Some(revision) => reference.at(&revision)?,
        None => reference,
    };
    if std::env::var("HF_HUB_OFFLINE").is_ok_and(|value| ["1", "ON", "YES", "TRUE"].contains(&&*value.to_uppercase())) {
        return Err(HubError::Offline { name: reference.to_string() }.into());
    }
    let cache = Cache::from_env()?;
    let client = Client::from_env()?;
    let bar = bar()?;
    let pulled = hub::pull(&client, &cache, &reference, &mut |event| show(&bar, event));
    bar.finish_and_clear();
    let pulled = pulled?;
    let problem = does_not_run(&pulled.path);
    if args.json {
        let object = json!({
            "name": reference.to_string(),
            "commit": pulled.commit,
            "path": pulled.path.display().to_string(),
            "files": pulled.files,
            "bytes": pulled.bytes,
            "problem": problem,
        });
        writeln!(std::io::stdout(), "{object}")?;
    } else {
        writeln!(std::io::stdout(), "{}", pulled.path.display())?;
    }
    match problem {
        Some(problem) => eprintln!("warning: it does not run here: {problem}"),
        None if std::io::stderr().is_terminal() => {
            eprintln!("{}; sterna run {reference} \"Hello\"", HumanBytes(pulled.bytes));
        }
        None => {}
    }
    Ok(())
}

/// The short names and what they stand for.
fn list_names() -> anyhow::Result<()> {
    let width = KNOWN.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut out = std::io::stdout().lock();
    for (name, repository) in KNOWN {
        writeln!(out, "{name:width$}  {repository}")?;
    }
    Ok(())
}

/// Why a model does not run, if it does not. Its weights are not read.
pub(super) fn does_not_run(path: &Path) -> Option<String> {
    let checkpoint = match sterna::format::Checkpoint::open(path) {
        Ok(checkpoint) => checkpoint,
        Err(error) => return Some(error.to_string()),
    };
    build_graph(checkpoint.into()).err().map(|error| error.to_string())
}

/// A bar for all bytes, which appears when there is something to download.
fn bar() -> anyhow::Result<ProgressBar> {
    let style = ProgressStyle::with_template("{msg}\n{bar:30} {bytes}/{total_bytes} ({bytes_per_sec}, {eta})")
        .context("the template of the progress bar")?;
    Ok(ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()).with_style(style))
}

fn show(bar: &ProgressBar, event: PullEvent<'_>) {
    match event {
        PullEvent::Start { others, total, missing } => {
            if !others.is_empty() {
                eprintln!("left out (name one to get it: owner/repository/file): {}", others.join(", "));
            }
            if missing > 0 && std::io::stderr().is_terminal() {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_length(total);
            // What is there already does not count as speed.
            bar.set_position(total - missing);
            bar.reset_eta();
        }
        PullEvent::File(file) => bar.set_message(file.to_owned()),
        PullEvent::Bytes(bytes) => bar.set_position(bytes),
    }
}
