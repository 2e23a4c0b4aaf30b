#!/usr/bin/env bash
# One rank of a training run. torchrun starts it on every GPU (node.sh), and all of them again after a crash.
#   rank.sh CONFIG [key.sub=value ...]
# Environment: RANK from torchrun; OUTPUT_DIR, the run's folder, and EXIT_CODE_FILE from node.sh.
set -euo pipefail
config=$1
shift

# state.json is written last, before a checkpoint gets its name: where it is, the checkpoint is complete.
# Without one the run starts anew; train.py refuses a folder that holds figures but no checkpoint.
resume=()
for state in "$OUTPUT_DIR"/checkpoints/step_*/state.json "$OUTPUT_DIR"/checkpoints/.step_*.replaced/state.json; do
  if [[ -f $state ]]; then resume=(run.resume=true); fi
done

# torchrun signals the process group. Python decides what that means; this shell must live until it has ended.
trap : INT TERM
code=0
python -m megatron_coreward.train --config "$config" "${resume[@]}" "$@" || code=$?

# torchrun's own exit code is 1 for every failure and every signal, hence the file.
if [[ $RANK == 0 ]]; then echo "$code" > "$EXIT_CODE_FILE"; fi
case $code in
  3 | 4) exit 0 ;; # saved and stopped, or not finite: the same on all ranks, and nothing that a restart would mend
  *) exit "$code" ;;
esac
