#!/usr/bin/env bash
# Co-Reward with Qwen3-4B-Base on all GPUs of this node. Several nodes: examples/launch/node.sh.
#   bash examples/qwen3_4b_base/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash examples/launch/node.sh examples/qwen3_4b_base/config.yaml "$@"
