"""Makes fixtures/qwen3_bitlinear: a tiny Qwen3 with BitLinear layers and YaRN, and what transformers computes for it.

python qwen3.py OUT, with torch 2.15, transformers 5.23, gguf 0.19. The tokenizer is that of fixtures/llama_a.
"""

import json
import shutil
import sys
from pathlib import Path

from reference import TieWatch, coarse, ternary, torch, without_ties

import gguf
import numpy as np
from safetensors.torch import save_file
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.integrations.bitnet import BitLinear, pack_weights

LENGTH = 16
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
state, layers, matrices = {}, [], {}
for name, module in list(model.named_modules()):
    if isinstance(module, torch.nn.Linear) and name != "lm_head":
        values = ternary(module.weight.shape, generator)
        # W = t / weight_scale: a power of two, so that the reciprocal is exact in every number type.
        scale = 2.0 ** (3 + len(matrices) % 2)
        layer = BitLinear(module.in_features, module.out_features, bias=False, dtype=torch.float32)
        layer.weight = torch.nn.Buffer(pack_weights(values.float()))
        layer.weight_scale = torch.nn.Buffer(torch.tensor([scale]))
        model.set_submodule(name, layer)
        layers.append(layer)
        matrices[f"{name}.weight"] = (values, 1 / scale)
        state[f"{name}.weight"] = layer.weight
        state[f"{name}.weight_scale"] = layer.weight_scale.to(torch.bfloat16)
for name, parameter in model.named_parameters():
    if name == "lm_head.weight":
        continue
    if "norm" in name:
        parameter.copy_(1 + coarse(parameter.shape, generator, 1 / 128))
    else:
        parameter.copy_(coarse(parameter.shape, generator, 1 / 64))
    state[name] = parameter.to(torch.bfloat16)

watch = TieWatch(layers)
run = lambda ids: model(ids, output_hidden_states=True)
expected, meta = {}, {}
probes = {}
for name, layer in [("q_proj", model.model.layers[0].self_attn.q_proj), ("down_proj", model.model.layers[0].mlp.down_proj)]:
    layer.register_forward_hook(lambda _, args, out, name=name: probes.update({name: (args[0][0], out[0])}))
for prompt, length in enumerate([LENGTH, 12, 24]):
    # Only the first one is compared as a whole.
    ids, distance = without_ties(watch, run, length, config.vocab_size, prompt, 2000 if prompt == 0 else 1)
    out = run(ids)
    expected[f"p{prompt}.ids"] = ids[0]
    if prompt == 0:
        meta["p0_min_relative_tie_distance"] = distance
        expected["p0.logits"] = out.logits[0]
        expected["p0.hidden_embed"] = out.hidden_states[0][0]
        expected["p0.hidden_layer0"] = out.hidden_states[1][0]
        x, y = probes["q_proj"]
        in_scale = 127 / x.abs().amax(-1).clamp(min=1e-5)
        expected["l0.q_proj.in_int8"] = (x * in_scale[:, None]).round().clamp(-128, 127).to(torch.int8)
        expected["l0.q_proj.in_scale"] = in_scale
        expected["l0.q_proj.out"] = y
        expected["l0.down_proj.in"] = probes["down_proj"][0][:4]
        meta["logits_std"] = out.logits.std().item()
    greedy, margins = [], []
    while len(greedy) < 32:
        last = model(ids).logits[0, -1]
        top = last.topk(2).values
        greedy.append(last.argmax().item())
        margins.append((top[0] - top[1]).item())
        ids = torch.cat([ids, torch.tensor([[greedy[-1]]])], 1)
    expected[f"p{prompt}.greedy"] = torch.tensor(greedy)
    expected[f"p{prompt}.greedy_margin"] = torch.tensor(margins)
meta |= {"tol_p0_logits_max_abs": 2e-3, "made_with": "transformers 5.23.0, torch 2.15.0 CPU float32 eager, gguf 0.19.0"}

save_file({name: tensor.contiguous() for name, tensor in state.items()}, OUT / "model.safetensors")
save_file({name: tensor.contiguous() for name, tensor in expected.items()}, OUT / "expected.safetensors")
(OUT / "meta.json").write_text(json.dumps(meta, indent=1))
saved = {key: value for key, value in config.to_dict().items() if not key.startswith("_") and value is not None}
saved |= {"architectures": ["Qwen3ForCausalLM"], "bos_token_id": 333, "eos_token_id": 334}
saved["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": None}
(OUT / "config.json").write_text(json.dumps(saved, indent=1))
for file in ["tokenizer.json", "tokenizer_config.json", "tokenizer_cases.json"]:
    shutil.copy(TOKENIZER / file, OUT / file)

writer = gguf.GGUFWriter(OUT / "model-f16.gguf", "qwen3")
writer.add_block_count(config.num_hidden_layers)
writer.add_context_length(config.max_position_embeddings)
writer.add_embedding_length(config.hidden_size)
writer.add_feed_forward_length(config.intermediate_size)
writer.add_head_count(config.num_attention_heads)
writer.add_head_count_kv(config.num_key_value_heads)
writer.add_key_length(config.head_dim)
writer.add_value_length(config.head_dim)
writer.add_layer_norm_rms_eps(config.rms_norm_eps)
writer.add_rope_freq_base(10000.0)
writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
writer.add_rope_scaling_factor(4.0)
writer.add_rope_scaling_orig_ctx_len(16)
writer.add_vocab_size(config.vocab_size)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
tokens = json.loads((TOKENIZER / "tokenizer.json").read_text())
vocab = sorted(tokens["model"]["vocab"].items(), key=lambda pair: pair[1])
words = [word for word, _ in vocab]
added = {token["id"]: token["content"] for token in tokens["added_tokens"]}
words += [added[id] for id in sorted(added) if id >= len(words)]
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("llama-bpe")
writer.add_token_list(words)
writer.add_token_types([3 if id in added else 1 for id in range(len(words))])
writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokens["model"]["merges"]])
writer.add_bos_token_id(333)
writer.add_eos_token_id(334)
for name, tensor in state.items():
    if name.endswith("weight_scale"):
        continue
    target = names.get_name(name, try_suffixes=(".weight",))
    if name in matrices:
        values, scale = matrices[name]
        writer.add_tensor(target, (values.numpy() * np.float32(scale)).astype(np.float16))
    elif tensor.ndim == 1:
        writer.add_tensor(target, tensor.float().numpy())
    else:
        writer.add_tensor(target, tensor.float().numpy().astype(np.float16))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
print(meta)
