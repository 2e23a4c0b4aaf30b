"""`coreward plan`, from a checkout: megatron_coreward/cli/plan.py."""

import sys

from megatron_coreward.cli.plan import main

if __name__ == "__main__":
    sys.exit(main())
