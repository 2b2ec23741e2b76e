#!/usr/bin/env bash
# Fuzzes each target for a minute, or for as many seconds as the argument says: two targets at a time, from small correct
# files, and always with the same random numbers, so that what stops a change in CI is the change. Installs cargo-fuzz under
# target/ if it is not there; where that cannot be, says so and succeeds without fuzzing anything. Needs no nightly compiler:
# the one in use is told to take the options of one.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TERM_COLOR=never
export PATH=$PATH:$PWD/target/tools/bin
seconds=${1:-60}

if ! cargo fuzz --version >/dev/null 2>&1 &&
    ! cargo install --quiet --locked --root target/tools --target-dir target/tools/build cargo-fuzz; then
    printf '\n!!!! FUZZING SKIPPED: cannot install cargo-fuzz.\n!!!! Of the fuzz targets, only the property tests were run.\n'
    exit 0
fi
cargo build --release --quiet
# Not before: build scripts look at it, and what is built already would be built again.
export RUSTC_BOOTSTRAP=1
cargo fuzz build

work=$PWD/target/fuzz
mkdir -p "$work/seeds" fuzz/corpus/{gguf,vocabulary,safetensors,tokenizer,rows}
for architecture in bitnet-b1.58 llama; do
    cat >"$work/shape.json" <<JSON
{"architecture": "$architecture", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
 "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 300, "tie_word_embeddings": true}
JSON
    for encoding in t16 t16x5 i2_s; do
        seed=$work/seeds/$architecture-$encoding.gguf
        "${CARGO_TARGET_DIR:-target}/release/sterna" synth --shape "$work/shape.json" --encoding "$encoding" --force "$seed"
    done
done
cp "$work"/seeds/*.gguf fuzz/corpus/gguf/
cp "$work"/seeds/*.gguf fuzz/corpus/vocabulary/
cp tests/data/dense_vectors.safetensors tests/data/fixtures/codec_vectors.safetensors fuzz/corpus/safetensors/
for family in tests/data/fixtures/*/tokenizer.json; do
    cp "$family" "fuzz/corpus/tokenizer/$(basename "$(dirname "$family")").json"
done

# fuzz TARGET: prints the end of what was done; all of it, and fails, if an input was found that stops the target.
fuzz() {
    local log=$work/$1.log
    if ! cargo fuzz run "$1" -- -seed=1 -max_total_time="$seconds" -malloc_limit_mb=256 >"$log" 2>&1; then
        cat "$log"
        echo "found an input that stops $1: see fuzz/artifacts" >&2
        return 255
    fi
    echo "$1: $(grep -E '^Done [0-9]+ runs' "$log"), $(grep -E 'cov: ' "$log" | tail -1)"
}
export work seconds
export -f fuzz
cargo fuzz list | xargs -P 2 -I TARGET bash -c 'fuzz TARGET'
