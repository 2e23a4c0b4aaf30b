"""`python -m megatron_coreward.show`: run/show.py."""

import sys

from megatron_coreward.run.show import main

if __name__ == "__main__":
    sys.exit(main())
