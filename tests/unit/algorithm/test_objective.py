"""Eq. 4-6 and each option against formulas by hand and against gradient identities.

tests/unit/algorithm/test_grpo_options.py combines the options.
"""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.objective import (
    GrpoObjective,
    add_mismatch,
    importance_weights,
    kl_penalty,
    nll_objective,
)
from megatron_coreward.algorithm.token_figures import TokenFigures, settled
from megatron_coreward.config.learning import AlgorithmConfig
from tests.support.metric_names import undocumented

CONFIG = AlgorithmConfig(clip=0.2, kl_coef=0.1)
EVERYTHING = AlgorithmConfig(clip_high=0.4, dual_clip=1.2, tis_cap=1.01, kl_coef=0.1, kl_estimator="k2")


def make_batch(lengths, seed=0, old=True, ref=True) -> tuple[torch.Tensor, TrainBatch]:
    """Random log-probs that want a gradient, and a batch of random everything (float64)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    total = sum(lengths)
    logps_T = (-draw(total).abs()).requires_grad_()
    batch = TrainBatch(
        tokens_N=torch.zeros(total + len(lengths), dtype=torch.long),
        prompts_R=torch.arange(len(lengths)),
        prompt_lengths_R=torch.ones(len(lengths), dtype=torch.long),
        response_lengths_R=torch.tensor(lengths, dtype=torch.long),
        advantages_R=draw(len(lengths)),
        weights_T=draw(total).abs(),
        rollout_logps_T=logps_T.detach() + 0.01 * draw(total),
        old_logps_T=logps_T.detach() + 0.3 * draw(total) if old else None,
        ref_logps_T=logps_T.detach() + 0.3 * draw(total) if ref else None,
    )
    return logps_T, batch


def one_token(logp, advantage, old=None, ref=None, weight=1.0) -> tuple[torch.Tensor, TrainBatch]:
    logps_T, batch = make_batch([1], old=False, ref=False)

    def flat(value):
        return None if value is None else torch.tensor([value], dtype=torch.float64)

    batch = replace(
        batch,
        advantages_R=flat(advantage),
        weights_T=flat(weight),
        rollout_logps_T=flat(logp),
        old_logps_T=flat(old),
        ref_logps_T=flat(ref),
    )
    return flat(logp).requires_grad_(), batch


def numbers(figures: TokenFigures) -> dict[str, float]:
    return settled([figures]).as_dict()


def gradient(objective, logps_T, batch) -> torch.Tensor:
    loss, _ = objective(logps_T, batch)
    return torch.autograd.grad(loss, logps_T)[0]


def test_equals_the_paper_written_out_token_by_token():
    logps_T, batch = make_batch([3, 1, 5])
    loss, _ = GrpoObjective(CONFIG)(logps_T, batch)

    expected = torch.zeros((), dtype=torch.float64)
    t = 0
    for i, length in enumerate([3, 1, 5]):
        for _ in range(length):
            advantage = batch.advantages_R[i]
            ratio = (logps_T[t] - batch.old_logps_T[t]).exp()
            surrogate = min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            ref_over_policy = batch.ref_logps_T[t].exp() / logps_T[t].exp()
            kl = ref_over_policy - ref_over_policy.log() - 1
            expected = expected - batch.weights_T[t] * (surrogate - 0.1 * kl)
            t += 1

    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, logps_T)[0], torch.autograd.grad(expected, logps_T)[0]
    )


def test_without_old_log_probs_the_gradient_is_that_of_reinforce_plus_k3():
    logps_T, batch = make_batch([2, 4], old=False)
    d_T = batch.ref_logps_T - logps_T.detach()
    expected = batch.weights_T * (-batch.advantages_T + 0.1 * (1 - d_T.exp()))
    torch.testing.assert_close(gradient(GrpoObjective(CONFIG), logps_T, batch), expected)


def test_old_none_equals_old_log_probs_of_the_same_weights():
    logps_T, batch = make_batch([2, 4], old=False)
    given_old = replace(batch, old_logps_T=logps_T.detach())
    objective = GrpoObjective(CONFIG)
    assert torch.equal(gradient(objective, logps_T, batch), gradient(objective, logps_T, given_old))
    assert numbers(objective(logps_T, batch)[1]) == numbers(objective(logps_T, given_old)[1])


@pytest.mark.parametrize("d", [-25.0, -1.0, 0.0, 1.0, 5.0, 15.0])
def test_gradient_of_k3_is_one_minus_exp_d_without_a_clamp(d):
    logps_T, batch = one_token(logp=-30.0, advantage=0.0, ref=-30.0 + d)
    grad = gradient(GrpoObjective(AlgorithmConfig(kl_coef=1.0)), logps_T, batch)
    assert grad.item() == pytest.approx(1 - math.exp(d), rel=1e-12)


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"),
    [
        (+1.0, 1.0, -1.0),  # inside: d/dlogp of -A * ratio
        (+1.0, 1.19, -1.19),
        (+1.0, 1.21, 0.0),  # good and already likelier: clipped
        (+1.0, 0.5, -0.5),  # good but less likely: pulled back up
        (-1.0, 0.81, 0.81),
        (-1.0, 0.79, 0.0),  # bad and already less likely: clipped
        (-1.0, 5.0, 5.0),  # bad but likelier: unbounded without the dual clip
    ],
)
def test_clipping_acts_only_where_the_step_has_gone_far_enough(advantage, ratio, expected):
    logps_T, batch = one_token(logp=-2.0, advantage=advantage, old=-2.0 - math.log(ratio))
    objective = GrpoObjective(AlgorithmConfig(clip=0.2, kl_coef=0.0))
    assert gradient(objective, logps_T, batch).item() == pytest.approx(expected)
    clipped = numbers(objective(logps_T, batch)[1])["policy/clip_fraction"]
    assert clipped == (1.0 if expected == 0 else 0.0)


def policy_gradient(advantage: float, ratio: float, **options: float) -> tuple[float, float]:
    """(d loss / d log-prob, clip fraction) of one token."""
    logps_T, batch = one_token(logp=-2.0, advantage=advantage, old=-2.0 - math.log(ratio))
    objective = GrpoObjective(AlgorithmConfig(clip=0.2, kl_coef=0.0, **options))
    figures = numbers(objective(logps_T, batch)[1])
    return gradient(objective, logps_T, batch).item(), figures["policy/clip_fraction"]


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"),
    [
        (+1.0, 1.27, -1.27),  # beyond clip, within clip_high
        (+1.0, 1.29, 0.0),
        (-1.0, 0.81, 0.81),  # the lower end stays at clip
        (-1.0, 0.79, 0.0),
        (-1.0, 1.5, 1.5),  # no upper end where A < 0
    ],
)
def test_clip_higher_moves_the_upper_end_only(advantage, ratio, expected):
    assert policy_gradient(advantage, ratio, clip_high=0.28) == pytest.approx(
        (expected, float(expected == 0))
    )


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"),
    [
        (-1.0, 2.9, 2.9),
        (-1.0, 3.1, 0.0),
        (-1.0, 0.79, 0.0),  # the first clip goes on working
        (+1.0, 0.1, -0.1),
        (+1.0, 3.1, 0.0),  # by the first clip
        (0.0, 5.0, 0.0),
    ],
)
def test_dual_clip_bounds_the_ratio_where_the_advantage_is_negative(advantage, ratio, expected):
    cut = float(expected == 0 and advantage != 0)
    assert policy_gradient(advantage, ratio, dual_clip=3.0) == pytest.approx((expected, cut))


def test_dual_clip_bounds_the_loss():
    logps_T, batch = one_token(logp=-1.0, advantage=-2.0, old=-6.0)
    loss, _ = GrpoObjective(AlgorithmConfig(kl_coef=0.0, dual_clip=3.0))(logps_T, batch)
    assert loss.item() == 6.0


@pytest.mark.parametrize("old", [None, -1.5])
@pytest.mark.parametrize(
    ("rollout", "cap", "weight"), [(-2.0, 2.0, None), (-1.0, 2.0, None), (-9.0, 2.0, 2.0)]
)
def test_importance_weights_scale_the_policy_gradient_by_old_over_rollout_up_to_the_cap(
    old, rollout, cap, weight
):
    """Also with one optimizer step per batch, where pi_old is pi_theta: the weight must carry no gradient."""
    logps_T, batch = one_token(logp=-1.4, advantage=0.7, old=old)
    batch = replace(batch, rollout_logps_T=torch.full([1], rollout, dtype=torch.float64))
    old_logp = -1.4 if old is None else old
    expected = -0.7 * math.exp(-1.4 - old_logp) * (weight or math.exp(old_logp - rollout))
    objective = GrpoObjective(AlgorithmConfig(kl_coef=0.0, tis_cap=cap))
    assert gradient(objective, logps_T, batch).item() == pytest.approx(expected)
    assert numbers(objective(logps_T, batch)[1])["mismatch/clipped"] == (weight is not None)


def test_importance_weights_leave_the_kl_penalty_alone():
    logps_T, batch = one_token(logp=-1.4, advantage=0.0, ref=-1.0)
    batch = replace(batch, rollout_logps_T=torch.full([1], -3.0, dtype=torch.float64))
    grads = [
        gradient(GrpoObjective(AlgorithmConfig(kl_coef=0.1, tis_cap=cap)), logps_T, batch).item()
        for cap in (0.0, 2.0)
    ]
    assert grads[0] == grads[1] != 0


def test_an_importance_weight_that_overflows_is_the_cap():
    weights = importance_weights(torch.tensor([-1.0]), torch.tensor([-500.0]), cap=2.0)
    assert weights.tolist() == [2.0]


def test_without_mismatch_importance_sampling_changes_nothing():
    logps_T, batch = make_batch([2, 4])
    batch = replace(batch, rollout_logps_T=batch.old_logps_T)
    plain = gradient(GrpoObjective(CONFIG), logps_T, batch)
    assert torch.equal(gradient(GrpoObjective(replace(CONFIG, tis_cap=2.0)), logps_T, batch), plain)


def test_what_the_gradients_of_the_kl_estimators_are_on_average():
    """Exact expectations over a vocabulary of five: the table in kl_penalty's docstring."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.randn(5, generator=generator, dtype=torch.float64), -1)
    policy = torch.log_softmax(logits, -1)

    def grad(value: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    reverse = (policy.exp() * (policy - ref)).sum()  # KL(pi_theta || pi_ref)
    forward = (ref.exp() * (ref - policy)).sum()  # KL(pi_ref || pi_theta)
    drawn = policy.exp().detach()  # the chance of each token, not differentiated
    expected = {"k1": torch.zeros(5, dtype=torch.float64), "k2": grad(reverse), "k3": grad(forward)}
    for estimator, gradient_of_kl in expected.items():
        estimate = kl_penalty(policy, ref, estimator)
        torch.testing.assert_close(grad((drawn * estimate).sum()), gradient_of_kl)
        if estimator != "k2":
            torch.testing.assert_close((drawn * estimate).sum(), reverse)
    assert not torch.allclose(expected["k2"], expected["k3"])


def test_the_logged_kl_is_the_same_for_every_estimator():
    logps_T, batch = make_batch([2, 3])
    logged = {
        estimator: numbers(GrpoObjective(replace(CONFIG, kl_estimator=estimator))(logps_T, batch)[1])
        for estimator in ("k1", "k2", "k3")
    }
    assert len({figures["policy/kl"] for figures in logged.values()}) == 1
    assert len({figures["policy/loss"] for figures in logged.values()}) == 3


def test_unknown_estimator():
    with pytest.raises(AssertionError, match="k4"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")


def test_without_coefficient_no_reference_is_needed_and_with_one_it_is():
    logps_T, batch = make_batch([2], ref=False)
    _, figures = GrpoObjective(AlgorithmConfig(kl_coef=0.0))(logps_T, batch)
    assert "policy/kl" not in numbers(figures)
    with pytest.raises(AssertionError, match="reference"):
        GrpoObjective(CONFIG)(logps_T, batch)


@pytest.mark.parametrize("objective", [GrpoObjective(CONFIG), GrpoObjective(EVERYTHING), nll_objective])
def test_an_empty_micro_batch_has_a_loss_of_zero_with_a_graph(objective):
    parameter = torch.ones(1, dtype=torch.float64, requires_grad=True)
    _, batch = make_batch([])
    loss, figures = objective((parameter * 1)[:0], batch)
    loss.backward()
    assert loss.item() == 0.0
    assert parameter.grad.item() == 0.0
    assert all(math.isfinite(value) for value in numbers(figures).values())


def test_figures():
    logps_T, batch = make_batch([2, 3])
    loss, figures = GrpoObjective(CONFIG)(logps_T, batch)
    values = numbers(figures)
    d_T = batch.ref_logps_T - logps_T.detach()
    gap_T = batch.old_logps_T - batch.rollout_logps_T  # rollout weights are the old ones
    assert values["policy/loss"] == pytest.approx(loss.item())
    assert values["policy/kl"] == pytest.approx((d_T.exp() - d_T - 1).mean().item())
    assert values["mismatch/mean_abs"] == pytest.approx(gap_T.abs().mean().item())
    assert values["mismatch/max_abs"] == pytest.approx(gap_T.abs().max().item())
    assert values["mismatch/kl"] == pytest.approx((gap_T.exp() - gap_T - 1).mean().item())
    assert undocumented(values) == []
    assert "mismatch/clipped" not in values
    with_cap = numbers(GrpoObjective(EVERYTHING)(logps_T, batch)[1])
    assert with_cap["mismatch/clipped"] == (gap_T.exp() > 1.01).double().mean().item() > 0
    assert undocumented(with_cap) == []


def test_mismatch_kl_estimates_the_kl_of_rollout_samples():
    """Over a two-token vocabulary the expectation is known in closed form."""
    rollout, policy = torch.tensor([[0.3, 0.7], [0.4, 0.6]], dtype=torch.float64)
    expected = (rollout * (rollout / policy).log()).sum().item()
    tokens = torch.tensor([0] * 3 + [1] * 7)  # exactly as often as rollout draws them
    figures = TokenFigures()
    add_mismatch(figures, policy.log()[tokens], rollout.log()[tokens])
    assert numbers(figures)["mismatch/kl"] == pytest.approx(expected)


def test_nll_is_the_weighted_negative_log_likelihood():
    logps_T, batch = make_batch([2, 3])
    loss, figures = nll_objective(logps_T, batch)
    torch.testing.assert_close(torch.autograd.grad(loss, logps_T)[0], -batch.weights_T)
    assert numbers(figures)["policy/loss"] == pytest.approx(loss.item())


@pytest.mark.parametrize("config", [CONFIG, EVERYTHING], ids=["defaults", "everything"])
@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=8), data=st.data())
def test_any_split_into_micro_batches_gives_the_same_loss_gradient_and_figures(config, lengths, data):
    logps_T, batch = make_batch(lengths)
    parts = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    objective = GrpoObjective(config)
    whole_loss, whole = objective(logps_T, batch)
    whole_grad = torch.autograd.grad(whole_loss, logps_T)[0]

    losses, shares = [], []
    pieces = logps_T.split(lengths)
    for part in range(4):  # some parts are empty, as on a rank that pads its micro-batches
        indices = [i for i, chosen in enumerate(parts) if chosen == part]
        part_logps = torch.cat([pieces[i] for i in indices]) if indices else logps_T[:0]
        loss, figures = objective(part_logps, batch.select(indices))
        losses.append(loss)
        shares.append(figures)

    torch.testing.assert_close(sum(losses), whole_loss)
    torch.testing.assert_close(torch.autograd.grad(sum(losses), logps_T)[0], whole_grad)
    assert settled(shares).as_dict() == pytest.approx(numbers(whole))
