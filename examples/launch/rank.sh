#!/usr/bin/env bash
# One rank of a training run. torchrun starts it on every GPU (node.sh), and all of them again after a crash.
#   rank.sh CONFIG [key.sub=value ...]
# Environment: RANK from torchrun, EXIT_CODE_FILE from node.sh.
set -euo pipefail
config=$1
shift

# torchrun signals the process group. Python decides what that means; this shell must live until it has ended.
trap : INT TERM
code=0
# auto_resume: the first start, one after a crash and one of a requeued job are the same command.
python -m megatron_coreward.train --config "$config" run.auto_resume=true "$@" || code=$?

# torchrun's own exit code is 1 for every failure and every signal, hence the file.
if [[ $RANK == 0 ]]; then echo "$code" > "$EXIT_CODE_FILE"; fi
case $code in
  3 | 4) exit 0 ;; # saved and stopped, or not finite: the same on all ranks, and nothing that a restart would mend
  *) exit "$code" ;;
esac
