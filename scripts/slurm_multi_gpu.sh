#!/usr/bin/env bash
# `pwm submit multi` with several GPUs in a job, a run on each. To be called on a login node, not handed to sbatch.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/slurm_multi_gpu.sh GPUS ENVS ALGS STRATEGY [KEY=VALUE ...] [--seeds 1,2,3] [--dry-run]

  GPUS      GPUs of one job; it trains as many runs at the same time
  STRATEGY  multi_seed | multi_task | baseline_vs_flow

  scripts/slurm_multi_gpu.sh 2 dflex_ant pwm_48M,pwm_48M_flow baseline_vs_flow
TEXT
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  "" | *[!0-9]*) usage >&2; exit 2 ;;
esac
if [ $# -lt 4 ]; then usage >&2; exit 2; fi
gpus=$1
shift
exec pwm submit multi "$@" "launch.gpus=$gpus" "launch.runs_per_job=$gpus"
