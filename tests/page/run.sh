#!/usr/bin/env bash
# Tests the server's web page in a real browser. Takes the binary that STERNA_BIN names, or builds one. Installs Chromium,
# Node.js and npm packages where it may; else it names what is missing and skips the tests, which is an error in CI.
# With --screenshots it also takes the pictures in docs/ anew.
set -euo pipefail
cd "$(dirname "$0")"
../../src/server/page/vendor/update.sh --check >/dev/null

skip() {
    if [ "${CI:-}" = true ]; then
        echo "error: $1" >&2
        exit 1
    fi
    echo "note: $1; the tests of the web page are skipped" >&2
    exit 0
}

find_browser() {
    export CHROMIUM=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
}

find_browser
if { [ -z "$CHROMIUM" ] || ! command -v npm >/dev/null; } && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium nodejs npm >/dev/null || true
    find_browser
fi
[ -n "$CHROMIUM" ] || skip "there is no Chromium (Debian: apt-get install chromium; CHROMIUM names one elsewhere)"
command -v npm >/dev/null || skip "there is no npm (Debian: apt-get install npm)"
[ "$(node --print 'Number(process.versions.node.split(".")[0])')" -ge 20 ] || skip "Node.js is older than version 20"
npm ci --silent || skip "the npm packages of tests/page could not be installed"

if [ -z "${STERNA_BIN:-}" ]; then
    cargo build --manifest-path ../../Cargo.toml
    STERNA_BIN=$(realpath "${CARGO_TARGET_DIR:-../../target}/debug/sterna")
fi
export STERNA_BIN

# One file after the other: browser and server share the processors.
node --test --test-concurrency=1
if [ "${1:-}" = --screenshots ]; then
    node screenshots.mjs
fi
