"""Rollouts by vLLM, in the trainer's own process.

Every rank holds one vLLM worker (`external_launcher`); `rollout.tensor_parallel_size` consecutive ranks
form a replica and draw the same requests in lockstep. torch.distributed must be initialised first, also
for a single rank. The log-probs are those of the distribution that was sampled from, temperature included
(`processed_logprobs`): vLLM's default ignores it.

On CPU in float32 at rollout TP1 a request's response depends on its prompt and seed only, not on what else
is drawn with it, in which order (the longest expected first) nor on the number of replicas; seen with eager
execution, which is the default there. Elsewhere kernels may round differently from batch to batch, and
responses are equal in distribution.
"""

import logging
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch._dynamo
import torch.distributed as dist

from megatron_coreward.config.precision import resolve_dtype, wanted
from megatron_coreward.config.schema import Config
from megatron_coreward.requests import place, replica_of_rank
from megatron_coreward.rollout.reload import WeightReloader
from megatron_coreward.types import GenerationRequest, Response, Sampling
from megatron_coreward.utils.distributed import preserve_rng
from megatron_coreward.utils.replaced import replaced

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams

logger = logging.getLogger(__name__)

GIB = 1 << 30
CPU_BATCH_TOKENS = 4096
"""Prompt tokens computed at once on CPU (vLLM's own default there)."""
CPU_KV_BLOCK = 32
"""Tokens of a KV block on CPU, the least that vLLM's kernel takes. A group shares whole blocks of its prompt
only: nothing of 120 tokens at vLLM's default of 128, 96 of them at 32."""


def set_vllm_environment(model_runner: str = "auto") -> None:
    """Makes the settings that vLLM takes from the environment only. Call it before vllm is imported.

    Threads stay unpinned because training shares them. RANK and LOCAL_RANK are those that torchrun sets;
    the external launcher reads them.
    """
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    os.environ.setdefault("VLLM_CONFIGURE_LOGGING", "0")  # its messages go through this program's logging
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    if model_runner != "auto":
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if model_runner == "v2" else "0"
    os.environ.setdefault("RANK", str(dist.get_rank()))
    os.environ.setdefault("LOCAL_RANK", str(dist.get_rank()))
    if not torch.cuda.is_available():
        # vLLM would compile small functions at the first request: seconds lost, and a C++ compiler needed.
        torch._dynamo.config.disable = True


class VllmEngine:
    """roles.RolloutEngine on vLLM.

    Args:
        model_path: folder in a format that vLLM reads; load_weights needs Hugging Face's, with safetensors.
        stop_token_ids: these end a response, as does the tokenizer's EOS token.
        seed: the engine's own seed; requests carry theirs.

    Raises:
        ValueError: the replicas do not divide the ranks.
    """

    def __init__(self, config: Config, model_path: str, stop_token_ids: Sequence[int], seed: int) -> None:
        assert dist.is_initialized(), "torch.distributed must be initialised before the rollout engine"
        world_size, size = dist.get_world_size(), config.rollout.tensor_parallel_size
        if world_size % size:
            raise ValueError(f"rollout.tensor_parallel_size={size} does not divide the {world_size} ranks")
        self.num_replicas = world_size // size
        self.replica = replica_of_rank(dist.get_rank(), size)
        self.is_first_rank = dist.get_rank() % size == 0
        self.stop_token_ids = list(stop_token_ids)
        self.max_model_len = config.data.max_prompt_tokens + config.rollout.max_response_tokens
        self.weights_version = 0
        self.asleep_bytes = 0
        self._asleep: set[str] = set()
        started = time.perf_counter()
        set_vllm_environment(config.rollout.model_runner)
        with preserve_rng(), _own_shared_memory():  # vLLM seeds the global generators
            self.llm = _build(config, model_path, self.max_model_len, seed)
        self._tokenizer = self.llm.get_tokenizer()
        self._folder = Path(model_path)
        self._reloader: WeightReloader | None = None  # made when needed: some formats cannot be reloaded
        logger.info(
            "vLLM is ready after %.1f s: %d replica(s) of %d rank(s)",
            time.perf_counter() - started,
            self.num_replicas,
            size,
        )

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        """roles.RolloutEngine.generate. `sampling.max_tokens` is cut to what fits the engine's context.

        Raises:
            ValueError: a prompt leaves no room for a response; the same on every rank.
        """
        from vllm import TokensPrompt

        longest = max((len(request.prompt_ids) for request in requests), default=0)
        if longest >= self.max_model_len:
            raise ValueError(
                f"a prompt of {longest} tokens leaves no room for a response in the engine's context of "
                f"{self.max_model_len} (data.max_prompt_tokens + rollout.max_response_tokens)"
            )
        placed = place(requests, self.num_replicas)[self.replica]  # vLLM starts them in this order
        if not placed:
            return []
        with preserve_rng():  # vLLM's CPU sampler draws from the global generator
            outputs = self.llm.generate(
                [TokensPrompt(prompt_token_ids=list(request.prompt_ids)) for request in placed],
                [self._sampling_params(request, sampling) for request in placed],
                use_tqdm=False,
            )
        responses = self._responses(placed, outputs) if self.is_first_rank else []
        return sorted(responses, key=lambda response: response.key)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of a response's tokens, but for the one that stopped it."""
        return self._tokenizer.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> None:
        """roles.RolloutEngine.load_weights. `weights` are whole tensors on every rank; vLLM slices them.

        Raises:
            RuntimeError: a weight was missing or not taken, or the prefix cache could not be reset.
        """
        if self._reloader is None:
            self._reloader = WeightReloader(self.llm, self._folder)
        self._reloader.reload(weights)
        self.weights_version = version

    def sleep(self, *, keep_weights: bool) -> None:
        """roles.RolloutEngine.sleep. Forgets cached prefixes, too. Needs a GPU and `memory.rollout_sleep`."""
        with self._counted_memory():
            self.llm.sleep(level=1 if keep_weights else 2)
        self._asleep = {"weights", "kv_cache"}

    def wake(self, tags: Sequence[str]) -> None:
        """roles.RolloutEngine.wake. vLLM takes requests again when all tags are awake."""
        with self._counted_memory():
            self.llm.wake_up(tags=list(tags))
        self._asleep -= set(tags)

    @contextmanager
    def _counted_memory(self) -> Iterator[None]:
        """Adds to `asleep_bytes` the device memory that the block frees."""
        torch.cuda.empty_cache()
        free_before, _ = torch.cuda.mem_get_info()
        yield
        torch.cuda.empty_cache()
        free_after, _ = torch.cuda.mem_get_info()
        self.asleep_bytes += free_after - free_before

    def close(self) -> None:
        """Ends vLLM, and with it (vLLM's doing) every process group of torch.distributed: call it last.

        A process that leaves its groups first and never calls this ends with a traceback from vLLM. One that
        is asleep is woken first, for vLLM would free memory that is not mapped.
        """
        if self._asleep:
            self.wake(sorted(self._asleep))
        self.llm.llm_engine.engine_core.shutdown()

    def _sampling_params(self, request: GenerationRequest, sampling: Sampling) -> "SamplingParams":
        from vllm import SamplingParams

        return SamplingParams(
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=min(sampling.max_tokens, self.max_model_len - len(request.prompt_ids)),
            stop_token_ids=self.stop_token_ids,
            logprobs=0,  # of the sampled token only
            flat_logprobs=True,
            detokenize=False,  # token by token is slow; _responses decodes all at once
        )

    def _responses(
        self, requests: Sequence[GenerationRequest], outputs: Sequence["RequestOutput"]
    ) -> list[Response]:
        completions = [output.outputs[0] for output in outputs]
        # The stop token need not be special in the tokenizer, so it is cut off here.
        ids = [list(c.token_ids)[: -1 if c.finish_reason == "stop" else None] for c in completions]
        texts = [self.decode(of_response) for of_response in ids]
        return [
            Response(
                pair_id=request.pair_id,
                view=request.view,
                sample=request.sample,
                prompt_ids=request.prompt_ids,
                response_ids=np.asarray(completion.token_ids, dtype=np.int32),
                rollout_logps=np.asarray(completion.logprobs.logprobs, dtype=np.float32),
                text=text,
                finish_reason=completion.finish_reason,
                weights_version=self.weights_version,
            )
            for request, completion, text in zip(requests, completions, texts, strict=True)
        ]


@contextmanager
def _own_shared_memory() -> Iterator[None]:
    """The memory that the CPU ranks of a replica share gets a name of its own, until all have opened it.

    vLLM names it by their ranks alone, so two runs on a machine would collide, and a run that was killed and
    left it behind would keep all later ones from starting.
    """
    if torch.cuda.is_available():
        yield
        return
    from vllm.distributed.device_communicators.cpu_communicator import _CPUSHMDistributed

    ident = [uuid.uuid4().hex[:12]]
    dist.broadcast_object_list(ident)
    name = _CPUSHMDistributed.make_group_name
    own = staticmethod(lambda communicator: ident[0] + name(communicator).lstrip("/"))
    with replaced(_CPUSHMDistributed, make_group_name=own):
        yield
    for file in Path("/dev/shm").glob(f"{ident[0]}*"):
        file.unlink(missing_ok=True)


def engine_arguments(
    config: Config, model_path: str, max_model_len: int, seed: int, *, on_gpu: bool
) -> dict[str, Any]:
    """vLLM's EngineArgs of a run."""
    eager = config.rollout.enforce_eager
    arguments: dict[str, Any] = {
        "model": model_path,
        "dtype": resolve_dtype(config.model.dtype, on_gpu=on_gpu),
        "trust_remote_code": config.model.trust_remote_code,
        "distributed_executor_backend": "external_launcher",
        "tensor_parallel_size": config.rollout.tensor_parallel_size,
        "max_model_len": max_model_len,
        "enforce_eager": not on_gpu if eager == "auto" else eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "generation_config": "vllm",  # the folder's own would add stop tokens and penalties
        "seed": seed,
        "use_tqdm_on_load": False,
    }
    if config.rollout.max_num_seqs != "auto":
        arguments["max_num_seqs"] = config.rollout.max_num_seqs
    if config.rollout.async_scheduling != "auto":
        arguments["async_scheduling"] = config.rollout.async_scheduling == "always"
    if on_gpu:
        return arguments | {
            "gpu_memory_utilization": config.rollout.gpu_memory_utilization,
            "enable_sleep_mode": wanted(config.memory.rollout_sleep, on_gpu=True),
        }
    return arguments | {
        "kv_cache_memory_bytes": int(config.rollout.memory_gb * GIB),
        "block_size": CPU_KV_BLOCK,
        # A prompt computed in chunks fails on CPU when its request has a seed (vLLM 0.32 rewinds an offset
        # that CPU generators lack), so every prompt must fit one batch.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(CPU_BATCH_TOKENS, max_model_len),
    }


def _build(config: Config, model_path: str, max_model_len: int, seed: int) -> "LLM":
    on_gpu = torch.cuda.is_available()
    with _quiet_start(), _quiet_binding():
        from vllm import LLM

        return LLM(**engine_arguments(config, model_path, max_model_len, seed, on_gpu=on_gpu))


@contextmanager
def _quiet_binding() -> Iterator[None]:
    """Hides that vLLM binds memory to a NUMA node: its C++ warns of it on stderr at every start on a CPU.

    The binding is vLLM's usual one and no fault, but is read as one. No logger sees the message, and the
    level of C++ messages would hide all others with it.
    """
    if torch.cuda.is_available():
        yield
        return
    from vllm.platforms import current_platform

    current_platform.import_kernels()
    bind = torch.ops._C.init_cpu_memory_env

    def silently(nodes: list[int]) -> None:
        stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        try:
            bind(nodes)  # its errors are exceptions
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
            os.close(nowhere)

    with replaced(torch.ops._C, init_cpu_memory_env=silently):
        yield


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Hides vLLM's warnings about what is chosen here on purpose, unless VLLM_LOGGING_LEVEL asks for more."""
    level = os.environ["VLLM_LOGGING_LEVEL"].upper()
    vllm_logger = logging.getLogger("vllm")
    vllm_logger.setLevel("ERROR" if level == "WARNING" else level)
    try:
        yield
    finally:
        vllm_logger.setLevel(level)
