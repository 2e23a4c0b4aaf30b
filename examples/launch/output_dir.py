"""Prints run.output_dir of a configuration with its overrides, for the scripts beside it.

python examples/launch/output_dir.py CONFIG [key.sub=value ...]            exit code 2: wrong input
"""

import sys

from megatron_coreward.config_loading import load_config
from megatron_coreward.utils.logging import print_error

if __name__ == "__main__":
    try:
        config = load_config(sys.argv[1], sys.argv[2:])
    except ValueError as error:
        print_error(error)
        sys.exit(2)
    sys.stdout.write(f"{config.run.output_dir}\n")
