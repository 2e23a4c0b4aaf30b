"""The demands of a reward method on the rest of the configuration."""

import pytest

from megatron_coreward.config.keys import find_key
from megatron_coreward.config.loading import load_config
from megatron_coreward.coreward.rewards.registry import METHODS, VIEWS, views_of
from megatron_coreward.preflight.method import check_method
from megatron_coreward.types import View

RATED_BY_EVALUATION = [
    "checkpoint.keep_best=1",
    "checkpoint.keep_best_by=evaluation",
    "evaluation.file=held_out.jsonl",
]
CONSENSUS_OF_TEACHER = ["reward.method=consensus", "reward.options.judges=teacher"]


def configured(*overrides):
    return load_config([], ["model.path=m", *overrides])


def test_the_methods_are_the_choices():
    assert find_key("reward.method").choices == tuple(METHODS)
    assert find_key("rollout.views").choices == ("auto", *VIEWS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_as_it_comes(method):
    check_method(configured(f"reward.method={method}"))


@pytest.mark.parametrize(
    ("overrides", "views"),
    [
        ([], (View.ORIGINAL, View.REPHRASED)),
        (["reward.method=co_rewarding_3"], (View.ORIGINAL, View.REPHRASED)),
        (["reward.method=co_rewarding_2"], (View.ORIGINAL,)),
        (["reward.method=majority_voting"], (View.ORIGINAL,)),
        (["reward.method=majority_voting", "rollout.views=rephrased"], (View.REPHRASED,)),
        (["reward.method=entropy", "rollout.views=both"], (View.ORIGINAL, View.REPHRASED)),
        (["reward.method=split_vote"], (View.ORIGINAL,)),
        (["reward.method=consensus", "rollout.vote_samples=16", "reward.options.subset=16"], tuple(View)),
        ([*CONSENSUS_OF_TEACHER, "teacher.samples=4", "reward.options.subset=4"], (View.ORIGINAL,)),
    ],
)
def test_views(overrides, views):
    config = configured(*overrides)
    check_method(config)
    assert views_of(config) == views


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["rollout.views=original"], ["rollout.views is original", "co_reward", "majority_voting"]),
        (["reward.method=co_rewarding_3", "rollout.views=rephrased"], ["needs both"]),
        (["reward.method=entropy", "reward.min_agreement=0.5"], ["reward.min_agreement=0.5", "co_reward"]),
        (["reward.method=random", "reward.ties=abstain"], ["reward.ties=abstain", "takes none"]),
        (["reward.method=ground_truth", "reward.weight_by_share=true"], ["reward.weight_by_share=True"]),
        (["reward.method=self_certainty", "rollout.vote_samples=16"], ["rollout.vote_samples=16"]),
        (["reward.method=random", "reward.min_entropy=0.1"], ["reward.min_entropy=0.1", "takes none"]),
        (["reward.method=ground_truth", "reward.max_entropy=1"], ["reward.max_entropy=1.0", "takes none"]),
        (["reward.min_entropy=1", "reward.max_entropy=1"], ["between which nothing lies"]),
        (
            ["reward.min_entropy=2.08"],
            ["8 answers have an entropy of at most ln 8 = 2.079", "Set it to less"],
        ),
        (
            ["reward.method=consensus", "reward.options.subset=9"],
            ["reward.options.subset is 9", "judges=other has 8 judges", "Set it to 1 to 8"],
        ),
        (
            [*CONSENSUS_OF_TEACHER, "teacher.samples=4", "reward.options.subset=5"],
            ["reward.options.subset is 5", "judges=teacher has 4 judges", "raise teacher.samples"],
        ),
        (["reward.method=consensus", "reward.options.subset=-1"], ["subset is -1"]),
        (["reward.method=consensus", "teacher.samples=4"], ["teacher.samples is 4", "has no teacher"]),
        (["reward.method=consensus", "rollout.views=original"], ["reward.method=consensus", "needs both"]),
        (["teacher.samples=4"], ["teacher.samples is 4", "has no teacher", "co_rewarding_2, co_rewarding_3"]),
        (["reward.method=ground_truth", "teacher.every=0"], ["teacher.every is 0"]),
        (["reward.no_answer_entropy=7"], ["reward.no_answer_entropy is 7", "reward.method to entropy"]),
        (
            ["reward.method=entropy", "checkpoint.keep_best=1"],
            ["checkpoint.keep_best is 1", "original questions only", "rollout.views to both"],
        ),
        (
            ["checkpoint.keep_best=1", "checkpoint.keep_best_by=evaluation"],
            ["keep_best_by is evaluation", "Set evaluation.file to held-out questions", "to agreement"],
        ),
        (
            [*RATED_BY_EVALUATION, "checkpoint.every=10", "evaluation.every=0"],
            ["evaluation.every is 0 and checkpoint.every 10", "Set both to 10"],
        ),
        (
            [*RATED_BY_EVALUATION, "checkpoint.every=0", "evaluation.every=5"],
            ["evaluation.every is 5 and checkpoint.every 0", "Set both to 5"],
        ),
        (
            [*RATED_BY_EVALUATION, "checkpoint.every=10", "evaluation.every=4"],
            ["evaluation.every is 4 and checkpoint.every 10", "a multiple of the other"],
        ),
    ],
)
def test_options_that_do_not_go_together(overrides, parts):
    with pytest.raises(ValueError) as error:
        check_method(configured(*overrides))
    assert all(part in str(error.value) for part in parts), error.value


@pytest.mark.parametrize(
    "overrides",
    [
        ["checkpoint.every=10", "evaluation.every=10"],
        ["checkpoint.every=10", "evaluation.every=5", "reward.method=majority_voting"],
        ["checkpoint.every=10", "evaluation.every=20"],
        ["evaluation.file=", "data.source=synthetic"],
    ],
)
def test_checkpoints_that_can_be_rated_by_evaluation(overrides):
    check_method(configured(*RATED_BY_EVALUATION, *overrides))
