#!/usr/bin/env bash
#SBATCH --job-name=cfg_jax
#SBATCH --exclusive
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@300
# A stage of a recipe as a Slurm job, submitted from the repository's root, with one process a GPU:
#   RECIPE=imagenet64 WORKDIR=/shared/runs/imagenet64 sbatch --nodes=4 --gpus-per-node=8 \
#     --ntasks-per-node=8 experiments/slurm/run.sh prepare | train | sample | evaluate [FLAG...]
# or, with --ntasks-per-node=1, one a node. Five minutes before its time is up, training saves a
# checkpoint; submitted again, it goes on from there. PYTHON names an interpreter other than .venv's.
set -euo pipefail
# Slurm runs a copy of this file, from elsewhere.
# shellcheck source=experiments/common.sh
source "${SLURM_SUBMIT_DIR:-$(dirname "$0")/../..}/experiments/common.sh"

choose "$@"
step=(--cpu-bind=none --kill-on-bad-exit=1)
case $1 in
  prepare | evaluate) step+=(--nodes=1 --ntasks=1) ;;
  *)
    # JAX gives each of several processes one GPU of its node; a node's only one takes them all.
    if [[ ${SLURM_NTASKS_PER_NODE:-1} == 1 ]]; then
      need SLURM_GPUS_ON_NODE "how many GPUs a node has; sbatch --gpus-per-node sets it"
      JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((SLURM_GPUS_ON_NODE - 1)))
      export JAX_LOCAL_DEVICE_IDS
    fi
    ;;
esac
run srun "${step[@]}" "${PYTHON:-.venv/bin/python}" -m cfg_jax "${stage[@]}"
