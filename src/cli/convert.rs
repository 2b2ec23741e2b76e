//! `sterna convert`: a checkpoint written again as a GGUF file in another encoding.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use clap::ValueEnum;
use indicatif::HumanBytes;
use sterna::convert::{self, Conversion, ConvertOptions};
use sterna::format::DenseEncoding;
use sterna::model::build_graph;

use super::common::{self, FileArgs, Watch};
use super::synth::EncodingArg;

/// Arguments of `sterna convert`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sterna convert ggml-model-i2_s.gguf model.gguf             for this program: opens at once
  sterna convert model-folder model.gguf --to tq2_0          for llama.cpp too
  sterna convert model-folder model.gguf --head q6_k --verify

The ternary weights and their scales stay what they are: the new file says the same, bit for bit,
unless --head rounds embedding and head. tq1_0 and tq2_0 need rows of a multiple of 256, q2_0 of 64,
i2_s matrices of a multiple of 128; t16 and t16x5 take any size. Weights with a scale for each group
of columns are written as t16 or q2_0.")]
pub(super) struct Args {
    /// The model: a GGUF file or a Hugging Face folder
    source: PathBuf,

    /// The GGUF file to write
    out: PathBuf,

    /// How the ternary weights are stored: t16 (2 bits) and t16x5 (1.6 bits) run where the file is mapped, i2_s is that of
    /// bitnet.cpp, tq2_0, tq1_0 and q2_0 those of llama.cpp
    #[arg(long, visible_alias = "encoding", value_enum, default_value = "t16")]
    to: EncodingArg,

    /// How embedding and head are stored [default: as they are]
    #[arg(long, value_enum)]
    head: Option<HeadArg>,

    #[command(flatten)]
    files: FileArgs,

    /// Compare what the new file says with what the model says before it gets its name
    #[arg(long)]
    verify: bool,

    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
}

/// Encodings of embedding and head.
#[derive(Clone, Copy, ValueEnum)]
enum HeadArg {
    F16,
    Bf16,
    #[value(name = "q8_0", alias = "q8-0")]
    Q8_0,
    #[value(name = "q6_k", alias = "q6-k")]
    Q6K,
}

impl HeadArg {
    fn encoding(self) -> DenseEncoding {
        match self {
            HeadArg::F16 => DenseEncoding::F16,
            HeadArg::Bf16 => DenseEncoding::Bf16,
            HeadArg::Q8_0 => DenseEncoding::Q8_0,
            HeadArg::Q6K => DenseEncoding::Q6K,
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    common::refuse_to_overwrite(&args.out, args.force)?;
    let files = args.files.options()?;
    let graph = build_graph(Arc::new(sterna::source::open_with(&args.source, files.clone())?))?;
    let options = ConvertOptions { encoding: args.to.encoding(), head: args.head.map(HeadArg::encoding) };
    let conversion = Conversion::new(&graph, options)?;
    let bar = Watch::new(Some(conversion.bytes()), "{bar:30} {bytes}/{total_bytes} ({bytes_per_sec}, {eta})")?;
    let file = conversion.write(&args.out, args.force, &mut |bytes| bar.advance(bytes))?;
    drop(bar);
    if args.verify {
        let comparison = convert::compare(&args.source, &files, file.temporary_path())?;
        let convert::Comparison { tokens, largest, agreeing, is_exact, same_tokens } = comparison;
        if !same_tokens {
            bail!("the new file makes other tokens of a text; it is not kept");
        }
        match (is_exact, conversion.is_exact()) {
            (true, _) => eprintln!("verified: all logits of {tokens} tokens are the same bits"),
            (false, true) => bail!("the new file computes other logits (by up to {largest}); it is not kept"),
            (false, false) => eprintln!(
                "compared: logits of {tokens} tokens differ by up to {largest}; the best is the same behind {agreeing}"
            ),
        }
    }
    file.keep()?;
    if std::io::stderr().is_terminal() {
        eprintln!("{}: {}", args.out.display(), HumanBytes(std::fs::metadata(&args.out)?.len()));
    }
    Ok(())
}
