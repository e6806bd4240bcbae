#!/usr/bin/env bash
# `pwm submit single` with one GPU. To be called on a login node, not handed to sbatch: it renders its own script.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/slurm_single_gpu.sh ENV ALG SEED [KEY=VALUE ...] [--dry-run]

Submits one run on one GPU: it is trained, its pictures are drawn, its policies are evaluated.

  scripts/slurm_single_gpu.sh dflex_ant pwm_48M 42
  scripts/slurm_single_gpu.sh dflex_ant pwm_48M_flow 42 launch=phoenix launch.time=08:00:00
TEXT
}

case "${1:-}" in -h | --help) usage; exit 0 ;; esac
if [ $# -lt 3 ]; then usage >&2; exit 2; fi
exec pwm submit single "$@" launch.gpus=1
