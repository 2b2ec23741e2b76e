"""Makes fixtures/minicpm_bitlinear: a tiny MiniCPM with BitLinear layers and LongRoPE, and what a reference computes for it.

transformers has no MiniCPM, so the forward pass is written out here, after https://arxiv.org/abs/2404.06395 (scales of the
embedding, of the residual stream and of the logits) and https://arxiv.org/abs/2402.13753 (LongRoPE); its parts are those of
transformers' Llama.

python minicpm.py OUT, with torch 2.15, transformers 5.23, gguf 0.19. The tokenizer is that of fixtures/llama_a.
"""

import math
import sys
from pathlib import Path

from reference import bitlinears, expectations, fill, gguf_writer, save, torch, write_tensors

import gguf
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
TOKENIZER = Path(__file__).parent.parent / "fixtures" / "llama_a"
SCALE_EMB, SCALE_DEPTH, DIM_MODEL_BASE = 12, 1.4, 32
ORIGINAL = 32

config = LlamaConfig(
    hidden_size=96,
    intermediate_size=160,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=24,
    vocab_size=336,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    tie_word_embeddings=True,
    rope_parameters={"rope_theta": 10000.0},
)
half = config.head_dim // 2
short = [1 + 0.01 * i for i in range(half)]
long = [1 + 0.4 * i for i in range(half)]
generator = torch.Generator().manual_seed(11)
model = LlamaForCausalLM(config).eval()
layers, state, matrices = bitlinears(model, generator)
fill(model, state, generator)


def rotate(x, cos, sin):
    low, high = x[..., :half], x[..., half:]
    return torch.cat([low * cos - high * sin, high * cos + low * sin], -1)


def run(ids):
    tokens = ids.shape[1]
    # The model is made for more positions than it was trained for first.
    factors = torch.tensor(long)
    inv_freq = 1.0 / (factors * 10000.0 ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim))
    amplitude = math.sqrt(1 + math.log(config.max_position_embeddings / ORIGINAL) / math.log(ORIGINAL))
    angles = torch.arange(tokens).float()[:, None] * inv_freq
    cos, sin = angles.cos() * amplitude, angles.sin() * amplitude
    mask = torch.full((tokens, tokens), float("-inf")).triu(1)
    depth = SCALE_DEPTH / math.sqrt(config.num_hidden_layers)
    h = model.model.embed_tokens(ids) * SCALE_EMB
    hidden = [h[0]]
    for layer in model.model.layers:
        x = layer.input_layernorm(h)
        attn = layer.self_attn
        heads = lambda y: y.view(1, tokens, -1, config.head_dim).transpose(1, 2)
        q, k, v = rotate(heads(attn.q_proj(x)), cos, sin), rotate(heads(attn.k_proj(x)), cos, sin), heads(attn.v_proj(x))
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        weights = torch.softmax(q @ k.transpose(2, 3) / math.sqrt(config.head_dim) + mask, -1)
        h = h + attn.o_proj((weights @ v).transpose(1, 2).reshape(1, tokens, -1)) * depth
        x = layer.post_attention_layernorm(h)
        h = h + layer.mlp.down_proj(torch.nn.functional.silu(layer.mlp.gate_proj(x)) * layer.mlp.up_proj(x)) * depth
        hidden.append(h[0])
    logits = model.lm_head(model.model.norm(h) / (config.hidden_size / DIM_MODEL_BASE))
    return logits[0], hidden


block = model.model.layers[0]
probes = {"q_proj": block.self_attn.q_proj, "down_proj": block.mlp.down_proj}
expected, meta = expectations(run, layers, probes, [16, 12, 30], config.vocab_size)
meta["made_with"] = "torch 2.15.0 CPU float32, layers of transformers 5.23.0, gguf 0.19.0"
described = config.to_dict() | {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "scale_emb": SCALE_EMB,
    "scale_depth": SCALE_DEPTH,
    "dim_model_base": DIM_MODEL_BASE,
    "rope_parameters": None,
    "rope_theta": 10000.0,
    "rope_scaling": {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "original_max_position_embeddings": ORIGINAL,
    },
}
save(OUT, described, state, expected, meta, TOKENIZER)


def interleaved(name, values):
    """llama.cpp's order of the rows of q and k: pairs are neighbours."""
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    rows, cols = values.shape
    return values.reshape(rows // config.head_dim, 2, half, cols).transpose(1, 2).reshape(rows, cols)


writer = gguf_writer(OUT / "model-f16.gguf", "minicpm", config, TOKENIZER)
writer.add_embedding_scale(float(SCALE_EMB))
writer.add_residual_scale(SCALE_DEPTH / config.num_hidden_layers**0.5)
writer.add_logit_scale(config.hidden_size / DIM_MODEL_BASE)
writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
writer.add_rope_scaling_attn_factors(
    math.sqrt(1 + math.log(config.max_position_embeddings / ORIGINAL) / math.log(ORIGINAL))
)
for name, factors in [("rope_factors_long.weight", long), ("rope_factors_short.weight", short)]:
    writer.add_tensor(name, torch.tensor(factors).numpy())
write_tensors(writer, gguf.MODEL_ARCH.MINICPM, config.num_hidden_layers, state, matrices, interleaved)
print(meta)
