"""The calls that a step makes to the roles, and their order."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_coreward.algorithm.loss_weights import local_counts, token_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import AlgorithmConfig, RewardConfig, TeacherConfig
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config, RolloutConfig
from megatron_coreward.coreward.rewards.registry import method_of
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.evaluation.probe import Probe
from megatron_coreward.grading.grader import Grader
from megatron_coreward.phases.meter import Meter
from megatron_coreward.run.watchdog import Watchdog
from megatron_coreward.train import _fit
from megatron_coreward.trainer import Trainer
from megatron_coreward.types import GenerationRequest, QuestionPair, Response, ScoredResponse, StepReport
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.utils.failures import STOPPED
from megatron_coreward.utils.metrics import Figures
from tests.support.fakes import FakeEngine, FakeModel, FakeObserver, FakePolicy, FakeTeacher

PAIRS = [QuestionPair(pair_id, "q", "r", (1, 2), (1, 2, 3)) for pair_id in (3, 9)]
SHAPE = ModelShape(Path("model"), "Qwen2ForCausalLM", 4, 8, 16, 4, 2, 2, 11, True, 8192)
GEMM_RATE = 1e9
ANSWERS = ["1", "1", "2", "2", "2"]  # by sample


@dataclass
class Run:
    """A run on one rank, with the one journal of all its roles."""

    trainer: Trainer
    policy: FakePolicy
    engine: FakeEngine
    observer: FakeObserver
    journal: list[str]
    report: StepReport | None = None
    scored: tuple[ScoredResponse, ...] = ()

    @property
    def trained(self) -> list[list[Response]]:
        """By update."""
        return [[item.response for item in held] for held in self.policy.held]

    def step(self) -> "Run":
        self.report, _, scored = self.trainer.train_step()
        self.scored = tuple(scored)
        return self


@pytest.fixture(scope="module")
def grader():
    grader = Grader("exact")
    yield grader


@pytest.fixture
def build(grader):
    def run_of(
        config: Config,
        answer: Callable[[GenerationRequest], str] = lambda request: ANSWERS[request.sample],
        failure: FloatingPointError | None = None,
    ) -> Run:
        journal: list[str] = []
        policy, comm = FakePolicy(journal, failure=failure), TorchCommunicator()
        engine = FakeEngine(journal, answer=lambda request: rf"\boxed{{{answer(request)}}}")
        observer = FakeObserver(journal)
        teacher = FakeTeacher(policy) if method_of(config).teacher else None
        trainer = Trainer(
            config=config,
            policy=policy,
            reference=teacher,
            teacher=teacher,
            rollout=engine,
            reward_stage=CoRewardStage(comm, grader, config),
            objective=GrpoObjective(config.algorithm),
            sampler=PairSampler(PAIRS, 2),
            comm=comm,
            observer=observer,
            evaluate=None,
            diagnose=lambda *_: Figures(),
            total_steps=1,
            watchdog=Watchdog(0, comm.rank, comm.world_size, dist.HashStore()),
            meter=Meter(SHAPE, GEMM_RATE),
        )
        return Run(trainer, policy, engine, observer, journal)

    return run_of


def without_kl(**options) -> AlgorithmConfig:
    return AlgorithmConfig(kl_coef=0.0, **options)


def test_more_responses_vote_than_are_trained_on(build):
    run = build(Config(rollout=RolloutConfig(samples=2, vote_samples=5), algorithm=without_kl())).step()
    [trained] = run.trained
    assert len(run.scored) == 2 * 2 * 5, "all that were drawn are reported"
    assert {r.pseudo_label for r in run.scored} == {"2"}, "all of them have voted"
    assert [r.key for r in trained] == [
        (p, v, s) for p in (3, 9) for v in ("original", "rephrased") for s in (0, 1)
    ]
    assert {r.reward for r in trained} == {0.0}


def test_without_extra_voters_all_are_trained_on(build):
    run = build(Config(rollout=RolloutConfig(samples=5), algorithm=without_kl())).step()
    [trained] = run.trained
    assert trained == list(run.scored) and len(trained) == 20


@pytest.mark.parametrize("skip", [False, True])
def test_several_updates_get_whole_pairs(build, skip):
    algorithm = without_kl(updates_per_batch=2, skip_no_signal=skip)
    run = build(Config(rollout=RolloutConfig(samples=5), algorithm=algorithm)).step()
    assert [{r.pair_id for r in part} for part in run.trained] == [{3}, {9}]
    assert [len(part) for part in run.trained] == [10, 10], "every group has a signal"
    assert run.journal.count("policy log-probs") == run.journal.count("policy updates") == 2


@pytest.mark.parametrize("skip", [False, True])
def test_what_adds_nothing_to_the_loss_is_left_out_on_request(build, skip):
    config = Config(rollout=RolloutConfig(samples=5), algorithm=without_kl(skip_no_signal=skip))
    run = build(config, answer=lambda r: ANSWERS[r.sample] if r.pair_id == 3 else "7").step()
    [trained], [batch] = run.trained, run.policy.batches
    assert {r.pair_id for r in trained} == ({3} if skip else {3, 9})
    assert set(batch.weights_T.tolist()) == {float(torch.tensor(1 / (10 * 2)))}, "ten of a view count"


@pytest.mark.parametrize("aggregation", ["seq-mean", "token-mean", "dr-grpo"])
def test_an_update_has_the_weights_of_the_algorithm_and_its_advantages(build, aggregation):
    algorithm = without_kl(aggregation=aggregation, denominator="active", updates_per_batch=2)
    config = Config(rollout=RolloutConfig(samples=5, max_response_tokens=9), algorithm=algorithm)
    run = build(config, answer=lambda r: ANSWERS[r.sample] if r.view == "original" else "2").step()
    for batch, part in zip(run.policy.batches, run.trained, strict=True):
        weights = torch.tensor(token_weights(part, local_counts(part, algorithm), algorithm, 9))
        assert torch.equal(batch.weights_T, weights.repeat_interleave(2)) and (weights > 0).sum() == 5
        assert batch.advantages_R.tolist() == torch.tensor([r.advantage for r in part]).tolist()
        assert batch.advantages_R.unique().numel() == 3, "two values, and 0 of the group without a signal"


def test_a_step_enters_its_phases_in_order(build):
    config = Config(rollout=RolloutConfig(samples=5), algorithm=without_kl())
    config.weight_sync.verify = True
    run = build(config).step()
    assert run.journal == [
        *("-- rollout", "engine draws"),
        "-- reward",
        "-- log_probs",
        *("-- update", "policy updates"),
        *("-- sync", "policy exports", "engine loads 1"),
        *("-- verify", "engine draws", "policy log-probs"),
    ]
    assert run.trainer.step == run.report.step == 1
    assert {"time/rollout", "time/reward", "time/verify", "time/step", "memory/update_gb"} <= set(
        run.report.metrics
    )


def test_a_method_that_rewards_confidence_has_it_measured_first(build):
    config = Config(reward=RewardConfig(method="self_certainty"), rollout=RolloutConfig(samples=5))
    config.algorithm.kl_coef = 0.0
    run = build(config).step()
    assert run.journal[:5] == [
        "-- rollout",
        "engine draws",
        "-- confidence",
        "policy confidence",
        "-- reward",
    ]
    assert [r.reward for r in run.scored] == [float(r.sample) for r in run.scored]


def test_the_teacher_draws_with_its_own_weights_and_the_policys_go_back(build):
    config = Config(
        reward=RewardConfig(method="co_rewarding_3"),
        rollout=RolloutConfig(samples=5),
        teacher=TeacherConfig(samples=3),
    )
    config.weight_sync.verify = True
    run = build(config).step()
    assert run.journal == [
        *("-- rollout", "engine draws"),
        *("-- teacher", "teacher follows at 1 of 1", "teacher exports", "engine loads 0"),
        *("engine draws", "teacher log-probs", "engine draws"),  # the first to verify the sync
        "-- reward",
        *("-- log_probs", "teacher log-probs"),
        *("-- update", "policy updates"),
        *("-- sync", "policy exports", "engine loads 1"),
        *("-- verify", "engine draws", "policy log-probs"),
    ]
    assert run.report.metrics["teacher/alpha"] == 0.5
    assert {r.pseudo_label for r in run.scored} == {"1"}, "the vote of the teacher's three samples"
    policys, _, teachers, _ = run.engine.requests
    assert not {r.seed for r in policys} & {r.seed for r in teachers}, "a random stream of its own"
    assert all((weight == run.policy.value).all() for weight in run.engine.weights.values())
    assert run.policy.value == 1.0


def test_an_engine_without_the_teachers_weights_is_found_before_it_draws(build):
    config = Config(reward=RewardConfig(method="co_rewarding_2"), rollout=RolloutConfig(samples=5))
    config.weight_sync.verify = True
    run = build(config)
    run.trainer.teacher.gap = 0.1
    with pytest.raises(RuntimeError, match=r"weight_sync\.tolerance"):
        run.step()
    assert run.journal[-2:] == ["engine draws", "teacher log-probs"] and "-- reward" not in run.journal


@pytest.mark.parametrize("choice", ["stop", "skip"])
def test_a_gradient_that_is_not_finite_stops_or_is_skipped_and_its_responses_are_saved(build, choice):
    config = Config(rollout=RolloutConfig(samples=5), algorithm=without_kl())
    config.optimizer.nonfinite = choice
    run = build(config, failure=FloatingPointError("the loss is nan and the gradient norm nan"))
    if choice == "stop":
        with pytest.raises(
            FloatingPointError, match=r"step 1: the loss is nan.*RUN/nonfinite.*optimizer\.lr"
        ):
            run.step()
    else:
        run.step()
        assert len(run.scored) == 20 and run.journal.count("policy updates") == 1
        assert run.report.metrics["policy/skipped_updates"] == 1
    assert {step: len(scored) for step, scored in run.observer.nonfinite.items()} == {1: 20}


def test_a_run_syncs_first_and_saves_at_its_end(build):
    run = build(Config(rollout=RolloutConfig(samples=5), algorithm=without_kl()))
    assert run.trainer.fit()
    assert run.journal[:3] == ["-- sync", "policy exports", "engine loads 0"]
    assert run.journal[-1] == "-- checkpoint"
    assert [report.step for report in run.observer.reports] == list(run.observer.saved) == [1]
    assert run.observer.saved[1] == run.trainer.state_dict()


@pytest.mark.parametrize("on_alarm", ["warn", "stop"])
def test_a_probe_is_taken_at_the_start_every_few_steps_and_at_the_end(build, on_alarm):
    """From step 4 on every question gets the same answer."""
    config = Config(rollout=RolloutConfig(samples=5), algorithm=without_kl())
    config.monitor.every, config.monitor.samples, config.monitor.on_alarm = 2, 3, on_alarm
    run = build(config, answer=lambda r: "7" if run.engine.version >= 4 else str(r.pair_id))
    run.trainer.total_steps = 7
    run.trainer.probe = Probe(run.engine, run.trainer.comm, PAIRS, config)
    stops = on_alarm == "stop"
    assert run.trainer.fit() is not stops
    probed = [entry for entry in run.journal if entry.startswith("probed")]
    assert probed == [f"probed after {step}" for step in ([0, 2, 4] if stops else [0, 2, 4, 6, 7])]
    assert list(run.observer.saved) == [4 if stops else 7]
    alarms = "; ".join(run.trainer.alarms)
    assert alarms.startswith("template alarm: answers depend less on their questions") is stops
    if stops:
        resumed = build(config)
        resumed.trainer.probe = Probe(resumed.engine, resumed.trainer.comm, PAIRS, config)
        resumed.trainer.load_state_dict(json.loads(json.dumps(run.observer.saved[4])))
        assert resumed.trainer.probe.history == run.trainer.probe.history and not resumed.trainer.alarms


def test_an_alarm_is_in_the_last_line_of_a_stopped_run(build):
    run = build(Config(rollout=RolloutConfig(samples=5), algorithm=without_kl()))
    run.trainer.fit = lambda: False
    assert str(_fit(run.trainer)) == "stopped after step 0; go on with: run.resume=true"
    run.trainer.alarms = ["forgetting alarm: one", "template alarm: two"]
    failure = _fit(run.trainer)
    assert failure.code == STOPPED and str(failure) == (
        "stopped after step 0 by the forgetting alarm: one; the template alarm: two; go on with: "
        "run.resume=true"
    )


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_a_probe_has_the_kl_to_a_start_model(build, temperature):
    """k3 where the start model's log-probs are above the policy's by 0.1."""
    config = Config(rollout=RolloutConfig(samples=5, temperature=temperature))
    config.monitor.every, config.monitor.samples = 1, 5
    run = build(config, answer=lambda r: ANSWERS[r.sample % 5])
    run.trainer.reference = FakeModel("reference", run.journal, gap=0.1)
    run.trainer.probe = Probe(run.engine, run.trainer.comm, PAIRS, config)
    assert run.trainer.fit()
    kls = [figures.get("probe/kl") for figures in run.trainer.probe.history]
    expected = pytest.approx(math.exp(0.1) - 1.1, rel=1e-4)
    assert kls == ([expected] * 2 if temperature == 1 else [None] * 2)


def test_the_last_lengths_are_expected_and_go_through_a_checkpoint(build):
    """FakeEngine's responses have two tokens; a run that resumes expects what the other does."""
    config = Config(rollout=RolloutConfig(samples=5), algorithm=without_kl())
    run, resumed = build(config).step(), build(config)
    state = json.loads(json.dumps(run.trainer.state_dict()))
    assert state["response_lengths"] == {f"{p}/{v}": 2 for p in (3, 9) for v in ("original", "rephrased")}
    resumed.trainer.load_state_dict(state)
    assert resumed.step().engine.requests[-1] == run.step().engine.requests[-1]
    first, second = run.engine.requests
    assert {r.expected_tokens for r in first} == {0} and {r.expected_tokens for r in second} == {2}
    del state["response_lengths"]  # a checkpoint of an earlier version
    resumed.trainer.load_state_dict(state)
    assert {r.expected_tokens for r in resumed.step().engine.requests[-1]} == {0}
