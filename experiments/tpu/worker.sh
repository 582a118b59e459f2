#!/usr/bin/env bash
# Readies the worker of a slice that it runs on; install.sh calls it: NFS=... worker.sh
set -euo pipefail
# shellcheck source=experiments/common.sh
source "$(dirname "$0")/../common.sh"

need NFS "the shared disk, ADDRESS:/NAME"

if ! mountpoint --quiet "$SHARE"; then
  run sudo apt-get -o DPkg::Lock::Timeout=600 update
  run sudo apt-get -o DPkg::Lock::Timeout=600 install --yes nfs-common
  run sudo mkdir -p "$SHARE"
  run sudo mount -t nfs -o hard "$NFS" "$SHARE"
fi
run sudo chmod a+rwx "$SHARE"
run mkdir -p "$SHARE/data" "$SHARE/logs" "$SHARE/runs"

# The system's Python is older than 3.11.
run sh -c "curl -LsSf https://astral.sh/uv/install.sh | sh"
run ~/.local/bin/uv venv --allow-existing --python 3.12 .venv
run ~/.local/bin/uv pip install --constraint constraints.txt --editable ".[tpu,prepare]"
