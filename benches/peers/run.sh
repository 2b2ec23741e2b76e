#!/usr/bin/env bash
# Compares Sterna with llama.cpp on this machine; see README.md. Arguments are passed on to compare.py.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=target/peers
mkdir -p "$work"

cargo build --release
if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
fi
if ! "$work/venv/bin/python" -c "import llama_cpp" 2>/dev/null; then
    CMAKE_ARGS="-DGGML_NATIVE=ON" "$work/venv/bin/pip" install --no-binary llama-cpp-python llama-cpp-python
fi
for encoding in tq1-0 tq2-0 i2-s; do
    file="$work/2b-$encoding.gguf"
    [ -f "$file" ] || target/release/sterna synth --shape 2b-4t --architecture bitnet --encoding "$encoding" "$file"
done
"$work/venv/bin/python" benches/peers/compare.py --work "$work" "$@"
