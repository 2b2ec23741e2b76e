//! The block that all architectures share: the one of Llama. What an architecture has beyond it, it adds.
//!
//! Every architecture may have BitLinears with a norm of their own (BitNet embedding models, transformers' `use_rms_norm`):
//! those of o and down are where others have sub-norms.

use super::names::{Names, Part};
use crate::format::Checkpoint;
use crate::graph::{AttentionSpec, BlockSpec, FfnSpec, LinearSpec, RowOrder};
use crate::model::ModelConfig;

/// Block `layer` with the norms that its linears have of their own, without others but the two in front; the file has the rows
/// of q and k in the order `rotary`.
pub(super) fn block(
    checkpoint: &Checkpoint,
    names: Names,
    config: &ModelConfig,
    layer: usize,
    rotary: RowOrder,
) -> BlockSpec {
    let own = |part| names.own_norm(checkpoint, layer, part);
    let (hidden, ffn) = (config.hidden_size, config.intermediate_size);
    let name = |part| names.block(layer, part);
    let linear = |part, rows, cols| LinearSpec::new(name(part), rows, cols, RowOrder::Natural);
    BlockSpec {
        attention: AttentionSpec {
            norm: name(Part::AttnNorm),
            input_norms: all([own(Part::Q), own(Part::K), own(Part::V)]),
            q: LinearSpec::new(name(Part::Q), config.q_size(), hidden, rotary),
            k: LinearSpec::new(name(Part::K), config.kv_size(), hidden, rotary),
            v: linear(Part::V, config.kv_size(), hidden),
            q_norm: None,
            k_norm: None,
            sub_norm: own(Part::O),
            o: linear(Part::O, hidden, config.q_size()),
            post_norm: None,
            is_local: false,
        },
        ffn: FfnSpec {
            norm: name(Part::FfnNorm),
            input_norms: all([own(Part::Gate), own(Part::Up)]),
            gate: linear(Part::Gate, ffn, hidden),
            up: linear(Part::Up, ffn, hidden),
            sub_norm: own(Part::Down),
            down: linear(Part::Down, hidden, ffn),
            post_norm: None,
        },
    }
}

/// The names, if all are there: a norm that only some of a group have is no part of any architecture, and refused as such.
fn all<const N: usize>(names: [Option<String>; N]) -> Option<[String; N]> {
    names.iter().all(Option::is_some).then(|| names.map(Option::unwrap_or_default))
}
