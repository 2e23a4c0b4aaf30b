#!/usr/bin/env bash
# Test-time training on the AMC questions, data parallel over two CPU ranks.
#   bash examples/ttt_amc/run.sh data.original=FILE data.rephrased=FILE evaluation.file=FILE [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

if [[ " $* " != *" model.path="* && ! -d runs/SmolLM2-135M-Instruct ]]; then
  python tools/fetch_smollm2.py --output runs/SmolLM2-135M-Instruct
fi
coreward train examples/ttt_amc/config.yaml --ranks 2 "$@"
