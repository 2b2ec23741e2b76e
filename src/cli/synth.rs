//! `sterna synth`: a random model of a given shape.

use std::path::PathBuf;

use anyhow::Context;
use clap::ValueEnum;
use sterna::format::Encoding;
use sterna::synth::{self, Shape};

use super::common::{self, Watch};

/// Arguments of `sterna synth`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sterna synth --shape 2b-4t random-2b.gguf
  sterna synth --shape shape.json --encoding i2-s random.gguf
  sterna synth --shape 100b --encoding t16x5 random-100b.gguf

A shape file is a JSON object with architecture (bitnet-b1.58, bitnet or llama), hidden_size, intermediate_size,
num_hidden_layers, num_attention_heads, num_key_value_heads, vocab_size and, if wanted, tie_word_embeddings,
max_position_embeddings, rope_theta.")]
pub(super) struct Args {
    /// The GGUF file to write
    out: PathBuf,

    /// 0.7b, 2b-4t, 3b, 8b, 30b, 70b, 100b, embedding-0.6b, or a JSON file
    #[arg(long, default_value = "2b-4t")]
    shape: String,

    /// Another architecture than the shape's: bitnet-b1.58, bitnet or llama
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,

    /// How the ternary weights are stored; t16 and t16x5 are Sterna's own layouts, which run where the file is mapped
    #[arg(long, visible_alias = "layout", value_enum, default_value = "tq2_0")]
    encoding: EncodingArg,

    /// Seed of the random numbers: the same seed gives the same weights in every encoding
    #[arg(long, default_value_t = 0)]
    seed: u64,

    /// Overwrite the file if it exists
    #[arg(long)]
    force: bool,
}

/// Names of encodings.
#[derive(Clone, Copy, ValueEnum)]
pub(super) enum EncodingArg {
    T16,
    #[value(name = "t16x5")]
    T16x5,
    #[value(name = "tq1_0", alias = "tq1-0")]
    Tq1_0,
    #[value(name = "tq2_0", alias = "tq2-0")]
    Tq2_0,
    #[value(name = "q2_0", alias = "q2-0")]
    Q2_0,
    #[value(name = "i2_s", alias = "i2-s")]
    I2S,
}

impl EncodingArg {
    pub(super) fn encoding(self) -> Encoding {
        match self {
            EncodingArg::T16 => Encoding::T16,
            EncodingArg::T16x5 => Encoding::T16x5,
            EncodingArg::Tq1_0 => Encoding::Tq1_0,
            EncodingArg::Tq2_0 => Encoding::Tq2_0,
            EncodingArg::Q2_0 => Encoding::Q2_0,
            EncodingArg::I2S => Encoding::I2S,
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let mut shape = shape(&args.shape)?;
    if let Some(architecture) = args.architecture {
        shape.architecture = architecture;
    }
    common::refuse_to_overwrite(&args.out, args.force)?;
    let bar = Watch::new(None, "{spinner} {bytes} ({bytes_per_sec})")?;
    let encoding = args.encoding.encoding();
    synth::write(&args.out, &shape, encoding, args.seed, args.force, &mut |bytes| bar.advance(bytes))?;
    Ok(())
}

/// The shape of that name, or in that file.
fn shape(name: &str) -> anyhow::Result<Shape> {
    known_shape(name).or_else(|unknown| {
        let text = std::fs::read_to_string(name).with_context(|| format!("{unknown}, and no file that can be read"))?;
        serde_json::from_str(&text).with_context(|| format!("{name}: not the shape of a model"))
    })
}

/// The shape of that name.
pub(super) fn known_shape(name: &str) -> anyhow::Result<Shape> {
    let names = || Shape::names().collect::<Vec<_>>().join(", ");
    Shape::named(name).with_context(|| format!("{name:?} is not the name of a shape ({})", names()))
}
