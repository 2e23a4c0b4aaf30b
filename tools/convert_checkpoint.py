"""`coreward convert`, from a checkout: megatron_coreward/cli/convert.py."""

import sys

from megatron_coreward.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
