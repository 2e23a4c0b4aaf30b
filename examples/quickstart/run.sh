#!/usr/bin/env bash
# The whole pipeline on two CPU ranks: start model, Co-Reward, before and after. Run by `make quickstart`.
#   bash examples/quickstart/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

run=runs/quickstart
for argument in "$@"; do
  case $argument in run.output_dir=*) run=${argument#*=} ;; esac
done

if [ ! -d runs/toy_model ]; then
  echo "== 1/3 supervised training of the start model"
  torchrun --standalone --nproc-per-node 2 tools/make_toy_model.py --output runs/toy_model
fi
echo "== 2/3 Co-Reward, without labels"
coreward train examples/quickstart/config.yaml --ranks 2 "$@"
echo "== 3/3 before and after"
coreward summarize "$run"
