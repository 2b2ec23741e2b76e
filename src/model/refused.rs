//! Architectures that ternary models are published in and that are not run, with the reason and what would run.

/// Why the architecture `name` is refused, if it is known.
pub(super) fn why(name: &str) -> Option<&'static str> {
    Some(match name {
        "gemma3" => {
            "files of bitnet.cpp's converter hold the weights of norms as they were trained, those of llama.cpp's with 1 added, \
             and no key tells them apart; open the Hugging Face folder (Gemma3TextModel) instead"
        }
        "qwen35" | "qwen35moe" | "qwen3next" | "Qwen3_5ForCausalLM" | "Qwen3_5ForConditionalGeneration" => {
            "its layers are gated delta networks, which this version has no kernels for; Ternary-Bonsai of 1.7B to 8B \
             (qwen3) runs"
        }
        "maple" | "MapleForCausalLM" => {
            "it is a mixture of experts, and this version runs dense models; BitNet, Falcon3-1.58bit or Ternary-Bonsai run"
        }
        "minicpm3" | "MiniCPM3ForCausalLM" => {
            "its attention is over latent vectors, which this version has no kernels for; BitCPM4 (minicpm) runs"
        }
        _ => return None,
    })
}
