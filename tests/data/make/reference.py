"""What the scripts here share: inputs without near ties, and what a model makes of them.

An activation is rounded to int8. Where x * 127 / absmax lies near k + 0.5, the last bit of a norm decides, and two correct
programs differ. So prompts are chosen among many such that no activation of any linear layer lies near a tie.
"""

import os

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch

torch.set_num_threads(1)
torch.set_grad_enabled(False)


def tie_distance(x):
    """The least relative distance of an activation from a tie; x is the input of a BitLinear, [.., columns]."""
    scaled = x.double() * 127 / x.double().abs().amax(-1, keepdim=True).clamp(min=1e-5)
    ties = (scaled.abs() - 0.5).round().clamp(min=0) + 0.5
    return ((scaled.abs() - ties).abs() / ties).min().item()


class TieWatch:
    """Notes the inputs of some layers while a model runs."""

    def __init__(self, layers, quantized_input=lambda layer, x: x):
        self.least = float("inf")
        for layer in layers:
            layer.register_forward_pre_hook(lambda layer, args: self.see(quantized_input(layer, args[0])))

    def see(self, x):
        self.least = min(self.least, tie_distance(x))

    def of(self, run):
        """The least distance in a run."""
        self.least = float("inf")
        run()
        return self.least


def without_ties(watch, run, length, vocab, seed, candidates):
    """The ids, of some random ones, whose activations are farthest from ties; and how far they are."""
    generator = torch.Generator().manual_seed(seed)
    best = (-1.0, None)
    for _ in range(candidates):
        ids = torch.randint(3, vocab - 3, (1, length), generator=generator)
        best = max(best, (watch.of(lambda: run(ids)), ids), key=lambda pair: pair[0])
    return best[1], best[0]


def coarse(shape, generator, step):
    """About normal numbers that bf16 and f16 both hold exactly: multiples of `step` up to 127 of them."""
    return (torch.randn(shape, generator=generator) * 40).round().clamp(-127, 127) * step


def ternary(shape, generator):
    """Values of -1, 0 and 1."""
    return torch.randint(-1, 2, shape, generator=generator).to(torch.int8)


def bitlinears(model, generator):
    """Puts random packed BitLinears in the place of all linears but the head. Returns the layers, their tensors as a checkpoint has
    them, and the values and scale of each matrix."""
    from transformers.integrations.bitnet import BitLinear, pack_weights

    layers, state, matrices = [], {}, {}
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
    return layers, state, matrices


def fill(model, state, generator):
    """Fills what is not a BitLinear with numbers that bf16 holds, and puts them into `state`."""
    for name, parameter in model.named_parameters():
        if name == "lm_head.weight":
            continue
        parameter.copy_(coarse(parameter.shape, generator, 1 / 64))
        if "norm" in name:
            parameter.copy_(1 + parameter / 2)
        state[name] = parameter.to(torch.bfloat16)


def expectations(run, layers, probes, lengths, vocab):
    """What `run` computes for prompts of these lengths, in the names of fixtures/README.md; `run` gives logits, [tokens, vocab], and
    hidden states of the embedding and each layer. The first prompt is without ties and compared as a whole."""
    watch = TieWatch(layers)
    seen = {}
    for name, layer in probes.items():
        layer.register_forward_hook(lambda _, args, out, name=name: seen.update({name: (args[0][0], out[0])}))
    expected, meta = {}, {"tol_p0_logits_max_abs": 2e-3}
    for prompt, length in enumerate(lengths):
        ids, distance = without_ties(watch, run, length, vocab, prompt, 2000 if prompt == 0 else 1)
        expected[f"p{prompt}.ids"] = ids[0]
        if prompt == 0:
            logits, hidden = run(ids)
            meta |= {"p0_min_relative_tie_distance": distance, "logits_std": logits.std().item()}
            expected |= {"p0.logits": logits, "p0.hidden_embed": hidden[0], "p0.hidden_layer0": hidden[1]}
            x, y = seen["q_proj"]
            scale = 127 / x.abs().amax(-1).clamp(min=1e-5)
            expected["l0.q_proj.in_int8"] = (x * scale[:, None]).round().clamp(-128, 127).to(torch.int8)
            expected |= {"l0.q_proj.in_scale": scale, "l0.q_proj.out": y, "l0.down_proj.in": seen["down_proj"][0][:4]}
        greedy, margins = [], []
        while len(greedy) < 32:
            last = run(ids)[0][-1]
            top = last.topk(2).values
            greedy.append(last.argmax().item())
            margins.append((top[0] - top[1]).item())
            ids = torch.cat([ids, torch.tensor([[greedy[-1]]])], 1)
        expected |= {f"p{prompt}.greedy": torch.tensor(greedy), f"p{prompt}.greedy_margin": torch.tensor(margins)}
    return expected, meta


def save(out, config, state, expected, meta, tokenizer):
    """Writes the Hugging Face form with the tokenizer of another fixture, and what is expected."""
    import json
    import shutil

    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in state.items()}, out / "model.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, out / "expected.safetensors")
    (out / "meta.json").write_text(json.dumps(meta, indent=1))
    config = {key: value for key, value in config.items() if not key.startswith("_") and value is not None}
    config |= {"bos_token_id": 333, "eos_token_id": 334}
    config["quantization_config"] = {"quant_method": "bitnet", "modules_to_not_convert": None}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for file in ["tokenizer.json", "tokenizer_config.json", "tokenizer_cases.json"]:
        shutil.copy(tokenizer / file, out / file)


def gguf_writer(path, arch, config, tokenizer):
    """A GGUF file with the hyper-parameters that all architectures share, and the vocabulary."""
    import json

    import gguf

    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    tokens = json.loads((tokenizer / "tokenizer.json").read_text())
    words = [word for word, _ in sorted(tokens["model"]["vocab"].items(), key=lambda pair: pair[1])]
    added = {token["id"]: token["content"] for token in tokens["added_tokens"]}
    words += [added[id] for id in sorted(added) if id >= len(words)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(words)
    writer.add_token_types([3 if id in added else 1 for id in range(len(words))])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokens["model"]["merges"]])
    writer.add_bos_token_id(333)
    writer.add_eos_token_id(334)
    return writer


def write_tensors(writer, arch, layers, state, matrices, reorder=lambda name, values: values):
    """The tensors of `state`, matrices as F16 with the same numbers, and the file."""
    import gguf

    names = gguf.get_tensor_name_map(arch, layers)
    for name, tensor in state.items():
        if name.endswith("weight_scale"):
            continue
        target = names.get_name(name, try_suffixes=(".weight",))
        if name in matrices:
            values, scale = matrices[name]
            writer.add_tensor(target, (reorder(name, values).numpy() * scale).astype("float16"))
        else:
            writer.add_tensor(target, tensor.float().numpy().astype("float32" if tensor.ndim == 1 else "float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
