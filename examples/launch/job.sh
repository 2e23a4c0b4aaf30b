#!/usr/bin/env bash
# A training run under SLURM, for as many jobs' time as it takes. The body of train.sbatch:
#   job.sh CONFIG [key.sub=value ...]
# SIGUSR1, which SLURM sends ahead of the time limit (--signal=B:USR1@SECONDS), makes the run end its step, save
# a checkpoint and stop; then the job is requeued and goes on from there, as the same W&B run. SIGTERM does the
# same without the requeue: scancel --batch --signal=TERM JOB.
# Environment: CONTAINER or VENV (slurm.sh); MAX_RESTARTS, SHUTDOWN_TIMEOUT (node.sh).
# Exit code: that of megatron_coreward.train.
set -euo pipefail
# shellcheck source=examples/launch/slurm.sh
source examples/launch/slurm.sh

export NODES=$SLURM_NNODES
export RDZV_ID=$SLURM_JOB_ID
# This script runs on the first node. The port differs from job to job, since jobs may share a node.
RDZV_ENDPOINT=$(hostname):$((20000 + SLURM_JOB_ID % 20000))
export RDZV_ENDPOINT
export GPUS_PER_NODE=${GPUS_PER_NODE:-${SLURM_GPUS_ON_NODE:-gpu}}
export LOG_DIR=runs/logs/$SLURM_JOB_NAME-$SLURM_JOB_ID
export TORCH_FR_DUMP_TEMP_FILE=$PWD/$LOG_DIR/nccl_trace_rank_ # and the rank's number
export REASON_SAID_BY=job.sh
rm -f "$LOG_DIR/node_0/"{exit_code,pid} "$LOG_DIR"/node_*/reason # of the same job before it was requeued

"${launch[@]}" bash examples/launch/node.sh "$@" &
step=$!

# Signals go to node 0 alone: all ranks agree after each step whether one of them was asked to stop. And not
# through SLURM: scancel signals every process of a step, those that grade answers or write a checkpoint included,
# and srun makes a SIGKILL of a SIGTERM.
asked=""
# shellcheck disable=SC2317,SC2329  # called by the traps
ask_to_stop() {
  if [[ -n $asked ]]; then return 0; fi # a bare return would hand on the status of what the trap interrupted
  asked=$1
  echo "job.sh: $1 received, asking the run to save and stop"
  if [[ -s $LOG_DIR/node_0/pid ]]; then kill -TERM "$(< "$LOG_DIR/node_0/pid")"; else kill -TERM "$step"; fi
}
trap 'ask_to_stop USR1' USR1
trap 'ask_to_stop TERM' TERM
while kill -0 "$step" 2> /dev/null; do wait "$step" || true; done
code=0
wait "$step" || code=$?
if [[ -s $LOG_DIR/node_0/exit_code ]]; then code=$(< "$LOG_DIR/node_0/exit_code"); fi
sentence=""
if ((code)) && read -r _ first_code sentence < <(cat "$LOG_DIR"/node_*/reason 2> /dev/null | sort -n); then
  code=$first_code
fi

case $code in
  0) echo "job.sh: done" ;;
  2) echo "job.sh: wrong input, nothing was started" ;;
  3)
    if [[ $asked == USR1 ]]; then
      echo "job.sh: saved and stopped; requeueing job $SLURM_JOB_ID"
      scontrol requeue "$SLURM_JOB_ID"
      exit 0
    fi
    echo "job.sh: saved and stopped; submit the job again to go on"
    ;;
  4) echo "job.sh: a loss or gradient was not finite" ;;
  5) echo "job.sh: a rank stalled; the ranks' messages are in $LOG_DIR" ;;
  *)
    echo "job.sh: the run failed (exit code $code); the ranks' messages are in $LOG_DIR"
    if [[ -n $asked ]]; then
      echo "job.sh: no checkpoint after $asked: SHUTDOWN_TIMEOUT and --signal must be longer than a step"
    fi
    ;;
esac
if [[ -n $sentence ]]; then echo "error: $sentence"; fi
exit "$code"
