#!/bin/sh
# Runs the checks from an unpacked bundle, without network and without root:
#
#     sh run.sh [--budget 300] [--only NAME ...] [--output FOLDER]
#
# PYTHON names the Python that has torch, numpy, transformers and safetensors; python3 by default.
set -eu
cd "$(dirname "$0")"
PYTHON=${PYTHON:-python3}
"$PYTHON" -m tools.gpu_check.unpack wheels site
export PYTHONPATH="$PWD/site${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" -m tools.gpu_check "$@"
