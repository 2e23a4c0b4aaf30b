"""`python -m megatron_coreward.show`, as `coreward show`: run/show.py."""

import sys

from megatron_coreward.utils.failures import run_program

if __name__ == "__main__":
    sys.exit(run_program("megatron_coreward.run.show", sys.argv[1:]))
