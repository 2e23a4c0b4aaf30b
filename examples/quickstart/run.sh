#!/usr/bin/env bash
# The whole pipeline on two CPU ranks: start model, Co-Reward, before and after. Run by `make quickstart`.
set -euo pipefail
cd "$(dirname "$0")/../.."

run=runs/quickstart
ranks=(torchrun --standalone --shutdown-timeout 600 --nproc-per-node 2)

if [ ! -d runs/toy_model ]; then
  echo "== 1/3 supervised training of the start model"
  "${ranks[@]}" tools/make_toy_model.py --output runs/toy_model
fi
echo "== 2/3 Co-Reward, without labels"
rm -rf "$run"
"${ranks[@]}" -m megatron_coreward.train --config examples/quickstart/config.yaml "$@"
echo "== 3/3 before and after"
coreward summarize "$run"
