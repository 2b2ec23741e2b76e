//! `sterna list`: the models in the cache.

use std::io::Write;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::HumanBytes;
use serde_json::json;
use sterna::format::Checkpoint;
use sterna::hub::{Cache, CachedModel};

use super::pull::does_not_run;

/// Arguments of `sterna list`.
#[derive(clap::Args)]
#[command(
    after_help = "The cache is that of Python's huggingface_hub (HF_HUB_CACHE, HF_HOME): models that other programs have
pulled are listed too."
)]
pub(super) struct Args {
    /// List what does not run here too, with the reason
    #[arg(long)]
    all: bool,

    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

/// A model and whether it runs.
struct Row {
    name: String,
    model: CachedModel,
    bytes: u64,
    problem: Option<String>,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let cache = Cache::from_env()?;
    let (mut rows, mut hidden) = (Vec::new(), 0);
    for model in cache.models()? {
        let problem = does_not_run(&model.path);
        if problem.is_some() && !args.all {
            hidden += 1;
            continue;
        }
        // The tensors, not the vocabulary of a folder; what cannot be opened has no size.
        let bytes = Checkpoint::open(&model.path).map_or(0, |file| file.tensors().map(|tensor| tensor.nbytes).sum());
        rows.push(Row { name: model.reference.shortest(), model, bytes, problem });
    }
    if args.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        writeln!(std::io::stdout(), "{:#}", json!(rows))?;
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["name", "size", "path"]);
    for row in &rows {
        let path = row.model.path.display().to_string();
        let path = row.problem.as_ref().map_or(path.clone(), |problem| format!("does not run: {problem}"));
        table.add_row([row.name.clone(), HumanBytes(row.bytes).to_string(), path]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let mut out = std::io::stdout().lock();
    if rows.is_empty() {
        writeln!(out, "no models in {} yet; `sterna pull` lists names", cache.root().display())?;
    } else {
        // The table pads its last column.
        table.to_string().lines().try_for_each(|line| writeln!(out, "{}", line.trim()))?;
    }
    if hidden > 0 {
        eprintln!("{hidden} more that do not run here (--all lists them)");
    }
    Ok(())
}

impl Row {
    fn json(&self) -> serde_json::Value {
        json!({
            "name": self.name,
            "repository": self.model.reference.repository(),
            "revision": self.model.reference.revision(),
            "commit": self.model.commit,
            "path": self.model.path.display().to_string(),
            "bytes": self.bytes,
            "problem": self.problem,
        })
    }
}
