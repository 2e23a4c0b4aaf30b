"""`python -m megatron_coreward.evaluate`: evaluation/program.py."""

import sys

from megatron_coreward.evaluation.program import main

if __name__ == "__main__":
    sys.exit(main())
