"""Our generate against bare vLLM, and on two ranks two replicas against one.

    python -m benchmarks.generate [--prompts 4] [--samples 8] [--new-tokens 48] [--repeats 5] [--tiny]
        [--output FILE.json]
    torchrun --nproc-per-node 2 -m benchmarks.generate ...

Random weights with as many parameters as SmolLM2-135M (those of weight_sync.py), prompts of 120 tokens, EOS
ignored. Bare vLLM is the `generate` of the same LLM object, so that the engine's settings are the same, with
the same requests; once with the log-probs that training needs, and once without. A repeat begins with an
empty prefix cache. "One replica" leaves all requests to rank 0, with the same threads, while the other
rank waits.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.options import leave, row_parser
from benchmarks.record import Record, paired
from benchmarks.weight_sync import random_model
from megatron_coreward.config.schema import Config, ModelConfig
from megatron_coreward.requests import TRAINING, requests_for
from megatron_coreward.rollout.engine import VllmEngine
from megatron_coreward.types import GenerationRequest, Sampling, View
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from megatron_coreward.utils.replaced import replaced

PROMPT = 120


@contextmanager
def without_end() -> Iterator[None]:
    """Engines ignore EOS, so that every response has all its tokens."""
    sampling = VllmEngine._sampling_params

    def endless(*arguments: Any) -> Any:
        params = sampling(*arguments)
        params.ignore_eos, params.stop_token_ids = True, []
        return params

    with replaced(VllmEngine, _sampling_params=endless):
        yield


def bare(
    engine: VllmEngine, requests: Sequence[GenerationRequest], sampling: Sampling, log_probs: bool = True
) -> None:
    """vLLM's own generate with the requests as the engine makes them."""
    params = [engine._sampling_params(request, sampling) for request in requests]
    for each in params:
        each.logprobs = each.logprobs if log_probs else None
    prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in requests]
    engine.llm.generate(prompts, params, use_tqdm=False)


def one_replica(
    engine: VllmEngine, requests: Sequence[GenerationRequest], sampling: Sampling, rank: int
) -> None:
    """All requests on rank 0."""
    replicas, engine.num_replicas = engine.num_replicas, 1
    if rank == 0:
        engine.generate(requests, sampling)
    engine.num_replicas = replicas


def fresh(engine: VllmEngine, work: Callable[[], object]) -> Callable[[], None]:
    """With an empty prefix cache; ends when all ranks have ended."""

    def whole() -> None:
        assert engine.llm.reset_prefix_cache(), "the prefix cache is in use"
        work()
        dist.barrier()

    return whole


def main() -> None:
    parser = row_parser(__doc__, repeats=5, tiny="two layers, 4 new tokens")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=48)
    options = parser.parse_args()
    if options.tiny:
        options.new_tokens = 4
    initialize()
    comm = TorchCommunicator()
    sampling = Sampling(1.0, options.new_tokens)
    draw = torch.Generator().manual_seed(0)
    prompts = [
        (number, View.ORIGINAL, tuple(torch.randint(250, (PROMPT,), generator=draw).tolist()))
        for number in range(options.prompts)
    ]
    requests = requests_for(prompts, range(options.samples), 1, TRAINING)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(comm.broadcast(name))
        if comm.rank == 0:
            random_model(folder, 2 if options.tiny else 30)
        dist.barrier()
        config = Config(model=ModelConfig(str(folder)))
        config.data.max_prompt_tokens, config.rollout.max_response_tokens = PROMPT, options.new_tokens
        config.rollout.memory_gb = 0.5
        engine = VllmEngine(config, str(folder), [], seed=1)
        dist.barrier()  # all ranks have read the folder
    ways: dict[str, Callable[[], object]] = {"ours": lambda: engine.generate(requests, sampling)}
    if comm.world_size == 1:
        ways["bare vLLM"] = lambda: bare(engine, requests, sampling)
        ways["bare vLLM, no log-probs"] = lambda: bare(engine, requests, sampling, log_probs=False)
        ratios = {f"{way} / ours": (way, "ours") for way in list(ways)[1:]}
        goals = {"bare vLLM / ours": "at least 0.97"}
    else:
        ways["one replica"] = lambda: one_replica(engine, requests, sampling, comm.rank)
        ratios, goals = {"one replica / ours": ("one replica", "ours")}, {"one replica / ours": "wall 1.9"}
    with without_end():
        found = paired({name: fresh(engine, work) for name, work in ways.items()}, options.repeats)
    if comm.world_size > 1:
        found = {name: {"wall_s": series["wall_s"]} for name, series in found.items()}  # CPU is a rank's own
    kept = ("prompts", "samples", "new_tokens")
    settings = {name: vars(options)[name] for name in kept} | {"prompt tokens": PROMPT}
    settings |= {"ranks": comm.world_size, "threads of a rank": torch.get_num_threads()}
    if comm.rank == 0:
        leave(Record("generate", settings, found, ratios, goals), options.output)
    engine.close()


if __name__ == "__main__":
    main()
