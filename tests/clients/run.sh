#!/bin/bash
# Other people's clients against the real server: schemathesis from our own OpenAPI document, and the official Python
# client. Before them the examples against the schemas that are published for editors. Needs python3 with venv, and PyPI.
#
#   tests/clients/run.sh PROGRAM [REQUESTS] [VENV]
#
# PROGRAM: the built portreeve. REQUESTS: at least so many generated ones (default 20000). VENV: where the clients stay
# installed for the next time; without it, and else, nothing is left behind.
set -euo pipefail

program=$(realpath "$1")
requests=${2:-20000}
kept=${3:+$(realpath -m "$3")}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()

clean() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM
# The Python client leaves certificates and a cache of the discovery behind.
mkdir "$work/tmp"
export TMPDIR=$work/tmp
# What is imported from here would be compiled to here.
export PYTHONDONTWRITEBYTECODE=1

venv=${kept:-$work/venv}
# What is kept is of these versions, this Python and this place, which is written in it, or an installation that did not come
# to its end.
versions=$(python3 --version && echo "$venv" && cat "$here/requirements.txt")
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$versions" ]; then
    echo "installing the clients"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install -r "$here/requirements.txt"
    printf '%s\n' "$versions" >"$venv/installed"
fi

echo "the examples against the published schemas"
"$venv/bin/python" "$here/schemas.py"

port=$("$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$program" serve --data-dir "$work/data" --store memory --docker none \
    --api-listen "127.0.0.1:$port" --proxy-listen 127.0.0.1:0 >"$work/serve.log" 2>&1 &
server=$!
pids+=("$server")
tries=0
until [ -s "$work/data/admin.kubeconfig" ] && "$venv/bin/python" - "$port" "$work/data/pki/ca.pem" 2>/dev/null <<'READY'
import ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
urllib.request.urlopen(f"https://127.0.0.1:{sys.argv[1]}/readyz", context=context, timeout=5)
READY
do
    tries=$((tries + 1))
    if [ "$tries" -gt 150 ] || ! kill -0 "$server" 2>/dev/null; then
        echo "the server did not start:" >&2
        tail -20 "$work/serve.log" >&2
        exit 1
    fi
    sleep 0.2
done

export KUBECONFIG="$work/data/admin.kubeconfig"
echo "the official Python client"
"$venv/bin/python" "$here/python_client.py"

echo "schemathesis, at least $requests requests"
# It keeps a cache where it runs.
cd "$work"
"$venv/bin/python" "$here/generated.py" \
    --document "$here/../../specs/openapi.json" --url "https://127.0.0.1:$port" --ca "$work/data/pki/ca.pem" \
    --token-file "$work/data/pki/admin.token" --requests "$requests" --schemathesis "$venv/bin/schemathesis"

if ! kill -0 "$server" 2>/dev/null || grep -q "panicked" "$work/serve.log"; then
    echo "the server did not survive:" >&2
    grep -A5 "panicked" "$work/serve.log" >&2 || tail -20 "$work/serve.log" >&2
    exit 1
fi
echo "the server is well"
