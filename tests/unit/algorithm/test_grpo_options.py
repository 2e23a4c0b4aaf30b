"""All options of GRPO together, from rewards to the gradient, against an oracle of plain loops.

Under any option the distribution of responses over ranks and micro-batches must not matter.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.algorithm.token_figures import settled
from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.learning import AlgorithmConfig, RewardConfig
from megatron_coreward.config.schema import Config, RolloutConfig
from megatron_coreward.types import ScoredResponse, View, WeightedResponse
from megatron_coreward.utils.metrics import Figures
from tests.oracles import objective as grpo_oracle
from tests.oracles.objective import Key
from tests.support.fakes import run_threads

Tensors = dict[Key, torch.Tensor]


def choice(key: str) -> st.SearchStrategy[str]:
    return st.sampled_from(all_keys()[key].choices)


algorithms = st.builds(
    AlgorithmConfig,
    advantage=choice("algorithm.advantage"),
    aggregation=choice("algorithm.aggregation"),
    denominator=choice("algorithm.denominator"),
    mask_truncated=st.booleans(),
    skip_no_signal=st.booleans(),
    clip_high=st.sampled_from([0.0, 0.05, 0.6]),
    dual_clip=st.sampled_from([0.0, 1.1, 3.0]),
    tis_cap=st.sampled_from([0.0, 1.0, 2.0]),
    kl_coef=st.sampled_from([0.0, 0.3]),
    kl_estimator=choice("algorithm.kl_estimator"),
    updates_per_batch=st.sampled_from([1, 2]),
)
configs = st.builds(
    Config,
    algorithm=algorithms,
    reward=st.builds(RewardConfig, weight_by_share=st.booleans()),
    rollout=st.just(RolloutConfig(samples=3, vote_samples=4, max_response_tokens=7)),
)


@st.composite
def steps(draw) -> list[ScoredResponse]:
    """Two pairs, two views, four responses of which three are trained on; some truncated, some empty.

    In every other step tokens of the answer are masked, of some responses all tokens.
    """
    seed, everything_truncated = draw(st.integers(0, 2**32 - 1)), draw(st.integers(0, 4)) == 0
    masks = draw(st.booleans())
    rng = np.random.default_rng(seed)
    responses = []
    for pair_id in range(2):
        for view in View:
            share, equal = rng.uniform(0.2, 1.0), rng.random() < 0.3
            for sample in range(4):
                length = int(rng.integers(0, 6))
                begin, end = sorted(rng.integers(0, length + 1, 2).tolist()) if masks else (0, 0)
                responses.append(
                    ScoredResponse(
                        *(pair_id, view, sample, (1,)),
                        response_ids=np.zeros(length, np.int32),
                        rollout_logps=-rng.exponential(1.0, length).astype(np.float32),
                        text="",
                        finish_reason="length" if everything_truncated or rng.random() < 0.3 else "stop",
                        weights_version=0,
                        reward=1.0 if equal else float(rng.integers(0, 2)),
                        label_share=share,
                        answer_tokens=tuple(range(begin, end)),
                    )
                )
    rng.shuffle(responses)
    return responses


def log_probs(responses: list[ScoredResponse], seed: int) -> tuple[Tensors, Tensors, Tensors]:
    """(policy, with gradient; old; ref), all near the rollout's."""
    rng = np.random.default_rng(seed)

    def near(scale: float) -> Tensors:
        return {
            r.key: torch.from_numpy(r.rollout_logps + scale * rng.normal(size=len(r.response_ids)))
            .float()
            .requires_grad_()
            for r in responses
        }

    return near(0.8), near(0.5), near(0.8)


def package_loss(
    responses: list[ScoredResponse],
    policy: Tensors,
    old: Tensors | None,
    ref: Tensors,
    config: Config,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, Figures]:
    """The package's loss and figures, over three ranks that hold groups at random and six micro-batches."""
    algorithm = config.algorithm
    scored = with_advantages(responses, config)
    groups = sorted({r.group for r in scored})
    home = dict(zip(groups, rng.integers(0, 3, len(groups)), strict=True))
    trained = [r for r in scored if r.sample < config.rollout.samples]
    ranks = [[r for r in trained if home[r.group] == rank] for rank in range(3)]
    by_rank = run_threads(3, lambda comm: with_weights(ranks[comm.rank], config, comm))
    items = [item for of_rank in by_rank for item in of_rank]
    loss, figures = torch.zeros([]), Figures()
    places = rng.integers(0, 6, len(items))
    for micro_batch in range(6):
        part = [item for item, place in zip(items, places, strict=True) if place == micro_batch]
        batch = make_batch(part)

        def flat(tensors: Tensors, part: list[WeightedResponse] = part) -> torch.Tensor:
            return torch.cat([torch.empty(0), *(tensors[item.response.key] for item in part)])

        needs_ref = algorithm.kl_coef > 0
        batch = batch.with_log_probs(
            old=None if old is None else flat(old).detach(), ref=flat(ref).detach() if needs_ref else None
        )
        part_loss, part_figures = GrpoObjective(algorithm)(flat(policy), batch)
        loss = loss + part_loss
        figures.merge(settled([part_figures]))
    return loss, figures


def gradients(loss: torch.Tensor, policy: Tensors) -> torch.Tensor:
    connected = loss + sum(logps.sum() * 0 for logps in policy.values())  # a graph even if nothing takes part
    return torch.cat(torch.autograd.grad(connected, list(policy.values())))


@settings(max_examples=100, deadline=None)
@given(responses=steps(), config=configs, seed=st.integers(0, 2**32 - 1))
def test_every_combination_of_options_equals_the_oracle_over_any_ranks_and_micro_batches(
    responses, config, seed
):
    policy, old, ref = log_probs(responses, seed)
    several = config.algorithm.updates_per_batch > 1
    rng = np.random.default_rng(seed)
    loss, figures = package_loss(responses, policy, old if several else None, ref, config, rng)
    expected = grpo_oracle.loss_of(responses, policy, old if several else policy, ref, config)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradients(loss, policy), gradients(expected, policy), rtol=1e-4, atol=1e-6)
    assert figures.as_dict()["policy/loss"] == pytest.approx(expected.item(), rel=1e-4, abs=1e-5)
    assert all(np.isfinite(value) for value in figures.as_dict().values())


@settings(max_examples=40, deadline=None)
@given(responses=steps(), config=configs, seed=st.integers(0, 2**32 - 1))
def test_leaving_out_compute_never_changes_the_gradient(responses, config, seed):
    policy, old, ref = log_probs(responses, seed)
    grads = []
    for skip in (False, True):
        algorithm = replace(config.algorithm, skip_no_signal=skip)
        loss, _ = package_loss(
            responses, policy, old, ref, replace(config, algorithm=algorithm), np.random.default_rng(seed)
        )
        grads.append(gradients(loss, policy))
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("aggregation", all_keys()["algorithm.aggregation"].choices)
@pytest.mark.parametrize("denominator", all_keys()["algorithm.denominator"].choices)
def test_a_batch_of_truncated_responses_only_changes_nothing_and_has_no_nan(aggregation, denominator):
    responses = [
        ScoredResponse(
            *(pair_id, view, sample, (1,)),
            response_ids=np.zeros(3, np.int32),
            rollout_logps=np.full(3, -1.0, np.float32),
            text="",
            finish_reason="length",
            weights_version=0,
            reward=float(sample == 0),
        )
        for pair_id in range(2)
        for view in View
        for sample in range(2)
    ]
    policy, old, ref = log_probs(responses, 0)
    for skip in (False, True):
        algorithm = AlgorithmConfig(
            aggregation=aggregation, denominator=denominator, mask_truncated=True, skip_no_signal=skip
        )
        config = Config(algorithm=algorithm)
        loss, figures = package_loss(responses, policy, old, ref, config, np.random.default_rng(0))
        assert loss.item() == 0.0
        assert (gradients(loss, policy) == 0).all()
        assert figures.as_dict()["policy/loss"] == 0.0
        assert all(np.isfinite(value) for value in figures.as_dict().values())
        assert ("policy/kl" in figures.as_dict()) is not skip
