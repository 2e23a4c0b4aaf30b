"""`coreward convert`, from a checkout and for torchrun: megatron_coreward/cli/convert.py."""

import sys

from megatron_coreward.utils.failures import run_program

if __name__ == "__main__":
    sys.exit(run_program("megatron_coreward.cli.convert", sys.argv[1:]))
