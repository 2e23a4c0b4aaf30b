#!/usr/bin/env bash
# Co-Reward with Qwen2.5-7B on all GPUs of this node. Several nodes: examples/launch/node.sh.
#   bash examples/qwen2.5_7b/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash examples/launch/node.sh examples/qwen2.5_7b/config.yaml "$@"
