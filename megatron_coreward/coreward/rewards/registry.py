"""The reward methods of `reward.method`, the built-in ones by name, and what a configuration asks of them."""

import math
from collections.abc import Sequence
from dataclasses import replace

from megatron_coreward.config.keys import nearest
from megatron_coreward.config.loading import converted
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards import (
    agreement_gate,
    co_reward,
    co_rewarding_2,
    co_rewarding_3,
    consensus,
    entropy,
    ground_truth,
    harmonic,
    majority_voting,
    pooled_vote,
    random_reward,
    self_certainty,
    split_vote,
)
from megatron_coreward.coreward.rewards.judging import Method, OptionValue
from megatron_coreward.coreward.rewards.own import load
from megatron_coreward.types import View

METHODS = {
    "co_reward": Method(co_reward.judge, both_views=True, votes=True),
    "co_rewarding_2": Method(co_rewarding_2.judge, votes=True, teacher=True),
    "co_rewarding_3": Method(co_rewarding_3.judge, both_views=True, votes=True, teacher=True),
    "majority_voting": Method(majority_voting.judge, votes=True),
    "pooled_vote": Method(pooled_vote.judge, both_views=True, votes=True),
    "split_vote": Method(split_vote.judge, votes=True),
    "harmonic": Method(harmonic.judge, both_views=True, votes=True),
    "agreement_gate": Method(
        agreement_gate.judge,
        both_views=True,
        votes=True,
        options=agreement_gate.OPTIONS,
        choices=agreement_gate.CHOICES,
        adapted=agreement_gate.adapted,
    ),
    "consensus": Method(
        consensus.judge,
        both_views=True,
        votes=True,
        graded=False,
        options=consensus.OPTIONS,
        choices=consensus.CHOICES,
        adapted=consensus.adapted,
        check=consensus.check,
    ),
    "ground_truth": Method(ground_truth.judge, truth=True),
    "self_certainty": Method(self_certainty.judge, self_certainty.signal, confidence=True, graded=False),
    "entropy": Method(entropy.judge, entropy.signal, confidence=True, graded=False),
    "random": Method(random_reward.judge, random_reward.signal, graded=False),
}

VIEWS = {
    "original": (View.ORIGINAL,),
    "rephrased": (View.REPHRASED,),
    "both": (View.ORIGINAL, View.REPHRASED),
}


def method_of(config: Config) -> Method:
    """The record of `reward.method`, with what its options decide.

    Raises:
        ValueError: one of one's own cannot be used.
    """
    name = config.reward.method
    method = load(name) if ":" in name else METHODS[name]
    if method.adapted is None:
        return method
    return method.adapted(method, {**method.options, **config.reward.options})


def with_options(config: Config) -> Config:
    """The configuration with a value for every option of its method (`reward.options`), in its type.

    Raises:
        ValueError: an option that the method does not have, a value of another type or one that is no choice.
    """
    method, given = method_of(config), config.reward.options
    options = method.options
    for name in [name for name in given if name not in options]:
        known = ", ".join(f"{option} ({default!r})" for option, default in options.items()) or "none"
        guess = nearest(name, options)
        hint = f" Did you mean reward.options.{guess}?" if guess else ""
        raise ValueError(
            f"reward.options.{name} is {given[name]!r}, but reward.method={config.reward.method} has no such "
            f"option; its options and their defaults: {known}.{hint}"
        )
    values = {name: converted(given.get(name, default), type(default)) for name, default in options.items()}
    for name, value in values.items():
        wanted = type(options[name])
        if type(value) is not wanted or (isinstance(value, float) and not math.isfinite(value)):
            raise ValueError(
                f"reward.options.{name} is {given[name]!r}, but must be of type {wanted.__name__} "
                f"(default {options[name]!r})."
            )
        if value not in method.choices.get(name, [value]):
            raise ValueError(
                f"reward.options.{name} is {value!r}, but must be {_either(method.choices[name])}."
            )
    return replace(config, reward=replace(config.reward, options=values))


def _either(choices: Sequence[OptionValue]) -> str:
    *others, last = map(repr, choices)
    return " or ".join(filter(None, (", ".join(others), last)))


def views_of(config: Config) -> tuple[View, ...]:
    """The wordings that a run answers and trains on (`rollout.views`)."""
    chosen = config.rollout.views
    if chosen == "auto":
        chosen = "both" if method_of(config).both_views else "original"
    return VIEWS[chosen]


def data_needs(config: Config) -> dict[str, bool]:
    """What the method needs of the training data, as arguments of data/prompts.pair_records."""
    needs_rephrasings = View.REPHRASED in views_of(config)
    return {"rephrased_needed": needs_rephrasings, "truth_needed": method_of(config).truth}
