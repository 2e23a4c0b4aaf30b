"""Runs megatron_coreward.train and kills one rank as it enters a phase of a step, in the first attempt only.

    python tests/support/fault_in_phase.py PHASE STEP RANK [arguments of train]

torchrun counts its restarts in TORCHELASTIC_RESTART_COUNT.
"""

import os
import signal
import sys
from unittest import mock

from megatron_coreward import train
from megatron_coreward.trainer import Trainer


def main() -> int:
    phase, step, rank = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    enter = Trainer._enter

    def enter_or_die(trainer: Trainer, name: str) -> None:
        enter(trainer, name)
        first_attempt = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if first_attempt and os.environ["RANK"] == rank and (name, trainer.step + 1) == (phase, step):
            os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(Trainer, "_enter", enter_or_die):
        return train.main(sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
