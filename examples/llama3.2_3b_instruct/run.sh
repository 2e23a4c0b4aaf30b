#!/usr/bin/env bash
# Co-Reward with Llama-3.2-3B-Instruct on all GPUs of this node. Several nodes: examples/launch/node.sh.
#   bash examples/llama3.2_3b_instruct/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash examples/launch/node.sh examples/llama3.2_3b_instruct/config.yaml "$@"
