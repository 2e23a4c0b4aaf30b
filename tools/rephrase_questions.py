"""`coreward rephrase`, from a checkout: megatron_coreward/cli/rephrase.py."""

import sys

from megatron_coreward.cli.rephrase import main

if __name__ == "__main__":
    sys.exit(main())
