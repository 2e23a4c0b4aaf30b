"""vLLM's own choices for a run on a GPU, printed as JSON; vLLM believes that it is on an H100.

    python -m tests.support.pretended.vllm_config MODEL [key.sub=value ...]

Its configuration is Python and needs no kernels; the modules that hold them are empty here. A process of its
own, since vLLM asks for its platform once.
"""

import json
import os
import sys
from types import ModuleType
from typing import Any

from megatron_coreward.config.loading import load_config
from megatron_coreward.rollout.engine import engine_arguments

MEMORY = 80 * 2**30


def pretend_h100() -> None:
    for name in ("vllm._C_stable_libtorch", "vllm._C", "vllm._moe_C"):
        sys.modules.setdefault(name, ModuleType(name))
    import vllm.platforms
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    class H100(NonNvmlCudaPlatform):
        get_device_capability = classmethod(lambda cls, device_id=0: DeviceCapability(9, 0))
        get_device_name = classmethod(lambda cls, device_id=0: "NVIDIA H100 80GB HBM3")
        get_device_total_memory = classmethod(lambda cls, device_id=0: MEMORY)
        device_count = classmethod(lambda cls: 1)

        def is_cumem_allocator_available(self) -> bool:
            return True

    vllm.platforms._current_platform = H100()


def choices(model: str, overrides: list[str]) -> dict[str, Any]:
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    config = load_config([], [f"model.path={model}", *overrides])
    arguments = engine_arguments(config, model, 128, 1, on_gpu=True)
    made = EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)
    return {
        "async_scheduling": made.scheduler_config.async_scheduling,
        "chunked_prefill": made.scheduler_config.enable_chunked_prefill,
        "batch_tokens": made.scheduler_config.max_num_batched_tokens,
        "block_size": made.cache_config.block_size,
        "prefix_caching": made.cache_config.enable_prefix_caching,
        "cumem": made.model_config.enable_cumem_allocator,
        "dtype": str(made.model_config.dtype),
        "graphs": made.compilation_config.cudagraph_mode.name,
        "logprobs": made.model_config.logprobs_mode,
    }


if __name__ == "__main__":
    os.environ["VLLM_CONFIGURE_LOGGING"] = "0"
    pretend_h100()
    sys.stdout.write(json.dumps(choices(sys.argv[1], sys.argv[2:])) + "\n")
