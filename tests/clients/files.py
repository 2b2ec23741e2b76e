"""The Python package `gguf` reads every file that `sterna convert` writes, and finds the same weights in all of them.

Usage: files.py STERNA FOLDER
    STERNA is the program, FOLDER is where the files go.
"""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import dequantize

sterna, folder = sys.argv[1], Path(sys.argv[2])


def register(name: str, number: int, block: int, size: int) -> GGMLQuantizationType:
    """A type that the package does not know: blocks of `block` weights take `size` bytes."""
    if number in GGMLQuantizationType._value2member_map_:
        return GGMLQuantizationType(number)
    member = int.__new__(GGMLQuantizationType, number)
    member._name_, member._value_ = name, number
    GGMLQuantizationType._member_map_[name] = member
    GGMLQuantizationType._value2member_map_[number] = member
    GGML_QUANT_SIZES[member] = (block, size)
    return member


# Number 36 is bitnet.cpp's, and 42 is younger in llama.cpp than the package's release.
I2_S = register("I2_S", 36, 4, 1)
Q2_0 = register("Q2_0", 42, 64, 18)


def weights(reader: gguf.GGUFReader, tensor: gguf.ReaderTensor) -> np.ndarray:
    """The numbers of a matrix, `[rows, cols]`."""
    cols, rows = (int(size) for size in tensor.shape)
    kind, data = tensor.tensor_type, tensor.data
    if kind == I2_S:
        # 128 weights in 32 bytes, the first 32 of them in the upper bits; the scale is behind the last.
        fields = np.arange(6, -1, -2, dtype=np.uint8)[None, :, None]
        codes = (data.reshape(-1, 1, 32) >> fields & 3).reshape(rows, cols)
        end = tensor.data_offset + rows * cols // 4
        scale = np.frombuffer(reader.data[end : end + 4].tobytes(), np.float32)[0]
        return (codes.astype(np.float32) - 1) * scale
    if kind == Q2_0:
        # 64 weights: an f16 scale, and 16 bytes with the first of four in the lower bits.
        blocks = data.reshape(-1, 18)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        codes = (blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3).reshape(-1, 64)
        return ((codes.astype(np.float32) - 1) * scales).reshape(rows, cols)
    return dequantize(data, kind).reshape(rows, cols)


first = None
KINDS = {"tq2_0": "TQ2_0", "tq1_0": "TQ1_0", "i2_s": "I2_S", "q2_0": "Q2_0", "t16": "I8", "t16x5": "I8"}
for encoding, kind in KINDS.items():
    file = folder / f"demo-{encoding}.gguf"
    subprocess.run([sterna, "convert", "demo", file, "--to", encoding, "--force"], check=True)
    reader = gguf.GGUFReader(file)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    linears = [name for name in tensors if name.startswith("blk.") and "norm" not in name]
    assert linears and all(tensors[name].tensor_type.name == kind for name in linears), encoding
    assert reader.fields["general.architecture"].contents() == "bitnet-b1.58"
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 4096
    if kind == "I8":
        # Sterna's own layouts, which keys describe: bytes to others.
        names = reader.fields["sterna.tensors.names"].contents()
        types = reader.fields["sterna.tensors.types"].contents()
        shapes = np.array(reader.fields["sterna.tensors.shapes"].contents()).reshape(-1, 2)
        described = dict(zip(names, zip(types, shapes.tolist())))
        for name in linears:
            assert described[name] == (encoding.replace("t", "T"), list(first[name].shape)), (encoding, name)
    else:
        found = {name: weights(reader, tensors[name]) for name in linears}
        first = first or found
        for name in linears:
            assert np.array_equal(np.sign(found[name]), np.sign(first[name])), (encoding, name)
            # Scales of 16 bits in all but I2_S.
            assert np.allclose(found[name], first[name], rtol=1e-3, atol=0), (encoding, name)
            assert len(np.unique(np.abs(found[name]))) == 2, (encoding, name)
    print(f"{encoding}: {len(tensors)} tensors, {len(reader.fields)} keys")
    file.unlink()
