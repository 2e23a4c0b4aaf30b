#!/bin/sh
# Refuses an environment that did not get PyTorch's CPU build, and takes the wrong one out again so that the
# next set-up fetches torch anew. Usage: check_torch.sh PYTHON
python=$1

"$python" -c 'import sys, torch; sys.exit(torch.version.cuda is not None)' 2>/dev/null
code=$?
[ $code -ne 1 ] && exit $code # fine, or killed: says nothing about the build
"$python" -m pip uninstall --quiet --yes torch
echo "megatron_coreward: pip did not find the CPU build of torch. Point PIP_EXTRA_INDEX_URL at PyTorch's CPU" \
    "wheels (see PyTorch's install page, choice CPU) and run make setup again." >&2
exit 1
