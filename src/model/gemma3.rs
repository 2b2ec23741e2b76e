//! Gemma 3's text model with BitLinears: microsoft/bitnet-embedding-270m.
//!
//! Beyond Llama: embeddings times the root of the hidden size, norms of the heads of q and k, norms behind both halves of a
//! block, GELU, most layers local with rotary angles of their own. Norms hold what is beyond 1, but those of the linears,
//! which are BitLinear's. Source: transformers' `models/gemma3`; microsoft/BitNet, docs/bitnet-embeddings-i2s-guide.md.

use std::sync::Arc;

use serde_json::Value as Json;

use super::block::block;
use super::names::{Names, Part, Prefix};
use super::{Gate, LocalAttention, ModelConfig, ModelError, config};
use crate::format::Checkpoint;
use crate::graph::{Graph, GraphParts, RowOrder};

/// The graph of a Hugging Face folder whose config.json is `json`.
pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str, json: &Json) -> Result<Graph, ModelError> {
    let names = Names::Gemma(Prefix::of(&checkpoint));
    let mut config = config::read(&checkpoint, architecture, names.embed(), Gate::Gelu)?;
    let bad = |key: &str, expected: &str| ModelError::BadValue {
        file: checkpoint.path().into(),
        key: key.into(),
        found: json[key].to_string(),
        expected: expected.into(),
    };
    for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
        if !json[key].is_null() {
            return Err(bad(key, "null: bounded logits are not run"));
        }
    }
    if json["use_bidirectional_attention"] == true {
        return Err(bad("use_bidirectional_attention", "false: tokens that see later ones are not run"));
    }
    let positive = |key: &str| json[key].as_f64().filter(|v| v.is_finite() && *v > 0.0);
    let scalar = positive("query_pre_attn_scalar").ok_or_else(|| bad("query_pre_attn_scalar", "a positive number"))?;
    config.attention_scale = scalar.powf(-0.5) as f32;
    config.scales.embedding = (config.hidden_size as f64).sqrt() as f32;
    let is_local = layer_types(json, &config).ok_or_else(|| {
        bad("layer_types", "full_attention or sliding_attention for each layer, or a sliding_window_pattern")
    })?;
    if is_local.contains(&true) {
        let window = json["sliding_window"].as_u64().filter(|&window| window > 0 && window < 1 << 31);
        let nested = json["rope_parameters"]["sliding_attention"]["rope_theta"].as_f64();
        let theta = positive("rope_local_base_freq").or(nested.filter(|theta| *theta > 0.0));
        config.local = Some(LocalAttention {
            window: window.ok_or_else(|| bad("sliding_window", "a positive integer"))? as usize,
            rope_theta: theta.ok_or_else(|| bad("rope_local_base_freq", "a positive number"))? as f32,
        });
    }
    let blocks = (0..config.num_layers)
        .map(|layer| {
            let name = |part| Some(names.block(layer, part));
            let mut block = block(&checkpoint, names, &config, layer, RowOrder::Natural);
            block.attention.q_norm = name(Part::QNorm);
            block.attention.k_norm = name(Part::KNorm);
            block.attention.post_norm = name(Part::PostAttnNorm);
            block.attention.is_local = is_local[layer];
            block.ffn.post_norm = name(Part::PostFfnNorm);
            block
        })
        .collect();
    // Gemma's head is its embedding unless the file has another.
    let head = if json["tie_word_embeddings"] == false { names.head_of(&checkpoint) } else { names.embed() }.into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, norm_offset: 1.0, head }))
}

/// Which layers see the latest positions only: as the file lists them, or all but each `sliding_window_pattern`-th.
fn layer_types(json: &Json, config: &ModelConfig) -> Option<Vec<bool>> {
    if let Some(types) = json["layer_types"].as_array() {
        let is_local = |layer: &Json| match layer.as_str() {
            Some("sliding_attention") => Some(true),
            Some("full_attention") => Some(false),
            _ => None,
        };
        return types.iter().map(is_local).collect::<Option<Vec<_>>>().filter(|types| types.len() == config.num_layers);
    }
    let pattern = json["sliding_window_pattern"].as_u64().or(json["_sliding_window_pattern"].as_u64())?;
    (pattern > 0).then(|| (1..=config.num_layers as u64).map(|layer| !layer.is_multiple_of(pattern)).collect())
}
