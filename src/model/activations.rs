//! Whether a model was trained with activations of 8 bits.

use crate::format::{Checkpoint, Description, FormatError};
use crate::graph::{BlockSpec, LinearSpec};

/// What the inputs of ternary matrices are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActivationKind {
    /// 8 bits with one scale for each token, as BitNet b1.58 is trained.
    Int8,
    /// As good as floats: 24 bits with a scale for each token and group of columns ([`sterna_cpu::grouped`]). For models of
    /// which only the weights were quantized: 8 bits are not what their authors measured, and cost accuracy wherever a few
    /// channels are much larger than the others.
    Float,
    /// 8 bits with a scale for each token and group of columns: faster than [`ActivationKind::Float`] where multiplying limits,
    /// and not what such models were measured with.
    GroupedInt8,
}

impl ActivationKind {
    /// The name that `sterna.activations` holds in a GGUF file.
    pub const fn name(self) -> &'static str {
        match self {
            ActivationKind::Int8 => "int8",
            ActivationKind::Float => "float",
            ActivationKind::GroupedInt8 => "grouped-int8",
        }
    }
}

/// The key that says it where nothing else in a GGUF file does.
pub(crate) const ACTIVATIONS: &str = "sterna.activations";

/// What the model of `blocks` was trained with.
///
/// A Hugging Face folder says so: `quant_method: bitnet`, or the architecture of BitNet. Of a GGUF file the architecture
/// may tell, or [`ACTIVATIONS`]. Others are ambiguous, since Falcon3-1.58bit and TriLM are both Llama: matrices with several
/// scales are those of weight-only models.
pub(super) fn kind(checkpoint: &Checkpoint, blocks: &[BlockSpec]) -> ActivationKind {
    // Norms in front of single matrices are those of BitLinears.
    if blocks.first().is_some_and(|block| block.attention.input_norms.is_some()) {
        return ActivationKind::Int8;
    }
    let int8 = |is: bool| if is { ActivationKind::Int8 } else { ActivationKind::Float };
    match checkpoint.description() {
        Description::HuggingFace { config } => {
            let architecture = config["architectures"][0].as_str().unwrap_or_default();
            let is_bitnet = architecture.to_ascii_lowercase().starts_with("bitnet");
            int8(is_bitnet || config["quantization_config"]["quant_method"] == "bitnet")
        }
        Description::Gguf { metadata, .. } => {
            if let Some(known) = metadata.str(ACTIVATIONS) {
                return int8(known != ActivationKind::Float.name());
            }
            let is_bitnet = metadata.str("general.architecture").is_some_and(|name| name.starts_with("bitnet"));
            let several = |linear: &LinearSpec| {
                let opened = checkpoint.ternary(&linear.name, linear.rows, linear.cols);
                matches!(opened, Err(FormatError::GroupScales { .. } | FormatError::NotTernary { .. }))
            };
            int8(is_bitnet || !blocks.first().is_some_and(|block| block.linears().any(several)))
        }
    }
}
