#!/usr/bin/env bash
# Tests deploy/nginx.conf with nginx and two replicas of the binary that STERNA_BIN names, or of one that it builds. Where nginx
# is missing, the test is skipped with a note; in CI it is installed (which elsewhere would start it as a service).
set -euo pipefail
cd "$(dirname "$0")"
export PATH=$PATH:/usr/sbin

missing() {
    for program in nginx openssl node; do command -v $program >/dev/null || echo $program; done
}

if [ -n "$(missing)" ] && [ "${CI:-}" = true ]; then
    apt-get update -qq && apt-get install -qq -y --no-install-recommends nginx-light openssl nodejs >/dev/null
fi
if [ -n "$(missing)" ]; then
    echo "note: missing: $(missing | xargs) (Debian: apt-get install nginx-light openssl nodejs)" >&2
    echo "note: the test of nginx is skipped" >&2
    exit 0
fi

if [ -z "${STERNA_BIN:-}" ]; then
    cargo build --manifest-path ../../Cargo.toml
    STERNA_BIN=$(realpath "${CARGO_TARGET_DIR:-../../target}/debug/sterna")
fi
export STERNA_BIN
node --test
