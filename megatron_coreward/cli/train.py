"""`coreward train`: checks a run, then starts its ranks on this machine, or is the only one itself.

Its help and exit codes: launch/options.py.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megatron_coreward.coreward.rewards.registry import data_needs, with_options
from megatron_coreward.data.prompts import evaluation_questions, pair_records, probe_records
from megatron_coreward.launch.options import TrainOptions, parse_train
from megatron_coreward.preflight.checks import validate
from megatron_coreward.utils.logging import exit_code, setup_logging


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_train(arguments)
    if "RANK" in os.environ:  # torchrun, or this program, has started it
        from megatron_coreward import train

        return train.main(arguments)
    return exit_code(start, options)


def start(options: TrainOptions) -> int | Callable[[], int]:
    """Raises ValueError for what can be found wrong before a rank starts, the cheapest first."""
    config, ranks = options.config(), options.ranks or gpus() or 1
    if not options.dry_run:
        validate(config, ranks)
        # Every rank reads it again, with the tokenizer. Here it takes no torch: a wrong row is said at once.
        pair_records(config, **data_needs(with_options(config)))
        evaluation_questions(config)
        probe_records(config)
    from megatron_coreward import train

    if options.dry_run:
        setup_logging()
        return train.dry_run(config, 0, ranks)
    if ranks == 1 and not options.max_restarts:
        return partial(train.main, options.of_a_rank())
    from megatron_coreward.launch.ranks import start_ranks

    return partial(start_ranks, ranks, train.__name__, options.of_a_rank(), options.max_restarts)


def gpus() -> int:
    """GPUs that this process may use. torch, slow to import, is asked only where there is a driver."""
    if not any(Path("/dev", driver).exists() for driver in ("nvidiactl", "kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count()
