"""Makes fixtures/qwen3_bitlinear: a tiny Qwen3 with BitLinear layers and YaRN, and what transformers computes for it.

python qwen3.py OUT, with torch 2.15, transformers 5.23, gguf 0.19. The tokenizer is that of fixtures/llama_a.
"""

import sys
from pathlib import Path

from reference import bitlinears, expectations, fill, gguf_writer, save, torch, write_tensors

import gguf
from transformers import Qwen3Config, Qwen3ForCausalLM

OUT = Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
TOKENIZER = Path(__file__).parent.parent / "fixtures" / "llama_a"

config = Qwen3Config(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=336,
    max_position_embeddings=128,
    rms_norm_eps=1e-6,
    hidden_act="silu",
    tie_word_embeddings=True,
    rope_parameters={
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    attn_implementation="eager",
)
generator = torch.Generator().manual_seed(7)
model = Qwen3ForCausalLM(config).eval()
layers, state, matrices = bitlinears(model, generator)
fill(model, state, generator)


def run(ids):
    out = model(ids, output_hidden_states=True)
    return out.logits[0], [hidden[0] for hidden in out.hidden_states]


block = model.model.layers[0]
probes = {"q_proj": block.self_attn.q_proj, "down_proj": block.mlp.down_proj}
expected, meta = expectations(run, layers, probes, [16, 12, 24], config.vocab_size)
meta["made_with"] = "transformers 5.23.0, torch 2.15.0 CPU float32 eager, gguf 0.19.0"
save(OUT, config.to_dict() | {"architectures": ["Qwen3ForCausalLM"]}, state, expected, meta, TOKENIZER)

writer = gguf_writer(OUT / "model-f16.gguf", "qwen3", config, TOKENIZER)
writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
writer.add_rope_scaling_factor(4.0)
writer.add_rope_scaling_orig_ctx_len(16)
write_tensors(writer, gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers, state, matrices)
print(meta)
