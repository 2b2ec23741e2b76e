//! `sterna logits`: logits and hidden states in a safetensors file, for checks against other software.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context, bail};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::common::{self, ModelArgs};

/// Arguments of `sterna logits`.
#[derive(clap::Args)]
#[command(after_help = "Writes the tensors `tokens` (i64 [tokens]), `logits` (f32 [tokens, vocab]) and, for each
--hidden, `hidden.LAYER` (f32 [tokens, hidden]): the residual stream behind that block, or
behind the embedding.

Example:
  sterna logits model.gguf --text \"Hello\" --kv f32 --hidden 0 --hidden embed --out hello.safetensors")]
pub(super) struct Args {
    /// The model [default: the demo model]
    model: Option<PathBuf>,

    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", required_unless_present = "text")]
    tokens: Option<String>,

    /// A text, encoded as the model wants it
    #[arg(long, conflicts_with = "tokens")]
    text: Option<String>,

    /// Also write the residual stream behind this block (from 0), or behind the embedding (`embed`); may be given
    /// several times
    #[arg(long, value_name = "LAYER")]
    hidden: Vec<String>,

    /// The file to write
    #[arg(long, short)]
    out: PathBuf,

    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    options: ModelArgs,
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if args.out.exists() && !args.force {
        bail!("{} exists; use --force to overwrite it", args.out.display());
    }
    let taps = args.hidden.iter().map(|layer| parse_layer(layer)).collect::<anyhow::Result<Vec<_>>>()?;
    let model = args.options.open(&common::model_or_demo(args.model), taps.clone())?;
    let tokens = match (&args.tokens, &args.text) {
        (Some(tokens), _) => common::parse_tokens(tokens)?,
        (None, Some(text)) => model.tokenizer()?.encode(text, true)?,
        (None, None) => bail!("give --tokens or --text"),
    };
    let mut logits: Vec<f32> = Vec::new();
    let mut hidden: HashMap<usize, Vec<f32>> = HashMap::new();
    model.session().trace(
        &tokens,
        |_, row| logits.extend_from_slice(row),
        |layer, rows| hidden.entry(layer).or_default().extend_from_slice(rows),
    )?;

    let ids: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
    let count = tokens.len();
    let view = |dtype, shape, data| TensorView::new(dtype, shape, data);
    let mut tensors = vec![
        ("tokens".to_owned(), view(Dtype::I64, vec![count], bytemuck::cast_slice(&ids))?),
        ("logits".to_owned(), view(Dtype::F32, vec![count, model.config().vocab_size], bytemuck::cast_slice(&logits))?),
    ];
    for (name, tap) in args.hidden.iter().zip(taps) {
        let layer = tap.map_or(0, |block| block + 1);
        let rows = hidden.get(&layer).with_context(|| format!("layer {name} was not seen"))?;
        let shape = vec![count, model.config().hidden_size];
        tensors.push((format!("hidden.{name}"), view(Dtype::F32, shape, bytemuck::cast_slice(rows))?));
    }
    safetensors::serialize_to_file(tensors, None, &args.out)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    eprintln!("{}: {count} tokens", args.out.display());
    Ok(())
}

/// A block's number, or `None` for the embedding.
fn parse_layer(layer: &str) -> anyhow::Result<Option<usize>> {
    match layer {
        "embed" => Ok(None),
        _ => Ok(Some(layer.parse().with_context(|| format!("--hidden {layer}: expected a block's number or embed"))?)),
    }
}
