"""The calls that a training step makes to its roles."""

from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest

from megatron_coreward import trainer
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.schema import AlgorithmConfig, Config, RolloutConfig
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.grading.grader import Grader
from megatron_coreward.types import GenerationRequest, QuestionPair, Response, ScoredResponse
from megatron_coreward.utils.metrics import Figures
from tests.support.fakes import ThreadCommunicator, run_threads

PAIRS = [QuestionPair(pair_id, "q", "r", (1, 2), (1, 2, 3)) for pair_id in (3, 9)]
ANSWERS = ["1", "1", "2", "2", "2"]  # by sample


def draw(requests: Sequence[GenerationRequest], _: object) -> list[Response]:
    return [
        Response(
            *(r.pair_id, r.view, r.sample, r.prompt_ids),
            response_ids=np.array([4], np.int32),
            rollout_logps=np.zeros(1, np.float32),
            text=rf"\boxed{{{ANSWERS[r.sample]}}}",
            finish_reason="stop",
            weights_version=0,
        )
        for r in requests
    ]


def step(
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    observer: mock.MagicMock | None = None,
    failure: FloatingPointError | None = None,
) -> tuple[list[list[ScoredResponse]], list[ScoredResponse], mock.MagicMock]:
    """One step on one rank: what went to policy.shard, what was reported, and the policy's calls."""
    monkeypatch.setattr(trainer, "sync_weights", lambda *_, **__: Figures())
    monkeypatch.setattr(trainer, "MemoryPhases", mock.MagicMock())
    trainer.MemoryPhases.return_value.peak_gb.return_value = 0.0
    trainer.MemoryPhases.return_value.peak_in_all_gb.return_value = 0.0
    policy, rollout = mock.MagicMock(), mock.MagicMock()
    rollout.generate.side_effect = draw
    policy.shard.return_value = make_batch([], [])
    policy.update.side_effect = [failure] if failure else lambda *_: Figures()

    def work(comm: ThreadCommunicator) -> list[ScoredResponse]:
        with Grader("exact") as grader:
            one = trainer.Trainer(
                config=config,
                policy=policy,
                reference=None,
                rollout=rollout,
                reward_stage=CoRewardStage(comm, grader, config),
                objective=mock.MagicMock(),
                sampler=PairSampler(PAIRS, 2),
                comm=comm,
                observer=observer or mock.MagicMock(),
                evaluate=None,
                diagnose=lambda scored: Figures(),
                total_steps=1,
                watchdog=mock.MagicMock(),
            )
            return one.train_step()[2]

    [scored] = run_threads(1, work)
    return [call.args[0] for call in policy.shard.call_args_list], scored, policy


def test_more_responses_vote_than_are_trained_on(monkeypatch):
    config = Config(rollout=RolloutConfig(samples=2, vote_samples=5))
    [trained], scored, _ = step(config, monkeypatch)
    assert len(scored) == 2 * 2 * 5, "all that were drawn are reported"
    assert {r.pseudo_label for r in scored} == {"2"}, "all of them have voted"
    assert [r.key for r in trained] == [
        (p, v, s) for p in (3, 9) for v in ("original", "rephrased") for s in (0, 1)
    ]
    assert {r.reward for r in trained} == {0.0}


def test_without_extra_voters_all_are_trained_on(monkeypatch):
    [trained], scored, _ = step(Config(rollout=RolloutConfig(samples=5)), monkeypatch)
    assert trained == scored and len(trained) == 20


@pytest.mark.parametrize("skip", [False, True])
def test_several_updates_get_whole_pairs_and_the_wish_to_skip(monkeypatch, skip):
    algorithm = AlgorithmConfig(updates_per_batch=2, skip_no_signal=skip)
    config = Config(rollout=RolloutConfig(samples=5), algorithm=algorithm)
    parts, _, policy = step(config, monkeypatch)
    assert [{r.pair_id for r in part} for part in parts] == [{3}, {9}]
    assert [call.kwargs for call in policy.shard.call_args_list] == [{"skip_idle": skip}] * 2
    assert policy.log_probs.call_count == policy.update.call_count == 2


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_gradient_that_is_not_finite_stops_or_is_skipped_and_its_responses_are_saved(monkeypatch, choice):
    config = Config(rollout=RolloutConfig(samples=5))
    config.optimizer.nonfinite = choice
    error = FloatingPointError("the loss is nan and the gradient norm nan")
    observer = mock.MagicMock()
    observer.on_nonfinite.return_value = "RUN/nonfinite"
    if choice == "stop":
        with pytest.raises(
            FloatingPointError, match=r"step 1: the loss is nan.*RUN/nonfinite.*optimizer\.lr"
        ):
            step(config, monkeypatch, observer=observer, failure=error)
    else:
        _, scored, policy = step(config, monkeypatch, observer=observer, failure=error)
        assert len(scored) == 20 and policy.update.call_count == 1
    [call] = observer.on_nonfinite.call_args_list
    assert call.args[0] == 1 and len(call.args[2]) == 20
