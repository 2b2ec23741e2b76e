"""Makes fixtures/embed_{qwen3,gemma3}: tiny models with the structure of microsoft/bitnet-embedding-0.6b and -270m (a norm in each
linear, bf16 masters, no head), and what transformers computes for them: the layers are its Qwen3Model and Gemma3TextModel, the
linears its AutoBitLinear with online quantization and use_rms_norm, whose norms are renamed as those models have them.

python embeddings.py OUT, with torch 2.15, transformers 5.23. The tokenizer is that of fixtures/llama_a.
"""

import json
import shutil
import sys
from pathlib import Path

from reference import TieWatch, coarse, torch, without_ties

from safetensors.torch import save_file
from transformers import Gemma3TextConfig, Gemma3TextModel, Qwen3Config, Qwen3Model
from transformers.integrations.bitnet import AutoBitLinear

LENGTHS = [20, 7, 1, 40]
TOKENIZER = Path(__file__).parent.parent / "fixtures" / "llama_a"

shared = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 48,
    "vocab_size": 336,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 333,
    "eos_token_id": 334,
    "pad_token_id": 0,
    "attn_implementation": "eager",
}
models = {
    "embed_qwen3": lambda: Qwen3Model(Qwen3Config(**shared, num_hidden_layers=2, rope_parameters={"rope_theta": 1e6})),
    "embed_gemma3": lambda: Gemma3TextModel(
        Gemma3TextConfig(
            **shared,
            num_hidden_layers=3,
            # Not 1 / sqrt(head_dim).
            query_pre_attn_scalar=64,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters={
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        )
    ),
}


def make(name, model, out):
    generator = torch.Generator().manual_seed(5)
    model = model.eval()
    layers = []
    for path, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear):
            layer = AutoBitLinear(
                module.in_features, module.out_features, bias=False, online_quant=True, use_rms_norm=True
            )
            model.set_submodule(path, layer)
            layers.append(layer)
    state = {}
    for path, parameter in model.named_parameters():
        is_gemma_norm = "gemma" in name and "norm" in path and "rms_norm" not in path
        if "norm" in path:
            parameter.copy_((0 if is_gemma_norm else 1) + coarse(parameter.shape, generator, 1 / 128))
        else:
            # Of few bits, since the values compress badly.
            parameter.copy_(coarse(parameter.shape, generator, 1 / 64) if "embed" in path else
                            (torch.randn(parameter.shape, generator=generator) * 3).round() / 64)
        state[path.replace(".rms_norm.", ".norm.")] = parameter.to(torch.bfloat16)
    watch = TieWatch(layers, lambda layer, x: layer.rms_norm(x))
    run = lambda ids: model(ids, output_hidden_states=True)
    expected, ties = {}, []
    for text, length in enumerate(LENGTHS):
        ids, distance = without_ties(watch, run, length, 336, text, 200)
        out_of = run(ids)
        expected[f"t{text}.ids"] = ids[0]
        expected[f"t{text}.embedding"] = torch.nn.functional.normalize(out_of.last_hidden_state[0, -1], dim=0)
        ties.append(distance)
        if text == 0:
            expected["t0.hidden_embed"] = out_of.hidden_states[0][0]
            expected["t0.hidden_layer0"] = out_of.hidden_states[1][0]
    out.mkdir(parents=True, exist_ok=True)
    save_file(state, out / "model.safetensors")
    save_file({key: value.contiguous() for key, value in expected.items()}, out / "expected.safetensors")
    saved = {key: value for key, value in model.config.to_dict().items() if not key.startswith("_") and value is not None}
    saved["architectures"] = [type(model).__name__]
    (out / "config.json").write_text(json.dumps(saved, indent=1))
    (out / "meta.json").write_text(json.dumps({"min_relative_tie_distances": ties}))
    shutil.copy(TOKENIZER / "tokenizer.json", out / "tokenizer.json")
    tokenizer = json.loads((TOKENIZER / "tokenizer_config.json").read_text())
    (out / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"add_eos_token": True}))
    print(name, ties)


for name, model in models.items():
    make(name, model(), Path(sys.argv[1]) / name)
