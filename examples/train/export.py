"""Export a trained model as a Hugging Face folder, packed as microsoft/bitnet-b1.58-2B-4T, and check it with transformers.

Ternary weights are packed four to a byte (uint8) with one bf16 weight_scale per matrix; everything else is bf16.

    python export.py --run run --data data --out model --expected expected.json

The check compares transformers (packed weights, float32) with the training model: the loss on the held-out text and
greedy continuations. --expected keeps the result, so that other engines can be tested against it.
"""
import argparse
import json
import math
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import train

PROMPTS = ["Once upon a time", "The old king had three sons, and", '"Where are you going?" said the wolf.']
GENERATION = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.7, "top_k": 40}
QUANTIZATION = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
WINDOWING = ("windows of {0} inputs that do not overlap: window w (from 0) reads ids[w*{0} : (w+1)*{0}] from position 0 "
             "with an empty cache and predicts ids[w*{0}+1 : (w+1)*{0}+1]; the loss is the mean of -ln p over the "
             "predictions of all windows")


def quantize(w):
    """absmean: scale = mean |w| over the whole matrix, ternary = round(w / scale) clipped to -1..1."""
    scale = w.float().abs().mean().clamp(min=1e-5)
    return (w.float() / scale).round().clamp(-1, 1).to(torch.int8), scale


def pack(ternary):
    """[rows, cols] of -1/0/1 -> uint8 [rows / 4, cols]: bits 2i, 2i+1 of packed row r hold row r + i * rows / 4, plus 1."""
    parts = (ternary + 1).to(torch.uint8).chunk(4, dim=0)
    return parts[0] | parts[1] << 2 | parts[2] << 4 | parts[3] << 6


class StoredScale(train.BitLinear):
    """The training model's linear layer with the scale rounded to bf16, as the folder stores it."""

    def forward(self, x):
        ternary, scale = quantize(self.weight)
        sx = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
        return F.linear((x / sx).round().clamp(-128, 127), ternary.float()) * (sx * scale.to(torch.bfloat16).float())


def packed_tensors(state):
    tensors = {}
    for name, w in state.items():
        if "_proj." in name:
            ternary, scale = quantize(w)
            tensors[f"model.{name}"] = pack(ternary)
            tensors[f"model.{name}_scale"] = scale.to(torch.bfloat16).reshape(1)
        else:
            tensors[f"model.{name}"] = w
    return {name: t.contiguous() for name, t in tensors.items()}


def write_folder(folder, state, config, data):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(packed_tensors(state), folder / "model.safetensors", metadata={"format": "pt"})
    for name, value in (("config", {**config, "quantization_config": QUANTIZATION}), ("generation_config", GENERATION)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(data / name, folder / name)


def training_models(state, config):
    """The training model in evaluation (float32 products, bf16 weights): with its own scales, with those stored."""
    models = [train.BitNet(config).eval() for _ in range(2)]
    for model in models:
        model.load_state_dict({k: v.float() for k, v in state.items()})
    for module in models[1].modules():
        if isinstance(module, train.BitLinear):
            module.__class__ = StoredScale
    return models


@torch.no_grad()
def heldout_loss(logits_of, ids, context, windows):
    total = 0.0
    for start in range(0, windows * context, context):
        x, y = ids[start:start + context], ids[start + 1:start + context + 1]
        total += F.cross_entropy(logits_of(x[None])[0].double(), y, reduction="sum").item()
    return total / (windows * context)


def heldout(runs, tok, text, context, most_windows):
    """Loss of every model on the first windows of the held-out text; None where it does not fill one."""
    ids = torch.tensor(tok(text, verbose=False).input_ids)
    windows = min(most_windows, (len(ids) - 1) // context)
    if windows < 1:
        return None
    losses = {name: heldout_loss(f, ids, context, windows) for name, f in runs.items()}
    loss = losses["transformers packed"]
    scored = len(tok.decode(ids[1:windows * context + 1], clean_up_tokenization_spaces=False).encode())
    return {"file": "heldout.txt", "windowing": WINDOWING.format(context),
            "ids": "the whole file encoded once, with <s> (id 0) in front", "total_ids": len(ids),
            "first_ids": ids[:32].tolist(), "context": context, "windows": windows, "tokens": windows * context,
            "bytes_scored": scored, "loss_nats_per_token": loss, "perplexity": math.exp(loss),
            "bits_per_byte": loss * windows * context / math.log(2) / scored, "all_losses": losses}


@torch.no_grad()
def greedy(logits_of, prompt, n):
    """Plain argmax without a cache; also the smallest gap between the best and the second-best logit."""
    ids, gap = list(prompt), math.inf
    for _ in range(n):
        top = logits_of(torch.tensor([ids]))[0, -1].topk(2)
        gap = min(gap, (top.values[0] - top.values[1]).item())
        ids.append(top.indices[0].item())
    return ids[len(prompt):], gap


def continuation(runs, tok, prompt, n):
    prompt_ids = tok(prompt).input_ids
    new, gap = greedy(runs["transformers packed"], prompt_ids, n)
    same = {name: greedy(f, prompt_ids, n)[0] == new for name, f in runs.items()}
    return {"prompt": prompt, "prompt_ids": prompt_ids, "new_ids": new, "text": tok.decode(new),
            "smallest_top2_logit_gap": gap, "same_greedy_ids": same}


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--run", type=Path, default=Path("run"), help="folder with model.pt and config.json")
    ap.add_argument("--data", type=Path, default=Path("data"), help="folder with tokenizer*.json and heldout.txt")
    ap.add_argument("--out", type=Path, default=Path("model"))
    ap.add_argument("--expected", type=Path, help="file for the result of the check")
    ap.add_argument("--windows", type=int, default=24, help="most held-out windows to check")
    ap.add_argument("--new-tokens", type=int, default=64, help="greedy tokens a prompt")
    ap.add_argument("--prompts", nargs="+", default=PROMPTS)
    args = ap.parse_args()
    config = json.loads((args.run / "config.json").read_text())
    # Everything is rounded to bf16 first: the ternary values must be those of the weights that the check uses.
    state = {k: v.to(torch.bfloat16) for k, v in torch.load(args.run / "model.pt").items()}
    write_folder(args.out, state, config, args.data)

    # transformers 5 leaves parts of a packed model in bf16 whatever dtype= says; widening them here is exact.
    hf = torch.nn.Module.float(AutoModelForCausalLM.from_pretrained(args.out, dtype=torch.float32))
    own, stored = training_models(state, config)
    runs = {"transformers packed": lambda x: hf(x).logits, "training model": own, "training model, bf16 scales": stored}
    tok = AutoTokenizer.from_pretrained(args.out)
    text = (args.data / "heldout.txt").read_text(encoding="utf-8")
    result = json.dumps({
        "model": "packed", "dtype": "float32", "transformers": transformers.__version__,
        "heldout": heldout(runs, tok, text, config["max_position_embeddings"], args.windows),
        "greedy": [continuation(runs, tok, prompt, args.new_tokens) for prompt in args.prompts]}, indent=1)
    print(result)
    if args.expected:
        args.expected.write_text(result + "\n")


if __name__ == "__main__":
    main()
