#!/usr/bin/env bash
# Test-time training on the AMC questions, data parallel over two CPU ranks.
#   bash examples/ttt_amc/run.sh data.original=FILE data.rephrased=FILE evaluation.file=FILE [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."

if [ ! -d runs/SmolLM2-135M-Instruct ]; then
  python tools/fetch_smollm2.py --output runs/SmolLM2-135M-Instruct
fi
torchrun --standalone --shutdown-timeout 600 --nproc-per-node 2 -m megatron_coreward.train \
  --config examples/ttt_amc/config.yaml "$@"
