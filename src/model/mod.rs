//! Model families: what a checkpoint describes becomes a [`Graph`].
//!
//! One file per architecture. Each reads the hyper-parameters, names the tensors of its blocks and checks them
//! against the file; nothing is converted here. `registry` picks the architecture from the checkpoint's own words.

mod activations;
mod bitnet;
mod block;
mod config;
mod error;
mod gemma3;
mod llama;
mod minicpm;
mod names;
mod qwen3;
mod refused;

pub(crate) use activations::ACTIVATIONS;
pub use activations::ActivationKind;
pub use config::{Gate, LocalAttention, ModelConfig, Scales};
pub(crate) use config::{LLAMA3_ROPE, ROPE_LONG, ROPE_SHORT};
pub use error::ModelError;
pub(crate) use llama::HALF_SPLIT;
pub(crate) use names::{Names, Part};

use crate::format::{Checkpoint, Description};
use crate::graph::Graph;
use std::sync::Arc;

/// Reads the description of `checkpoint` and lays out its graph.
///
/// # Errors
/// If the architecture is not one that this version runs, a hyper-parameter is missing or makes no sense, or a tensor
/// is missing, has another shape than the hyper-parameters ask for, or is one that the architecture does not know.
pub fn build_graph(checkpoint: Arc<Checkpoint>) -> Result<Graph, ModelError> {
    let name = config::architecture_name(&checkpoint)?;
    let mut graph = match (checkpoint.description(), name.as_str()) {
        (Description::Gguf { .. }, "bitnet" | "bitnet-b1.58" | "bitnet-25") => bitnet::build(checkpoint, &name)?,
        (Description::HuggingFace { .. }, "BitNetForCausalLM" | "BitnetForCausalLM") => {
            bitnet::build(checkpoint, &name)?
        }
        (Description::Gguf { .. }, "llama") | (Description::HuggingFace { .. }, "LlamaForCausalLM") => {
            llama::build(checkpoint, &name)?
        }
        (Description::Gguf { .. }, "qwen3") | (Description::HuggingFace { .. }, "Qwen3ForCausalLM" | "Qwen3Model") => {
            qwen3::build(checkpoint, &name)?
        }
        (Description::HuggingFace { config }, "Gemma3TextModel" | "Gemma3ForCausalLM") => {
            let config = config.clone();
            gemma3::build(checkpoint, &name, &config)?
        }
        (Description::Gguf { .. }, "minicpm") | (Description::HuggingFace { .. }, "MiniCPMForCausalLM") => {
            minicpm::build(checkpoint, &name)?
        }
        _ => {
            let file = checkpoint.path().into();
            return Err(match refused::why(&name) {
                Some(reason) => ModelError::Refused { file, name, reason },
                None => ModelError::UnknownArchitecture { file, name },
            });
        }
    };
    graph.check_tensors()?;
    let activations = activations::kind(graph.checkpoint(), graph.blocks());
    graph.set_activations(activations);
    Ok(graph)
}
