"""The moving average of the policy, at several layouts: its formula, its checkpoint, its export."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.folder import Retention, read_state
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.actor.teacher import MegatronTeacher, alpha_at, move_towards
from megatron_coreward.config.learning import TeacherConfig
from megatron_coreward.config.schema import Config, ParallelConfig
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import random_responses
from tests.distributed.checkpoint.checkpoint_runs import (
    TRAINER,
    VOCAB,
    Tensors,
    config_of,
    error_of,
    make_policy,
    save,
    train,
)
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

LAYOUTS = {
    "tp2": ParallelConfig(tensor=2),
    "pp2": ParallelConfig(pipeline=2),
    "dp2": ParallelConfig(),
}
TOTAL = 4
"""Training steps of the schedule."""
FOLLOWED = 24
"""Steps of the run that is compared with a float64 average."""
SCHEDULE = TeacherConfig(alpha_start=0.9, alpha_end=0.99)


def configured(folder: Path, layout: ParallelConfig, dtype: str = "float32", every: int = 1) -> Config:
    config = config_of(folder, layout, dtype)
    config.reward.method = "co_rewarding_2"
    config.teacher = TeacherConfig(alpha_start=0.9, alpha_end=0.99, every=every)
    return config


def build(config: Config) -> tuple[MegatronPolicy, MegatronTeacher]:
    policy = make_policy(config)
    return policy, MegatronTeacher(config, policy.layout, policy)


def exported(model: MegatronPolicy | MegatronTeacher) -> Tensors:
    return {name: tensor.clone() for name, tensor in model.export_weights()}


def case(folder: Path, config: Config, checkpoint: Path) -> dict[str, Any]:
    policy, teacher = build(config)
    expected = {name: tensor.double() for name, tensor in exported(teacher).items()}
    seen: dict[str, Any] = {"alphas": [], "start": gap(exported(policy), expected)}
    for step in range(1, TOTAL + 1):
        alpha = teacher.update(step, TOTAL)
        seen["alphas"].append(alpha)
        for name, theta in exported(policy).items():
            expected[name] = alpha * expected[name] + (1 - alpha) * theta.double()
        train(policy, step)
        if step == 2:
            saver = CheckpointSaver(checkpoint.parent, policy, Retention(last=0), teacher=teacher)
            saver.save(2, TRAINER)
            seen["saved"] = exported(teacher)
            seen["contents"] = read_state(checkpoint)["contents"]
    seen["gap"] = gap(exported(teacher), expected)
    seen["moved"] = gap(exported(policy), expected)
    seen["final"] = exported(teacher)
    responses = random_responses(0, pairs=2, samples=2, vocab=VOCAB) if policy.comm.rank == 0 else ()
    batch = policy.shard([WeightedResponse(response) for response in responses])
    seen["differs"] = float((teacher.log_probs(batch) - policy.log_probs(batch)).abs().max())
    parallel.destroy()
    return seen


def gap(found: Tensors, expected: Tensors) -> float:
    return max(float((found[name].double() - expected[name]).abs().max()) for name in expected)


def loaded(config: Config, checkpoint: Path, finish: bool) -> Tensors:
    """The teacher of a checkpoint, after the rest of the run's steps if `finish`."""
    policy, teacher = build(config)
    load_checkpoint(checkpoint, policy, teacher)
    for step in range(3, TOTAL + 1) if finish else ():
        teacher.update(step, TOTAL)
        train(policy, step)
    found = exported(teacher)
    parallel.destroy()
    return found


def work(rank: int, root: Path) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    model = root / "model"
    for name, layout in LAYOUTS.items():
        seen[name] = case(model, configured(model, layout), root / name / "step_000002")
    seen["bfloat16"] = case(
        model, configured(model, ParallelConfig(), "bfloat16"), root / "bfloat16" / "step_000002"
    )
    seen["loaded"] = {
        (before, name): loaded(configured(model, layout), root / before / "step_000002", finish=False)
        for before in LAYOUTS
        for name, layout in LAYOUTS.items()
    }
    seen["resumed"] = loaded(configured(model, LAYOUTS["tp2"]), root / "tp2" / "step_000002", finish=True)
    policy, teacher = build(configured(model, LAYOUTS["dp2"], every=2))
    seen["every 2"] = [teacher.update(step, TOTAL) for step in range(1, 5)]
    policy, teacher = build(configured(model, LAYOUTS["dp2"], every=0))
    seen["never"] = [teacher.update(step, TOTAL) for step in range(1, 5)]
    seen["refusal"] = error_of(load_checkpoint, save(root / "without", policy), policy, teacher)
    return seen


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    root = tmp_path_factory.mktemp("teacher")
    tiny_model(root / "model", "qwen3", vocab=VOCAB, kv_heads=2)
    return run_ranks(2, work, root, timeout_s=200)


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_is_the_average_of_the_policy(name, by_rank):
    for rank in by_rank:
        seen = rank[name]
        assert seen["start"] == 0, "it starts as the start model"
        assert seen["gap"] < 1e-6 < 1e-3 < seen["moved"]
        assert seen["differs"] > 1e-3, "its log-probs are its own"
        assert seen["contents"] == ["model", "optimizer", "teacher"]


def test_the_average_of_a_bfloat16_policy_is_float32(by_rank):
    """Rounded after every update, it would be off by up to a unit in its last place each time."""
    for rank in by_rank:
        largest = max(float(tensor.abs().max()) for tensor in rank["bfloat16"]["final"].values())
        assert rank["bfloat16"]["gap"] <= largest * 2**-9, "one rounding, of what is exported"


def test_any_layout_loads_what_any_other_saved_bit_for_bit(by_rank):
    for rank in by_rank:
        for (before, name), found in rank["loaded"].items():
            saved = rank[before]["saved"]
            assert all(torch.equal(found[key], saved[key]) for key in saved), (before, name)


def test_a_resumed_teacher_goes_on_as_if_nothing_had_happened(by_rank):
    for rank in by_rank:
        straight = rank["tp2"]["final"]
        assert all(torch.equal(rank["resumed"][key], straight[key]) for key in straight)


def test_updates_may_be_rare_or_never(by_rank):
    for rank in by_rank:
        first, third = alpha_at(SCHEDULE, 1, TOTAL), alpha_at(SCHEDULE, 3, TOTAL)
        assert rank["every 2"] == [first, 1.0, third, 1.0] and rank["never"] == [1.0] * 4


def test_a_checkpoint_without_a_teacher_is_refused(by_rank):
    for rank in by_rank:
        assert "has no teacher" in rank["refusal"] and "model.checkpoint" in rank["refusal"]


def test_the_schedule_runs_from_alpha_start_towards_alpha_end():
    paper = TeacherConfig()
    assert alpha_at(paper, 1, 300) == pytest.approx(0.99)
    assert alpha_at(paper, 151, 300) == pytest.approx(1 - (0.01 + 0.0001) / 2)
    assert alpha_at(paper, 301, 300) == pytest.approx(0.9999)
    assert alpha_at(paper, 999, 300) == alpha_at(paper, 301, 300), (
        "a run that is made longer stays at the end"
    )
    printed = 1 - (0.9999 - 0.99) / 2 * (1 + math.cos(math.pi * 1.0))
    assert printed == 1.0, "what the formula as printed ends with"
    alphas = [alpha_at(paper, step, 300) for step in range(1, 302)]
    assert alphas == sorted(alphas)


def followed(model: Path, distributed: bool, folder: Path) -> Tensors:
    """The teacher's average after many small steps of a bfloat16 policy, half of them after a resume.

    For the plain optimizer with "expected NAME" and "start NAME": a float64 average of its own weights.
    """
    config = configured(model, ParallelConfig(), "bfloat16")
    config.teacher = TeacherConfig(alpha_start=0.999, alpha_end=0.999)
    config.optimizer.distributed, config.optimizer.lr = distributed, 1e-4
    policy, teacher = build(config)
    average = {} if distributed else masters(policy)
    seen = {f"start {name}": weight.clone() for name, weight in average.items()}
    for step in range(1, FOLLOWED + 1):
        train(policy, step)
        alpha = teacher.update(step, FOLLOWED)
        for name in average:
            average[name].mul_(alpha).add_(masters(policy)[name], alpha=1 - alpha)
        if step == FOLLOWED // 2:
            CheckpointSaver(folder, policy, Retention(last=0), teacher=teacher, in_background=False).save(
                step, TRAINER
            )
            parallel.destroy()
            policy, teacher = build(config)
            load_checkpoint(folder / f"step_{step:06d}", policy, teacher)
    parallel.destroy()
    seen |= {f"expected {name}": weight for name, weight in average.items()}
    return seen | {name: a.double() + teacher._rest[name].double() for name, a in teacher._average.items()}


def masters(policy: MegatronPolicy) -> Tensors:
    """The float32 weights of the plain optimizer, as float64."""
    return {name: weight.main_param.double() for name, weight in policy.model.module.named_parameters()}


def follow_twice(rank: int, root: Path) -> dict[bool, Tensors]:
    return {way: followed(root / "large", way, root / f"followed_{way}") for way in (False, True)}


def test_the_average_follows_the_float32_weights_of_a_bfloat16_policy(tmp_path: Path) -> None:
    """Within 1% of a float64 average, for small and large weights, plain and distributed, across a resume."""
    model = tiny_model(tmp_path / "large", "qwen3", vocab=VOCAB, kv_heads=2)
    tensors = load_file(model / "model.safetensors")
    large = {name: t * 16 + 3 if "layernorm" in name else t for name, t in tensors.items()}
    save_file(large, model / "model.safetensors", metadata={"format": "pt"})
    for of_rank in run_ranks(2, follow_twice, tmp_path, timeout_s=300):
        plain, distributed = of_rank[False], of_rank[True]
        for kind in ("layernorm", "mlp", "embedding"):
            names = [name for name in distributed if kind in name]
            assert names
            moved = norm(plain[f"expected {n}"] - plain[f"start {n}"] for n in names)
            for way in (plain, distributed):
                assert norm(way[n] - plain[f"expected {n}"] for n in names) < 0.01 * moved, kind


def norm(tensors: Iterable[torch.Tensor]) -> float:
    return sum(float(tensor.norm()) ** 2 for tensor in tensors) ** 0.5


@pytest.mark.parametrize(("low", "high"), [(1, 3), (5, 20), (1e-3, 1e-2)])
def test_no_movement_is_lost_to_the_size_of_a_weight(low: float, high: float) -> None:
    """A thousand steps, each far below the last place of a large float32 number."""
    draw = torch.Generator().manual_seed(0)
    average = torch.rand(500, generator=draw) * (high - low) + low
    rest, start, expected = torch.zeros_like(average), average.double(), average.double()
    goal = average + low * 1e-4 * torch.randn(500, generator=draw)
    for _ in range(1000):
        move_towards(average, rest, goal, 1e-4)
        expected.lerp_(goal.double(), 1e-4)
    moved = (expected - start).norm()
    assert (average.double() + rest.double() - expected).norm() < 1e-3 * moved
