"""`python -m megatron_coreward.evaluate`, as `coreward evaluate`: evaluation/program.py."""

import sys

from megatron_coreward.utils.failures import run_program

if __name__ == "__main__":
    sys.exit(run_program("megatron_coreward.evaluation.program", sys.argv[1:]))
