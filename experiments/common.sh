# shellcheck shell=bash
# What the scripts for TPU pods and Slurm share: settings that must be there, dry runs, the commands.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Where a worker of a pod has the shared disk.
# shellcheck disable=SC2034
SHARE=/mnt/cfg_jax

stop() {
  echo "${0##*/}: $*" >&2
  exit 2
}

# need NAME MEANING: stops unless the variable is set.
need() {
  [[ -n ${!1:-} ]] || stop "set $1: $2"
}

# Writes its arguments in one line, as a shell would read them.
quoted() {
  local separator="" argument
  for argument; do
    if [[ $argument == *[!A-Za-z0-9_./:=,@%+~-]* && $argument != *\'* ]]; then
      printf "%s'%s'" "$separator" "$argument"
    else
      printf "%s%q" "$separator" "$argument"
    fi
    separator=" "
  done
}

# Runs a command; under DRY_RUN=1 prints it instead.
run() {
  if [[ ${DRY_RUN:-} == 1 ]]; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}

# on_workers WHICH COMMAND: in a shell on worker number WHICH of the pod, or on all.
on_workers() {
  run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker="$1" --command="$2"
}

# choose STAGE [FLAG...]: sets `stage` to what `python -m cfg_jax` is given for a stage of RECIPE.
choose() {
  need RECIPE "the name of a file in configs/, such as imagenet64 or imagenet128"
  need WORKDIR "where the run is kept: a directory that all processes share"
  local file=configs/$RECIPE.py
  [[ -f $file ]] || stop "there is no $file"
  [[ $WORKDIR != *://* ]] || stop "WORKDIR must be a directory, not the address $WORKDIR"
  case ${1:-} in
    prepare) stage=(prepare --config "$file") ;;
    train) stage=(train --config "$file" --workdir "$WORKDIR" --distributed) ;;
    sample)
      stage=(sample --workdir "$WORKDIR" --distributed --per-label=50 ${W:+"--w=$W"})
      stage+=("--out=$WORKDIR/samples${W:+_w$W}.npz")
      ;;
    evaluate) stage=(evaluate --workdir "$WORKDIR" --samples=50000 ${W:+"--w=$W"}) ;;
    *) stop "give a stage: prepare, train, sample or evaluate" ;;
  esac
  stage+=("${@:2}")
}
