//! Which models the kernels run: what they lack is refused here, by name, before anything is built.

use super::GpuError;
use crate::graph::{AttentionSpec, BlockSpec, Graph};
use crate::model::ActivationKind;

/// Refuses a model that needs something which only the CPU has.
///
/// # Errors
/// If there is such a thing; the message names it.
pub(super) fn check(graph: &Graph, adapter: &str) -> Result<(), GpuError> {
    let float = (graph.config().activations != ActivationKind::Int8).then_some("weights with a scale for each group");
    match float.or_else(|| graph.blocks().iter().find_map(lacking)) {
        None => Ok(()),
        Some(feature) => Err(GpuError::Unsupported { adapter: adapter.into(), feature }),
    }
}

/// What a block has that the kernels lack.
fn lacking(block: &BlockSpec) -> Option<&'static str> {
    let AttentionSpec { q_norm, k_norm, .. } = &block.attention;
    (q_norm.is_some() || k_norm.is_some()).then_some("norms of queries and keys")
}
