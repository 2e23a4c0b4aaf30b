"""A trace of chosen steps by torch's profiler, for chrome://tracing or Perfetto: run.profile_steps.

Every rank writes its own. Pipeline stages, experts and rollout replicas do different work, and only a
comparison of ranks shows who waits for whom; the files are compressed, and the steps are few.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from megatron_coreward.utils.folders import publish_file, temporary_name
from megatron_coreward.utils.run_names import PROFILE

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def traced(output: Path, step: int, rank: int) -> Iterator[None]:
    """Traces what is done inside; `output`/profile/step_*_rank_*.json.gz appears complete or not at all."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * torch.cuda.is_available()
    with profile(activities=activities) as profiler:
        yield
    path = output / PROFILE / f"step_{step:06d}_rank_{rank}.json.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary_name(path).with_suffix(".json.gz")  # which makes the profiler compress
    profiler.export_chrome_trace(str(unfinished))
    publish_file(unfinished, path)
    logger.info("step %d: the profiler's trace is %s; every rank has written one", step, path)
