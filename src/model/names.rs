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
    PostAttnNorm,
    FfnNorm,
    Gate,
    Up,
    FfnSubNorm,
    Down,
    PostFfnNorm,
}

/// A naming scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// llama.cpp's GGUF names.
    Gguf,
    /// transformers' names.
    HuggingFace(Prefix),
    /// 1bitLLM's BitnetForCausalLM: other names for the two sub-norms.
    OneBitLlm,
    /// Gemma's: a norm behind each half of a block.
    Gemma(Prefix),
}

/// What is in front of transformers' names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prefix {
    /// `model.`, in models with a head.
    Model,
    /// Nothing, in models without one.
    Nothing,
}

impl Prefix {
    /// What `checkpoint` has.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Prefix {
        if checkpoint.tensor("embed_tokens.weight").is_some() { Prefix::Nothing } else { Prefix::Model }
    }

    fn text(self) -> &'static str {
        match self {
            Prefix::Model => "model.",
            Prefix::Nothing => "",
        }
    }
}

impl Names {
    /// The usual names in the kind of file that `checkpoint` is.
    pub(crate) fn of(checkpoint: &Checkpoint) -> Names {
        match checkpoint.description() {
            Description::Gguf { .. } => Names::Gguf,
            Description::HuggingFace { .. } => Names::HuggingFace(Prefix::of(checkpoint)),
        }
    }

    fn prefix(self) -> Prefix {
        match self {
            Names::HuggingFace(prefix) | Names::Gemma(prefix) => prefix,
            Names::Gguf | Names::OneBitLlm => Prefix::Model,
        }
    }

    pub(crate) fn embed(self) -> &'static str {
        match (self, self.prefix()) {
            (Names::Gguf, _) => "token_embd.weight",
            (_, Prefix::Model) => "model.embed_tokens.weight",
            (_, Prefix::Nothing) => "embed_tokens.weight",
        }
    }

    pub(crate) fn final_norm(self) -> &'static str {
        match (self, self.prefix()) {
            (Names::Gguf, _) => "output_norm.weight",
            (_, Prefix::Model) => "model.norm.weight",
            (_, Prefix::Nothing) => "norm.weight",
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

    /// The name in GGUF of the norm that a linear has of its own.
    pub(crate) fn norm_in(self, layer: usize, linear: Part) -> String {
        let weight = Names::Gguf.block(layer, linear);
        format!("{}_norm_in.weight", weight.trim_end_matches(".weight"))
    }

    /// The norm that a linear has of its own, if `checkpoint` has one.
    pub(crate) fn own_norm(self, checkpoint: &Checkpoint, layer: usize, linear: Part) -> Option<String> {
        let weight = self.block(layer, linear);
        let stem = weight.strip_suffix(".weight")?;
        let names = match self {
            Names::Gguf => vec![self.norm_in(layer, linear)],
            _ => vec![format!("{stem}.norm.weight"), format!("{stem}.rms_norm.weight")],
        };
        names.into_iter().find(|name| checkpoint.tensor(name).is_some())
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
                    Part::PostAttnNorm => "post_attention_norm",
                    Part::FfnNorm => "ffn_norm",
                    Part::Gate => "ffn_gate",
                    Part::Up => "ffn_up",
                    Part::FfnSubNorm => "ffn_sub_norm",
                    Part::Down => "ffn_down",
                    Part::PostFfnNorm => "post_ffw_norm",
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
            (_, Part::PostAttnNorm) => "post_attention_layernorm",
            (Names::Gemma(_), Part::FfnNorm) => "pre_feedforward_layernorm",
            (_, Part::FfnNorm) => "post_attention_layernorm",
            (_, Part::Gate) => "mlp.gate_proj",
            (_, Part::Up) => "mlp.up_proj",
            (Names::OneBitLlm, Part::FfnSubNorm) => "mlp.ffn_layernorm",
            (_, Part::FfnSubNorm) => "mlp.ffn_sub_norm",
            (_, Part::Down) => "mlp.down_proj",
            (_, Part::PostFfnNorm) => "post_feedforward_layernorm",
        };
        format!("{}layers.{layer}.{suffix}.weight", self.prefix().text())
    }
}
