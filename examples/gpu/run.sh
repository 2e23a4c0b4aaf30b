#!/usr/bin/env bash
# One node's part of a training run: torchrun with one rank per GPU.
#   bash examples/gpu/run.sh CONFIG [key.sub=value ...]     from the project's root; the paths are relative to it
# Environment; the defaults are those of a single node:
#   NODES=1                number of nodes; start this script on each of them
#   NODE_RANK=0            which one this is
#   RDZV_ENDPOINT          HOST:PORT of node 0, a free port there; needed with several nodes
#   RDZV_ID=run            the same on all nodes, another one for every run
#   GPUS_PER_NODE=gpu      ranks on this node; gpu is all GPUs it has
#   MAX_RESTARTS=1         how often all ranks are started again after a crash, from the last checkpoint
#   SHUTDOWN_TIMEOUT=1080  seconds that a step, its evaluation and a checkpoint may take after SIGTERM or Ctrl-C
#   LOG_DIR                node_N/ with stdout and stderr of every rank, exit code and reason; default runs/logs/NAME
#   REASON_SAID_BY         what has started this script and says why the run ended; otherwise the last line here does
# Exit code: that of megatron_coreward.train (0 done, 2 wrong input, 3 saved and stopped, 4 not finite, 5 stalled).
set -euo pipefail
config=${1:?CONFIG is missing}
export NODES=${NODES:-1}
export NODE_RANK=${NODE_RANK:-${SLURM_NODEID:-0}}
GPUS_PER_NODE=${GPUS_PER_NODE:-gpu}
name=$(basename "${config%/config.yaml}" .yaml) # NAME.yaml or NAME/config.yaml
export LOG_DIR=${LOG_DIR:-runs/logs/$name}

logs=$LOG_DIR/node_$NODE_RANK
mkdir -p "$logs"
rm -f "$logs/exit_code" "$logs/reason"

if [[ $NODES == 1 ]]; then
  rendezvous=(--standalone)
else
  : "${RDZV_ENDPOINT:?HOST:PORT of node 0 is needed with several nodes}"
  # Said rather than guessed: torchrun compares host names, which fails where a node has several.
  is_host=false
  if [[ $NODE_RANK == 0 ]]; then is_host=true; fi
  rendezvous=(--nnodes "$NODES" --rdzv-backend c10d --rdzv-endpoint "$RDZV_ENDPOINT" --rdzv-id "${RDZV_ID:-run}"
    --rdzv-conf "is_host=$is_host")
fi
# Every rank writes into files; the first one of a node to the console as well. Of every node, since torchrun gives
# ranks in alphabetical order of host names: rank 0 may be on any.
torchrun "${rendezvous[@]}" --nproc-per-node "$GPUS_PER_NODE" --max-restarts "${MAX_RESTARTS:-1}" \
  --shutdown-timeout "${SHUTDOWN_TIMEOUT:-1080}" --log-dir "$logs" --redirects 3 --tee 0:3 \
  --no-python bash examples/gpu/rank.sh "$@" &
torchrun=$!
# torchrun must get one signal only: a second one makes it leave its ranks behind. Ctrl-C reaches it by itself.
trap : INT
trap 'trap : TERM; kill -TERM "$torchrun"' TERM
echo "$$" > "$logs/pid"
while kill -0 "$torchrun" 2> /dev/null; do wait "$torchrun" || true; done
code=0
wait "$torchrun" || code=$?
# torchrun makes the folder of an attempt as it starts the ranks.
attempt=$(find "$logs" -type d -name "attempt_*" -newer "$logs/pid" | sort -V | tail -n 1)
if ((code)) && [[ $NODES != 1 && -z $attempt ]]; then
  echo "run.sh: node $NODE_RANK ended without having started a rank. Unless it was stopped, it did not meet the" \
    "others: this script has to run on all $NODES nodes, and $RDZV_ENDPOINT must lead to node 0 from each" >&2
fi
if [[ -s $logs/exit_code ]]; then code=$(< "$logs/exit_code"); fi
# The rank that was first says why, and decides on the exit code: torchrun has ended the others.
if ((code)) && [[ -n $attempt ]]; then
  python -m megatron_coreward.launch.first_reason "$attempt" > "$logs/reason" || true
  if read -r _ first_code sentence < "$logs/reason"; then
    code=$first_code
    if [[ -z ${REASON_SAID_BY:-} ]]; then echo "error: $sentence" >&2; fi
  fi
fi
exit "$code"
