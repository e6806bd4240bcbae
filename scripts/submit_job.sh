#!/usr/bin/env bash
# `pwm submit`: jobs of a SLURM cluster. Trains, draws the pictures and evaluates the policies of every run.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/submit_job.sh single ENV ALG SEED [KEY=VALUE ...] [--dry-run]
       scripts/submit_job.sh multi ENVS ALGS STRATEGY [KEY=VALUE ...] [--seeds 1,2,3] [--dry-run]

  STRATEGY  multi_seed | multi_task | baseline_vs_flow

  scripts/submit_job.sh single dflex_ant pwm_48M 42
  scripts/submit_job.sh multi dflex_ant pwm_48M_flow multi_seed
  scripts/submit_job.sh multi "dflex_ant,dflex_hopper,dflex_humanoid,dflex_anymal" pwm_48M_flow multi_task
  scripts/submit_job.sh multi dflex_ant pwm_48M,pwm_48M_flow baseline_vs_flow launch=phoenix
TEXT
}

case "${1:-}" in
  -h | --help) usage; exit 0 ;;
  single | multi) ;;
  *) usage >&2; exit 2 ;;
esac
if [ $# -lt 4 ]; then usage >&2; exit 2; fi
exec pwm submit "$@"
