//! BitNet b1.58 with sub-norms: `microsoft/bitnet-b1.58-2B-4T` (squared ReLU) and the 1bitLLM reproduction (SiLU).
//!
//! `h += o_proj(attn_sub_norm(attention(attn_norm(h))))`, `h += down(ffn_sub_norm(act(gate) * up))`; every linear is a
//! BitLinear, the head is tied to the embedding unless the file has one of its own.
//! Source: transformers' `models/bitnet`, <https://arxiv.org/abs/2504.12285>.

use std::sync::Arc;

use super::block::block;
use super::names::{Names, Part};
use super::{Gate, ModelError, config};
use crate::format::Checkpoint;
use crate::graph::{Graph, GraphParts, RowOrder};

pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str) -> Result<Graph, ModelError> {
    // mainline llama.cpp's `bitnet` and 1bitLLM's class are the SiLU reproduction; 2B-4T has names of its own.
    let (names, gate) = match architecture {
        "bitnet" => (Names::Gguf, Gate::Silu),
        "BitnetForCausalLM" => (Names::OneBitLlm, Gate::Silu),
        "BitNetForCausalLM" => (Names::of(&checkpoint), Gate::Relu2),
        _ => (Names::Gguf, Gate::Relu2),
    };
    let config = config::read(&checkpoint, architecture, names.embed(), gate)?;
    let hidden = config.hidden_size;
    if config.q_size() != hidden {
        return Err(ModelError::BadValue {
            file: checkpoint.path().into(),
            key: "heads x head size".into(),
            found: config.q_size().to_string(),
            expected: format!("the hidden size {hidden}, which attn_sub_norm spans"),
        });
    }
    let blocks = (0..config.num_layers)
        .map(|layer| {
            let mut block = block(&checkpoint, names, &config, layer, RowOrder::Natural);
            block.attention.sub_norm = Some(names.block(layer, Part::AttnSubNorm));
            block.ffn.sub_norm = Some(names.block(layer, Part::FfnSubNorm));
            block
        })
        .collect();
    let head = names.head_of(&checkpoint).into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, norm_offset: 0.0, head }))
}
