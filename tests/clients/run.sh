#!/usr/bin/env bash
# Runs the clients of others against `sterna serve`: the Python packages of OpenAI, Anthropic and Ollama, LangChain, and
# schemathesis, which makes requests up from the OpenAPI document; and the package `gguf` on files that `sterna convert`
# writes. Needs Python 3 with venv and the network for pip.
#
# Usage: tests/clients/run.sh STERNA [FOLDER]
#   STERNA is the program, FOLDER keeps the packages [default: target/clients].
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
sterna=$(realpath "$1")
folder=${2:-$root/target/clients}
key=test-key

if [ ! -x "$folder/bin/python" ]; then
    python3 -m venv "$folder"
fi
"$folder/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/clients/requirements.txt"

"$folder/bin/python" "$root/tests/clients/files.py" "$sterna" "$folder"

# The fixtures are packed in the repository; the Rust tests have unpacked them.
embedding="$root/target/tmp/fixtures/embed_qwen3"
log=$(mktemp)
"$sterna" serve demo "$embedding" --port 0 --api-key "$key" --threads 2 --ctx 512 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; rm -f "$log"' EXIT
for _ in $(seq 100); do
    url=$(sed -n 's/.*listening on //p' "$log")
    [ -n "$url" ] && break
    sleep 0.1
done
[ -n "$url" ] || { cat "$log" >&2; exit 1; }

"$folder/bin/python" "$root/tests/clients/clients.py" "$url" embed_qwen3 "$key"

# What it remembers of earlier runs goes there too.
cd "$folder"
# No request that can be made up from the document may break the server.
"$folder/bin/schemathesis" run "$url/openapi.json" --header "Authorization: Bearer $key" --checks not_a_server_error \
    --max-examples 25 --request-timeout 60 --workers 2 --no-color --seed 1 --generation-database none

# It has to end by itself.
kill -TERM "$server"
wait "$server"
trap 'rm -f "$log"' EXIT
echo "clients: ok"
