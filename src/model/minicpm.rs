//! MiniCPM, of which BitCPM is a ternary model: Llama with scales of the embedding, the residual stream and the logits, and
//! LongRoPE.
//!
//! GGUF files hold the rows of q and k for interleaved rotary pairs, as those of Llama do, and the scales themselves;
//! config.json has the numbers that they follow from. Source: llama.cpp's `conversion/minicpm.py`;
//! <https://arxiv.org/abs/2404.06395>.

use std::sync::Arc;

use super::block::block;
use super::llama::rotary_order;
use super::names::Names;
use super::{Gate, ModelConfig, ModelError, Scales, config};
use crate::format::{Checkpoint, Description};
use crate::graph::{Graph, GraphParts};

pub(super) fn build(checkpoint: Arc<Checkpoint>, architecture: &str) -> Result<Graph, ModelError> {
    let names = Names::of(&checkpoint);
    let mut config = config::read(&checkpoint, architecture, names.embed(), Gate::Silu)?;
    config.scales = scales(&checkpoint, architecture, &config)?;
    let rotary = rotary_order(&checkpoint, config.head_dim);
    let blocks = (0..config.num_layers).map(|layer| block(&checkpoint, names, &config, layer, rotary)).collect();
    let head = names.head_of(&checkpoint).into();
    let (embed, final_norm) = (names.embed().into(), names.final_norm().into());
    Ok(Graph::new(checkpoint, GraphParts { config, embed, blocks, final_norm, norm_offset: 0.0, head }))
}

fn scales(checkpoint: &Checkpoint, architecture: &str, config: &ModelConfig) -> Result<Scales, ModelError> {
    let read = |key: &str| {
        let (key, value) = match checkpoint.description() {
            Description::Gguf { metadata, .. } => {
                let key = format!("{architecture}.{key}");
                let value = metadata.f64(&key);
                (key, value)
            }
            Description::HuggingFace { config } => (key.to_owned(), config[key].as_f64()),
        };
        let file = checkpoint.path().into();
        match value {
            Some(value) if value.is_finite() && value > 0.0 => Ok(value),
            None => Err(ModelError::MissingKey { file, key, expected: "a positive number" }),
            Some(value) => {
                let (found, expected) = (value.to_string(), "a positive number".into());
                Err(ModelError::BadValue { file, key, found, expected })
            }
        }
    };
    match checkpoint.description() {
        Description::Gguf { .. } => Ok(Scales {
            embedding: read("embedding_scale")? as f32,
            residual: read("residual_scale")? as f32,
            logits: (1.0 / read("logit_scale")?) as f32,
        }),
        Description::HuggingFace { .. } => Ok(Scales {
            embedding: read("scale_emb")? as f32,
            residual: (read("scale_depth")? / (config.num_layers as f64).sqrt()) as f32,
            logits: (read("dim_model_base")? / config.hidden_size as f64) as f32,
        }),
    }
}
