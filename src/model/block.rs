//! The block that all architectures share: the one of Llama. What an architecture has beyond it, it adds.

use super::names::{Names, Part};
use crate::graph::{AttentionSpec, BlockSpec, FfnSpec, LinearSpec, RowOrder};
use crate::model::ModelConfig;

/// Block `layer` without sub-norms and norms of heads; the file has the rows of q and k in the order `rotary`.
pub(super) fn block(names: Names, config: &ModelConfig, layer: usize, rotary: RowOrder) -> BlockSpec {
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let name = |part| names.block(layer, part);
    let linear = |part, rows, cols| LinearSpec::new(name(part), rows, cols, RowOrder::Natural);
    BlockSpec {
        attention: AttentionSpec {
            norm: name(Part::AttnNorm),
            q: LinearSpec::new(name(Part::Q), config.q_size(), hidden, rotary),
            k: LinearSpec::new(name(Part::K), config.kv_size(), hidden, rotary),
            v: linear(Part::V, config.kv_size(), hidden),
            q_norm: None,
            k_norm: None,
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
}
