//! Qwen3: Llama with an RMSNorm over each head of q and k before they turn. Ternary-Bonsai is of this architecture, and so is
//! microsoft/bitnet-embedding-0.6b, whose linears have norms of their own.
//!
//! The width of a head is a hyper-parameter of its own, and GGUF files hold the rows of q and k in half-split order.
//! Source: transformers' `models/qwen3`.

use std::sync::Arc;

use super::block::block;
use super::names::{Names, Part};
use super::{Gate, ModelError, config};
use crate::format::Checkpoint;
use crate::graph::{Graph, GraphParts, RowOrder};

pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str) -> Result<Graph, ModelError> {
    let names = Names::of(&checkpoint);
    let config = config::read(&checkpoint, architecture, names.embed(), Gate::Silu)?;
    config::refuse_sliding_window(&checkpoint)?;
    let blocks = (0..config.num_layers)
        .map(|layer| {
            let mut block = block(&checkpoint, names, &config, layer, RowOrder::Natural);
            block.attention.q_norm = Some(names.block(layer, Part::QNorm));
            block.attention.k_norm = Some(names.block(layer, Part::KNorm));
            block
        })
        .collect();
    // The class of embedding models has no head.
    let head = if architecture == "Qwen3Model" { names.embed() } else { names.head_of(&checkpoint) }.into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, norm_offset: 0.0, head }))
}
