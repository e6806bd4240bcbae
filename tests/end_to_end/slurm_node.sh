#!/usr/bin/env bash
# SLURM with this machine as its only node, for tests/end_to_end/test_slurm.py. Needs root; Debian's packages
# slurm-wlm and munge (`make slurm` installs them).
#   slurm_node.sh start | stop
set -euo pipefail
state=${TMPDIR:-/tmp}/pwm-slurm
node=$(hostname -s)
# Without the option it says what OMP_NUM_THREADS does.
cores=$(nproc --all)

configure() {
  mkdir -p "$state/controller" "$state/node" /etc/slurm
  cat > /etc/slurm/slurm.conf <<CONF
ClusterName=test
SlurmctldHost=$node
SlurmUser=root
StateSaveLocation=$state/controller
SlurmctldPidFile=$state/controller.pid
SlurmctldLogFile=$state/controller.log
SlurmdSpoolDir=$state/node
SlurmdPidFile=$state/node.pid
SlurmdLogFile=$state/node.log
# A requeued job waits for its old credential to end, 120 seconds by default.
AuthInfo=cred_expire=10
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2
KillWait=20
ReturnToService=2
NodeName=$node CPUs=$cores RealMemory=2048 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
PartitionName=short Nodes=$node MaxTime=00:02:00 State=UP
CONF
}

start() {
  if scontrol ping 2>/dev/null | grep -q UP; then return; fi
  configure
  install -d -o munge -g munge /run/munge
  munge -n >/dev/null 2>&1 || runuser -u munge -- /usr/sbin/munged
  slurmctld
  slurmd
  for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then return; fi
    scontrol update "NodeName=$node" State=RESUME >/dev/null 2>&1 || true
    sleep 1
  done
  echo "the node did not become idle; see $state/*.log" >&2
  exit 1
}

stop() {
  for pid in "$state"/{node,controller}.pid; do
    if [ -f "$pid" ]; then kill "$(cat "$pid")" 2>/dev/null || true; fi
  done
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  *) sed -n '2,4s/^# *//p' "$0" >&2; exit 2 ;;
esac
