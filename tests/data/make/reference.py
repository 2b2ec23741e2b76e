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
