#!/usr/bin/env bash
# Trains on the 40 questions, compares before and after, writes the report. Settings go behind it:
#   bash examples/own_data/run.sh run.steps=10
set -euo pipefail
cd "$(dirname "$0")/../.."
if [ -d .venv/bin ]; then PATH=$PWD/.venv/bin:$PATH; fi

coreward train examples/own_data/config.yaml "$@"
coreward summarize runs/own_data
coreward report runs/own_data --output runs/own_data/report.html
