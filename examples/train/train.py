"""Train a small BitNet b1.58 language model from scratch, on a CPU, with quantization-aware training.

The architecture is that of microsoft/bitnet-b1.58-2B-4T (Hugging Face `BitNetForCausalLM`): RMSNorm, RoPE,
grouped-query attention, squared-ReLU gated feed-forward, an extra RMSNorm before the output projections
(attn_sub_norm, ffn_sub_norm), tied embeddings. Every linear layer but the tied head multiplies ternary weights
(absmean scale, one per tensor) with int8 activations (absmax scale, one per token); gradients pass the two
roundings unchanged (straight-through estimator).

    python train.py --data data --out run --steps 9000
    python train.py --data data --out run --steps 9000 --resume    # go on from run/checkpoint.pt
"""
import argparse
import csv
import json
import os
import time

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F


class TernaryLinear(torch.autograd.Function):
    """y = Q8(x) @ Q1.58(w)^T.

    Both factors are small integers, exact in bfloat16, so the matrix product runs in `dtype` and the two scales
    are applied afterwards in float32. Backward is the straight-through estimator: the gradient of the product of
    the dequantized factors, handed to x and w as they are.
    """

    @staticmethod
    def forward(ctx, x, w, dtype):
        sx = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
        sw = w.abs().mean().clamp(min=1e-5)
        qx = (x / sx).round().clamp(-128, 127).to(dtype)
        qw = (w / sw).round().clamp(-1, 1).to(dtype)
        ctx.save_for_backward(qx, sx, qw, sw)
        return F.linear(qx, qw).float() * (sx * sw)

    @staticmethod
    def backward(ctx, g):
        qx, sx, qw, sw = ctx.saved_tensors
        gx = (g * sw).to(qw.dtype) @ qw
        gw = (g * sx).to(qx.dtype).flatten(0, -2).T @ qx.flatten(0, -2)
        return gx.float(), gw.float(), None


class CausalAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d) + mask) v for [batch * heads, positions, d].

    At these lengths it is about three times as fast on a CPU as PyTorch's flash attention, because the products
    run as bfloat16 matrix products and only the probabilities are kept for the backward pass.
    """

    @staticmethod
    def forward(ctx, q, k, v, mask):
        scores = torch.bmm(q, k.transpose(1, 2)).float() * q.shape[-1] ** -0.5 + mask
        p = scores.softmax(-1).to(q.dtype)
        ctx.save_for_backward(q, k, v, p)
        return torch.bmm(p, v)

    @staticmethod
    def backward(ctx, g):
        q, k, v, p = ctx.saved_tensors
        gp, p32 = torch.bmm(g, v.transpose(1, 2)).float(), p.float()
        gs = (p32 * (gp - (gp * p32).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5).to(q.dtype)
        return torch.bmm(gs, k), torch.bmm(gs.transpose(1, 2), q), torch.bmm(p.transpose(1, 2), g), None


class BitLinear(nn.Linear):
    dtype = torch.float32  # of all matrix products; train() switches the class to bfloat16

    def __init__(self, n_in, n_out):
        super().__init__(n_in, n_out, bias=False)
        nn.init.normal_(self.weight, std=n_in ** -0.5 / 2)

    def forward(self, x):
        return TernaryLinear.apply(x, self.weight, BitLinear.dtype)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def rope(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, hd = c["hidden_size"], c["head_dim"]
        self.n, self.kv, self.hd = c["num_attention_heads"], c["num_key_value_heads"], hd
        self.q_proj, self.o_proj = BitLinear(d, self.n * hd), BitLinear(self.n * hd, d)
        self.k_proj, self.v_proj = BitLinear(d, self.kv * hd), BitLinear(d, self.kv * hd)
        self.attn_sub_norm = RMSNorm(d, c["rms_norm_eps"])

    def forward(self, x, cos, sin, mask):
        b, t, _ = x.shape
        q = rope(self.q_proj(x).view(b, t, self.n, self.hd).transpose(1, 2), cos, sin)
        k = rope(self.k_proj(x).view(b, t, self.kv, self.hd).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(b, t, self.kv, self.hd).transpose(1, 2)
        k, v = (z.repeat_interleave(self.n // self.kv, 1) for z in (k, v))
        q, k, v = (z.to(BitLinear.dtype).reshape(b * self.n, t, self.hd) for z in (q, k, v))
        y = CausalAttention.apply(q, k, v, mask).float().view(b, self.n, t, self.hd)
        return self.o_proj(self.attn_sub_norm(y.transpose(1, 2).reshape(b, t, -1)))


class MLP(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, f = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = BitLinear(d, f), BitLinear(d, f), BitLinear(f, d)
        self.ffn_sub_norm = RMSNorm(f, c["rms_norm_eps"])

    def forward(self, x):
        return self.down_proj(self.ffn_sub_norm(F.relu(self.gate_proj(x)).square() * self.up_proj(x)))


class Dropout(nn.Module):
    """Variational dropout: drops the same channels at every position of a window.

    It needs one random number per channel instead of one per value; on a CPU those would cost a third of the time.
    """

    def __init__(self, p):
        super().__init__()
        self.p = p

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(torch.ones_like(x[:, :1]), self.p)


class Layer(nn.Module):
    def __init__(self, c, dropout):
        super().__init__()
        self.self_attn, self.mlp = Attention(c), MLP(c)
        self.input_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.post_attention_layernorm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        self.dropout = Dropout(dropout)

    def forward(self, x, cos, sin, mask):
        x = x + self.dropout(self.self_attn(self.input_layernorm(x), cos, sin, mask))
        return x + self.dropout(self.mlp(self.post_attention_layernorm(x)))


class BitNet(nn.Module):
    """Parameter names follow Hugging Face's BitNetModel, so that export.py only adds the prefix 'model.'."""

    def __init__(self, c, dropout=0.0):
        super().__init__()
        positions = c["max_position_embeddings"]
        self.dropout = Dropout(dropout)
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        self.layers = nn.ModuleList(Layer(c, dropout) for _ in range(c["num_hidden_layers"]))
        self.norm = RMSNorm(c["hidden_size"], c["rms_norm_eps"])
        freq = c["rope_theta"] ** -(torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        angle = torch.outer(torch.arange(positions).float(), freq).repeat(1, 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)
        self.register_buffer("mask", torch.full((positions, positions), -torch.inf).triu(1), persistent=False)

    def head(self, x, targets):
        dtype = BitLinear.dtype
        logits = F.linear(self.norm(x).to(dtype), self.embed_tokens.weight.to(dtype)).float()
        return logits if targets is None else F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def forward(self, ids, targets=None):
        """Logits, or the mean loss in nats/token when targets are given."""
        t = ids.shape[1]
        cos, sin, mask = self.cos[:t], self.sin[:t], self.mask[:t, :t].contiguous()
        x = self.dropout(self.embed_tokens(ids))
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return self.head(x, targets)


def config(args):
    """config.json of the exported model (export.py adds the quantization entry)."""
    with open(f"{args.data}/tokenizer.json", encoding="utf-8") as f:
        vocab_size = len(json.load(f)["model"]["vocab"])
    return {"architectures": ["BitNetForCausalLM"], "model_type": "bitnet", "hidden_act": "relu2",
            "vocab_size": vocab_size, "hidden_size": args.hidden, "intermediate_size": args.ffn,
            "num_hidden_layers": args.layers, "num_attention_heads": args.hidden // 64, "head_dim": 64,
            "num_key_value_heads": args.kv_heads, "max_position_embeddings": args.positions,
            "rope_theta": args.rope_theta, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
            "attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02,
            "bos_token_id": 0, "eos_token_id": 1, "use_cache": True, "torch_dtype": "bfloat16"}


def token_ids(path):
    return torch.from_numpy(np.fromfile(path, dtype=np.uint16).astype(np.int64))


class Batches:
    """Endless [batch, context + 1] windows: each epoch cuts the text anew, at a random offset, and shuffles.

    What an epoch holds follows from the seed and its number, so (epoch, index) is all a checkpoint has to keep.
    """

    def __init__(self, ids, batch, context, seed):
        self.ids, self.batch, self.context, self.seed = ids, batch, context, seed
        if len(ids) < (batch + 1) * context + 1:
            raise SystemExit(f"{len(ids)} training tokens are too few for one batch of {batch} x {context}")
        self.epoch = -1
        self.next_epoch()

    def next_epoch(self):
        self.seek({"epoch": self.epoch + 1, "index": 0, "context": self.context, "batch": self.batch})

    def state(self):
        return {"epoch": self.epoch, "index": self.index, "context": self.context, "batch": self.batch}

    def seek(self, state):
        self.epoch, self.index = state["epoch"], state["index"]
        rng = np.random.default_rng([self.seed, self.epoch])
        self.starts = np.arange(rng.integers(self.context), len(self.ids) - self.context - 1, self.context)
        rng.shuffle(self.starts)
        if (state["context"], state["batch"]) != (self.context, self.batch):  # windows of another size: cut anew
            self.next_epoch()

    def __next__(self):
        if self.index + self.batch > len(self.starts):
            self.next_epoch()
        chosen = self.starts[self.index:self.index + self.batch]
        self.index += self.batch
        return torch.stack([self.ids[s:s + self.context + 1] for s in chosen])


@torch.no_grad()
def evaluate(model, ids, context, limit, batch=8):
    """Mean loss in nats/token over the first `limit` non-overlapping windows, in float32 and without dropout."""
    if len(ids) <= context:
        return float("nan")
    windows = ids.unfold(0, context + 1, context)[:limit]
    saved, BitLinear.dtype = BitLinear.dtype, torch.float32
    model.eval()
    with torch.compiler.set_stance("force_eager"):
        loss = sum(model(w[:, :-1], w[:, 1:]).item() * len(w) for w in windows.split(batch))
    model.train()
    BitLinear.dtype = saved
    return loss / len(windows)


def make_optimizers(model, args):
    """Muon (orthogonalized momentum) for the ternary matrices, AdamW for the embedding and the norms."""
    matrices = [p for n, p in model.named_parameters() if "_proj." in n]
    norms = [p for p in model.parameters() if p.ndim == 1]
    embedding = model.embed_tokens.weight
    print(f"{sum(p.numel() for p in matrices):,} ternary + {sum(p.numel() for p in [embedding, *norms]):,} other parameters")
    return [torch.optim.Muon([{"params": matrices, "peak_lr": args.lr, "decayed": True}], lr=args.lr,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([{"params": [embedding], "peak_lr": args.embed_lr, "decayed": True},
                               {"params": norms, "peak_lr": args.embed_lr, "decayed": False}],
                              lr=args.embed_lr, betas=(0.9, 0.95), eps=1e-8, fused=True)]


def schedule(step, args):
    """(learning-rate factor, weight decay): warm-up, plateau, linear to zero from `decay_start` to `steps`.

    On the plateau nothing depends on the end, so a run can be resumed from there with another one. Weight decay
    stops where the learning rate starts to fall, as in the second stage of BitNet's own training.
    """
    left = (args.steps - step) / max(1, args.steps - args.decay_start)
    return min(1.0, (step + 1) / args.warmup, left), args.weight_decay if step < args.decay_start else 0.0


def save(value, path):
    """Never leaves half a file, however the training is stopped."""
    torch.save(value, f"{path}.tmp")
    os.replace(f"{path}.tmp", path)


class Log:
    """log.csv, continued when the training is."""

    FIELDS = ["step", "tokens", "seconds", "lr", "running_loss", "train_loss", "heldout_loss"]

    def __init__(self, path, resume):
        new = not (resume and os.path.exists(path))
        self.file = open(path, "w" if new else "a", buffering=1, newline="")
        self.writer = csv.DictWriter(self.file, self.FIELDS)
        if new:
            self.writer.writeheader()

    def write(self, **row):
        row = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
        self.writer.writerow(row)
        print(" ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def train(args):
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    os.makedirs(args.out, exist_ok=True)
    checkpoint = f"{args.out}/checkpoint.pt"
    c = config(args)
    with open(f"{args.out}/config.json", "w") as f:
        json.dump(c, f, indent=2)
    model = BitNet(c, args.dropout)
    BitLinear.dtype = torch.bfloat16
    optimizers = make_optimizers(model, args)
    text, heldout = token_ids(f"{args.data}/train.bin"), token_ids(f"{args.data}/heldout.bin")
    data = Batches(text, args.batch, args.context, args.seed)
    step, tokens, seconds, running = 0, 0, 0.0, None
    if args.resume:
        state = torch.load(checkpoint)
        model.load_state_dict(state["model"])
        for opt, s, peaks in zip(optimizers, state["optimizers"], [[args.lr], [args.embed_lr] * 2]):
            opt.load_state_dict(s)
            for group, peak in zip(opt.param_groups, peaks):  # the command line counts, not what was saved
                group["peak_lr"] = peak
        torch.set_rng_state(state["rng"])
        data.seek(state["data"])
        step, tokens, seconds, running = (state[k] for k in ("step", "tokens", "seconds", "running"))
        print(f"resumed at step {step}")
    if args.compile:  # layer by layer: all layers share one compiled graph
        for layer in model.layers:
            layer.compile(dynamic=False)
        model.head = torch.compile(model.head, dynamic=False)
    groups = [g for opt in optimizers for g in opt.param_groups]
    log = Log(f"{args.out}/log.csv", args.resume)
    clock = time.time() - seconds
    while step < args.steps:
        factor, weight_decay = schedule(step, args)
        for group in groups:
            group["lr"] = group["peak_lr"] * factor
            group["weight_decay"] = weight_decay if group["decayed"] else 0.0
        window = next(data)
        loss = model(window[:, :-1], window[:, 1:])
        loss.backward()
        for opt in optimizers:
            opt.step()
            opt.zero_grad(set_to_none=True)
        running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
        step, tokens = step + 1, tokens + args.batch * args.context
        last, row = step == args.steps, {}
        if last or step % args.eval_every == 0:
            row = {"train_loss": evaluate(model, text, args.context, args.eval_windows),
                   "heldout_loss": evaluate(model, heldout, args.context, args.eval_windows)}
        if row or step % args.log_every == 0:
            log.write(step=step, tokens=tokens, seconds=round(time.time() - clock), lr=args.lr * factor, running_loss=running, **row)
        if last or step % args.save_every == 0:
            save({"model": model.state_dict(), "optimizers": [opt.state_dict() for opt in optimizers],
                  "rng": torch.get_rng_state(), "data": data.state(), "step": step, "tokens": tokens,
                  "seconds": time.time() - clock, "running": running}, checkpoint)
    save(model.state_dict(), f"{args.out}/model.pt")


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--data", default="data", help="folder with tokenizer.json, train.bin, heldout.bin (uint16 token ids)")
    ap.add_argument("--out", default="run", help="folder for config.json, log.csv, checkpoint.pt, model.pt")
    ap.add_argument("--resume", action="store_true", help="go on from OUT/checkpoint.pt")
    ap.add_argument("--hidden", type=int, default=256, help="a multiple of 64, the size of a head")
    ap.add_argument("--ffn", type=int, default=768)
    ap.add_argument("--layers", type=int, default=4)
    ap.add_argument("--kv-heads", type=int, default=2)
    ap.add_argument("--positions", type=int, default=512, help="longest context of the model")
    ap.add_argument("--rope-theta", type=float, default=10000.0)
    ap.add_argument("--context", type=int, default=512, help="tokens of a training window")
    ap.add_argument("--batch", type=int, default=16, help="windows a step")
    ap.add_argument("--steps", type=int, default=9000)
    ap.add_argument("--decay-start", type=int, help="step where the learning rate starts to fall; default: half of the steps")
    ap.add_argument("--warmup", type=int, default=60, help="steps")
    ap.add_argument("--lr", type=float, default=4e-3, help="of the ternary matrices")
    ap.add_argument("--embed-lr", type=float, default=2e-3, help="of the embedding and the norms")
    ap.add_argument("--weight-decay", type=float, default=0.1, help="until the learning rate starts to fall")
    ap.add_argument("--dropout", type=float, default=0.1, help="of the embedding and of what each block adds")
    ap.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True, help="with torch.compile")
    ap.add_argument("--log-every", type=int, default=50)
    ap.add_argument("--eval-every", type=int, default=500)
    ap.add_argument("--eval-windows", type=int, default=100)
    ap.add_argument("--save-every", type=int, default=500)
    ap.add_argument("--threads", type=int, default=os.cpu_count())
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    if args.decay_start is None:
        args.decay_start = args.steps // 2
    train(args)


if __name__ == "__main__":
    main()
