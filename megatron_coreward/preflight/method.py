"""Checks that the options fit the reward method, and that a method of one's own can be used at all.

An option that the chosen method would ignore is an error: it would make an experiment look like another one.
"""

import math
from collections.abc import Callable
from dataclasses import fields

from megatron_coreward.config.learning import RewardConfig, TeacherConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Method
from megatron_coreward.coreward.rewards.own import rehearse
from megatron_coreward.coreward.rewards.registry import METHODS, method_of, views_of, with_options

VOTE_KEYS = ("ties", "min_agreement", "min_entropy", "max_entropy", "weight_by_share")
"""Of the section `reward`: what is about votes only."""


def check_method(config: Config) -> None:
    """Raises ValueError for the first option that does not go with `reward.method`."""
    name, method = config.reward.method, method_of(config)
    config = with_options(config)
    if method.both_views and len(views_of(config)) != 2:
        raise ValueError(
            f"rollout.views is {config.rollout.views}, but reward.method={name} judges one wording by the "
            f"other and needs both. Set it to both or auto, or choose a method of one view: "
            f"{_names(lambda m: not m.both_views)}."
        )
    if not method.votes:
        _check_no_vote_options(config)
    _check_band(config)
    if method.check is not None:
        method.check(config)
    if not method.teacher:
        _check_no_teacher_options(config)
    if config.reward.no_answer_entropy > 0 and name != "entropy":
        raise ValueError(
            f"reward.no_answer_entropy is {config.reward.no_answer_entropy:g}, but reward.method={name} does "
            f"not use it. Set it to 0, or reward.method to entropy."
        )
    if config.checkpoint.keep_best > 0:
        _check_ratings(config)
    if method.source is not None:
        rehearse(config, method, views_of(config))


def _check_ratings(config: Config) -> None:
    """Raises ValueError if no checkpoint but the last could get the rating that checkpoint.keep_best asks."""
    kept = config.checkpoint
    if kept.keep_best_by == "agreement":
        if len(views_of(config)) != 2:
            raise ValueError(
                f"checkpoint.keep_best is {kept.keep_best}, but checkpoints are rated by the "
                f"agreement of the two views, and this run answers {views_of(config)[0].value} questions "
                f"only. Set it to 0, or rollout.views to both, or checkpoint.keep_best_by to evaluation, "
                f"which uses the labels of evaluation.file."
            )
        return
    by_probe = kept.keep_best_by == "probe"
    if not by_probe and not config.evaluation.file and config.data.source != "synthetic":
        raise ValueError(
            "checkpoint.keep_best_by is evaluation, but there are no questions to evaluate on. Set "
            "evaluation.file to held-out questions with answers, or checkpoint.keep_best_by to agreement."
        )
    rated, section = ("probed", "monitor") if by_probe else ("evaluated", "evaluation")
    every = config.monitor.every if by_probe else config.evaluation.every
    if kept.every == 0 or every == 0 or max(kept.every, every) % min(kept.every, every):
        raise ValueError(
            f"checkpoint.keep_best_by is {kept.keep_best_by}, which rates checkpoints of steps that are "
            f"{rated}, but {section}.every is {every} and checkpoint.every {kept.every}. Set both to "
            f"{kept.every or every or 10}, or one of them to a multiple of the other, above 0."
        )


def _check_no_vote_options(config: Config) -> None:
    given = [
        f"reward.{name}={vars(config.reward)[name]}"
        for name in VOTE_KEYS
        if vars(config.reward)[name] != vars(RewardConfig())[name]
    ]
    if config.rollout.vote_samples > 0:
        given.append(f"rollout.vote_samples={config.rollout.vote_samples}")
    if given:
        raise ValueError(
            f"{given[0]} is about votes, but reward.method={config.reward.method} takes none. Leave it out, "
            f"or choose a method that votes: {_names(lambda m: m.votes)}."
        )


def _check_band(config: Config) -> None:
    """Raises ValueError for a band of entropies in which no group can lie."""
    low, high, drawn = config.reward.min_entropy, config.reward.max_entropy, config.rollout.drawn
    if 0 < high <= low:
        raise ValueError(
            f"reward.min_entropy is {low:g} and reward.max_entropy {high:g}, between which nothing lies. Set "
            "the second to more than the first, or one of them to 0, which is no limit."
        )
    if low >= math.log(drawn) > 0:
        raise ValueError(
            f"reward.min_entropy is {low:g}, but {drawn} answers have an entropy of at most "
            f"ln {drawn} = {math.log(drawn):.3f}, so that no group would get rewards. Set it to less; 0 is "
            "no limit."
        )


def _check_no_teacher_options(config: Config) -> None:
    for field in fields(TeacherConfig):
        value = vars(config.teacher)[field.name]
        if value != field.default:
            raise ValueError(
                f"teacher.{field.name} is {value}, but reward.method={config.reward.method} has no teacher. "
                f"Leave it out, or choose a method that has one: {_names(lambda m: m.teacher)}."
            )


def _names(fits: Callable[[Method], bool]) -> str:
    return ", ".join(name for name, method in METHODS.items() if fits(method))
