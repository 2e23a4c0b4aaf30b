"""Who may use the device's memory in which phase of a step. The only place that decides it.

On a GPU the policy and vLLM share the memory, and neither needs all of its own all the time: table.py says
who has it when. vLLM is put to sleep as a whole and woken by tags. Its weights are thrown away (sleep level
2) because the sync writes all of them anew; for a checkpoint, after which no sync comes, they are kept in
main memory (level 1). In the sync the KV cache still sleeps, so that it does not lie beside the buckets.

vLLM is built when the policy's training state and the reference have been moved away (`make_room`): it wants
its whole rollout.gpu_memory_utilization free at that moment.

Each of the three moves is a key of the `memory` section; auto means: where there is a GPU. A CPU has one
memory only, and its vLLM cannot sleep. The part on GPUs has not been run yet.
"""

import torch

from megatron_coreward.config.precision import wanted
from megatron_coreward.config.schema import MemoryConfig
from megatron_coreward.phases.table import PHASES, Needs
from megatron_coreward.roles import KV_CACHE, WEIGHTS, Policy, Reference, RolloutEngine
from megatron_coreward.utils.memory import PeakMemory


def check_memory_settings(config: MemoryConfig) -> None:
    """Raises ValueError for what this machine cannot do."""
    if config.rollout_sleep == "always" and not torch.cuda.is_available():
        raise ValueError(
            "memory.rollout_sleep is 'always', but vLLM can sleep on a GPU only, and there is none here. Set "
            "it to auto or never."
        )


def make_room(config: MemoryConfig, policy: Policy, reference: Reference | None, needs: Needs) -> None:
    """Moves away what `needs` leaves out and the configuration lets go."""
    on_gpu = torch.cuda.is_available()
    if wanted(config.offload_optimizer, on_gpu=on_gpu) and not needs.optimizer:
        policy.offload()
    if wanted(config.offload_reference, on_gpu=on_gpu) and reference is not None and not needs.reference:
        reference.offload()


class MemoryPhases:
    """Moves what a phase needs to the device, and what it does not need away.

    Starts from an engine that is awake.
    """

    def __init__(
        self, config: MemoryConfig, policy: Policy, reference: Reference | None, rollout: RolloutEngine
    ) -> None:
        self._config = config
        self._policy, self._reference, self._rollout = policy, reference, rollout
        self._sleeps = wanted(config.rollout_sleep, on_gpu=torch.cuda.is_available())
        self._awake = {WEIGHTS, KV_CACHE}
        self._peak = PeakMemory()

    def enter(self, phase: str) -> None:
        """Call before the phase; a collective where vLLM sleeps. Its peak memory counts from here."""
        needs = PHASES[phase]
        self._release(needs)
        self._peak.restart()
        self._acquire(needs)

    def peak_gb(self) -> float:
        """Most memory in use since `enter`, in GB.

        Torch goes on counting what vLLM has put to sleep; that is taken off.
        """
        return self._peak.since_restart_gb() - self._rollout.asleep_bytes / 1e9

    def peak_in_all_gb(self) -> float:
        """As torch or the system counts it."""
        return self._peak.in_all_gb()

    def _release(self, needs: Needs) -> None:
        if self._sleeps and self._awake and not needs.engine:
            self._rollout.sleep(keep_weights=needs.keeps_engine)
            self._awake = set()
        make_room(self._config, self._policy, self._reference, needs)

    def _acquire(self, needs: Needs) -> None:
        if needs.optimizer:
            self._policy.onload()
        if needs.reference and self._reference is not None:
            self._reference.onload()
        missing = [tag for tag in needs.engine if tag not in self._awake]
        if missing:
            self._rollout.wake(missing)
            self._awake |= set(missing)
