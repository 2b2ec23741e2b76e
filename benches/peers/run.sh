#!/usr/bin/env bash
# Compares Sterna with llama.cpp on this machine; see README.md. Arguments take the place of the tests' defaults.
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
peer="$work/venv/bin/python benches/peers/llama_cpp_bench.py"
[ $# -gt 0 ] || set -- -p 128 -n 64 -t 1,2 -r 3
target/release/sterna bench "$work/2b-i2-s.gguf" \
    --peer "$peer --model $work/2b-tq2-0.gguf --layout tq2_0" \
    --peer "$peer --model $work/2b-tq1-0.gguf --layout tq1_0" "$@"
