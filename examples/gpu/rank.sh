#!/usr/bin/env bash
# One rank of a training run. torchrun starts it on every GPU (run.sh), and all of them again after a crash.
#   rank.sh CONFIG [key.sub=value ...]
# Environment: LOCAL_RANK from torchrun; LOG_DIR, NODES and NODE_RANK from run.sh.
set -euo pipefail
config=$1
shift

# A rank leaves its reason in torchrun's folder of logs, and run.sh or run.sbatch says it once, last.
export COREWARD_STARTER=run.sh
# torchrun signals the process group. Python decides what that means; this shell must live until it has ended.
trap : INT TERM
code=0
# auto_resume: the first start, one after a crash and one of a requeued job are the same command.
python -m megatron_coreward.train --config "$config" run.auto_resume=true "$@" || code=$?

# torchrun's own exit code is 1 for every failure and every signal, hence the file.
if [[ $LOCAL_RANK == 0 ]]; then echo "$code" > "$LOG_DIR/node_$NODE_RANK/exit_code"; fi
# Node 0's torchrun got the signal to stop. It hosts the rendezvous, and when that is lost, the others kill their ranks.
# They have saved, but rank 0, which may be one of them, still has to close its logs: wait here, not for ever.
if [[ $code == 3 && $NODE_RANK == 0 && $LOCAL_RANK == 0 ]]; then
  for ((second = 0, node = 1; second < 120 && node < NODES; second++)); do
    while ((node < NODES)) && [[ -s $LOG_DIR/node_$node/exit_code ]]; do node=$((node + 1)); done
    sleep 1
  done
fi
case $code in
  3 | 4) exit 0 ;; # saved and stopped, or not finite: the same on all ranks, and nothing that a restart would mend
  *) exit "$code" ;;
esac
