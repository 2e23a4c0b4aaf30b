#!/usr/bin/env bash
# Co-Reward with Llama-3.3-70B-Instruct: this node's part. Start it on each of 8 or 16 nodes of 8 GPUs, with NODES,
# NODE_RANK and RDZV_ENDPOINT as examples/launch/node.sh says.
#   bash examples/llama3.3_70b_instruct/run.sh [key.sub=value ...]
set -euo pipefail
cd "$(dirname "$0")/../.."
exec bash examples/launch/node.sh examples/llama3.3_70b_instruct/config.yaml "$@"
