//! Which models the kernels run: what they lack is refused here, by name, before anything is built.

use super::GpuError;
use crate::graph::{AttentionSpec, BlockSpec, FfnSpec, Graph};
use crate::model::{ActivationKind, Gate, ModelConfig, Scales};

/// Refuses a model that needs something which only the CPU has.
///
/// # Errors
/// If there is such a thing; the message names it.
pub(super) fn check(graph: &Graph, adapter: &str) -> Result<(), GpuError> {
    match lacking(graph.config()).or_else(|| graph.blocks().iter().find_map(lacking_in)) {
        None => Ok(()),
        Some(feature) => Err(GpuError::Unsupported { adapter: adapter.into(), feature }),
    }
}

/// What the hyper-parameters ask for and the kernels lack. The scale of the logits is in the final norm.
fn lacking(config: &ModelConfig) -> Option<&'static str> {
    let Scales { embedding, residual, logits: _ } = config.scales;
    [
        (config.activations != ActivationKind::Int8, "weights with a scale for each group"),
        (embedding != 1.0, "scaled embeddings"),
        (residual != 1.0, "scaled additions to the residual stream"),
        (config.attention_scale != ModelConfig::default_attention_scale(config.head_dim), "scores of another scale"),
        (config.gate == Gate::Gelu, "GELU gates"),
    ]
    .into_iter()
    .find_map(|(has, feature)| has.then_some(feature))
}

/// What a block has that the kernels lack.
fn lacking_in(block: &BlockSpec) -> Option<&'static str> {
    let AttentionSpec { q_norm, k_norm, input_norms, post_norm, is_local, .. } = &block.attention;
    let FfnSpec { input_norms: ffn_input_norms, post_norm: ffn_post_norm, .. } = &block.ffn;
    [
        (q_norm.is_some() || k_norm.is_some(), "norms of queries and keys"),
        (input_norms.is_some() || ffn_input_norms.is_some(), "norms of single matrices"),
        (post_norm.is_some() || ffn_post_norm.is_some(), "norms behind attention and feed-forward"),
        (*is_local, "local layers"),
    ]
    .into_iter()
    .find_map(|(has, feature)| has.then_some(feature))
}
