#!/usr/bin/env bash
# Runs every test. Fetches what the tests need and cannot ship (the LLaMA-3 tokenizer, by npm); where npm is missing,
# it says so and the tests that need it are skipped by name. Installs the emulated GPU that the GPU tests run on, and the
# browser that the page is tested in, where it may; else it names the packages.
set -euo pipefail
cd "$(dirname "$0")/.."

if [ -f tests/data/external/llama3/tokenizer.json ] && [ -f tests/data/external/sentencepiece/tokenizer.json ]; then
    export STERNA_REQUIRE_EXTERNAL=1
elif ! command -v npm >/dev/null; then
    echo "note: npm is not installed (Debian: apt-get install npm); the tests of the LLaMA tokenizers are skipped" >&2
elif tests/data/external/fetch.sh; then
    export STERNA_REQUIRE_EXTERNAL=1
else
    echo "note: the LLaMA tokenizers could not be fetched; their tests are skipped" >&2
fi

gpu_packages="mesa-vulkan-drivers libvulkan1 libegl1 libgl1-mesa-dri spirv-tools"
if [ "$(uname)" = Linux ] && ! command -v spirv-val >/dev/null; then
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        apt-get update -qq && apt-get install -qq -y --no-install-recommends $gpu_packages >/dev/null
    else
        echo "note: for the GPU tests without a GPU: apt-get install $gpu_packages" >&2
    fi
fi

cargo test --workspace "$@"

# The server with the clients of others, and its page in a browser.
binary=$(realpath "${CARGO_TARGET_DIR:-target}/debug/sterna")
if python3 -c 'import ensurepip, venv' 2>/dev/null; then
    tests/clients/run.sh "$binary"
else
    [ -z "${CI:-}" ] || exit 1
    echo "note: Python is not installed (Debian: apt-get install python3-venv); the clients of others are not tested" >&2
fi
STERNA_BIN=$binary tests/page/run.sh
STERNA_BIN=$binary tests/deploy/run.sh

# The kernels again, as other devices would run them: subgroups of 4 and 16 instead of 8, and OpenGL, which has none. On
# real GPUs these settings change nothing or little.
kernels="attention head::logits linear quantize search::intervals search::heavy"
for device in LP_NATIVE_VECTOR_WIDTH=128 LP_NATIVE_VECTOR_WIDTH=512 WGPU_BACKEND=gl; do
    echo "GPU kernels with $device"
    env "$device" cargo test --test gpu -- $kernels
done

# Without GPU support everything else still works.
cargo test --no-default-features --lib --test cli
