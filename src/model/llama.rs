//! Llama with BitLinear layers: Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E. No sub-norms, SwiGLU.
//!
//! GGUF files of this architecture hold the rows of q and k reordered for interleaved rotary pairs, unless
//! `sterna.rope.half_split` says otherwise; the graph asks for them in the half-split order that the kernels use.
//! Source: transformers' `models/llama`, `integrations/bitnet.py`.

use std::sync::Arc;

use super::names::{Names, Part};
use super::{Gate, ModelError, config};
use crate::format::{Checkpoint, Description};
use crate::graph::{AttentionSpec, BlockSpec, FfnSpec, Graph, GraphParts, LinearSpec, RowOrder};

/// Says that the rows of q and k are in half-split order, which no other program expects of this architecture.
pub(crate) const HALF_SPLIT: &str = "sterna.rope.half_split";

pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str) -> Result<Graph, ModelError> {
    let names = match checkpoint.description() {
        Description::Gguf { .. } => Names::Gguf,
        Description::HuggingFace { config } => {
            let method = config["quantization_config"]["quant_method"].as_str();
            if method != Some("bitnet") {
                return Err(ModelError::BadValue {
                    file: checkpoint.path().into(),
                    key: "quantization_config.quant_method".into(),
                    found: method.unwrap_or("absent").into(),
                    expected: "bitnet: a Llama checkpoint without it is not a ternary model".into(),
                });
            }
            Names::HuggingFace
        }
    };
    let config = config::read(&checkpoint, architecture, names.embed(), Gate::Silu)?;
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let rotary = match checkpoint.description() {
        Description::Gguf { metadata, .. } if metadata.bool(HALF_SPLIT) != Some(true) => {
            RowOrder::InterleavedHeads { head_dim: config.head_dim }
        }
        _ => RowOrder::Natural,
    };
    let blocks = (0..config.num_layers)
        .map(|layer| {
            let name = |part| names.block(layer, part);
            let linear = |part, rows, cols| LinearSpec::new(name(part), rows, cols, RowOrder::Natural);
            BlockSpec {
                attention: AttentionSpec {
                    norm: name(Part::AttnNorm),
                    q: LinearSpec::new(name(Part::Q), config.q_size(), hidden, rotary),
                    k: LinearSpec::new(name(Part::K), config.kv_size(), hidden, rotary),
                    v: linear(Part::V, config.kv_size(), hidden),
                    sub_norm: None,
                    o: linear(Part::O, hidden, config.q_size()),
                },
                ffn: FfnSpec {
                    norm: name(Part::FfnNorm),
                    gate: linear(Part::Gate, ffn, hidden),
                    up: linear(Part::Up, ffn, hidden),
                    sub_norm: None,
                    down: linear(Part::Down, hidden, ffn),
                },
            }
        })
        .collect();
    let head = names.head_of(&checkpoint).into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, head }))
}
