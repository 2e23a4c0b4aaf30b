"""`coreward plan`, from a checkout and for torchrun: megatron_coreward/cli/plan.py."""

import sys

from megatron_coreward.utils.failures import run_program

if __name__ == "__main__":
    sys.exit(run_program("megatron_coreward.cli.plan", sys.argv[1:]))
