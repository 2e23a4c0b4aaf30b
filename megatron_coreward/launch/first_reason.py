"""For examples/gpu/run.sh: why the ranks of a node ended, from one attempt in torchrun's folder of logs.

    python -m megatron_coreward.launch.first_reason runs/logs/NAME/node_0/ID/attempt_0

Writes time, exit code and sentence of the rank that was first, on one line; nothing if none left a reason.
"""

import sys
from pathlib import Path

from megatron_coreward.utils.failures import read_reasons


def main() -> int:
    for reason in read_reasons(Path(sys.argv[1]))[:1]:
        sys.stdout.write(f"{reason.time:.3f} {reason.code} {reason.sentence}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
