"""`coreward prepare`, from a checkout: megatron_coreward/cli/prepare.py."""

import sys

from megatron_coreward.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main())
