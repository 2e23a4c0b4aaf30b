"""Every option of GRPO on two ranks: the gradient at TP2, PP2 and DP2 equals that of plain autograd.

The oracle goes through a Hugging Face model one response at a time and takes the loss token by token
(tests/oracles/objective.py); the actor packs several micro-batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_coreward.actor import parallel
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.reference import MegatronReference
from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import AlgorithmConfig, OptimizerConfig, RewardConfig
from megatron_coreward.config.schema import Config, ModelConfig, ParallelConfig, RolloutConfig
from megatron_coreward.types import ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.actor.actor_runs import _whole_gradients, random_responses
from tests.oracles import actor as oracle
from tests.oracles import objective as grpo_oracle
from tests.oracles.actor import Tensors
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

VOCAB = 301
TOLERANCE = 4e-5  # of a tensor's largest gradient; as in test_invariance.py
ROLLOUT = RolloutConfig(samples=3, vote_samples=4, temperature=0.7, max_response_tokens=32)
LAYOUTS = {
    "TP2": ParallelConfig(tensor=2, sequence=True),
    "PP2": ParallelConfig(pipeline=2),
    "DP2": ParallelConfig(),
}
OPTIONS = {
    "Dr. GRPO": AlgorithmConfig(aggregation="dr-grpo", advantage="no-std", kl_coef=0.05),
    "DAPO": AlgorithmConfig(
        aggregation="token-mean",
        denominator="active",
        clip_high=0.4,
        mask_truncated=True,
        skip_no_signal=True,
        kl_coef=0.05,
        updates_per_batch=2,
    ),
    "leave-one-out": AlgorithmConfig(
        advantage="rloo", dual_clip=1.1, skip_no_signal=True, kl_coef=0.0, updates_per_batch=2
    ),
    "masked, not skipped": AlgorithmConfig(mask_truncated=True, kl_coef=0.05, kl_estimator="k1"),
    "answers masked": AlgorithmConfig(kl_coef=0.05),
    "importance sampling": AlgorithmConfig(tis_cap=1.05, kl_coef=0.05, kl_estimator="k2"),
    "importance sampling, two updates": AlgorithmConfig(tis_cap=1.05, kl_coef=0.05, updates_per_batch=2),
}


@dataclass(frozen=True)
class Found:
    """One option at one layout, from rank 0."""

    gradients: Tensors
    computed: int
    """Responses that went through the model, over all DP ranks."""
    figures: dict[str, float]


@dataclass(frozen=True)
class Subject:
    model: Path
    old_policy: Path
    reference: Path
    responses: tuple[ScoredResponse, ...]

    def of(self, option: str) -> tuple[ScoredResponse, ...]:
        """With "answers masked" the second third of every response is its answer's."""
        if option != "answers masked":
            return self.responses
        lengths = [len(r.response_ids) for r in self.responses]
        tokens = [tuple(range(n // 3, 2 * n // 3)) for n in lengths]
        return tuple(replace(r, answer_tokens=t) for r, t in zip(self.responses, tokens, strict=True))


def config_of(algorithm: AlgorithmConfig, model: Path, layout: ParallelConfig) -> Config:
    return Config(
        model=ModelConfig(path=str(model)),
        parallel=layout,
        rollout=ROLLOUT,
        reward=RewardConfig(weight_by_share=True),
        algorithm=algorithm,
        optimizer=OptimizerConfig(micro_batch_tokens=60),
    )


def walk(rank: int, subject: Subject) -> dict[tuple[str, str], Found]:
    found = {}
    for name, layout in LAYOUTS.items():
        config = config_of(AlgorithmConfig(), subject.model, layout)
        ranks, comm = parallel.initialize(layout), TorchCommunicator()
        policy = MegatronPolicy(config, ranks, comm, total_updates=1)
        reference = MegatronReference(replace(config, model=ModelConfig(path=str(subject.reference))), ranks)
        old = MegatronReference(replace(config, model=ModelConfig(path=str(subject.old_policy))), ranks)
        cases = {option: (algorithm, subject.of(option)) for option, algorithm in OPTIONS.items()}
        cut = tuple(replace(r, finish_reason="length") for r in subject.responses)
        cases["all truncated"] = (OPTIONS["DAPO"], cut)
        for option, (algorithm, responses) in cases.items():
            with_option = replace(config, algorithm=algorithm)
            scored = with_advantages(held_by(rank, responses), with_option)
            trained = [r for r in scored if r.sample < ROLLOUT.samples]
            batch = policy.shard(with_weights(trained, with_option, comm))
            batch = batch.with_log_probs(
                old=old.log_probs(batch) if algorithm.updates_per_batch > 1 else None,
                ref=reference.log_probs(batch) if algorithm.kl_coef else None,
            )
            computed = dict(comm.all_gather((ranks.dp_rank, len(batch.advantages_R))))
            policy.accumulate_gradients(batch, GrpoObjective(algorithm))
            gradients = _whole_gradients(policy)
            figures = {}
            if option == "all truncated":  # the last: it changes the weights
                figures = policy.update(batch, GrpoObjective(algorithm)).as_dict()
            found[name, option] = Found(gradients, sum(computed.values()), figures)
        parallel.destroy()
    return found if rank == 0 else {}


def held_by(rank: int, responses: Sequence[ScoredResponse]) -> list[ScoredResponse]:
    """Groups are whole, and the two views of a pair lie on different ranks."""
    return [r for r in responses if (r.pair_id + (r.view is View.ORIGINAL)) % 2 == rank]


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tmp_path_factory.mktemp("models")
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 16, "hidden_size": 48, "vocab": VOCAB}
    model = tiny_model(folder / "model", "qwen3", **sizes)
    old_policy = oracle.perturbed(model, folder / "old", scale=0.1, seed=1)
    reference = oracle.perturbed(model, folder / "reference", scale=0.2, seed=2)
    rng = np.random.default_rng(5)
    drawn = random_responses(seed=3, pairs=3, samples=4, vocab=VOCAB)
    old = oracle.frozen_log_probs(old_policy, drawn, ROLLOUT.temperature)
    responses = [
        replace(
            r,
            rollout_logps=(old[r.key].numpy() + 0.1 * rng.normal(size=len(r.response_ids))).astype(
                np.float32
            ),
            reward=float(rng.integers(0, 2)) if r.pair_id else 1.0,  # the first pair has no signal
            finish_reason="length" if rng.random() < 0.25 else "stop",
            label_share=0.5 + 0.1 * r.pair_id,
        )
        for r in drawn
    ]
    return Subject(model, old_policy, reference, tuple(responses))


@pytest.fixture(scope="module")
def found(subject) -> dict[tuple[str, str], Found]:
    return run_ranks(2, walk, subject, timeout_s=300)[0]


@pytest.fixture(scope="module")
def expected(subject) -> dict[str, Tensors]:
    """Gradients by option."""
    temperature = ROLLOUT.temperature
    old = oracle.frozen_log_probs(subject.old_policy, subject.responses, temperature)
    ref = oracle.frozen_log_probs(subject.reference, subject.responses, temperature)
    gradients = {}
    for option, algorithm in OPTIONS.items():
        model = oracle.load(subject.model)
        policy = {r.key: oracle.log_probs_of(model, r, temperature) for r in subject.responses}
        before = old if algorithm.updates_per_batch > 1 else policy
        config = config_of(algorithm, subject.model, ParallelConfig())
        grpo_oracle.loss_of(subject.of(option), policy, before, ref, config).backward()
        gradients[option] = {name: weight.grad for name, weight in model.named_parameters()}
    return gradients


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_has_the_gradient_of_the_oracle(layout, option, found, expected):
    gradients = found[layout, option].gradients
    assert gradients.keys() == expected[option].keys()
    gaps = {
        name: float((gradients[name] - wanted).abs().max() / wanted.abs().max())
        for name, wanted in expected[option].items()
    }
    assert max(gaps.values()) < TOLERANCE, gaps


def test_every_option_makes_a_difference(expected):
    names = list(OPTIONS)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert any(
                (expected[one][name] - wanted).abs().max() > 0.01 * wanted.abs().max()
                for name, wanted in expected[other].items()
            ), (one, other)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_only_what_adds_to_the_loss_is_computed(layout, found, subject):
    trained = [r for r in subject.responses if r.sample < ROLLOUT.samples]
    rewards = {r.group: {s.reward for s in trained if s.group == r.group} for r in trained}
    active = [r for r in trained if len(rewards[r.group]) == 2 and len(r.response_ids)]
    finished = [r for r in active if r.finish_reason == "stop"]
    assert 0 < len(finished) < len(active) < len(trained)
    assert found[layout, "DAPO"].computed == len(finished)
    assert found[layout, "leave-one-out"].computed == len(active)
    assert found[layout, "masked, not skipped"].computed == len(trained)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_batch_without_anything_to_learn_takes_a_step_without_nan(layout, found):
    outcome = found[layout, "all truncated"]
    assert outcome.computed == 0
    assert all((gradient == 0).all() for gradient in outcome.gradients.values())
    assert outcome.figures["policy/grad_norm"] == outcome.figures["policy/loss"] == 0.0
    assert all(np.isfinite(value) for value in outcome.figures.values())


def test_the_batch_puts_every_option_to_work(subject):
    """Some ratios are beyond each clip and some importance weights beyond the cap."""
    temperature = ROLLOUT.temperature
    old = oracle.frozen_log_probs(subject.old_policy, subject.responses, temperature)
    new = oracle.frozen_log_probs(subject.model, subject.responses, temperature)
    ratio = torch.cat([(new[r.key] - old[r.key]).exp() for r in subject.responses])
    weight = torch.cat([(old[r.key] - torch.from_numpy(r.rollout_logps)).exp() for r in subject.responses])
    for share in (ratio > 1.4, (ratio > 1.2) & (ratio < 1.4), ratio > 1.1, weight > 1.05):
        assert 0.02 < share.float().mean() < 0.9
