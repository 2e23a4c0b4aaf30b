#!/usr/bin/env bash
# Co-Reward with Qwen3-30B-A3B-Base: this node's part. Start it on each of 2 or 4 nodes of 8 GPUs, with NODES,
# NODE_RANK and RDZV_ENDPOINT as examples/launch/node.sh says.
#   bash examples/qwen3_30b_a3b/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash examples/launch/node.sh examples/qwen3_30b_a3b/config.yaml "$@"
