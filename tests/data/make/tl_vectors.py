"""Writes tl_vectors.safetensors: ternary matrices, packed as TL1 and TL2 by bitnet.cpp's own converter.

    pip install numpy safetensors
    python tl_vectors.py BitNet/utils/convert-hf-to-gguf-bitnet.py ../tl_vectors.safetensors

The first argument is a file of microsoft/BitNet. Only its packing functions are run, so that what the rest of it imports need
not be installed.
"""

import ast
import os
import sys
import tempfile
from pathlib import Path
from typing import Tuple

import numpy as np
from safetensors.numpy import save_file

PACKERS = [
    "process_tl1",
    "preprocess_weights_tl1",
    "preprocess_two_weights_tl2",
    "preprocess_three_weights_tl2",
    "preprocess_weights_tl2",
]

# Name, packer, and m, k, bm, bk, bmm. Several blocks and groups each way, and for TL2 columns that are left for pairs.
CASES = [
    ("tl1_32", "preprocess_weights_tl1", (128, 128, 64, 64, 32)),
    ("tl1_64", "preprocess_weights_tl1", (128, 128, 128, 64, 64)),
    ("tl2_even", "preprocess_weights_tl2", (64, 384, 32, 192, 32)),
    ("tl2_rest", "preprocess_weights_tl2", (128, 352, 64, 96, 32)),
]


def packers(path):
    """The packing functions of the converter."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in PACKERS]
    names = {"np": np, "Tuple": Tuple}
    exec(compile(tree, path, "exec"), names)
    return names


def main(converter, out):
    functions = packers(converter)
    out = Path(out).absolute()
    random = np.random.default_rng(7)
    tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        # The packers read this path.
        os.chdir(folder)
        os.mkdir("include")
        for name, packer, (m, k, bm, bk, bmm) in CASES:
            Path("include/kernel_config.ini").write_text(
                f"[Kernels_0]\nm = {m}\nk = {k}\nbm = {bm}\nbk = {bk}\nbmm = {bmm}\n", encoding="utf-8"
            )
            ternary = random.integers(-1, 2, (m, k)).astype(np.int8)
            codes = functions[packer](ternary.astype(np.float32) * 0.75)
            tensors[f"{name}.ternary"] = ternary
            tensors[f"{name}.codes"] = np.ascontiguousarray(codes).reshape(-1)
            tensors[f"{name}.cut"] = np.array([bm, bk, bmm], dtype=np.int32)
        os.chdir("/")
    save_file(tensors, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
