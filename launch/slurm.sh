#!/usr/bin/env bash
# Trains on a Slurm cluster, on one node or many. Submit it from the repository's root, on a file system that all nodes
# see, with --workdir on one too; every flag is passed to the training:
#
#   python3 -m venv .venv && .venv/bin/pip install -r requirements.txt -e '.[gpu]'      # once; on CPUs without [gpu]
#   sbatch --nodes=2 --gpus-per-node=4 --ntasks-per-node=4 launch/slurm.sh --config=configs/c150.py --workdir=runs/c150
#   sbatch --nodes=4 --cpus-per-task=16 launch/slurm.sh --config=configs/c150.py --workdir=runs/c150      # CPUs
#
# One task per GPU: from Slurm's variables JAX gives each task the GPU of its number on the node. On CPUs one task per
# node. PYTHON names another Python, RESTARTS how often a job is queued again; DRY_RUN=1 only prints.
#
# Two minutes before the time limit (Slurm may be a minute early) and at a preemption all tasks get SIGTERM, save and
# exit with 75. The signal goes to the tasks and not to this shell (no B:), which then queues the job again; `scancel`
# ends this shell too, so that nothing queues it. When a node is lost, the other tasks exit within 30 s with 75, and the
# job is queued again by this shell, or by Slurm (--requeue) if this shell was on that node.
#SBATCH --job-name=lovecraft
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")/..}" # Slurm runs a copy of this file, elsewhere

gpus=${SLURM_GPUS_ON_NODE:-0} tasks_per_node=${SLURM_NTASKS_PER_NODE:-1}
if [ "$gpus" -gt 0 ] && [ "$gpus" != "$tasks_per_node" ]; then
  echo "$tasks_per_node tasks and $gpus GPUs on a node: submit with --ntasks-per-node=$gpus" >&2
  exit 2
fi
tasks=$((${SLURM_JOB_NUM_NODES:-1} * tasks_per_node))

# srun returns the highest code of all tasks, where a killed task's 137 would hide a 2: each task writes its own code to
# a file. The trap keeps the task's shell alive to do so; the training gets the signal itself.
export CODES=$PWD/slurm-${SLURM_JOB_ID:-0}.codes
# shellcheck disable=SC2016  # the task's shell fills these in
task='trap : TERM; code=0; "$@" || code=$?; echo "$code" >"$CODES/$SLURM_PROCID"; exit "$code"'

# --kill-on-bad-exit would kill tasks that still save when the first one exits: they get --wait seconds instead.
command=(srun --ntasks="$tasks" --kill-on-bad-exit=0 --wait=60 --gpu-bind=none
  ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} # newer versions of srun do not take it from sbatch
  bash -c "$task" task "${PYTHON:-.venv/bin/python}" -m lovecraft_jax.train --distributed --start_timeout=300
  ${SLURM_RESTART_COUNT:+--take_over} "$@") # queued again: the lock that a killed start left is this job's own
if [ -n "${DRY_RUN:-}" ]; then
  printf '%q ' "${command[@]}" && echo
  exit
fi

rm -rf "$CODES" && mkdir "$CODES"
status=0
"${command[@]}" || status=$?
ended=$(find "$CODES" -type f | wc -l)
codes=$(find "$CODES" -type f -exec cat {} + | sort -nu | tr '\n' ' ')
rm -rf "$CODES"

echo "launch/slurm.sh: $ended of $tasks tasks exited by themselves, with ${codes:-no code }(srun: $status)" >&2
for code in $codes; do # after an error no new start helps; after 75, 134 and kills one does
  [ "$code" = 0 ] || [ "$code" = 75 ] || [ "$code" -gt 128 ] || exit "$code"
done
if [ "$ended" = 0 ] || { [ "$ended" = "$tasks" ] && [ "$codes" = "0 " ]; }; then # srun could not start, or all are done
  exit "$status"
fi
if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RESTARTS:-50}" ]; then
  echo "launch/slurm.sh: started $((SLURM_RESTART_COUNT + 1)) times: not queued again" >&2
  exit 75
fi
exec scontrol requeue "$SLURM_JOB_ID"
