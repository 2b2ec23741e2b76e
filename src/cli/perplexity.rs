//! `sterna perplexity`: how well a model predicts a text.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use serde_json::json;
use sterna::perplexity::{self, Windows};

use super::common::{self, ModelArgs, Watch};

/// Arguments of `sterna perplexity`.
#[derive(clap::Args)]
#[command(
    after_help = "The text is encoded once, as the model wants it, and read in windows of --ctx tokens, each from an empty
cache: every token is predicted once. --stride below --ctx lets windows overlap, so that a token has
at least ctx - stride others in front of it; that takes longer and gives a lower figure.

Example:
  sterna perplexity model.gguf --file wiki.test.raw --ctx 2048 --stride 512"
)]
pub(super) struct Args {
    /// The model [default: the demo model]
    model: Option<PathBuf>,

    /// The text; - for standard input
    #[arg(long, short, value_name = "TEXT")]
    file: PathBuf,

    /// Tokens from the start of one window to that of the next [default: the context]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_216))]
    stride: Option<u32>,

    /// Only so many tokens of the text
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    options: ModelArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let path = common::model_or_demo(args.model);
    let text = read(&args.file)?;
    let model = args.options.open(&path, Vec::new())?;
    let mut tokens = model.tokenizer()?.encode(&text, true)?;
    tokens.truncate(args.tokens.unwrap_or(usize::MAX));
    let context = model.context();
    let stride = args.stride.map_or(context, |stride| stride as usize);
    let watch = Watch::new(
        Some(tokens.len().saturating_sub(1) as u64),
        "{bar:30} {pos}/{len} tokens, perplexity {msg}, {eta}",
    )?;
    let result = perplexity::measure(&model, &tokens, Windows { context, stride }, &mut |tokens, so_far| {
        watch.say(format!("{:.4}", so_far.perplexity));
        watch.advance(tokens as u64)
    });
    drop(watch);
    let result = result?;
    let complete = result.predicted + 1 == tokens.len();
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = serde_json::to_value(result)?;
        object["context"] = json!(context);
        object["stride"] = json!(stride);
        object["complete"] = json!(complete);
        object["model"] = json!(path.display().to_string());
        writeln!(out, "{object:#}")?;
    } else {
        let error = result.perplexity * result.loss_error;
        let note = if complete { "" } else { " (stopped before the end of the text)" };
        writeln!(out, "perplexity {:.4} ± {error:.4}{note}", result.perplexity)?;
        writeln!(
            out,
            "{:.6} nats per token, {} tokens predicted in {} windows of {context}, stride {stride}",
            result.loss, result.predicted, result.windows
        )?;
    }
    Ok(())
}

/// The text of a file or of standard input.
fn read(path: &Path) -> anyhow::Result<String> {
    if path.as_os_str() != "-" {
        return std::fs::read_to_string(path).with_context(|| format!("cannot read {} as text", path.display()));
    }
    let mut text = String::new();
    if std::io::stdin().is_terminal() {
        eprintln!("reading the text from the terminal; end with Ctrl-D");
    }
    std::io::stdin().read_to_string(&mut text).context("cannot read the text from standard input")?;
    Ok(text)
}
