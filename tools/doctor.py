"""`coreward doctor`, from a checkout: megatron_coreward/cli/doctor.py."""

import sys

from megatron_coreward.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
