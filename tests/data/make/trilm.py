"""Makes fixtures/trilm: a tiny Llama of the kind of TriLM, and what transformers computes for it.

Its weights are half-precision floats that are ternary already, with a scale for each of two shards: rows of q, k, v, gate and
up, columns of o and down. Nothing rounds the activations.

python trilm.py OUT, with torch 2.15, transformers 5.23. The tokenizer is that of fixtures/llama_a.
"""

import json
import shutil
import sys
from pathlib import Path

from reference import coarse, ternary, torch

from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

OUT = Path(sys.argv[1])
OUT.mkdir(parents=True, exist_ok=True)
TOKENIZER = Path(__file__).parent.parent / "fixtures" / "llama_a"
SHARDS = 2

config = LlamaConfig(
    hidden_size=256,
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=4,
    vocab_size=336,
    max_position_embeddings=256,
    rms_norm_eps=1e-5,
    hidden_act="silu",
    tie_word_embeddings=False,
    rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    attn_implementation="eager",
)
generator = torch.Generator().manual_seed(23)
model = LlamaForCausalLM(config).eval()
state = {}
for name, parameter in model.named_parameters():
    if "norm" in name:
        values = 1 + coarse(parameter.shape, generator, 1 / 128)
    elif "proj" in name:
        shards = ternary(parameter.shape, generator).float().chunk(SHARDS, int("o_proj" in name or "down" in name))
        scaled = [shard * (torch.rand((), generator=generator) * 0.08 + 0.04).half() for shard in shards]
        values = torch.cat(scaled, int("o_proj" in name or "down" in name))
    else:
        values = coarse(parameter.shape, generator, 1 / 64)
    state[name] = values.half().contiguous()
    parameter.copy_(state[name].float())

expected = {}
for prompt, length in enumerate([24, 12, 33]):
    ids = torch.randint(3, config.vocab_size - 3, (1, length), generator=generator)
    out = model(ids, output_hidden_states=True)
    expected[f"p{prompt}.ids"] = ids[0]
    if prompt == 0:
        expected["p0.logits"] = out.logits[0]
        expected["p0.hidden_embed"] = out.hidden_states[0][0]
        deviation = out.logits.std().item()
    greedy, margins = [], []
    while len(greedy) < 32:
        last = model(ids).logits[0, -1]
        top = last.topk(2).values
        greedy.append(last.argmax().item())
        margins.append((top[0] - top[1]).item())
        ids = torch.cat([ids, torch.tensor([[greedy[-1]]])], 1)
    expected[f"p{prompt}.greedy"] = torch.tensor(greedy)
    expected[f"p{prompt}.greedy_margin"] = torch.tensor(margins)
meta = {"tol_p0_logits_max_abs": 1e-3, "logits_std": deviation}
meta["made_with"] = "transformers 5.23.0, torch 2.15.0 CPU float32 eager"

save_file(state, OUT / "model.safetensors")
save_file({name: tensor.contiguous() for name, tensor in expected.items()}, OUT / "expected.safetensors")
(OUT / "meta.json").write_text(json.dumps(meta, indent=1))
saved = {key: value for key, value in config.to_dict().items() if not key.startswith("_") and value is not None}
saved |= {"architectures": ["LlamaForCausalLM"], "bos_token_id": 333, "eos_token_id": 334}
(OUT / "config.json").write_text(json.dumps(saved, indent=1))
for file in ["tokenizer.json", "tokenizer_config.json", "tokenizer_cases.json"]:
    shutil.copy(TOKENIZER / file, OUT / file)
