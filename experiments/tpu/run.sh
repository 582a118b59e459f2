#!/usr/bin/env bash
# Starts a stage of a recipe on a slice, in the background; its output goes to the shared disk:
#   NAME=... ZONE=... RECIPE=imagenet64 run.sh prepare | train | sample | evaluate [FLAG...]
set -euo pipefail
# shellcheck source=experiments/common.sh
source "$(dirname "$0")/../common.sh"

need NAME "the slice's name"
need ZONE "its zone, such as us-east5-b"
WORKDIR=${WORKDIR:-$SHARE/runs/${RECIPE:-}}
choose "$@"
case $1 in
  prepare) workers=0 platforms=cpu ;;
  evaluate) workers=0 platforms=tpu,cpu ;;
  *) workers=all platforms=tpu,cpu ;;
esac
log="$SHARE/logs/$RECIPE.$1.\$(hostname).log"
on_workers "$workers" "cd cfg_jax && JAX_PLATFORMS=$platforms TFDS_DATA_DIR=$SHARE/data \
nohup .venv/bin/python -m cfg_jax $(quoted "${stage[@]}") >> $log 2>&1 < /dev/null &"
