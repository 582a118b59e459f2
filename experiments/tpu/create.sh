#!/usr/bin/env bash
# Asks for a TPU slice and waits until it is there: NAME=... ZONE=... TYPE=v6e-64 create.sh
set -euo pipefail
# shellcheck source=experiments/common.sh
source "$(dirname "$0")/../common.sh"

need NAME "what to call the slice"
need ZONE "its zone, such as us-east5-b"
need TYPE "the kind and number of chips, such as v5litepod-64 or v6e-64"
case $TYPE in
  v4-*) software=tpu-ubuntu2204-base ;;
  v5litepod-*) software=v2-alpha-tpuv5-lite ;;
  v5p-*) software=v2-alpha-tpuv5 ;;
  v6e-*) software=v2-alpha-tpuv6e ;;
  *) stop "TYPE must be v4-N, v5litepod-N, v5p-N or v6e-N; got $TYPE" ;;
esac

run gcloud compute tpus queued-resources create "$NAME" --node-id="$NAME" --zone="$ZONE" \
  --accelerator-type="$TYPE" --runtime-version="$software" ${SPOT:+--spot}

while true; do
  state=$(run gcloud compute tpus queued-resources describe "$NAME" --zone="$ZONE" \
    --format="value(state.state)")
  echo "$state"
  case $state in
    ACTIVE) break ;;
    FAILED | SUSPEND*) stop "the request for $NAME ended as $state; delete it, and ask again" ;;
  esac
  [[ ${DRY_RUN:-} != 1 ]] || break
  sleep 30
done
