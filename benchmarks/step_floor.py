"""A step against its own floor: bare vLLM and bare matrix products, in the shapes that the step really ran.

    python -m benchmarks.step_floor [the options of trl_line.py]

One run of two data-parallel ranks as in trl_line.py. After every step each rank does the least that the step
has to do, with the same threads and at the same time as the other: the `generate` of the same vLLM for the
same requests, with an empty prefix cache, and the products of linear layers and head for every micro-batch
that it ran, once for a pass without gradient and three times for the update. Attention, optimizer, reward
stage and sync are not in the floor. The slowest rank counts on both sides.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from benchmarks import trl_line
from benchmarks.generate import bare
from benchmarks.options import leave
from benchmarks.record import Record, Series
from benchmarks.update import products
from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.compute.packing import MicroBatch
from megatron_coreward.requests import place
from megatron_coreward.rollout.engine import VllmEngine
from megatron_coreward.trainer import Trainer
from megatron_coreward.types import GenerationRequest, Response, Sampling
from megatron_coreward.utils.replaced import replaced


class Floor:
    """Notes what a step of this rank runs, and measures its floor."""

    def __init__(self) -> None:
        self._passes: list[tuple[int, int, bool]] = []
        """Tokens and rows of logits of every micro-batch, and whether it had a backward pass."""
        self._drawn: list[tuple[Sequence[GenerationRequest], Sampling]] = []

    @contextmanager
    def noting(self) -> Iterator[None]:
        run, generate = PackedForward._run, VllmEngine.generate

        def noted_run(
            forward: PackedForward, micro_batches: list[MicroBatch], on_hidden: Any, forward_only: bool
        ) -> list[Any]:
            sizes = [
                (micro_batch.tokens_1N.shape[1], len(micro_batch.rows_T)) for micro_batch in micro_batches
            ]
            self._passes += [(tokens, rows, not forward_only) for tokens, rows in sizes]
            return run(forward, micro_batches, on_hidden, forward_only)

        def noted_generate(
            engine: VllmEngine, requests: Sequence[GenerationRequest], sampling: Sampling
        ) -> list[Response]:
            self._drawn.append((requests, sampling))
            return generate(engine, requests, sampling)

        with replaced(PackedForward, _run=noted_run), replaced(VllmEngine, generate=noted_generate):
            yield

    def measure(self, trainer: Trainer) -> dict[str, float]:
        """Seconds of this rank for what the last step ran, which is then forgotten."""
        engine, policy = trainer.rollout, trainer.policy
        work = [products(policy.model.shape, n, t, backward=both) for n, t, both in self._passes]
        [(requests, sampling)] = self._drawn
        placed = place(requests, engine.num_replicas)[engine.replica]
        self._passes, self._drawn = [], []
        assert engine.llm.reset_prefix_cache(), "the prefix cache is in use"
        dist.barrier()
        wall, cpu = time.perf_counter(), time.process_time()
        bare(engine, placed, sampling)
        generated = time.perf_counter() - wall
        with torch.no_grad():
            for product in work:
                product()
        return {
            "floor_wall_s": time.perf_counter() - wall,
            "floor_cpu_s": time.process_time() - cpu,
            "floor_generate_s": generated,
        }


def series_of(steps: trl_line.Steps, prefix: str = "") -> Series:
    return {
        "wall_s": [max(rank[f"{prefix}wall_s"] for rank in step) for step in steps],
        "cpu_s": [sum(rank[f"{prefix}cpu_s"] for rank in step) for step in steps],
    }


def main() -> None:
    options = trl_line.parser(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as name:
        model = trl_line.model_folder(options, Path(name))
        spec = trl_line.make_spec(options, str(model), Path(name), Console())
        spec |= {"floor": True, "steps": trl_line.WARM_UP + options.repeats}
        steps = trl_line.steps_of_ours(spec)
    generated = [max(rank["floor_generate_s"] for rank in step) for step in steps]
    ways: dict[str, Series] = {
        "step": series_of(steps),
        "floor": series_of(steps, "floor_"),
        "generate alone": {"wall_s": generated},
    }
    kept = ("questions", "views", "samples", "new_tokens", "kl_coef", "rows", "changes")
    record = Record(
        row="floor",
        settings={"model": model.name} | {name: spec[name] for name in kept},
        ways=ways,
        ratios={"step / floor": ("step", "floor")},
        goals={"step / floor": "at most 1.3"},
        notes={"ids": spec["prompts"]},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
