#!/usr/bin/env bash
# Three steps of Co-Reward on SmolLM2-135M and MATH pairs, data parallel over two CPU ranks.
#   bash examples/smollm2_135m_math/run.sh data.original=FILE data.rephrased=FILE [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

if [[ " $* " != *" model.path="* && ! -d runs/SmolLM2-135M-Instruct ]]; then
  python tools/fetch_smollm2.py --output runs/SmolLM2-135M-Instruct
fi
coreward train examples/smollm2_135m_math/config.yaml --ranks 2 "$@"
