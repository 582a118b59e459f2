#!/usr/bin/env bash
# Mounts the shared disk and installs the last commit on every worker: NAME=... ZONE=... NFS=... install.sh
set -euo pipefail
# shellcheck source=experiments/common.sh
source "$(dirname "$0")/../common.sh"

need NAME "the slice's name"
need ZONE "its zone, such as us-east5-b"
need NFS "the shared disk, ADDRESS:/NAME"

packed=$(mktemp -d)
trap 'rm -r "$packed"' EXIT
run git archive --format=tar.gz --output="$packed/cfg_jax.tar.gz" HEAD
run gcloud compute tpus tpu-vm scp "$packed/cfg_jax.tar.gz" "$NAME:" --zone="$ZONE" --worker=all
on_workers all "mkdir -p cfg_jax && tar -xzf cfg_jax.tar.gz -C cfg_jax && \
NFS=$(quoted "$NFS") cfg_jax/experiments/tpu/worker.sh"
