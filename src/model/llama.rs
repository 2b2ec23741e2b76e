//! Llama with ternary layers: Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E, TriLM. No sub-norms, SwiGLU.
//!
//! GGUF files of this architecture hold the rows of q and k reordered for interleaved rotary pairs, unless
//! `sterna.rope.half_split` says otherwise; the graph asks for them in the half-split order that the kernels use.
//! Source: transformers' `models/llama`, `integrations/bitnet.py`.

use std::sync::Arc;

use super::block::block;
use super::names::Names;
use super::{Gate, ModelError, config};
use crate::format::{Checkpoint, Description};
use crate::graph::{Graph, GraphParts, RowOrder};

/// Says that the rows of q and k are in half-split order, which no other program expects of this architecture.
pub(crate) const HALF_SPLIT: &str = "sterna.rope.half_split";

/// The order in which `checkpoint` holds the rows of q and k.
pub(super) fn rotary_order(checkpoint: &Checkpoint, head_dim: usize) -> RowOrder {
    match checkpoint.description() {
        Description::Gguf { metadata, .. } if metadata.bool(HALF_SPLIT) != Some(true) => {
            RowOrder::InterleavedHeads { head_dim }
        }
        _ => RowOrder::Natural,
    }
}

pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str) -> Result<Graph, ModelError> {
    let names = Names::of(&checkpoint);
    let config = config::read(&checkpoint, architecture, names.embed(), Gate::Silu)?;
    let rotary = rotary_order(&checkpoint, config.head_dim);
    let blocks = (0..config.num_layers).map(|layer| block(&checkpoint, names, &config, layer, rotary)).collect();
    let head = names.head_of(&checkpoint).into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, norm_offset: 0.0, head }))
}
