//! The names of a block's tensors in each kind of file.

use crate::format::{Checkpoint, Description};

/// A tensor of a transformer block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    AttnNorm,
    Q,
    K,
    V,
    QNorm,
    KNorm,
    AttnSubNorm,
    O,
    FfnNorm,
    Gate,
    Up,
    FfnSubNorm,
    Down,
}

/// A naming scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// llama.cpp's GGUF names.
    Gguf,
    /// transformers' names.
    HuggingFace,
    /// 1bitLLM's BitnetForCausalLM: other names for the two sub-norms.
    OneBitLlm,
}

impl Names {
    /// The usual names in the kind of file that `checkpoint` is.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Names {
        match checkpoint.description() {
            Description::Gguf { .. } => Names::Gguf,
            Description::HuggingFace { .. } => Names::HuggingFace,
        }
    }

    pub(crate) fn embed(self) -> &'static str {
        match self {
            Names::Gguf => "token_embd.weight",
            _ => "model.embed_tokens.weight",
        }
    }

    pub(crate) fn final_norm(self) -> &'static str {
        match self {
            Names::Gguf => "output_norm.weight",
            _ => "model.norm.weight",
        }
    }

    /// The tensor of the output head: its own, or the embedding where the two are tied.
    pub(crate) fn head_of(self, checkpoint: &Checkpoint) -> &'static str {
        match checkpoint.description() {
            // In GGUF the absence of the tensor is what says "tied".
            Description::Gguf { .. } if checkpoint.tensor("output.weight").is_some() => "output.weight",
            Description::HuggingFace { config } if config["tie_word_embeddings"] != true => "lm_head.weight",
            _ => self.embed(),
        }
    }

    pub(crate) fn block(self, layer: usize, part: Part) -> String {
        let suffix = match (self, part) {
            (Names::Gguf, part) => {
                let name = match part {
                    Part::AttnNorm => "attn_norm",
                    Part::Q => "attn_q",
                    Part::K => "attn_k",
                    Part::V => "attn_v",
                    Part::QNorm => "attn_q_norm",
                    Part::KNorm => "attn_k_norm",
                    Part::AttnSubNorm => "attn_sub_norm",
                    Part::O => "attn_output",
                    Part::FfnNorm => "ffn_norm",
                    Part::Gate => "ffn_gate",
                    Part::Up => "ffn_up",
                    Part::FfnSubNorm => "ffn_sub_norm",
                    Part::Down => "ffn_down",
                };
                return format!("blk.{layer}.{name}.weight");
            }
            (_, Part::AttnNorm) => "input_layernorm",
            (_, Part::Q) => "self_attn.q_proj",
            (_, Part::K) => "self_attn.k_proj",
            (_, Part::V) => "self_attn.v_proj",
            (_, Part::QNorm) => "self_attn.q_norm",
            (_, Part::KNorm) => "self_attn.k_norm",
            (Names::OneBitLlm, Part::AttnSubNorm) => "self_attn.inner_attn_ln",
            (_, Part::AttnSubNorm) => "self_attn.attn_sub_norm",
            (_, Part::O) => "self_attn.o_proj",
            (_, Part::FfnNorm) => "post_attention_layernorm",
            (_, Part::Gate) => "mlp.gate_proj",
            (_, Part::Up) => "mlp.up_proj",
            (Names::OneBitLlm, Part::FfnSubNorm) => "mlp.ffn_layernorm",
            (_, Part::FfnSubNorm) => "mlp.ffn_sub_norm",
            (_, Part::Down) => "mlp.down_proj",
        };
        format!("model.layers.{layer}.{suffix}.weight")
    }
}
