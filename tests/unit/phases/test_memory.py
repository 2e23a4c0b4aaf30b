"""The contents of the device in every phase, with a policy and a reference that only note their moves."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from megatron_coreward.config.schema import MemoryConfig
from megatron_coreward.phases.memory import MemoryPhases, check_memory_settings, make_room
from megatron_coreward.phases.table import PHASES
from megatron_coreward.roles import KV_CACHE, WEIGHTS
from megatron_coreward.utils import memory

EVERYTHING = {WEIGHTS, KV_CACHE, "optimizer", "reference"}
STEP = ("rollout", "reward", "log_probs", "update", "sync")
ALWAYS = MemoryConfig(offload_optimizer="always", offload_reference="always", rollout_sleep="always")


class Device:
    """Its contents, and the moves so far."""

    def __init__(self) -> None:
        self.holds = set(EVERYTHING)
        self.most_at_once: list[set[str]] = []

    def part(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(offload=lambda: self.holds.discard(name), onload=lambda: self.take({name}))

    def take(self, names: set[str]) -> None:
        self.holds |= names
        self.most_at_once.append(set(self.holds))


class Engine:
    asleep_bytes = 0

    def __init__(self, device: Device) -> None:
        self.device = device
        self.slept: list[bool] = []

    def sleep(self, *, keep_weights: bool) -> None:
        assert self.device.holds & {WEIGHTS, KV_CACHE}, "it sleeps already"
        self.device.holds -= {WEIGHTS, KV_CACHE}
        self.slept.append(keep_weights)

    def wake(self, tags: Sequence[str]) -> None:
        assert not self.device.holds & set(tags), "it is awake"
        self.device.take(set(tags))


def build(config: MemoryConfig) -> tuple[Device, Engine, MemoryPhases]:
    device = Device()
    engine = Engine(device)
    phases = MemoryPhases(config, device.part("optimizer"), device.part("reference"), engine)
    return device, engine, phases


def needed(phase: str) -> set[str]:
    needs = PHASES[phase]
    parts = {"optimizer"} if needs.optimizer else set()
    return parts | ({"reference"} if needs.reference else set()) | set(needs.engine)


def test_a_step_has_on_the_device_what_each_phase_needs_and_no_more() -> None:
    device, engine, phases = build(ALWAYS)
    phases.enter("sync")  # before the first step; a KV cache that is awake stays so
    assert device.holds == {WEIGHTS, KV_CACHE}
    for _ in range(2):
        for phase in STEP:
            phases.enter(phase)
            assert device.holds == needed(phase), phase
    assert engine.slept == [False, False], "a sync follows: the old weights need not be kept"


def test_the_engine_is_built_when_there_is_room() -> None:
    device = Device()
    policy, reference = device.part("optimizer"), device.part("reference")
    make_room(MemoryConfig(), policy, reference, PHASES["rollout"])
    assert device.holds == EVERYTHING, "auto moves nothing where there is no GPU"
    make_room(ALWAYS, policy, None, PHASES["rollout"])
    make_room(ALWAYS, policy, reference, PHASES["rollout"])
    assert device.holds == {WEIGHTS, KV_CACHE}


def test_what_is_not_needed_leaves_before_the_rest_comes() -> None:
    device, _, phases = build(ALWAYS)
    for phase in (*STEP, "verify", "evaluate", "checkpoint", *STEP):
        device.most_at_once = []
        phases.enter(phase)
        assert all(held <= needed(phase) for held in device.most_at_once), phase


def test_after_a_checkpoint_the_engine_has_its_weights() -> None:
    device, engine, phases = build(ALWAYS)
    for phase in (*STEP, "checkpoint"):
        phases.enter(phase)
    assert device.holds == set()
    assert engine.slept == [False, True]
    phases.enter("rollout")
    assert device.holds == {WEIGHTS, KV_CACHE}


@pytest.mark.parametrize("config", [MemoryConfig(), MemoryConfig("never", "never", "never")])
def test_nothing_moves_on_a_cpu_unless_asked(config: MemoryConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    device, engine, phases = build(config)
    for phase in (*STEP, *PHASES):
        phases.enter(phase)
        assert device.holds == EVERYTHING
    assert engine.slept == []


def test_without_a_reference_there_is_none_to_move() -> None:
    device = Device()
    phases = MemoryPhases(ALWAYS, device.part("optimizer"), None, Engine(device))
    for phase in STEP:
        phases.enter(phase)
    assert device.holds == {WEIGHTS, "reference"}


def test_sleep_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"memory\.rollout_sleep is 'always'.*GPU.*auto or never"):
        check_memory_settings(MemoryConfig(rollout_sleep="always"))
    check_memory_settings(MemoryConfig())
    check_memory_settings(MemoryConfig(offload_optimizer="always", offload_reference="always"))


def test_the_peak_of_a_phase_counts_from_its_beginning() -> None:
    _, _, phases = build(MemoryConfig("never", "never", "never"))
    phases.enter("rollout")
    large = bytearray(300_000_000)
    large[::4096] = bytes(b"x" * len(large[::4096]))
    high = phases.peak_gb()
    del large
    phases.enter("reward")
    low = phases.peak_gb()
    assert low == high or high - low > 0.25, "a system that cannot reset the peak goes on with the old one"
    assert phases.peak_in_all_gb() >= high


def test_memory_that_vllm_has_put_to_sleep_is_taken_off() -> None:
    _, engine, phases = build(MemoryConfig("never", "never", "never"))
    phases.enter("update")
    before = phases.peak_gb()
    engine.asleep_bytes = 10**9
    assert phases.peak_gb() == pytest.approx(before - 1, abs=0.05)
