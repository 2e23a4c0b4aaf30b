"""New weights into a running vLLM engine, or an error: nothing may be left behind silently.

vLLM keeps the old values of a layer that receives nothing and only logs it, and fills a fused layer (QKV,
gate/up) that receives a part with arbitrary memory without a word. So what is sent is compared with the
names in the checkpoint that the engine started from, and vLLM's complaints are turned into errors.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from megatron_coreward.config.hf_files import read_tensors, some
from megatron_coreward.config.model_shape import read_shape

if TYPE_CHECKING:
    from vllm import LLM

RELOAD_LOGGER = "vllm.model_executor.model_loader.reload"
NOT_LOADED = ": Failed to load weights"


class WeightReloader:
    """Replaces the weights of `llm`, which was started from the Hugging Face `folder`.

    The head is expected for tied models as well: vLLM's CPU head is a repacked copy of the embedding.
    """

    def __init__(self, llm: "LLM", folder: Path) -> None:
        self.llm = llm
        head = read_shape(folder, trust_remote_code=True).family.head
        self._expected = {*read_tensors(folder, "model.path"), head}
        self._weighted_layers: set[str] = llm.apply_model(_layers_with_parameters)[0]

    def reload(self, weights: Iterator[tuple[str, torch.Tensor]]) -> None:
        """Loads whole tensors under Hugging Face names and resets the prefix cache.

        The tensors must stay unchanged until `weights` is exhausted: vLLM holds parts of a fused layer
        until it has all of them.

        Raises:
            RuntimeError: a weight was not sent or not taken, or the cache could not be reset.
        """
        sent: set[str] = set()

        def recorded() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                sent.add(name)
                yield name, tensor

        if not torch.cuda.is_available():
            self.llm.apply_model(_forget_expert_kernels)
        with _complaints() as complaints:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": recorded()})
        # A cached prefix holds keys and values of the old weights. It shows in no short prompt: only whole
        # blocks (128 tokens on CPU) are cached.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM could not reset its prefix cache after a weight update")
        missing = sorted(self._expected - sent)
        if missing:
            raise RuntimeError(f"the rollout engine was not sent {len(missing)} weights: {some(missing)}")
        ignored = sorted(
            {line for line in complaints if line.removesuffix(NOT_LOADED) in self._weighted_layers}
        )
        if ignored:
            raise RuntimeError(f"the rollout engine kept old weights: {some(ignored)}")


def _layers_with_parameters(model: torch.nn.Module) -> set[str]:
    """Class names of layers that own parameters; a rotary embedding, for one, has only a table."""
    return {type(layer).__name__ for layer in model.modules() if list(layer.parameters(recurse=False))}


def _forget_expert_kernels(model: torch.nn.Module) -> None:
    """Makes vLLM repack the weights of experts when they are loaded again.

    On a CPU it packs them for its kernel when it makes the kernel and, since that is there already, leaves
    them as they come at every later load (0.32): the experts would compute nonsense without a word.
    """
    from vllm.model_executor.layers.fused_moe.fused_moe_method_base import FusedMoEMethodBase
    from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts

    for layer in model.modules():
        if isinstance(layer, RoutedExperts) and isinstance(layer.quant_method, FusedMoEMethodBase):
            layer.quant_method.moe_kernel = None


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """Collects the warnings of vLLM's reloading instead of showing them."""
    lines: list[str] = []

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    reload_logger = logging.getLogger(RELOAD_LOGGER)
    level, propagate, collector = reload_logger.level, reload_logger.propagate, Collector()
    reload_logger.addHandler(collector)
    reload_logger.setLevel(logging.WARNING)
    reload_logger.propagate = False
    try:
        yield lines
    finally:
        reload_logger.removeHandler(collector)
        reload_logger.setLevel(level)
        reload_logger.propagate = propagate
